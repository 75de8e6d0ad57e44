"""The diffusion classifier on real digits: a network of p(image | class) under two weights, with common or own noise.

``elbo`` weights are those of the density formula (a proper posterior by Bayes' rule with equal priors); the ``uniform``
heuristic takes minus the mean of ‖ε − ε̂‖² over times uniform in s for a log density. Both use as many network
evaluations. One row is one network, choice of weights and kind of noise, with standard errors over test images. Each
network has test images that its seed draws, so that what differs from seed to seed is their error too.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.class_posterior import FORMULA, class_log_posterior
from diffusion_density.machine import artifacts
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.density_formula.experiments.classifier import scores
from diffusion_density.studies.density_formula.experiments.train_digits import CLASSES, class_context, held_out, load
from diffusion_density.studies.density_formula.experiments.weightings import simple_loss
from diffusion_density.studies.density_formula.networks import PREDICTION, SCHEDULE
from diffusion_density.studies.density_formula.sizes import DigitsEvaluation, DigitsJob


def run(sizes: DigitsJob, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write the table.

    Raises:
        InputError: if the file of networks does not fit the run, or there are fewer test images.
    """
    evaluation, seeds = sizes.evaluation, sizes.run.seeds
    networks = load(inputs["models"], sizes.run)["classes"]
    contexts = class_context(torch.arange(CLASSES)).split(1)
    rows = []
    with tqdm(total=4 * len(seeds), desc="classes", unit="posterior") as bar:
        for index, seed in enumerate(seeds):
            model = DiffusionModel(networks[index], SCHEDULE, PREDICTION)
            classes = [model.given(c) for c in contexts]
            digits = held_out(evaluation.classified, seed)
            for weights, posterior in (("elbo", _elbo), ("uniform", _uniform)):
                for noise in ("common", "independent"):
                    found = posterior(classes, digits.x, evaluation, noise == "common")
                    row = {"weights": weights, "noise": noise, "seed": seed}
                    rows.append(row | scores(found, digits.labels))
                    bar.update()
    artifacts.write_csv(outputs["digit_classes"], pd.DataFrame(rows))


def _elbo(classes: list[DiffusionModel], x: Tensor, sizes: DigitsEvaluation, common: bool) -> Tensor:
    estimator = partial(FORMULA, steps=sizes.nodes, throws=sizes.class_throws)
    return class_log_posterior(classes, x, torch.zeros(len(classes)), estimator=estimator, seed=0, common=common)


def _uniform(classes: list[DiffusionModel], x: Tensor, sizes: DigitsEvaluation, common: bool) -> Tensor:
    count = sizes.nodes * sizes.class_throws
    losses = [simple_loss(model, x, count, 0 if common else index) for index, model in enumerate(classes)]
    return torch.stack([-loss for loss in losses], dim=1).log_softmax(1)
