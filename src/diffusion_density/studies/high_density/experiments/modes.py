r"""Mode tracking (Karczewski et al. 2025): modes given a noisy point, and samples of high density in a high dimension.

*Modes* (one row per noisy point, in one dimension): where the exact mode-tracking ODE ends, where it ends with H = 0,
and the largest p(x | x_t) on a grid. *Densities* (one row per sample of D numbers, of a mixture of two normal
distributions): log p of ordinary samples and of samples of high density, for each threshold, all by the same closed
form.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.machine import artifacts
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import LogLinear
from diffusion_density.sampling.mode_tracking import ascend, high_density, track_mode
from diffusion_density.sampling.samplers import sample
from diffusion_density.studies.high_density.sizes import Modes
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.studies.shared.targets import one_dimensional_mixture

SCHEDULE = LogLinear(-10.0, 10.0)
SEED = 13
GRID = torch.linspace(-4.0, 4.0, 80_001, dtype=torch.float64)


def run(sizes: Modes, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write both tables."""
    artifacts.write_csv(outputs["modes"], _curves(sizes))
    artifacts.write_csv(outputs["mode_densities"], _densities(sizes))


def _curves(sizes: Modes) -> pd.DataFrame:
    exact = one_dimensional_mixture().diffused(SCHEDULE)
    x = torch.tensor(sizes.places, dtype=torch.float64)[:, None]
    tables = []
    for log_snr in tqdm(sizes.log_snrs, desc="modes", unit="time"):
        s = SCHEDULE.inverse(torch.tensor(log_snr, dtype=torch.float64)).item()
        alpha, sigma = SCHEDULE.transition(SCHEDULE.s_start, torch.tensor([s], dtype=torch.float64))
        likelihood = -0.5 * ((x - alpha * GRID) / sigma).square()
        posterior = exact.log_prob(GRID[:, None], SCHEDULE.s_start) + likelihood
        columns = {
            "place": x[:, 0],
            "mode": track_mode(exact, x, s, steps=sizes.steps)[:, 0],
            "mode_without_h": ascend(exact, x, s, steps=sizes.steps)[:, 0],
            "mode_on_grid": GRID[posterior.argmax(1)],
        }
        tables.append(pd.DataFrame({"log_snr": log_snr} | {name: value.numpy() for name, value in columns.items()}))
    return pd.concat(tables)


def two_modes(dimension: int) -> GaussianMixture:
    """Two normal distributions far apart, one much narrower: log p at their modes is about −2 and −17 where D = 200."""
    scales = torch.tensor([0.4, 0.43], dtype=torch.float64)
    means = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None].expand(2, dimension)
    covariances = scales.square()[:, None, None] * torch.eye(dimension, dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.5, 0.5]), means, covariances)


def _densities(sizes: Modes) -> pd.DataFrame:
    exact = two_modes(sizes.dimension).diffused(SCHEDULE)
    model = DiffusionModel(exact.score, SCHEDULE, "score")  # with a normal prior, which can be drawn from
    event = (sizes.dimension,)
    tables = []

    def add(method: str, threshold: float, x: Tensor) -> None:
        log_prob = exact.log_prob(x, SCHEDULE.s_start)
        columns = {"method": method, "threshold": threshold, "sample": range(len(x)), "log_prob_nats": log_prob.numpy()}
        tables.append(pd.DataFrame(columns))

    for name, kappa in (("sde", 1.0), ("flow", 0.0)):
        generator = seeded(SEED)
        x = sample(model, sizes.samples, event, stochasticity=kappa, generator=generator, dtype=torch.float64)
        add(name, float("nan"), x)
    for threshold in sizes.thresholds:
        generator = seeded(SEED)
        dense = high_density(
            model,
            sizes.samples,
            event,
            threshold=threshold,
            steps=sizes.steps,
            generator=generator,
            dtype=torch.float64,
        )
        add("high_density", threshold, dense)
    return pd.concat(tables)
