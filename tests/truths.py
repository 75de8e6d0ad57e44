"""Schedules, mixtures and models whose answers are known in closed form."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_density.broadcasting import expand_time, per_row
from diffusion_density.mixtures import ExactModel, GaussianMixture
from diffusion_density.model import DiffusionModel, GaussianPrior, Model, Prior
from diffusion_density.predictions import Prediction
from diffusion_density.schedules import Discrete, LogLinear, Schedule, VariancePreserving

PAPER_A = VariancePreserving(beta_min=0.1, beta_max=16.0)

SCHEDULES: dict[str, Schedule] = {
    "vp": PAPER_A,
    "vp-constant": VariancePreserving(beta_min=2.0, beta_max=2.0),
    "log-linear-vp": LogLinear(),
    "log-linear-straight": LogLinear(path="straight"),
    "discrete": Discrete(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "discrete-short": Discrete(torch.linspace(0.02, 0.5, 12, dtype=torch.float64)),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_mixture(dimension: int, components: int = 3, seed: int = 0) -> GaussianMixture:
    """A mixture with full covariances and unequal weights."""
    return GaussianMixture.random(dimension, components, seeded(1000 * dimension + seed), full=True)


def gaussian(mean: float, variance: float) -> GaussianMixture:
    """One normal law in one dimension."""
    return GaussianMixture(doubles(1.0), doubles(mean)[:, None], doubles(variance)[:, None, None])


def network_of(exact: Model, prediction: Prediction) -> DiffusionModel:
    """The exact model as a network that outputs ``prediction``, with the same prior."""
    return DiffusionModel(getattr(exact, prediction), exact.schedule, prediction, exact.prior)


class Altered(Model):
    """A model with a wrong score: ``change`` of the exact one. Starts from N(0, σ²(s_max) I) unless told otherwise."""

    def __init__(
        self, exact: ExactModel, change: Callable[[Tensor, Tensor, Tensor], Tensor], prior: Prior | None = None
    ) -> None:
        self.exact = exact
        self.change = change
        self.schedule = exact.schedule
        self.prior = prior or GaussianPrior(self.schedule.at(self.schedule.s_max)[1] ** 2)

    def score(self, x: Tensor, s: Tensor | float) -> Tensor:
        return self.change(self.exact.score(x, s), x, per_row(expand_time(s, x), x))


def scaled(mixture: GaussianMixture, factor: float, schedule: Schedule = PAPER_A) -> Altered:
    """The exact score times a factor."""
    return Altered(mixture.diffused(schedule), lambda score, _x, _s: factor * score)


class Counting:
    """A network that counts its calls, its rows, and the passes back through it."""

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.network = network
        self.calls = self.rows = self.backward = 0

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(x)
        output = self.network(x, s)
        if output.requires_grad:
            output.register_hook(self._went_back)
        return output

    def _went_back(self, _gradient: Tensor) -> None:
        self.backward += 1
