"""Predictions: conversions, targets, and that targets average to what an exact model predicts."""

import itertools

import pytest
import torch
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.predictions import (
    PREDICTIONS,
    Prediction,
    checked,
    equilibrium_score,
    from_score,
    to_score,
    training_target,
)
from diffusion_density.process.schedules import LogLinear, Schedule
from truths import EVERY_SCHEDULE, PAPER_A, SCHEDULES, doubles, random_mixture, seeded

each_schedule = pytest.mark.parametrize("schedule", EVERY_SCHEDULE.values(), ids=EVERY_SCHEDULE.keys())
each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def draw(schedule: Schedule, *event: int, n: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x0, noise, s, x) of the forward process."""
    generator = seeded(5)
    x0, noise = (torch.randn(n, *event, generator=generator, dtype=torch.float64) for _ in range(2))
    s = 0.1 + 0.85 * torch.rand(n, generator=generator, dtype=torch.float64)
    view = (-1, *[1] * len(event))
    return x0, noise, s, schedule.alpha(s).reshape(view) * x0 + schedule.sigma(s).reshape(view) * noise


@each_schedule
@pytest.mark.parametrize(("first", "second"), [*itertools.product(PREDICTIONS, PREDICTIONS)])
def test_every_pair_of_conversions_round_trips(schedule: Schedule, first: Prediction, second: Prediction) -> None:
    value, _, s, x = draw(schedule, 3)
    other = from_score(second, to_score(first, value, schedule, x, s), schedule, x, s)
    back = from_score(first, to_score(second, other, schedule, x, s), schedule, x, s)
    torch.testing.assert_close(back, value, rtol=1e-9, atol=1e-10)


@each_schedule
@each_prediction
def test_targets_stand_for_the_score_of_the_kernel(schedule: Schedule, prediction: Prediction) -> None:
    x0, noise, s, x = draw(schedule, 1, 2, 2)
    score = to_score(prediction, training_target(prediction, x0, noise, schedule, s), schedule, x, s)
    expected = -noise / schedule.sigma(s).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-10)


@each_schedule
def test_the_velocity_target_is_the_direction_of_the_path(schedule: Schedule) -> None:
    x0, noise, s, _ = draw(schedule, 2)
    time = s.clone().requires_grad_()
    rates = [torch.autograd.grad(f(time).sum(), time)[0] for f in (schedule.alpha, schedule.sigma)]
    speed = (rates[0].square() + rates[1].square()).sqrt()
    direction = (rates[0] / speed)[:, None] * x0 + (rates[1] / speed)[:, None] * noise
    torch.testing.assert_close(training_target("velocity", x0, noise, schedule, s), direction, rtol=1e-9, atol=1e-10)


@each_schedule
@each_prediction
def test_targets_average_to_the_exact_prediction(schedule: Schedule, prediction: Prediction) -> None:
    """E[(target − prediction(x)) φ(x)] = 0 for φ of 1, x and tanh x, at one time."""
    mixture, n = random_mixture(2), 20_000
    s = torch.full((n,), 0.55, dtype=torch.float64)
    generator = seeded(11)
    x0 = mixture.sample(n, generator=generator)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x = schedule.alpha(s)[:, None] * x0 + schedule.sigma(s)[:, None] * noise
    exact = mixture.diffused(schedule)
    predicted = getattr(exact, prediction)(x, s)
    gap = training_target(prediction, x0, noise, schedule, s) - predicted
    tests = torch.cat([torch.ones_like(x[:, :1]), x, x.tanh()], dim=1)
    products = gap[:, :, None] * tests[:, None, :]
    z = products.mean(0) / (products.std(0) / n**0.5)
    assert z.abs().max() < 5.5
    assert (gap.square().mean(0) > 1e-4).all()  # the test has something to average


def test_entropy_is_score_plus_x_where_the_variance_is_preserved() -> None:
    for name, schedule in SCHEDULES.items():
        score, _, s, x = draw(schedule, 3)
        if name != "log-linear-straight":
            torch.testing.assert_close(from_score("entropy", score, schedule, x, s), score + x, rtol=1e-9, atol=1e-9)


def test_the_equilibrium_of_the_straight_path() -> None:
    schedule = LogLinear(path="straight")
    _, _, s, x = draw(schedule, 3)
    torch.testing.assert_close(equilibrium_score(schedule, x, s), -x / schedule.sigma(s)[:, None], rtol=1e-12, atol=0)


def test_the_velocity_has_the_published_forms() -> None:
    for name, schedule in EVERY_SCHEDULE.items():
        x0, noise, s, x = draw(schedule, 3)
        alpha, sigma = schedule.alpha(s)[:, None], schedule.sigma(s)[:, None]
        straight = name in ("log-linear-straight", "own")
        expected = (noise - x0) / 2**0.5 if straight else alpha * noise - sigma * x0
        torch.testing.assert_close(
            training_target("velocity", x0, noise, schedule, s), expected, rtol=1e-12, atol=1e-13
        )
        expected = (noise - x) / (2**0.5 * alpha) if straight else (noise - sigma * x) / alpha
        found = from_score("velocity", -noise / sigma, schedule, x, s)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@each_prediction
def test_one_time_serves_all_rows(prediction: Prediction) -> None:
    value, _, _, x = draw(PAPER_A, 3)
    once, each = doubles(0.3), torch.full((len(x),), 0.3, dtype=torch.float64)
    for convert in (to_score, from_score):
        torch.testing.assert_close(
            convert(prediction, value, PAPER_A, x, once),
            convert(prediction, value, PAPER_A, x, each),
            rtol=0,
            atol=0,
        )


def test_unknown_predictions_are_named() -> None:
    assert [checked(name) for name in PREDICTIONS] == list(PREDICTIONS)
    with pytest.raises(InputError, match="'epsilon' is not one of noise, score, entropy, velocity"):
        checked("epsilon")
