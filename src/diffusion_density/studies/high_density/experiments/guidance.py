r"""Density guidance (Karczewski, Heinonen and Garg 2025b): log densities chosen beforehand, and those of the samples.

The target is a mixture of two normal distributions in D dimensions, whose log density is known. One row is one sample:
the log density it was steered to, the one tracked (with one random probe per step for the divergence), and the true
one. Methods: deterministic guidance; stochastic guidance with the exact drift, whose noise lies in the plane normal to
the score; and with the published drift, which leaves out one term. ``out_of_reach`` marks samples whose target no drift
along the score could reach.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from diffusion_density.machine import artifacts
from diffusion_density.process.model import DiffusionModel
from diffusion_density.sampling.guidance import Drift, guided
from diffusion_density.studies.high_density.experiments.modes import SCHEDULE, two_modes
from diffusion_density.studies.high_density.sizes import Guidance
from diffusion_density.studies.shared.seeds import seeded

SEED = 14
METHODS: dict[str, tuple[bool, Drift]] = {
    "deterministic": (False, "exact"),
    "stochastic": (True, "exact"),
    "stochastic_published": (True, "published"),
}


def run(sizes: Guidance, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write the table."""
    tables = []
    cases = [(d, q, method) for d in sizes.dimensions for q in sizes.quantiles for method in METHODS]
    for dimension, quantile, method in tqdm(cases, desc="guidance", unit="run"):
        noisy, drift = METHODS[method]
        exact = two_modes(dimension).diffused(SCHEDULE)
        found = guided(
            DiffusionModel(exact.score, SCHEDULE, "score"),
            sizes.samples,
            (dimension,),
            quantile=quantile,
            stochasticity=sizes.stochasticity if noisy else 0.0,
            drift=drift,
            steps=sizes.steps,
            generator=seeded(SEED),
            dtype=torch.float64,
        )
        tables.append(
            pd.DataFrame(
                {
                    "dimension": dimension,
                    "quantile": quantile,
                    "method": method,
                    "sample": range(sizes.samples),
                    "target_nats": found.target.numpy(),
                    "tracked_nats": found.log_prob.numpy(),
                    "out_of_reach": found.out_of_reach.numpy(),
                    "log_prob_nats": exact.log_prob(found.x, SCHEDULE.s_start).numpy(),
                }
            )
        )
    artifacts.write_csv(outputs["guidance"], pd.concat(tables))
