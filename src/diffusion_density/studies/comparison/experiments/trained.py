"""All estimators on a trained network of the study `density_estimators` (Premkumar 2024).

The reference is the density of the network's flow in double precision. Estimates of the reverse SDE differ from it by
the difference of the two densities of the network, which is part of the answer.
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
LONG_RUN = 64  # a long run of the path integral has so many times the throws of the variance


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
    truth = long_run(model, x, LONG_RUN * sizes.throws)
    artifacts.write_csv(variance, compare(model, x, truth, sizes.throws, sizes.repeats, labels | {"index": 0}))


def reference(model: DiffusionModel, x: Tensor) -> Tensor:
    """(B,) log p of the flow in nats, in double precision."""
    return flow(model, x.double(), rtol=TOLERANCE, atol=TOLERANCE).value
