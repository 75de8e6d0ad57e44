r"""Which weights of the noise prediction's errors have the optimum of the likelihood (Li and Yan 2024, section 4.1).

The data are a mixture at ±1 with the standard deviation 0.25; the model is one at ±m with 0.6, misspecified, and its
only parameter m is shared by all times . Its noise prediction ε_m is that of its own diffusion. As
functions of m, in the mean over the data,

- ``log_prob``: −log p_m, the exact negative log likelihood;
- ``sum``, ``trapezoid``: minus the discrete formulas, the variational bound and its rule of second order, T = 20;
- ``uniform``: ∫ E‖ε − ε_m‖² ds, equal weights at all times of the linear schedule: the simple loss;
- ``sigmoid``: ½ ∫ sigmoid(2 − λ) E‖ε − ε_m‖² dλ.

The last two are known up to a constant, E‖ε − ε_m‖² = E‖ε* − ε_m‖² + const with the data's own prediction ε*.
Everything is by Gauss–Hermite: nothing is random.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.formula import expectation, time_nodes
from diffusion_density.machine import artifacts
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.schedules import Discrete
from diffusion_density.process.schedules.discrete import linear, uniform_log_snr
from diffusion_density.studies.density_formula.formula_gap import mixture_nodes
from diffusion_density.studies.density_formula.sizes import Toy

DATA_SCALE, MODEL_SCALE = 0.25, 0.6
SPAN = (0.85, 1.15)  # of m
NODES = 40  # Gauss–Hermite, for each component of the data and for the noise
CHAIN = uniform_log_snr(20)
SIMPLE = linear(200)
SHIFT = 2.0  # of the sigmoid


def run(sizes: Toy, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write a row for each weighting and m: ``objective_nats`` above its minimum on the grid, and its ``optimum`` m."""
    data = pair(1.0, DATA_SCALE)
    places = torch.linspace(*SPAN, sizes.places, dtype=torch.float64)
    models = [pair(m, MODEL_SCALE) for m in places.tolist()]
    x, weight = mixture_nodes(data, torch.ones(1).double(), torch.zeros(1).double(), NODES)
    points = x.T
    curves = {
        "log_prob": [-model.log_prob(points) @ weight for model in models],
        "sum": [-expectation(model.diffused(CHAIN), points, rule="sum", points=NODES) @ weight for model in models],
        "trapezoid": [-expectation(model.diffused(CHAIN), points, points=NODES) @ weight for model in models],
        "uniform": _weighted(data, models, SIMPLE, torch.full_like(SIMPLE.steps, 1 / len(SIMPLE.steps))),
        "sigmoid": _weighted(data, models, CHAIN, _sigmoid_weights(CHAIN)),
    }
    tables = []
    for name, curve in curves.items():
        values = torch.stack(curve)
        objective = (values - values.min()).numpy()
        columns = {"m": places.numpy(), "objective_nats": objective, "optimum": _vertex(places, values)}
        tables.append(pd.DataFrame({"weighting": name} | columns))
    artifacts.write_csv(outputs["toy"], pd.concat(tables))


def pair(place: float, scale: float) -> GaussianMixture:
    """The mixture of two equal normal distributions at ± ``place``."""
    means = torch.tensor([[-place], [place]], dtype=torch.float64)
    return GaussianMixture(torch.full((2,), 0.5), means, torch.full((2, 1, 1), scale**2, dtype=torch.float64))


def _sigmoid_weights(schedule: Discrete) -> Tensor:
    """Of ½ ∫ sigmoid(2 − λ) … dλ by the trapezoid rule."""
    return time_nodes(schedule, "trapezoid", 2).weights * (SHIFT - schedule.log_snr_steps).sigmoid()


def _weighted(
    data: GaussianMixture, models: list[GaussianMixture], schedule: Discrete, weights: Float[Tensor, " t"]
) -> list[Tensor]:
    """Σ_t w_t E‖ε* − ε_m‖² over the diffused data, for every model."""
    s = schedule.steps
    y, weight = mixture_nodes(data, schedule.alpha(s), schedule.sigma(s), NODES)
    rows, times = y.reshape(-1, 1), s.repeat_interleave(y.shape[1])
    best = data.diffused(schedule).noise(rows, times)
    gaps = [(model.diffused(schedule).noise(rows, times) - best).square().reshape(y.shape) for model in models]
    return [weights @ (gap @ weight) for gap in gaps]


def _vertex(x: Tensor, values: Tensor) -> float:
    """Where the parabola through the lowest of equally spaced points and its neighbours has its minimum."""
    lowest = int(values.argmin().clamp(1, len(x) - 2))
    left, middle, right = values[lowest - 1 : lowest + 2].tolist()
    return (x[lowest] + 0.5 * (x[1] - x[0]) * (left - right) / (left - 2 * middle + right)).item()
