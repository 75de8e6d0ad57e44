"""The chain of ancestral steps: importance weights against its own density in closed form, and against the DDPM sum."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_density.density.chain import _log_weights, chain
from diffusion_density.density.formula import expectation, time_nodes
from diffusion_density.errors import InputError
from diffusion_density.model import Model
from diffusion_density.schedules import LogLinear
from truths import doubles, gaussian, scaled, seeded

SCHEDULE = LogLinear(-6.0, 6.0)
STEPS = 12


def density_of_the_chain(model: Model, x: Tensor) -> Tensor:
    """log p(x₁) where the noise prediction is linear in x_t: the recursion of a normal law."""
    times = time_nodes(SCHEDULE, "trapezoid", STEPS).times
    alpha, sigma = SCHEDULE.alpha(times), SCHEDULE.sigma(times)
    variance = sigma[-1].square()
    for t in range(STEPS - 1, 0, -1):
        a = alpha[t] / alpha[t - 1]
        b2 = sigma[t].square() - (a * sigma[t - 1]).square()
        precision = 1 / sigma[t - 1].square() + a.square() / b2
        noise = model.noise(torch.ones(1, 1, dtype=torch.float64), times[t]).item()
        clean = (1 - sigma[t] * noise) / alpha[t]
        gain = (alpha[t - 1] / sigma[t - 1].square() * clean + a / b2) / precision
        variance = gain.square() * variance + 1 / precision
    return torch.distributions.Normal(0.0, variance.sqrt()).log_prob(x)


@pytest.mark.parametrize("factor", [1.0, 0.8])
def test_many_paths_reach_the_density_of_the_chain(factor: float) -> None:
    """A normal law under a score, right or wrong by a factor: every step of the chain is linear."""
    model = scaled(gaussian(0.0, 0.49), factor, SCHEDULE)
    x = doubles(-1.0, 0.2, 0.9)[:, None]
    found = chain(model, x, steps=STEPS, paths=8192, generator=seeded(1))
    alpha, sigma = SCHEDULE.at(SCHEDULE.s_start)
    start = alpha * x + sigma * torch.randn(x.shape, generator=seeded(1), dtype=torch.float64)
    truth = density_of_the_chain(model, start)[:, 0]
    assert found.stderr is not None
    assert found.stderr.max() < 0.05
    assert ((found.value - truth).abs() < 4 * found.stderr).all()


@pytest.mark.parametrize("factor", [1.0, 0.8])
def test_one_path_is_the_ddpm_sum_in_expectation(factor: float) -> None:
    model = scaled(gaussian(0.3, 0.49), factor, SCHEDULE)
    x = doubles(0.5)[:, None]
    times = time_nodes(SCHEDULE, "trapezoid", STEPS).times
    weights = _log_weights(model, x.expand(20_000, 1), times, 1, seeded(2))
    expected = expectation(model, x, rule="sum", steps=STEPS)
    assert abs(weights.mean() - expected) < 4 * weights.std() / math.sqrt(weights.numel())


def test_more_paths_raise_the_bound_towards_the_density() -> None:
    model = scaled(gaussian(0.0, 0.49), 0.8, SCHEDULE)
    times = time_nodes(SCHEDULE, "trapezoid", STEPS).times
    alpha, sigma = SCHEDULE.at(SCHEDULE.s_start)
    x = doubles(0.9)[:, None].expand(4000, 1)
    start = alpha * x + sigma * torch.randn(x.shape, generator=seeded(3), dtype=torch.float64)
    truth = density_of_the_chain(model, start)[:, 0]
    weights = _log_weights(model, x, times, 16, seeded(3))
    gaps = [(truth - (weights[:, :k].logsumexp(1) - math.log(k))).mean().item() for k in (1, 4, 16)]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


def test_what_is_returned() -> None:
    model = scaled(gaussian(0.0, 0.49), 1.0, SCHEDULE)
    x = doubles(0.1, 0.2)[:, None]
    found = chain(model, x, steps=STEPS, paths=4, generator=seeded(0))
    assert (found.kind, found.of, found.network_evaluations) == ("lower", "sde", 4 * (STEPS - 1))
    with pytest.raises(InputError, match="paths must be at least 2, got 1"):
        chain(model, x, paths=1, generator=seeded(0))
    bad = doubles(0.1, math.nan)[:, None]
    with pytest.raises(InputError, match="point 1"):
        chain(model, bad, generator=seeded(0))
