"""Denoising score matching: the residual, and that its weighted excess is the score-error integral."""

import pytest
import torch
from torch import Tensor

from diffusion_density.process.predictions import PREDICTIONS, Prediction, training_target
from diffusion_density.process.proposals import HalfSigma, Uniform
from diffusion_density.process.schedules import Schedule
from diffusion_density.training.objectives import Weighting, proposal, residual, weight
from truths import PAPER_A, SCHEDULES, gaussian, network_of, random_mixture, seeded

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def draw(schedule: Schedule, n: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x0, noise, s, y) of the forward process in three dimensions."""
    generator = seeded(5)
    x0, noise = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    s = 0.1 + 0.85 * torch.rand(n, generator=generator, dtype=torch.float64)
    return x0, noise, s, schedule.alpha(s)[:, None] * x0 + schedule.sigma(s)[:, None] * noise


@each_schedule
@each_prediction
def test_the_target_leaves_no_residual(schedule: Schedule, prediction: Prediction) -> None:
    x0, noise, s, y = draw(schedule)
    output = training_target(prediction, x0, noise, schedule, s)
    assert residual(prediction, output, noise, schedule, y, s).abs().max() < 1e-9


@each_schedule
@each_prediction
def test_the_residual_is_of_the_function_not_of_its_prediction(schedule: Schedule, prediction: Prediction) -> None:
    _, noise, s, y = draw(schedule)
    exact = random_mixture(3).diffused(schedule)
    output = network_of(exact, prediction).network(y, s)
    expected = schedule.sigma(s)[:, None] * exact.score(y, s) + noise
    torch.testing.assert_close(residual(prediction, output, noise, schedule, y, s), expected, rtol=1e-8, atol=1e-9)


def test_the_residual_of_entropy_matching_is_the_papers() -> None:
    _, noise, s, y = draw(PAPER_A)
    output = torch.ones_like(y)
    expected = (output - y) * PAPER_A.sigma(s)[:, None] + noise
    torch.testing.assert_close(residual("entropy", output, noise, PAPER_A, y, s), expected, rtol=1e-12, atol=1e-12)


@each_schedule
def test_weights(schedule: Schedule) -> None:
    s = torch.linspace(0.1, 1, 20, dtype=torch.float64)
    assert (weight("unit", schedule, s) == 1).all()
    expected = schedule.diffusion(s) / (2 * schedule.sigma(s).square())
    torch.testing.assert_close(weight("likelihood", schedule, s), expected, rtol=1e-12, atol=0)


def test_times_come_from_the_proposal_of_the_weighting() -> None:
    uniform, half = proposal("unit", PAPER_A), proposal("likelihood", PAPER_A)
    assert isinstance(uniform, Uniform)
    assert (uniform.start, uniform.end) == (PAPER_A.s_start, PAPER_A.s_max)
    assert isinstance(half, HalfSigma)
    assert (half.uniform.start, half.uniform.end) == (PAPER_A.s_start, PAPER_A.s_max)


@pytest.mark.parametrize("weighting", ["unit", "likelihood"])
def test_the_excess_of_the_loss_is_the_score_error_integral(weighting: Weighting) -> None:
    """Data N(1.3, 0.36) and 1.2 times its score: ∫ w σ² E‖0.2 ∇log p‖² ds with E‖∇log p‖² = 1/v is one quadrature."""
    n, generator, variance = 400_000, seeded(3), 0.36
    exact = gaussian(1.3, variance).diffused(PAPER_A)
    x0 = exact.mixture.sample(n, generator=generator)
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    times = proposal(weighting, PAPER_A)
    s = times.times(torch.rand(n, generator=generator, dtype=torch.float64))
    y = PAPER_A.alpha(s)[:, None] * x0 + PAPER_A.sigma(s)[:, None] * noise
    score = exact.score(y, s)
    loss, least = (residual("score", factor * score, noise, PAPER_A, y, s).square().sum(1) for factor in (1.2, 1.0))
    terms = weight(weighting, PAPER_A, s) / times.density(s) * (loss - least)
    grid = torch.linspace(PAPER_A.s_start, 1, 100_001, dtype=torch.float64)
    marginal = PAPER_A.alpha(grid).square() * variance + PAPER_A.sigma(grid).square()
    factor = 0.5 * PAPER_A.diffusion(grid) if weighting == "likelihood" else PAPER_A.sigma(grid).square()
    expected = torch.trapezoid(factor * 0.2**2 / marginal, grid)
    error = terms.std() / n**0.5
    assert abs(terms.mean() - expected) < 4 * error
    assert error < 0.02 * expected


def test_no_score_has_a_smaller_expected_loss_than_the_exact() -> None:
    """The derivative of the loss along a change of the score is zero at the exact one: along 1, y and the score."""
    n, generator = 200_000, seeded(4)
    exact = random_mixture(2).diffused(PAPER_A)
    x0 = exact.mixture.sample(n, generator=generator)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    s = 0.05 + 0.95 * torch.rand(n, generator=generator, dtype=torch.float64)
    y = PAPER_A.alpha(s)[:, None] * x0 + PAPER_A.sigma(s)[:, None] * noise
    score = exact.score(y, s)
    r = residual("score", score, noise, PAPER_A, y, s)
    for change in (torch.ones_like(y), y, score):
        slope = (r * change).sum(1)
        assert abs(slope.mean() / (slope.std() / n**0.5)) < 4.5
