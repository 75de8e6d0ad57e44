"""Sweeps over trajectories of mixtures, and the effect of defects, where densities are known."""

from itertools import pairwise

import pytest
import torch

from diffusion_density.density.ode.flow_time import stations
from diffusion_density.density.ode.gauss_grid import grid
from diffusion_density.density.ode.trajectory import Sweep, sweep
from diffusion_density.process.schedules import Schedule
from truths import PAPER_A, SCHEDULES, ScaledGaussian, doubles, random_mixture, seeded

EXACT = random_mixture(3).diffused(PAPER_A)
X = EXACT.mixture.sample(20, generator=seeded(2))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_times_and_their_rate(schedule: Schedule) -> None:
    """From start on and never beyond s_max; the rate integrates to the time that passes between."""
    on = grid(400)
    place = stations(schedule, schedule.s_start, on.times, torch.float64)
    assert place.s[0].item() == schedule.s_start
    assert (place.s.diff() > 0).all()
    assert place.s[-1] <= schedule.s_max
    passed = on.weights @ place.rate[1:]
    smooth = 1e-8 if schedule.smooth else 1e-3  # the rate of s jumps where the drift does
    assert passed.item() == pytest.approx(schedule.s_max - schedule.s_start, rel=smooth)


def test_the_rate_is_the_derivative() -> None:
    t = torch.linspace(0, 1, 9, dtype=torch.float64)[1:-1]
    step = 1e-5
    after, before = (stations(PAPER_A, 0.01, torch.cat([0 * t[:1], t + h]), torch.float64).s for h in (step, -step))
    rate = stations(PAPER_A, 0.01, torch.cat([0 * t[:1], t]), torch.float64).rate
    torch.testing.assert_close((after - before)[1:] / (2 * step), rate[1:], rtol=1e-7, atol=0)


def swept(nodes: int, sweeps: int) -> list[Sweep]:
    """Several sweeps, the last with its divergence."""
    place = stations(PAPER_A, PAPER_A.s_start, grid(nodes).times, torch.float64)
    first = EXACT.flow_drift(X, PAPER_A.s_start)
    results: list[Sweep] = []
    field = torch.zeros(nodes + 1, *X.shape, dtype=torch.float64)
    for index in range(sweeps):
        results.append(sweep(EXACT, X, place, first, field, divergence=index == sweeps - 1))
        field = results[-1].field
    return results


def test_sweeps_converge() -> None:
    defects = [result.defect.abs().median().item() for result in swept(24, 5)]
    assert all(after < 0.1 * before for before, after in pairwise(defects))
    assert defects[0] < 0.1


def log_prob(result: Sweep) -> torch.Tensor:
    assert result.divergence is not None
    return EXACT.prior.log_prob(result.end) + grid(len(result.divergence)).weights @ result.divergence


@pytest.mark.parametrize("sweeps", [1, 2])
def test_the_effect_of_a_defect_is_known_for_an_exact_score(sweeps: int) -> None:
    """A poor curve and its defect together give log p, up to the quadrature."""
    truth = EXACT.log_prob(X, PAPER_A.s_start)
    result = swept(40, sweeps)[-1]
    without = (log_prob(result) - truth).abs()
    corrected = (log_prob(result) + result.defect - truth).abs()
    assert without.median() > {1: 1e-5, 2: 1e-8}[sweeps]
    assert corrected.max() < 0.05 * without.max()


def test_points_without_a_finite_field_are_marked() -> None:
    truth = ScaledGaussian(1.3, 0.36, float("nan"))
    x = doubles(0.0, 1.0)[:, None]
    place = stations(truth.model.schedule, 0.0, grid(8).times, torch.float64)
    field = torch.zeros(9, 2, 1, dtype=torch.float64)
    assert sweep(truth.model, x, place, truth.model.flow_drift(x, 0.0), field).failed.all()
