r"""With the exact score, the density tracked along the reverse SDE is that of the data (Karczewski et al. 2025, eq. 2).

The tracked value r of a sample x and log p(x) differ only by the steps' error, which has a standard deviation ∝ N^−½
and a mean ∝ 1/N, for every stochasticity κ but 0 (the flow), where nothing is random.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from diffusion_density.density.tracking import track
from diffusion_density.machine import artifacts
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.high_density.sizes import Tracking
from diffusion_density.studies.shared.perturbation import SCHEDULE
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.studies.shared.targets import one_dimensional_mixture

SEED = 11


def run(sizes: Tracking, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write one row for each stochasticity and number of steps: mean and standard deviation of r − log p."""
    exact = one_dimensional_mixture().diffused(SCHEDULE)
    model = DiffusionModel(exact.score, SCHEDULE, "score")  # with a normal prior, which can be drawn from
    rows = []
    cases = [(kappa, steps) for kappa in sizes.stochasticities for steps in sizes.steps]
    generator = seeded(SEED)  # one stream, so that errors of the rows are independent
    for kappa, steps in tqdm(cases, desc="tracking", unit="run"):
        x, tracked = track(
            model,
            sizes.samples,
            event=(1,),
            steps=steps,
            stochasticity=kappa,
            divergence="exact",
            generator=generator,
            dtype=torch.float64,
        )
        excess = tracked.value - exact.log_prob(x, SCHEDULE.s_start)
        deviation, root = excess.std().item(), sizes.samples**0.5
        rows.append(
            {
                "stochasticity": kappa,
                "steps": steps,
                "samples": sizes.samples,
                "mean_excess_nats": excess.mean().item(),
                "mean_stderr_nats": deviation / root,
                "deviation_nats": deviation,
                "deviation_stderr_nats": ((excess - excess.mean()).square().std() / (2 * deviation * root)).item(),
            }
        )
    artifacts.write_csv(outputs["tracking"], pd.DataFrame(rows))
