"""Estimators and variances on a trained network of paper A, against its own flow and its own bound.

The reference of every estimator is the flow of the network in double precision: what a user of the flow would call
log p. Estimates of the SDE differ from it by what its two densities differ by, which is part of the answer.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffusion_density.density.ode.flow import flow
from diffusion_density.machine import artifacts
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.comparison.experiments.estimators import SEED, score
from diffusion_density.studies.comparison.experiments.variance import compare, long_run
from diffusion_density.studies.comparison.sizes import Trained
from diffusion_density.studies.density_estimators.experiments import dataset as data
from diffusion_density.studies.density_estimators.models import load
from diffusion_density.studies.density_estimators.sizes import TrainingRun
from diffusion_density.studies.shared.double import in_double

TOLERANCE = 1e-8
LONG = 64  # times the throws of the variance, for what the path integral tends to


def measure(sizes: Trained, run: TrainingRun, dataset: Path, models: Path, estimators: Path, variance: Path) -> None:
    """Measure the first network of a run's last checkpoint and write both tables.

    Raises:
        InputError: if a file does not fit the run.
    """
    mixtures, _ = data.load(dataset, run)
    model = in_double(load(models, run)[-1].model(0))
    x = mixtures[0].sample(sizes.points, generator=torch.Generator().manual_seed(SEED))
    labels: dict[str, object] = {"target": "trained network", "dimension": run.dimension}
    table = score(model, x, reference(model, x), partial(reference, model), sizes.budgets, labels)
    artifacts.write_csv(estimators, table)
    truth = long_run(model, x, LONG * sizes.throws)
    artifacts.write_csv(variance, compare(model, x, truth, sizes.throws, sizes.repeats, labels | {"index": 0}))


def reference(model: DiffusionModel, x: Tensor) -> Tensor:
    """(B,) log p of the flow in nats, in double precision."""
    return flow(model, x.double(), rtol=TOLERANCE, atol=TOLERANCE).value
