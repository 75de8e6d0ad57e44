"""Sampling from p(x | c), and what splits a batch of latents: each part has its own contexts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_density.process.batches import per_row
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.sampling import alignment, flow_sampler, guidance, mode_tracking
from diffusion_density.sampling.samplers import sample
from truths import ExactConditional, random_mixture, seeded

SCHEDULE = VariancePreserving(beta_min=0.1, beta_max=20.0)


def wavy(x: Tensor, s: Tensor, context: Tensor) -> Tensor:
    """Some network that depends on its context."""
    tilt, shift = (per_row(value, x) for value in context.unbind(1))
    return (tilt * x + shift).sin() + per_row(s, x) * x


def latents() -> Tensor:
    return torch.randn(5, 2, generator=seeded(1), dtype=torch.float64)


WAYS: dict[str, Callable[[DiffusionModel], Tensor]] = {
    "alignment": lambda model: alignment.score_alignment(model, latents(), steps=4),
    "ascent": lambda model: mode_tracking.ascend(model, latents(), 0.5, steps=4),
    "guidance": lambda model: (
        guidance.guided(
            model, 5, (2,), quantile=0.6, steps=4, divergence="exact", generator=seeded(2), dtype=torch.float64
        ).x
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_parts_of_a_batch_keep_their_contexts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = torch.randn(5, 2, generator=seeded(3), dtype=torch.float64)
    model = DiffusionModel(wavy, SCHEDULE, "entropy")
    whole = WAYS[name](model.given(contexts))
    for module in (alignment, mode_tracking, guidance):
        monkeypatch.setattr(module, "ROWS_PER_CALL", 2)
    torch.testing.assert_close(WAYS[name](model.given(contexts)), whole, rtol=1e-10, atol=1e-10)
    assert (WAYS[name](model.given(contexts.roll(1, 0))) - whole).abs().max() > 1e-2


def test_modes_are_tracked_with_their_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode of a normal p(x₀ | x_s, c) is its mean: exact whatever the parts."""
    x, contexts = latents(), torch.randn(5, 2, generator=seeded(3), dtype=torch.float64)

    def centred(y: Tensor, s: Tensor, context: Tensor) -> Tensor:
        alpha, sigma = (per_row(f(s), y) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        return (alpha * context - y) / (0.25 * alpha.square() + sigma.square())

    monkeypatch.setattr(mode_tracking, "ROWS_PER_CALL", 4)  # of points in two dimensions: two at once
    found = mode_tracking.track_mode(DiffusionModel(centred, SCHEDULE, "score").given(contexts), x, 0.5, steps=20)
    alpha, sigma = SCHEDULE.at(0.5)
    gain = 0.25 * alpha / (0.25 * alpha**2 + sigma**2)
    torch.testing.assert_close(found, contexts + gain * (x - alpha * contexts), rtol=0, atol=1e-3)


@pytest.mark.parametrize("sampler", ["flow", "flow in chunks", "sde"])
def test_samples_are_those_of_their_contexts(sampler: str) -> None:
    """A normal pair: 1,000 draws of x for each of three contexts have the conditional mean and covariance."""
    exact = ExactConditional(random_mixture(4, 1), 2, SCHEDULE)
    contexts = exact.joint.sample(3, generator=seeded(4))[:, 2:]
    model, n = DiffusionModel(exact, SCHEDULE, "score").given(contexts), 3000
    if sampler == "sde":
        x = sample(model, n, (2,), steps=300, generator=seeded(5), dtype=torch.float64)
    else:
        chunk = 1250 if "chunks" in sampler else None
        x = flow_sampler.sample_flow(
            model, n, (2,), rtol=1e-4, atol=1e-4, generator=seeded(5), chunk=chunk, dtype=torch.float64
        ).x
    cover, means = exact.joint.covariances[0], exact.joint.means[0]
    gain = torch.linalg.solve(cover[2:, 2:], cover[2:, :2]).mT
    spread = cover[:2, :2] - gain @ cover[2:, :2]
    for mine, context in zip(x.split(1000), contexts, strict=True):
        mean = means[:2] + gain @ (context - means[2:])
        assert ((mine.mean(0) - mean).abs() < 5 * (spread.diag() / 1000).sqrt() + 0.01).all()
        torch.testing.assert_close(mine.T.cov(), spread, rtol=0, atol=0.12 * spread.max().item())
