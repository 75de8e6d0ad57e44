"""Proposals of times: their densities are those of their times, and remove the singularity at the data end."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_density.process.proposals import HalfSigma, Proposal, Uniform
from diffusion_density.process.schedules import LogLinear, VariancePreserving
from truths import PAPER_A, SCHEDULES, Rectified, doubles

START = 1e-5
PROPOSALS: dict[str, Proposal] = {
    "uniform": Uniform(START, 1.0),
    "uniform-part": Uniform(0.25, 0.5),
    "half-sigma": HalfSigma(PAPER_A, START),
    "half-sigma-constant": HalfSigma(VariancePreserving(2.0, 2.0), 0.01),
    "half-sigma-straight": HalfSigma(LogLinear(path="straight"), 0.0),
    "half-sigma-discrete": HalfSigma(SCHEDULES["discrete"], 1e-3),
    "half-sigma-own": HalfSigma(Rectified(), START),
}
each_proposal = pytest.mark.parametrize("proposal", PROPOSALS.values(), ids=PROPOSALS.keys())


def grid(start: float, end: float, count: int = 200_001) -> Tensor:
    """Times for the trapezoid rule, dense at the start."""
    return start + (end - start) * torch.linspace(0, 1, count, dtype=torch.float64).square()


def uniforms(count: int = 400_000) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def ends(proposal: Proposal) -> tuple[float, float]:
    s = proposal.times(uniforms())
    assert isinstance(proposal, Uniform | HalfSigma)
    uniform = proposal if isinstance(proposal, Uniform) else proposal.uniform
    assert s.min() >= uniform.start
    assert s.max() <= uniform.end
    return uniform.start, uniform.end


@each_proposal
def test_the_density_integrates_to_one(proposal: Proposal) -> None:
    s = grid(*ends(proposal))
    assert torch.trapezoid(proposal.density(s), s).item() == pytest.approx(1, abs=1e-6)


@each_proposal
def test_the_density_is_the_law_of_the_times(proposal: Proposal) -> None:
    s = grid(*ends(proposal))
    cumulative = torch.cumulative_trapezoid(proposal.density(s), s)
    times = proposal.times(uniforms()).sort().values
    for level in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        quantile = times[int(level * len(times))]
        assert cumulative[int((s[1:] <= quantile).sum()) - 1].item() == pytest.approx(level, abs=1e-4)


@pytest.mark.parametrize("name", ["uniform", "half-sigma"])
@pytest.mark.parametrize(
    ("integrand", "tolerance"),
    [(lambda s: s * 0 + 1, 1e-5), (lambda s: (3 * s).sin(), 1e-5), (lambda s: 1 / s.sqrt(), 2e-3)],
)
def test_weighted_draws_integrate(name: str, integrand: Callable[[Tensor], Tensor], tolerance: float) -> None:
    proposal = PROPOSALS[name]
    s, drawn = grid(START, 1.0), proposal.times(uniforms())
    expected = torch.trapezoid(integrand(s), s)
    found = (integrand(drawn) / proposal.density(drawn)).mean()
    assert found.item() == pytest.approx(expected.item(), rel=tolerance)


def test_half_of_the_times_are_uniform_and_half_are_uniform_in_sigma() -> None:
    u = uniforms()
    times = PROPOSALS["half-sigma"].times(u)
    torch.testing.assert_close(times[u < 0.5], START + (1 - START) * 2 * u[u < 0.5], rtol=1e-12, atol=1e-12)
    low, high = PAPER_A.at(START)[1], PAPER_A.at(1.0)[1]
    expected = low + (high - low) * (2 * u[u >= 0.5] - 1)
    torch.testing.assert_close(PAPER_A.sigma(times[u >= 0.5]), expected, rtol=1e-9, atol=1e-12)


def test_the_singularity_is_taken_out() -> None:
    """An integrand of the order of g²/σ explodes at the data end; over the density it tends to a constant."""
    s = torch.logspace(-5, -1, 50, dtype=torch.float64)
    proposal = PROPOSALS["half-sigma"]
    ratio = PAPER_A.diffusion(s) / PAPER_A.sigma(s) / proposal.density(s)
    assert (PAPER_A.diffusion(s) / PAPER_A.sigma(s)).max() > 90
    assert ratio.max() < 5
    assert ratio[0].item() == pytest.approx(4, rel=0.05)
    assert (1 / proposal.density(s)).max() <= 2  # half of the times are uniform: no weight is more than twice as large


def test_single_precision_times_stay_inside() -> None:
    u = torch.cat([torch.linspace(0, 1, 10_001)[:-1], torch.tensor([1 - 2**-24])])
    times = PROPOSALS["half-sigma"].times(u)
    assert times.dtype == torch.float32
    assert times.min() >= START
    assert times.max() <= 1
    torch.testing.assert_close(times.double(), PROPOSALS["half-sigma"].times(u.double()), rtol=1e-3, atol=1e-4)
    assert PROPOSALS["half-sigma"].density(times).isfinite().all()


def test_proposals_are_what_the_protocol_asks() -> None:
    for proposal in PROPOSALS.values():
        assert proposal.density(proposal.times(doubles(0.0, 0.3, 0.9))).shape == (3,)
