r"""A score with a known error, in one dimension, and what the error does to densities.

The exact score is perturbed,

.. math:: s_\theta(x, s) = \nabla\log p_s(x) + \varepsilon\,\big(\sin(1.5\, x + 0.5) + 0.3\, x\, s\big),

and the density p^SDE of the reverse SDE with s_θ is found by the Fokker–Planck equation. Given x, the density formula
with s_θ lies below it by

.. math:: \tfrac12 \int g^2\, E[\|s_\theta - \nabla\log p_s^{SDE}\|^2 \mid x]\, ds

(the forward gap), and with x_s ~ p_s^SDE in the place of x_s given x the same integral is the mean excess of the
density that is tracked along the reverse SDE (Karczewski, Heinonen and Garg 2025, eq. 3; the reverse gap). Nothing is
random: expectations are Gauss–Hermite rules or sums over cells, and ½ g² ds = ½ σ² |dλ| is the rule of the formula.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.formula import time_nodes
from diffusion_density.process.batches import expand_time, per_row
from diffusion_density.process.fokker_planck import Marginals
from diffusion_density.process.mixtures import ExactModel
from diffusion_density.process.model import GaussianPrior, Model
from diffusion_density.process.schedules import VariancePreserving

SCHEDULE = VariancePreserving(0.1, 12.0)
NODES = 64
NOISES = 32  # points of the Gauss–Hermite rule


class Perturbed(Model):
    """An exact model in one dimension with a smooth error of some size in its score, started from N(0, σ²(s_max)).

    Args:
        exact: the model without the error.
        size: ε, the size of the error.
    """

    def __init__(self, exact: ExactModel, size: float) -> None:
        self.exact = exact
        self.size = size
        self.schedule = exact.schedule
        self.prior = GaussianPrior(self.schedule.at(self.schedule.s_max)[1] ** 2)

    def score(self, x: Tensor, s: Tensor | float) -> Tensor:
        error = (1.5 * x + 0.5).sin() + 0.3 * x * per_row(expand_time(s, x), x)
        return self.exact.score(x, s) + self.size * error


def expected_log_prob(density: Marginals, x0: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """E log p^SDE in nats of the noised points at s_start, (B,)."""
    start = density.schedule.s_start
    x, weight = _noised(density, x0, start)
    return density.log_prob_at(x, start) @ weight


def forward_gap(model: Model, density: Marginals, x0: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """½ ∫ g² E[(s_θ − ∇log p^SDE)² | x₀] ds in nats: what the formula misses at clean points (B,).

    Args:
        model: s_θ.
        density: the marginals of its reverse SDE.
        x0: (B,) clean points.
    """
    nodes = time_nodes(model.schedule, "quadrature", NODES)
    gap = torch.zeros_like(x0)
    for s, node in zip(nodes.times.tolist(), nodes.weights, strict=True):
        x, weight = _noised(density, x0, s)
        gap += node * (_noise_error(model, density, x, s).square() @ weight)
    return gap


def reverse_gap(model: Model, density: Marginals) -> float:
    """½ ∫ g² E(s_θ − ∇log p^SDE)² ds in nats over the SDE's own marginals: the mean excess of a tracked density."""
    nodes = time_nodes(model.schedule, "quadrature", NODES)
    gap = 0.0
    for s, node in zip(nodes.times.tolist(), nodes.weights.tolist(), strict=True):
        probability = density.log_prob_at(density.x, s).softmax(0)
        gap += node * (probability @ _noise_error(model, density, density.x, s).square()).item()
    return gap


def _noise_error(model: Model, density: Marginals, x: Tensor, s: float) -> Tensor:
    """σ (s_θ − ∇log p^SDE) at points of any shape."""
    with torch.inference_mode():
        score = model.score(x.reshape(-1, 1), s).reshape(x.shape)
    return model.schedule.at(s)[1] * (score - density.score(x, s))


def _noised(density: Marginals, x0: Tensor, s: float) -> tuple[Float[Tensor, "b k"], Float[Tensor, " k"]]:
    """Points and weights of the distribution of x_s given x₀."""
    alpha, sigma = density.schedule.at(s)
    place, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(NOISES))
    return alpha * x0[:, None] + sigma * place, weight / weight.sum()
