r"""With a wrong score, estimates along an SDE are biased by a known amount (Karczewski et al. 2025, eq. 3).

A perturbed score defines a reverse SDE, whose density p^SDE is solved for, and a flow with another density. In the mean
over samples x ~ p^SDE the density tracked along the reverse SDE is too high, and that along the forward SDE, the
density formula's bound, is too low,

.. math:: E[r] - E\log p^{SDE} = \tfrac12 \int g^2 E_{p^{SDE}}\|s_\theta - \nabla\log p^{SDE}\|^2 ds
          \qquad \text{(reverse)},

and likewise with x_s given x for the forward one. *Bias* (one row per size ε): the measured excess of r, that of ε = 0
(the steps' own error) next to it, and the prediction. *Sandwich* (one row per size, number of steps T and estimate):
the chain of T ancestral steps, whose upper and lower bounds hold at every T, with the log densities of the SDE and of
the flow at the same samples.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.chain import chain, reverse_chain
from diffusion_density.density.ode.flow import flow
from diffusion_density.density.tracking import track
from diffusion_density.machine import artifacts
from diffusion_density.process.fokker_planck import Marginals, marginals
from diffusion_density.studies.high_density.sizes import Bias
from diffusion_density.studies.shared.perturbation import SCHEDULE, Perturbed, reverse_gap
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.studies.shared.targets import one_dimensional_mixture

SEED = 12
TOLERANCE = 1e-5


def run(sizes: Bias, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write both tables."""
    exact = one_dimensional_mixture().diffused(SCHEDULE)
    rows, bounds = [], []
    for size in tqdm(sizes.sizes, desc="bias", unit="score"):
        model = Perturbed(exact, size)
        density = marginals(model, cells=sizes.cells, steps=sizes.grid_steps)
        rows.append({"size": size} | _excess(model, density, sizes))
        bounds += [{"size": size} | row for row in _sandwich(model, density, sizes)]
    artifacts.write_csv(outputs["bias"], pd.DataFrame(rows))
    artifacts.write_csv(outputs["sandwich"], pd.DataFrame(bounds))


def _excess(model: Perturbed, density: Marginals, sizes: Bias) -> dict[str, float]:
    generator = seeded(SEED)
    x, tracked = track(model, sizes.samples, event=(1,), steps=sizes.steps, generator=generator, dtype=torch.float64)
    excess = tracked.value - density.log_prob_at(x[:, 0], SCHEDULE.s_start)
    return {
        "steps": sizes.steps,
        "samples": sizes.samples,
        "excess_nats": excess.mean().item(),
        "excess_stderr_nats": excess.std().item() / sizes.samples**0.5,
        "predicted_nats": reverse_gap(model, density),
    }


def _sandwich(model: Perturbed, density: Marginals, sizes: Bias) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for steps in sizes.chain_steps:
        generator = seeded(SEED)
        x, upper = reverse_chain(
            model, sizes.chain_samples, event=(1,), steps=steps, generator=generator, dtype=torch.float64
        )
        lower = chain(model, x, clean=False, steps=steps, paths=sizes.paths, generator=generator)
        estimates: dict[str, Tensor] = {
            "upper": upper.value,
            "lower": lower.value,
            "sde": density.log_prob_at(x[:, 0], SCHEDULE.s_start),
            "flow": flow(model, x, rtol=TOLERANCE, atol=TOLERANCE).value,
        }
        for name, values in estimates.items():
            stderr = values.std().item() / len(values) ** 0.5
            rows.append({"steps": steps, "estimate": name, "mean_nats": values.mean().item(), "stderr_nats": stderr})
    return rows
