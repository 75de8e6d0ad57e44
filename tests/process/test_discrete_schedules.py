"""Discrete schedules against their definitions, step by step in plain arithmetic."""

import math
from collections.abc import Callable

import pytest
import torch

from diffusion_density.machine.errors import InputError
from diffusion_density.process.schedules import Discrete
from diffusion_density.process.schedules import discrete as discrete_schedules
from truths import doubles

CONSTRUCTORS = ("paper", "linear", "cosine", "uniform_log_snr")


@pytest.mark.parametrize("steps", [30, 100, 1000])
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_every_schedule_is_a_chain_of_that_many_steps_to_pure_noise(name: str, steps: int) -> None:
    schedule = getattr(discrete_schedules, name)(steps)
    assert isinstance(schedule, Discrete)
    assert schedule.betas.dtype == torch.float64
    assert len(schedule.betas) == len(schedule.steps) == steps
    assert schedule.log_snr_steps.diff().max() < 0
    alpha_bar = (1 - schedule.betas).cumprod(0)
    torch.testing.assert_close(schedule.alpha(schedule.steps).square(), alpha_bar, rtol=1e-9, atol=1e-14)
    assert alpha_bar[-1] < 1e-3


@pytest.mark.parametrize("steps", [30, 1000])
def test_the_papers_betas(steps: int) -> None:
    first, rate = steps**-2.0, 4 * math.log(steps) / steps
    expected = [first] + [rate * min(first * (1 + rate) ** t, 1.0) for t in range(2, steps + 1)]
    schedule = discrete_schedules.paper(steps)
    torch.testing.assert_close(schedule.betas, doubles(*expected), rtol=1e-11, atol=0)
    assert schedule.betas[-1].item() == pytest.approx(rate)  # the plateau is reached


@pytest.mark.parametrize("steps", [100, 1000])
def test_the_papers_schedule_has_the_properties_that_its_theory_needs(steps: int) -> None:
    schedule = discrete_schedules.paper(steps)
    alpha_bar = (1 - schedule.betas).cumprod(0)
    ratio = schedule.betas[1:] / (1 - alpha_bar[:-1])
    assert ratio.max() <= 8 * math.log(steps) / steps
    assert alpha_bar[-1] < steps**-2


def test_the_constants_of_the_papers_schedule() -> None:
    schedule = discrete_schedules.paper(200, c0=1.5, c1=2.0)
    rate = 2 * math.log(200) / 200
    assert schedule.betas[0].item() == pytest.approx(200**-1.5)
    assert schedule.betas[9].item() == pytest.approx(rate * 200**-1.5 * (1 + rate) ** 10)


def test_the_linear_schedule_of_a_thousand_steps_is_that_of_ddpm() -> None:
    betas = discrete_schedules.linear(1000).betas
    torch.testing.assert_close(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=1e-12, atol=0)
    coarse = discrete_schedules.linear(100)
    assert coarse.betas[[0, -1]].tolist() == pytest.approx([1e-3, 0.2])


def test_the_cosine_schedule() -> None:
    schedule = discrete_schedules.cosine(50)
    curve = [math.cos(0.5 * math.pi * (t / 50 + 0.008) / 1.008) ** 2 for t in range(51)]
    assert schedule.betas[:-1].tolist() == pytest.approx([1 - curve[t + 1] / curve[t] for t in range(49)], rel=1e-9)
    assert schedule.betas[-1].item() == 0.999
    inner = schedule.alpha(schedule.steps[:-1]).square()
    assert inner.tolist() == pytest.approx([value / curve[0] for value in curve[1:-1]], rel=1e-9)
    assert discrete_schedules.cosine(50, beta_max=0.5).betas.max().item() == 0.5


@pytest.mark.parametrize(("high", "low"), [(9.0, -9.0), (13.3, -5.0)])
def test_uniform_log_snr(high: float, low: float) -> None:
    schedule = discrete_schedules.uniform_log_snr(40, high, low)
    expected = torch.linspace(high, low, 40, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr_steps, expected, rtol=0, atol=1e-9)
    assert schedule.betas[0].item() == pytest.approx(1 / (1 + math.exp(high)))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("paper", (1,), "at least 2 steps expected, got 1"),
        ("paper", (30, -1.0), "c0 and c1 must be positive, got -1.0 and 4.0"),
        ("paper", (8,), "8 steps are too few for c1 = 4.0: c1 log T / T = 1.04 is not below 1"),
        ("linear", (0,), "at least 2 steps expected, got 0"),
        ("linear", (20,), "need 0 < beta_min <= beta_max < 20 steps, got 0.1 and 20.0"),
        ("linear", (50, 3.0, 2.0), "got 3.0 and 2.0"),
        ("cosine", (50, -0.1), "need offset >= 0 and 0 < beta_max < 1, got -0.1 and 0.999"),
        ("cosine", (50, 0.1, 1.0), "got 0.1 and 1.0"),
        ("cosine", (-5,), "got -5"),
        ("uniform_log_snr", (50, -1.0, 1.0), "need log_snr_min < log_snr_max, got 1.0 and -1.0"),
        ("uniform_log_snr", (1,), "got 1"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: tuple[float, ...], message: str) -> None:
    constructor: Callable[..., Discrete] = getattr(discrete_schedules, name)
    with pytest.raises(InputError) as caught:
        constructor(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
