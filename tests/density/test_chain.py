"""The chain of ancestral steps: importance weights against its own density in closed form, and against the DDPM sum."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_density.density.chain import _log_weights, chain, reverse_chain
from diffusion_density.density.formula import expectation, time_nodes
from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import DiffusionModel, Model
from diffusion_density.process.schedules import Discrete, LogLinear, Schedule
from truths import Altered, doubles, gaussian, random_mixture, scaled, seeded

SCHEDULE = LogLinear(-6.0, 6.0)
STEPS = 12
TIMES = time_nodes(SCHEDULE, "trapezoid", STEPS).times


def density_of_the_chain(model: Model, x: Tensor, times: Tensor = TIMES) -> Tensor:
    """log p(x₁) where the noise prediction is linear in x_t: the recursion of a Gaussian."""
    alpha, sigma = model.schedule.alpha(times), model.schedule.sigma(times)
    variance = sigma[-1].square()
    for t in range(len(times) - 1, 0, -1):
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
    """A Gaussian under a score, right or wrong by a factor: every step of the chain is linear."""
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


@pytest.mark.parametrize("factor", [1.0, 0.8])
@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (SCHEDULE, 8),
        (SCHEDULE, 48),
        (LogLinear(-6.0, 6.0, "straight"), 24),
        (Discrete(torch.linspace(0.02, 0.4, 20, dtype=torch.float64)), 20),
    ],
    ids=["vp-8", "vp-48", "straight-24", "discrete-20"],
)
def test_the_density_of_the_chain_lies_between_both_bounds(factor: float, schedule: Schedule, steps: int) -> None:
    """On the chain's own samples; and the weights of its paths are exact: E p(x₁)/w = 1."""
    model, n = scaled(gaussian(0.0, 0.49), factor, schedule), 10_000
    times = time_nodes(schedule, "trapezoid", steps).times
    x, upper = reverse_chain(model, n, event=(1,), steps=steps, generator=seeded(4), dtype=torch.float64)
    truth = density_of_the_chain(model, x, times)[:, 0]
    lower = _log_weights(model, x, times, 1, seeded(5), clean=False)[:, 0]
    above, below = upper.value - truth, truth - lower
    for gap in (above, below):
        assert gap.mean() > 3 * gap.std() / n**0.5
    ratio = (-above).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / n**0.5
    found = chain(model, x[:500], steps=steps, paths=64, generator=seeded(6), clean=False)
    assert (truth[:500] - found.value).mean() < 0.5 * below.mean()


def test_both_bounds_close_with_the_steps_for_an_exact_score() -> None:
    model, n = scaled(gaussian(0.0, 0.49), 1.0, SCHEDULE), 4000
    widths = []
    for steps in (50, 100, 200):
        x, upper = reverse_chain(model, n, event=(1,), steps=steps, generator=seeded(7), dtype=torch.float64)
        times = time_nodes(SCHEDULE, "trapezoid", steps).times
        lower = _log_weights(model, x, times, 1, seeded(8), clean=False)[:, 0]
        widths.append((upper.value - lower).mean().item())
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.2)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.2)


def test_what_is_returned() -> None:
    model = scaled(gaussian(0.0, 0.49), 1.0, SCHEDULE)
    x = doubles(0.1, 0.2)[:, None]
    found = chain(model, x, steps=STEPS, paths=4, generator=seeded(0))
    assert (found.kind, found.density, found.network_evaluations) == ("lower", "sde", 4 * (STEPS - 1))
    with pytest.raises(InputError, match="paths must be at least 2, got 1"):
        chain(model, x, paths=1, generator=seeded(0))
    bad = doubles(0.1, math.nan)[:, None]
    with pytest.raises(InputError, match="point 1"):
        chain(model, bad, generator=seeded(0))


def test_samples_of_the_chain_are_data() -> None:
    """Events of any shape; what is above the log density is the steps' error alone."""
    schedule, mixture, n = LogLinear(-8.0, 5.0, "straight"), random_mixture(4), 2000
    exact = mixture.diffused(schedule)
    model = DiffusionModel(exact.score, schedule, "score")
    x, upper = reverse_chain(model, n, event=(2, 2), steps=200, generator=seeded(9), dtype=torch.float64)
    alpha, sigma = schedule.at(schedule.s_start)
    noise = torch.randn(n, 4, generator=seeded(11), dtype=torch.float64)
    data = alpha * mixture.sample(n, generator=seeded(10)) + sigma * noise
    assert x.shape == (n, 2, 2)
    assert torch.allclose(x.flatten(1).mean(0), data.mean(0), atol=0.15)
    assert torch.allclose(x.flatten(1).T.cov(), data.T.cov(), atol=0.2)
    excess = upper.value - exact.log_prob(x, schedule.s_start)
    assert 0 < excess.mean() < 1


def test_what_the_reverse_chain_returns() -> None:
    model = scaled(gaussian(0.0, 0.49), 1.0, SCHEDULE)
    x, found = reverse_chain(model, 3, event=(1,), steps=STEPS, generator=seeded(0))
    assert (found.kind, found.density, found.stderr) == ("upper", "sde", None)
    assert found.network_evaluations == STEPS - 1
    assert (x.dtype, found.value.dtype) == (torch.float32, torch.float64)
    with pytest.raises(InputError, match="n must be at least 1, got 0"):
        reverse_chain(model, 0, event=(1,), generator=seeded(0))
    with pytest.raises(InputError, match="steps must be at least 2, got 1"):
        reverse_chain(model, 3, event=(1,), steps=1, generator=seeded(0))
    with pytest.raises(InputError, match="prior is not Gaussian"):
        reverse_chain(model.exact, 3, event=(1,), generator=seeded(0))
    broken = Altered(model.exact, lambda score, x, _s: score.masked_fill(x > 1.5, math.nan))
    x, found = reverse_chain(broken, 200, event=(1,), steps=STEPS, generator=seeded(0))
    lost = ~x[:, 0].isfinite()
    assert 0 < lost.sum() < 200
    assert torch.equal(found.value.isnan(), lost)
