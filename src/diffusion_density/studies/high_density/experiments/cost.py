r"""The cost of a log density along the flow and along the reverse SDE (Karczewski et al. 2025, eqs. 1 and 2).

Samples of a mixture in D dimensions with the exact score, and the error of the log density that is tracked with them:
along the flow by the exact divergence or by one Rademacher probe, along the SDE without any derivative. One row is a
method and number of steps, with the root mean square error, network evaluations and seconds per sample.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.result import LogDensity
from diffusion_density.density.tracking import track
from diffusion_density.machine import artifacts
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.studies.high_density.sizes import Cost
from diffusion_density.studies.shared.seeds import seeded

SCHEDULE = VariancePreserving(0.1, 20.0)
SEED = 15
METHODS: dict[str, tuple[float, Literal["exact", "hutchinson"]]] = {
    "flow": (0.0, "exact"),
    "flow_hutchinson": (0.0, "hutchinson"),
    "sde": (1.0, "hutchinson"),
}


def run(sizes: Cost, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write the table."""
    rows = []
    cases = [(d, method, steps) for d in sizes.dimensions for method in METHODS for steps in sizes.steps]
    for dimension, method, steps in tqdm(cases, desc="cost", unit="run"):
        generator = seeded(SEED)
        exact = GaussianMixture.random(dimension, 3, seeded(dimension)).diffused(SCHEDULE)
        kappa, divergence = METHODS[method]
        began = time.perf_counter()
        x, tracked = track(
            DiffusionModel(exact.score, SCHEDULE, "score"),
            sizes.samples,
            event=(dimension,),
            steps=steps,
            stochasticity=kappa,
            divergence=divergence,
            generator=generator,
            dtype=torch.float64,
        )
        seconds = time.perf_counter() - began
        rows.append(
            {"dimension": dimension, "method": method, "steps": steps}
            | _accuracy(tracked, exact.log_prob(x, SCHEDULE.s_start))
            | {"seconds_per_sample": seconds / sizes.samples}
        )
    artifacts.write_csv(outputs["cost"], pd.DataFrame(rows))


def _accuracy(tracked: LogDensity, truth: Tensor) -> dict[str, float]:
    error = tracked.value - truth
    return {
        "rms_error_nats": error.square().mean().sqrt().item(),
        "mean_error_nats": error.mean().item(),
        "mean_error_stderr_nats": error.std().item() / len(error) ** 0.5,
        "network_evaluations": tracked.network_evaluations,
    }
