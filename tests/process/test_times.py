"""Times for training against the constants, quantiles and integrals of Zheng et al. 2023."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.schedules import LogLinear
from diffusion_density.process.times import (
    AlphaSquared,
    AlphaSquaredStraight,
    independent,
    low_discrepancy,
)

RANGE = (-13.3, 5.0)
PATHS = ("vp", "straight")
TIMES = {"vp": AlphaSquared, "straight": AlphaSquaredStraight}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gamma_of(s: Tensor) -> Tensor:
    return RANGE[0] + (RANGE[1] - RANGE[0]) * s


@pytest.mark.parametrize(("path", "published"), [("vp", 13.2933), ("straight", 11.2991)])
def test_the_normalizer_is_the_published_one_and_the_integral(path: str, published: float) -> None:
    times = TIMES[path](*RANGE)
    gamma = torch.linspace(*RANGE, 20_001, dtype=torch.float64)
    assert times.normalizer == pytest.approx(published, abs=5e-5)
    assert times.normalizer == pytest.approx(torch.trapezoid(times.at(gamma), gamma).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("path", "published"),
    [("vp", [-11.97, -9.98, -6.65, -3.29, -1.03, 1.90]), ("straight", [-12.17, -10.46, -7.57, -4.43, -1.95, 1.63])],
)
def test_quantiles_are_the_published_ones(path: str, published: list[float]) -> None:
    u = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9, 0.99], dtype=torch.float64)
    quantiles = gamma_of(TIMES[path](*RANGE).times(u))
    assert quantiles.tolist() == pytest.approx(published, abs=0.0051)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ends", [RANGE, (-20.0, 12.0), (-7.876, 5.0), (2.0, 3.0)])
def test_inverse_round_trip(path: str, ends: tuple[float, float]) -> None:
    times = TIMES[path](*ends)
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    s = times.times(u)
    torch.testing.assert_close(times.cdf(s), u, rtol=0, atol=1e-12)
    assert s.diff().min() > 0
    torch.testing.assert_close(s[[0, -1]], u[[0, -1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_the_density_is_the_derivative_of_the_cdf(path: str) -> None:
    times = TIMES[path](*RANGE)
    s = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    slope = (times.cdf(s + 1e-5) - times.cdf(s - 1e-5)) / 2e-5
    torch.testing.assert_close(times.density(s), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
def test_samples_have_the_density(path: str) -> None:
    """Kolmogorov-Smirnov against a numerical integral of α², which the sampler does not use."""
    times = TIMES[path](*RANGE)
    s = times.times(independent(20_000, generator()))
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(times.at(gamma_of(grid)), grid)
    cdf = torch.cat([torch.zeros(1, dtype=torch.float64), cdf / cdf[-1]])
    at = cdf[(s * 20_000).long()]
    assert stats.kstest(at.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(s.numpy(), "uniform").pvalue < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_the_velocity_objective_has_a_constant_weight(path: str) -> None:
    times = TIMES[path](*RANGE)
    s = times.times(low_discrepancy(64, generator()))
    per_gamma = times.density(s) / (RANGE[1] - RANGE[0])
    weight = times.weight(gamma_of(s)) / per_gamma
    expected = {"vp": 6.6466, "straight": 11.2991}[path]
    torch.testing.assert_close(weight, torch.full_like(weight, expected), rtol=0, atol=6e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_importance_and_uniform_times_estimate_the_same_bound(path: str, prediction: str) -> None:
    """A predictor that is off by δ in noise is off by δ/α (or δ/(√2 α)) in velocity: the bound does not care."""
    delta_squared = 0.3
    factor = 1.0 if prediction == "noise" else (1.0 if path == "vp" else 0.5)
    times = TIMES[path](*RANGE)

    def bound(s: Tensor, density: Tensor) -> float:
        gamma = gamma_of(s)
        error = delta_squared * factor / (1.0 if prediction == "noise" else times.at(gamma))
        per_gamma = 0.5 if prediction == "noise" else times.weight(gamma)
        weight = per_gamma * (RANGE[1] - RANGE[0]) / density
        return (weight * error).mean().item()

    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    assert bound(u, torch.ones_like(u)) == pytest.approx(9.15 * delta_squared, rel=1e-6)
    s = times.times(u)
    assert bound(s, times.density(s)) == pytest.approx(9.15 * delta_squared, rel=1e-3)


@pytest.mark.parametrize("path", PATHS)
def test_they_are_those_of_the_path(path: str) -> None:
    """α² of the schedule, and the weight ½ n² α² of an error of its velocity."""
    schedule = LogLinear(*RANGE, path)
    times = schedule.alpha_squared(*RANGE)
    s = torch.linspace(0, 1, 50, dtype=torch.float64)
    alpha, norm = schedule.alpha(s), schedule.velocity(s)[2]
    torch.testing.assert_close(times.at(gamma_of(s)), alpha.square(), rtol=1e-12, atol=0)
    torch.testing.assert_close(times.weight(gamma_of(s)), 0.5 * (norm * alpha).square(), rtol=1e-12, atol=0)


def test_single_precision_keeps_the_dtype_and_the_range() -> None:
    for path in PATHS:
        times = TIMES[path](*RANGE)
        s = times.times(torch.tensor([0.0, 0.3, 1.0]))
        assert s.dtype == times.density(s).dtype == times.cdf(s).dtype == torch.float32
        assert 0 <= s.min() <= s.max() <= 1


def test_low_discrepancy_puts_one_number_into_each_stratum() -> None:
    n = 16
    for seed in range(4):
        u = low_discrepancy(n, generator(seed))
        assert (u * n).long().tolist() == list(range(n))
        torch.testing.assert_close(u.diff(), torch.full((n - 1,), 1 / n).double())


def test_low_discrepancy_is_uniform_over_draws() -> None:
    g = generator()
    u = torch.stack([low_discrepancy(8, g) for _ in range(2000)])
    assert stats.kstest(u[:, 3].numpy() * 8 - 3, "uniform").pvalue > 1e-3
    assert u.min() >= 0
    assert u.max() < 1


def test_low_discrepancy_lowers_the_variance_of_a_mean() -> None:
    g = generator()
    stratified = torch.stack([low_discrepancy(16, g).square().mean() for _ in range(500)]).var()
    plain = torch.stack([independent(16, g).square().mean() for _ in range(500)]).var()
    assert stratified < plain / 10


def test_the_generator_alone_decides() -> None:
    assert torch.equal(low_discrepancy(9, generator(5)), low_discrepancy(9, generator(5)))
    assert not torch.equal(low_discrepancy(9, generator(5)), low_discrepancy(9, generator(6)))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="gamma_min < gamma_max"):
        AlphaSquared(5.0, 5.0)
