"""Schedules, mixtures and models whose answers are known in closed form."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from diffusion_density.process.batches import expand_time, per_row
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import DiffusionModel, GaussianPrior, Model, Prior
from diffusion_density.process.predictions import Prediction
from diffusion_density.process.schedules import Discrete, LogLinear, Schedule, VariancePreserving

PAPER_A = VariancePreserving(beta_min=0.1, beta_max=16.0)

SCHEDULES: dict[str, Schedule] = {
    "vp": PAPER_A,
    "vp-constant": VariancePreserving(beta_min=2.0, beta_max=2.0),
    "log-linear-vp": LogLinear(),
    "log-linear-straight": LogLinear(path="straight"),
    "discrete": Discrete(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "discrete-short": Discrete(torch.linspace(0.02, 0.5, 12, dtype=torch.float64)),
}


class Rectified(Schedule):
    """A user's schedule, of which only α = 1 − s and σ = s are known: the rest is derived."""

    s_start, s_max = 1e-5, 1 - 1e-3

    def alpha(self, s: Tensor) -> Tensor:
        return 1 - s

    def sigma(self, s: Tensor) -> Tensor:
        return s


EVERY_SCHEDULE = SCHEDULES | {"own": Rectified()}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_mixture(dimension: int, components: int = 3, seed: int = 0) -> GaussianMixture:
    """A mixture with full covariances and unequal weights."""
    return GaussianMixture.random(dimension, components, seeded(1000 * dimension + seed), full=True)


def gaussian(mean: float, variance: float) -> GaussianMixture:
    """One Gaussian in one dimension."""
    return GaussianMixture(doubles(1.0), doubles(mean)[:, None], doubles(variance)[:, None, None])


def network_of(exact: Model, prediction: Prediction) -> DiffusionModel:
    """The exact model as a network that outputs ``prediction``, with the same prior."""
    return DiffusionModel(getattr(exact, prediction), exact.schedule, prediction, exact.prior)


class Altered(Model):
    """A model with a wrong score: ``change`` of the exact one. Starts from N(0, σ²(s_max) I) unless told otherwise."""

    def __init__(
        self,
        exact: ExactModel,
        change: Callable[[Tensor, Tensor, Tensor], Tensor],
        prior: Prior | None = None,
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
    """A network that counts its calls, its rows, the passes back through it, and the rows of those."""

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.network = network
        self.calls = self.rows = self.backward = self.pulled = 0

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(x)
        output = self.network(x, s)
        if output.requires_grad:
            output.register_hook(self._went_back)
        return output

    def _went_back(self, gradient: Tensor) -> None:
        self.backward += 1
        self.pulled += len(gradient)


class ScaledGaussian:
    """One Gaussian N(mean, variance) whose exact score is multiplied by ``factor``: every density is normal.

    The model's two densities follow from the moments of its processes, the path-integral bound from one quadrature. The
    prior is N(0, σ²(1)).
    """

    def __init__(self, mean: float, variance: float, factor: float, schedule: Schedule = PAPER_A) -> None:
        self.mean, self.variance, self.factor, self.schedule = mean, variance, factor, schedule
        self.model = scaled(gaussian(mean, variance), factor, schedule)
        self.prior_variance = schedule.at(schedule.s_max)[1] ** 2

    def _terms(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """α, σ², the variance of the marginal, f and g² at times s."""
        alpha, variance = self.schedule.alpha(s), self.schedule.sigma(s).square()
        marginal = alpha.square() * self.variance + variance
        return alpha, variance, marginal, self.schedule.drift(s), self.schedule.diffusion(s)

    def _backward(self, half: float, noise: float) -> Normal:
        """The end of dx = (f x + half·g²·factor·(x − α m)/v) ds with ``noise``·g² of noise, from the prior to s = 0."""

        def rates(s: float, moments: np.ndarray) -> list[float]:
            alpha, _, marginal, drift, diffusion = (value.item() for value in self._terms(doubles(s)))
            pull = half * diffusion * self.factor / marginal
            mean = drift * moments[0] + pull * (moments[0] - alpha * self.mean)
            return [mean, 2 * (drift + pull) * moments[1] - noise * diffusion]

        found = solve_ivp(rates, (1.0, 0.0), [0.0, self.prior_variance], rtol=1e-10, atol=1e-12)
        return Normal(doubles(found.y[0, -1]), doubles(found.y[1, -1]).sqrt())

    @property
    def sde(self) -> Normal:
        return self._backward(half=1.0, noise=1.0)

    @property
    def flow(self) -> Normal:
        return self._backward(half=0.5, noise=0.0)

    def bound(self, x: Tensor) -> Tensor:
        """The expectation of the path-integral bound at x (B,), with the divergence of the drift as it is."""
        s = torch.linspace(0, 1, 20_001, dtype=torch.float64)
        alpha, variance, marginal, drift, diffusion = self._terms(s)
        square = (alpha * (x[:, None] - self.mean)).square() + variance
        integrand = 0.5 * diffusion * self.factor**2 * square / marginal.square()
        integrand = integrand - (drift + self.factor * diffusion / marginal)
        end = (alpha[-1] * x).square() + variance[-1]
        prior = -0.5 * (math.log(2 * math.pi * self.prior_variance) + end / self.prior_variance)
        return prior - torch.trapezoid(integrand, s)

    def gap(self) -> float:
        """E[log p − bound] over the data, in nats."""
        data = Normal(doubles(self.mean), doubles(self.variance).sqrt())
        x = torch.linspace(self.mean - 8 * self.variance**0.5, self.mean + 8 * self.variance**0.5, 401).double()
        log_prob = data.log_prob(x)
        return torch.trapezoid(log_prob.exp() * (log_prob - self.bound(x)), x).item()


class ExactConditional:
    """The score of p(x | c) for a mixture of D + C numbers (x, c), of which only x is diffused: a network."""

    def __init__(self, joint: GaussianMixture, dimension: int, schedule: Schedule) -> None:
        self.joint, self.dimension, self.schedule = joint, dimension, schedule

    def __call__(self, x: Tensor, s: Tensor, context: Tensor) -> Tensor:
        alpha, sigma = (f(s)[:, None].expand(x.shape) for f in (self.schedule.alpha, self.schedule.sigma))
        scale = torch.cat([alpha, torch.ones_like(context)], dim=1)
        noise = torch.cat([sigma.square(), torch.zeros_like(context)], dim=1)[:, None]
        covariances = scale[:, None, :, None] * self.joint.covariances * scale[:, None, None] + noise.diag_embed()
        components = MultivariateNormal(scale[:, None] * self.joint.means, covariances)
        z = torch.cat([x, context], dim=1)[:, None]
        share = (self.joint.weights.log() + components.log_prob(z)).softmax(1)
        pull = torch.linalg.solve(covariances, (components.mean - z)[..., None])[..., 0]
        return (share[..., None] * pull).sum(1)[:, : self.dimension]

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        """log p(x | c) of the data, by the conditional of each normal component."""
        d = self.dimension
        here, given = slice(None, d), slice(d, None)
        covariances, means = self.joint.covariances, self.joint.means
        inner = covariances[:, given, given]
        gain = torch.linalg.solve(inner, covariances[:, given, here]).mT
        centre = means[:, here] + torch.einsum("kdc,bkc->bkd", gain, context[:, None] - means[:, given])
        spread = covariances[:, here, here] - gain @ covariances[:, given, here]
        share = self.joint.weights.log() + MultivariateNormal(means[:, given], inner).log_prob(context[:, None])
        each = MultivariateNormal(centre, spread).log_prob(x[:, None])
        return (share.log_softmax(1) + each).logsumexp(1)
