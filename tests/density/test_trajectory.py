"""Sweeps over trajectories of mixtures, and the effect of defects, where densities are known."""

from itertools import pairwise

import pytest
import torch
from torch.autograd.functional import jvp

from diffusion_density.density.chebyshev import grid
from diffusion_density.density.flow_time import stations
from diffusion_density.density.trajectory import Sweep, sweep
from diffusion_density.schedules import Schedule
from truths import PAPER_A, SCHEDULES, ScaledGaussian, doubles, random_mixture, seeded

EXACT = random_mixture(3).diffused(PAPER_A)
X = EXACT.mixture.sample(20, generator=seeded(2))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_times_and_their_rate(schedule: Schedule) -> None:
    """From start to s_max exactly; the rate integrates to the time that passes between."""
    place = stations(schedule, schedule.s_start, grid(400).points, torch.float64)
    assert (place.s[0].item(), place.s[-1].item()) == (schedule.s_start, schedule.s_max)
    assert (place.s.diff() > 0).all()
    passed = grid(400).weights @ place.rate
    smooth = 1e-8 if schedule.smooth else 1e-3  # the rate of s jumps where the drift does
    assert passed.item() == pytest.approx(schedule.s_max - schedule.s_start, rel=smooth)


def test_the_rate_is_the_derivative() -> None:
    def time(t: torch.Tensor) -> torch.Tensor:
        return stations(PAPER_A, 0.01, t, torch.float64).s[1:-1]

    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    _, derivative = jvp(time, t, torch.ones_like(t))
    torch.testing.assert_close(derivative, stations(PAPER_A, 0.01, t, torch.float64).rate[1:-1], rtol=1e-9, atol=0)


def swept(intervals: int, sweeps: int) -> list[Sweep]:
    """Several sweeps, the last with its divergence."""
    results: list[Sweep] = []
    field = torch.zeros(intervals + 1, *X.shape, dtype=torch.float64)
    for index in range(sweeps):
        order = 2 if index else 3
        results.append(sweep(EXACT, X, PAPER_A.s_start, field, order, divergence=index == sweeps - 1))
        field = results[-1].field
    return results


def test_sweeps_converge() -> None:
    defects = [result.defect.abs().median().item() for result in swept(24, 5)]
    assert all(after < 0.1 * before for before, after in pairwise(defects))
    assert defects[0] < 0.1


def log_prob(result: Sweep) -> torch.Tensor:
    assert result.divergence is not None
    weights = grid(len(result.field) - 1).weights
    return EXACT.prior.log_prob(result.end) + torch.einsum("n,nbk->b", weights, result.divergence)


@pytest.mark.parametrize("sweeps", [1, 2])
def test_the_effect_of_a_defect_is_known_for_an_exact_score(sweeps: int) -> None:
    """A poor curve and its defect together give log p, up to the quadrature."""
    truth = EXACT.log_prob(X, PAPER_A.s_start)
    result = swept(40, sweeps)[-1]
    without = (log_prob(result) - truth).abs()
    corrected = (log_prob(result) + result.defect - truth).abs()
    assert without.median() > {1: 1e-5, 2: 1e-8}[sweeps]
    assert corrected.max() < 1e-2 * without.max()


def test_points_without_a_finite_field_are_marked() -> None:
    truth = ScaledGaussian(1.3, 0.36, float("nan"))
    x = doubles(0.0, 1.0)[:, None]
    result = sweep(truth.model, x, 0.0, torch.zeros(9, 2, 1, dtype=torch.float64), 2)
    assert result.failed.all()
    assert result.field.isfinite().all()
