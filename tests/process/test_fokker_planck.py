"""The Fokker–Planck solver against diffused mixtures, normal reverse processes, and a prior that is not smooth."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.distributions import Normal

from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.process.fokker_planck import Marginals, marginals
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import GaussianPrior, Prior
from diffusion_density.process.schedules import LogLinear, Schedule, VariancePreserving
from truths import SCHEDULES, Altered, ScaledGaussian, doubles, gaussian

GENTLE = VariancePreserving(0.1, 0.5)  # far from its equilibrium at the noise end
USED: dict[str, Schedule] = {
    "vp-20": VariancePreserving(0.1, 20.0),
    "vp-12": VariancePreserving(0.1, 12.0),
    "log-linear-vp": LogLinear(),
    "log-linear-straight": LogLinear(path="straight"),
    "discrete": SCHEDULES["discrete"],
}


def two_modes() -> GaussianMixture:
    """A mixture in one dimension with two modes."""
    return GaussianMixture(doubles(0.3, 0.7), doubles(-1.5, 1.0)[:, None], doubles(0.5**2, 0.35**2)[:, None, None])


def exact_log_prob(exact: ExactModel, found: Marginals) -> Tensor:
    return torch.stack([exact.log_prob(found.x[:, None], s) for s in found.times.tolist()])


def distance(exact: ExactModel, found: Marginals) -> float:
    """The largest over times of ∫ |p − p_s| dx."""
    width = (found.x[1] - found.x[0]).item()
    return (found.log_prob.exp() - exact_log_prob(exact, found).exp()).abs().sum(1).max().item() * width


@pytest.mark.parametrize("schedule", USED.values(), ids=USED.keys())
def test_an_exact_score_gives_the_diffused_mixture(schedule: Schedule) -> None:
    exact = two_modes().diffused(schedule)
    found = marginals(exact, cells=400, steps=300)
    assert found.times[[0, -1]].tolist() == pytest.approx([schedule.s_start, schedule.s_max], rel=1e-6)
    assert (found.times.diff() > 0).all()
    assert distance(exact, found) < 1e-3
    inside = found.x.abs() < 3
    assert (found.log_prob - exact_log_prob(exact, found))[:, inside].abs().max() < 2e-2


@pytest.mark.parametrize("name", ["vp-20", "log-linear-vp"])
def test_the_error_is_of_second_order(name: str) -> None:
    exact = two_modes().diffused(USED[name])
    errors = [distance(exact, marginals(exact, cells=n, steps=n)) for n in (80, 160, 320)]
    assert errors[0] > 3.5 * errors[1] > 3.5**2 * errors[2]


def test_mass_is_conserved() -> None:
    model = Altered(two_modes().diffused(USED["vp-20"]), lambda score, x, s: 0.8 * score + (3 * x + s).sin())
    found = marginals(model, cells=400, steps=300)
    mass = found.log_prob.exp().sum(1) * (found.x[1] - found.x[0])
    assert (mass - 1).abs().max() < 1e-10
    assert found.log_prob[:, found.x.abs() < 3].min() > -25  # nothing was cut off where there is mass


class Reversed:
    """The reverse SDE of a Gaussian's score times a factor, from a Gaussian prior: Gaussian at every time."""

    def __init__(self, factor: float, schedule: Schedule, prior: float) -> None:
        self.truth = ScaledGaussian(0.7, 0.36, factor, schedule)
        self.prior = prior
        exact = gaussian(0.7, 0.36).diffused(schedule)
        self.model = Altered(exact, lambda score, _x, _s: factor * score, GaussianPrior(prior))

    def at(self, times: Tensor) -> Normal:
        """The marginals at rising times, from the ODE of their two moments along s."""

        def rates(s: float, moments: np.ndarray) -> list[float]:
            alpha, _, marginal, drift, diffusion = (value.item() for value in self.truth._terms(doubles(s)))
            pull = diffusion * self.truth.factor / marginal
            mean = drift * moments[0] + pull * (moments[0] - alpha * self.truth.mean)
            return [mean, 2 * (drift + pull) * moments[1] - diffusion]

        s = times.flip(0)
        ends = (s[0].item(), s[-1].item())
        found = solve_ivp(rates, ends, [0.0, self.prior], t_eval=s.numpy(), rtol=1e-10, atol=1e-12)
        mean, variance = (torch.from_numpy(row.copy()).flip(0) for row in found.y)
        return Normal(mean[:, None], variance.sqrt()[:, None])


@pytest.mark.parametrize(
    ("factor", "schedule", "prior"),
    [
        (1.5, USED["vp-20"], 1.0),
        (0.8, USED["vp-20"], 1.0),
        (1.2, USED["log-linear-straight"], 1.0),
        (1.2, GENTLE, 0.3),
        (0.0, GENTLE, 0.8),
    ],
)
def test_a_wrong_score_of_a_gaussian(factor: float, schedule: Schedule, prior: float) -> None:
    closed = Reversed(factor, schedule, prior)
    errors = []
    for n in (150, 300):
        found = marginals(closed.model, cells=n, steps=n, span=(-7, 7))
        distribution = closed.at(found.times)
        near = (found.x - distribution.mean).abs() < 2 * distribution.stddev
        errors.append((found.log_prob - distribution.log_prob(found.x))[near].abs().max())
    assert errors[1] < 6e-3
    assert errors[0] > 3 * errors[1]
    if factor == 0:  # no pull: x grows, and ∫ β ds of noise with it
        growth = -2 * schedule.log_alpha(doubles(1.0)).item()
        assert distribution.variance[0].item() == pytest.approx((prior + 1) * math.exp(growth) - 1, rel=1e-4)


class Box(Prior):
    """Uniform on [−1, 1]."""

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.where(x[:, 0].abs() < 1, -math.log(2), -math.inf)


def test_a_prior_with_jumps() -> None:
    """N(0, 1) under its own score: x falls to α x, so the end is a box convolved with a Gaussian."""
    model = Altered(gaussian(0.0, 1.0).diffused(GENTLE), lambda score, _x, _s: score, Box())
    alpha, _ = GENTLE.at(1.0)
    smooth = Normal(0.0, (1 - alpha**2) ** 0.5)
    errors = []
    for n in (150, 300):
        found = marginals(model, cells=n, steps=n // 2, span=(-5, 5))
        truth = (smooth.cdf(found.x + alpha) - smooth.cdf(found.x - alpha)) / (2 * alpha)
        errors.append((found.log_prob[0].exp() - truth).abs().max())
    assert errors[1] < 1e-4
    assert errors[0] > 3 * errors[1]


def test_between_the_nodes() -> None:
    exact = two_modes().diffused(USED["vp-20"])
    found = marginals(exact, cells=600, steps=400)
    x = torch.linspace(-2.9, 2.7, 83, dtype=torch.float64)
    for s in (found.schedule.s_start, 1.3e-3, 0.0317, 0.2113, 0.68, 1.0):
        torch.testing.assert_close(found.log_prob_at(x, s), exact.log_prob(x[:, None], s), rtol=0, atol=5e-3)
        torch.testing.assert_close(found.score(x, s), exact.score(x[:, None], s)[:, 0], rtol=0, atol=2e-2)
    times = torch.linspace(0.01, 0.9, 83, dtype=torch.float64)
    torch.testing.assert_close(found.score(x, times), exact.score(x[:, None], times)[:, 0], rtol=0, atol=2e-2)
    torch.testing.assert_close(found.log_prob_at(found.x, found.times[200]), found.log_prob[200], rtol=0, atol=1e-9)


def test_refusals() -> None:
    exact = two_modes().diffused(USED["vp-20"])
    for settings, message in (
        ({"cells": 3}, "at least 4 cells"),
        ({"steps": 2}, "at least 4 cells and 4 steps"),
        ({"span": (1.0, -1.0)}, "two increasing numbers"),
        ({"span": (-5.0, 5.0)}, "of the prior's mass"),
    ):
        with pytest.raises(InputError, match=message):
            marginals(exact, **settings)
    broken = Altered(exact, lambda score, x, _s: score.masked_fill(x > 5, torch.nan))
    with pytest.raises(NumericalError, match="not finite on the grid at s = 1"):
        marginals(broken, cells=50, steps=10)
