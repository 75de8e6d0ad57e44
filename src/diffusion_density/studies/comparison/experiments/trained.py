"""All estimators on a trained network of the study `density_estimators` (Premkumar 2024).

The reference is the density of the network's flow in double precision. Estimates of the reverse SDE differ from it by
the difference of the two densities of the network, which is part of the answer.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from diffusion_density.density.ode.flow import flow
from diffusion_density.machine import artifacts
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.comparison.experiments.estimators import SEED, score
from diffusion_density.studies.comparison.experiments.variance import compare, long_run
from diffusion_density.studies.comparison.sizes import TrainedJob
from diffusion_density.studies.density_estimators.experiments import dataset as data
from diffusion_density.studies.density_estimators.models import load
from diffusion_density.studies.shared.double import in_double
from diffusion_density.studies.shared.seeds import seeded

TOLERANCE = 1e-8
LONG_RUN = 64  # a long run of the path integral has so many times the throws of the variance


def run(sizes: TrainedJob, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Measure the first network of a run's last checkpoint and write both tables.

    Raises:
        InputError: if a file does not fit the run.
    """
    chosen = sizes.trained
    mixtures, _ = data.load(inputs["dataset"], sizes.run)
    model = in_double(load(inputs["models"], sizes.run)[-1].model(0))
    x = mixtures[0].sample(chosen.points, generator=seeded(SEED))
    labels: dict[str, object] = {"target": "trained network", "dimension": sizes.run.dimension}
    table = score(model, x, reference(model, x), partial(reference, model), chosen.budgets, labels)
    artifacts.write_csv(outputs["estimators"], table)
    truth = long_run(model, x, LONG_RUN * chosen.throws)
    rows = compare(model, x, truth, chosen.throws, chosen.repeats, labels | {"index": 0})
    artifacts.write_csv(outputs["variance"], rows)


def reference(model: DiffusionModel, x: Tensor) -> Tensor:
    """(B,) log p of the flow in nats, in double precision."""
    return flow(model, x.double(), rtol=TOLERANCE, atol=TOLERANCE).value
