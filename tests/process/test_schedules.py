"""Schedules against autograd, the algebra of Gaussian kernels, and published numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.schedules import Discrete, LogLinear, Schedule, VariancePreserving
from truths import EVERY_SCHEDULE, PAPER_A, SCHEDULES, Rectified, doubles

PRESERVING = [name for name in SCHEDULES if name != "log-linear-straight"]
each_schedule = pytest.mark.parametrize("schedule", EVERY_SCHEDULE.values(), ids=EVERY_SCHEDULE.keys())


def inner_times(schedule: Schedule, count: int = 97) -> Tensor:
    """Times that avoid the ends, and the corners of discrete schedules."""
    fractions = (torch.arange(count, dtype=torch.float64) + math.pi / 7) / count
    return schedule.s_start + (schedule.s_max - schedule.s_start) * fractions


def derivative(values: Tensor, s: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), s)[0]


@pytest.mark.parametrize("name", PRESERVING)
def test_the_variance_is_preserved(name: str) -> None:
    schedule = SCHEDULES[name]
    s = inner_times(schedule)
    torch.testing.assert_close(
        schedule.alpha(s).square() + schedule.sigma(s).square(), torch.ones_like(s), rtol=0, atol=1e-14
    )


def test_the_straight_path_is_straight() -> None:
    schedule = SCHEDULES["log-linear-straight"]
    s = inner_times(schedule)
    torch.testing.assert_close(schedule.alpha(s) + schedule.sigma(s), torch.ones_like(s), rtol=0, atol=1e-14)


class Derived(Schedule):
    """A schedule known by its α and σ alone."""

    def __init__(self, schedule: Schedule) -> None:
        self.s_min, self.s_start, self.s_max = schedule.s_min, schedule.s_start, schedule.s_max
        self.schedule = schedule

    def alpha(self, s: Tensor) -> Tensor:
        return self.schedule.alpha(s)

    def sigma(self, s: Tensor) -> Tensor:
        return self.schedule.sigma(s)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("name", ["log_alpha", "log_snr", "drift", "diffusion", "velocity", "noise_share"])
def test_what_follows_from_alpha_and_sigma_is_the_closed_form(schedule: Schedule, name: str) -> None:
    s = inner_times(schedule)
    torch.testing.assert_close(getattr(Derived(schedule), name)(s), getattr(schedule, name)(s), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_log_snr_is_inverted_by_bisection(schedule: Schedule) -> None:
    s = torch.tensor([schedule.s_start, 0.1, 0.5, schedule.s_max], dtype=torch.float64).reshape(2, 2)
    log_snr = schedule.log_snr(s)
    torch.testing.assert_close(Derived(schedule).inverse(log_snr), schedule.inverse(log_snr), rtol=1e-9, atol=1e-11)
    outside = doubles(-1000.0, 1000.0, -math.inf, math.inf)
    found = Derived(schedule).inverse(outside)
    torch.testing.assert_close(found, doubles(schedule.s_max, schedule.s_min)[[0, 1, 0, 1]], rtol=0, atol=1e-15)


@each_schedule
def test_the_velocity_is_the_direction_of_the_path(schedule: Schedule) -> None:
    s = inner_times(schedule).requires_grad_()
    fall, rise = derivative(schedule.alpha(s), s), derivative(schedule.sigma(s), s)
    b, c, norm = schedule.velocity(s)
    torch.testing.assert_close(schedule.alpha(s) * b + schedule.sigma(s) * c, torch.ones_like(s), rtol=1e-12, atol=0)
    speed = (fall.square() + rise.square()).sqrt()
    torch.testing.assert_close(torch.stack([b, -c]) / norm, torch.stack([rise, fall]) / speed, rtol=1e-9, atol=1e-10)


@each_schedule
def test_the_share_of_the_noise_and_its_slope(schedule: Schedule) -> None:
    s = inner_times(schedule).requires_grad_()
    expected = (-schedule.log_snr(s)).sigmoid().sqrt()
    share, slope = schedule.noise_share(s)
    torch.testing.assert_close(share, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(slope, derivative(expected, s), rtol=1e-8, atol=1e-10)


@each_schedule
def test_the_times_of_a_chain(schedule: Schedule) -> None:
    s, log_snr = schedule.chain_times(9)
    assert s.dtype == log_snr.dtype == torch.float64
    torch.testing.assert_close(schedule.log_snr(s), log_snr, rtol=1e-9, atol=1e-9)
    assert s[[0, -1]].tolist() == pytest.approx([schedule.s_start, schedule.s_max], rel=1e-9)
    if isinstance(schedule, Discrete):
        assert len(s) == len(schedule.betas)
    else:
        torch.testing.assert_close(log_snr.diff(), log_snr.diff().mean().expand(8), rtol=1e-9, atol=0)


@each_schedule
def test_log_snr_is_that_of_alpha_and_sigma_and_falls(schedule: Schedule) -> None:
    s = inner_times(schedule)
    ratio = 2 * (schedule.log_alpha(s) - schedule.sigma(s).log())
    torch.testing.assert_close(schedule.log_snr(s), ratio, rtol=1e-11, atol=1e-11)
    assert schedule.log_snr(s).diff().max() < 0


@each_schedule
def test_drift_and_diffusion_are_the_derivatives(schedule: Schedule) -> None:
    s = inner_times(schedule).requires_grad_()
    drift = derivative(schedule.log_alpha(s), s)
    diffusion = -schedule.sigma(s).square() * derivative(schedule.log_snr(s), s)
    torch.testing.assert_close(schedule.drift(s), drift, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(schedule.diffusion(s), diffusion, rtol=1e-9, atol=1e-12)


@each_schedule
def test_the_variance_obeys_its_moment_equation(schedule: Schedule) -> None:
    s = inner_times(schedule).requires_grad_()
    variance = schedule.sigma(s).square()
    expected = 2 * schedule.drift(s) * variance + schedule.diffusion(s)
    torch.testing.assert_close(derivative(variance, s), expected, rtol=1e-9, atol=1e-11)


@each_schedule
def test_inverse_round_trip(schedule: Schedule) -> None:
    s = inner_times(schedule)
    torch.testing.assert_close(schedule.inverse(schedule.log_snr(s)), s, rtol=1e-10, atol=1e-13)
    log_snr = torch.linspace(8.0, -1.5, 50, dtype=torch.float64)
    inside = (log_snr < schedule.log_snr(doubles(schedule.s_start))) & (log_snr > schedule.log_snr(doubles(1.0)))
    assert inside.sum() > 10
    torch.testing.assert_close(schedule.log_snr(schedule.inverse(log_snr[inside])), log_snr[inside], rtol=0, atol=1e-9)


@each_schedule
def test_transitions_compose(schedule: Schedule) -> None:
    early, middle = inner_times(schedule)[[10, 30]].tolist()
    late = inner_times(schedule)[40:]
    alpha_1, sigma_1 = schedule.transition(early, doubles(middle))
    alpha_2, sigma_2 = schedule.transition(middle, late)
    alpha, sigma = schedule.transition(early, late)
    torch.testing.assert_close(alpha, alpha_1 * alpha_2, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma.square(), (alpha_2 * sigma_1).square() + sigma_2.square(), rtol=1e-10, atol=0)


@each_schedule
def test_a_transition_carries_one_marginal_to_another(schedule: Schedule) -> None:
    s = inner_times(schedule)[5:]
    first = inner_times(schedule)[3].item()
    alpha, sigma = schedule.transition(first, s)
    alpha_first, sigma_first = schedule.at(first)
    torch.testing.assert_close(alpha * alpha_first, schedule.alpha(s), rtol=1e-12, atol=0)
    variance = (alpha * sigma_first).square() + sigma.square()
    torch.testing.assert_close(variance, schedule.sigma(s).square(), rtol=1e-10, atol=0)


def test_the_transition_from_noiseless_data_is_the_marginal() -> None:
    s = inner_times(PAPER_A)
    alpha, sigma = PAPER_A.transition(0.0, s)
    torch.testing.assert_close(alpha, PAPER_A.alpha(s), rtol=0, atol=0)
    torch.testing.assert_close(sigma, PAPER_A.sigma(s), rtol=1e-15, atol=0)


@each_schedule
def test_times_of_any_shape_and_precision(schedule: Schedule) -> None:
    for s in (torch.tensor(0.5), torch.rand(3, 1, 2) * 0.5 + 0.4, doubles(0.5)):
        for method in (schedule.alpha, schedule.log_alpha, schedule.sigma, schedule.log_snr, schedule.drift):
            assert method(s).shape == s.shape
            assert method(s).dtype == s.dtype
        for value in (schedule.diffusion(s), schedule.inverse(schedule.log_snr(s))):
            assert value.shape == s.shape
            assert value.dtype == s.dtype


@each_schedule
def test_single_precision_keeps_its_digits_next_to_the_data(schedule: Schedule) -> None:
    fine = schedule.s_start + (schedule.s_max - schedule.s_start) * torch.logspace(-5, 0, 40, dtype=torch.float64)
    coarse = fine.float()
    fine = coarse.double()
    for method in (schedule.sigma, schedule.alpha, schedule.diffusion):
        torch.testing.assert_close(method(coarse).double(), method(fine), rtol=4e-6, atol=0)
    torch.testing.assert_close(schedule.log_snr(coarse).double(), schedule.log_snr(fine), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("schedule", "s", "alpha", "sigma"),
    [
        (PAPER_A, 1.0, 0.01786, 0.99984),
        (VariancePreserving(0.1, 20.0), 1.0, 6.57e-3, 0.99998),
        (LogLinear(), 0.0, 0.99999916, 1.29402e-3),
        (LogLinear(), 1.0, 0.08181, 0.99331**0.5),
        (LogLinear(path="straight"), 0.0, 0.99870765, 1.29235e-3),
        (LogLinear(path="straight"), 1.0, 0.07586, 0.92414),
    ],
)
def test_the_ends_of_the_schedules(schedule: Schedule, s: float, alpha: float, sigma: float) -> None:
    found = schedule.at(s)
    assert found[0] == pytest.approx(alpha, rel=6e-4 if alpha < 0.5 else 5e-9)
    assert found[1] == pytest.approx(sigma, rel=6e-6)


def test_the_integral_of_beta_is_the_published_one() -> None:
    s = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert torch.trapezoid(PAPER_A.diffusion(s), s).item() == pytest.approx(8.05, abs=1e-12)
    assert -2 * PAPER_A.log_alpha(doubles(1.0)).item() == pytest.approx(8.05, abs=1e-12)
    assert PAPER_A.at(1.0)[0] ** 2 == pytest.approx(3.19e-4, abs=5e-7)


def test_a_discrete_schedule_passes_through_its_chain() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    schedule = Discrete(betas)
    kept = (1 - betas).cumprod(0)
    torch.testing.assert_close(schedule.alpha(schedule.steps).square(), kept, rtol=1e-11, atol=0)
    assert kept[-1].item() == pytest.approx(4.036e-5, rel=1e-3)  # of DDPM
    assert schedule.s_min == schedule.s_start == schedule.steps[0].item() == 1e-3
    assert schedule.steps[-1].item() == schedule.s_max
    alpha, sigma = schedule.transition(schedule.steps[498].item(), schedule.steps[499:500])
    assert alpha.item() ** 2 == pytest.approx(1 - betas[499].item(), rel=1e-9)
    assert sigma.item() ** 2 == pytest.approx(betas[499].item(), rel=1e-9)


def test_where_each_schedule_starts() -> None:
    assert (PAPER_A.s_min, PAPER_A.s_start, PAPER_A.s_max) == (0.0, 1e-5, 1.0)
    assert (LogLinear().s_min, LogLinear().s_start, LogLinear().s_max) == (0.0, 0.0, 1.0)
    assert PAPER_A.sigma(doubles(0.0)).item() == 0
    assert PAPER_A.log_snr(doubles(0.0)).item() == math.inf


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("s_start", 0.0, "Rectified: sigma is not positive at s_start = 0.0; start a little later"),
        ("s_max", 1.0, "Rectified: alpha is not positive at s_max = 1.0; end a little earlier"),
        ("s_start", 1.0, "Rectified: need s_min <= s_start < s_max, got 0.0, 1.0 and 0.999"),
    ],
)
def test_a_schedule_without_noise_or_without_signal_is_refused(name: str, value: float, message: str) -> None:
    schedule = Rectified()
    assert schedule.noise_end() == schedule.at(schedule.s_max)
    setattr(schedule, name, value)
    with pytest.raises(InputError, match=message):
        schedule.noise_end()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VariancePreserving(beta_min=0.0), "beta_min"),
        (lambda: VariancePreserving(beta_min=2.0, beta_max=1.0), "beta_min <= beta_max, got 2.0 and 1.0"),
        (lambda: VariancePreserving(beta_max=math.inf), "beta_max"),
        (lambda: VariancePreserving(beta_max=math.nan), "beta_max"),
        (lambda: LogLinear(gamma_min=5.0), "gamma_min < gamma_max, got 5.0 and 5.0"),
        (lambda: LogLinear(gamma_max=math.inf), "gamma_max"),
        (lambda: Discrete(doubles(0.5)), "at least two"),
        (lambda: Discrete(doubles(0.5, 1.0)), "between 0 and 1"),
        (lambda: Discrete(doubles(0.0, 0.5)), "between 0 and 1"),
        (lambda: Discrete(doubles(0.1, math.nan)), "between 0 and 1"),
        (lambda: Discrete(doubles(0.1, 0.2)[None]), "vector"),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
