"""Guided samples against closed-form log densities, and score alignment against a closed form and differences."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import chi
from torch import Tensor
from torch.nn.functional import softplus

from diffusion_density.density.ode.flow import flow
from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import LogLinear, Schedule, VariancePreserving
from diffusion_density.sampling.alignment import score_alignment
from diffusion_density.sampling.guidance import Divergence, Drift, Guided, guided, prior_guided, steered
from truths import SCHEDULES, doubles, random_mixture, seeded

SCHEDULE = LogLinear(-10, 10)


def spheres(dimension: int, *variances: float, distance: float = 0.0, schedule: Schedule = SCHEDULE) -> ExactModel:
    """Equal weights, isotropic covariances, means on a line."""
    count = len(variances)
    line = torch.linspace(-0.5, 0.5, count, dtype=torch.float64) if count > 1 else doubles(0.0)
    means = distance * line[:, None] * torch.ones(dimension, dtype=torch.float64) / dimension**0.5
    covariances = doubles(*variances)[:, None, None] * torch.eye(dimension, dtype=torch.float64)
    return GaussianMixture(torch.full((count,), 1 / count), means, covariances).diffused(schedule)


def generative(exact: ExactModel) -> DiffusionModel:
    """The exact score with the prior N(0, σ²(s_max) I)."""
    return DiffusionModel(exact.score, exact.schedule, "score")


def draw(
    exact: ExactModel,
    n: int = 20,
    *,
    quantile: float,
    steps: int,
    event: tuple[int, ...] | None = None,
    stochasticity: float = 0.0,
    drift: Drift = "exact",
    divergence: Divergence = "hutchinson",
    floor: float = 1e-5,
) -> Guided:
    return guided(
        generative(exact),
        n,
        event or (exact.mixture.dimension,),
        quantile=quantile,
        stochasticity=stochasticity,
        drift=drift,
        steps=steps,
        divergence=divergence,
        floor=floor,
        generator=seeded(0),
        dtype=torch.float64,
    )


def realised(exact: ExactModel, samples: Guided) -> Tensor:
    return exact.log_prob(samples.x.flatten(1), exact.schedule.s_start)


# Without noise


def test_a_quantile_moves_the_log_density_by_its_rate() -> None:
    """The published example: N(0, I) in 1000 dimensions, 16 units of log-SNR, q = 0.55."""
    exact = spheres(1000, 1.0, schedule=LogLinear(-8, 8))
    model = generative(exact)
    samples = draw(exact, 3, quantile=0.55, steps=40)
    radius = model.normal_prior.variance**0.5 * doubles(*[chi.ppf(0.5, 1000) / 1000**0.5] * 1000)
    gain = realised(exact, samples) - model.prior.log_prob(radius[None])
    assert torch.allclose(gain, torch.tensor(44.96).double(), atol=0.01)
    assert torch.allclose(samples.target, samples.log_prob)
    assert not samples.out_of_reach.any()


@pytest.mark.parametrize(
    ("exact", "tolerance"),
    [
        (spheres(2, 0.5), 1e-4),
        (spheres(200, 0.5), 0.01),
        (spheres(4, 0.25, 0.16, distance=3.0), 0.05),
        (spheres(200, 0.16, 0.18, distance=3.0), 1.0),  # of the Hutchinson probes, in the target only
    ],
    ids=["normal-2", "normal-200", "mixture-4", "mixture-200"],
)
def test_realised_and_wanted_log_density_agree(exact: ExactModel, tolerance: float) -> None:
    """Measured at 100 steps: errors of 1e-7, 1e-3, 0.002 and 0.1 nat."""
    found = [
        draw(exact, quantile=q, steps=60, divergence="exact" if exact.mixture.dimension == 4 else "hutchinson")
        for q in (0.35, 0.4, 0.45, 0.5)
    ]
    truth, wanted = torch.stack([realised(exact, g) for g in found]), torch.stack([g.target for g in found])
    assert (truth - wanted).abs().mean() < tolerance
    assert torch.allclose(wanted, torch.stack([g.log_prob for g in found]))
    x, y = wanted.mean(1), truth.mean(1)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert abs(slope - 1) < 0.01
    assert (x.diff() > 1).all()


def test_the_order_is_two() -> None:
    exact = spheres(20, 0.25)
    errors = [
        (realised(exact, g) - g.target).abs().mean().item()
        for g in (draw(exact, 1, quantile=0.4, steps=steps) for steps in (80, 160))
    ]
    assert 2.8 < errors[0] / errors[1] < 5


@pytest.mark.parametrize("name", ["vp", "log-linear-straight", "discrete"])
def test_the_median_is_the_flow_and_its_log_density(name: str) -> None:
    exact = random_mixture(2).diffused(SCHEDULES[name])
    samples = draw(exact, 4, quantile=0.5, steps=80, divergence="exact")
    density = flow(generative(exact), samples.x, rtol=1e-7, atol=1e-7)
    assert torch.allclose(samples.log_prob, density.value, atol=0.02)
    assert torch.equal(samples.log_prob, samples.target)


def test_a_wanted_rate_is_kept() -> None:
    """Paths to one log density at the end, by a rate that depends on time and place."""
    exact = spheres(20, 0.5)
    model = generative(exact)

    def rate(x: Tensor, log_snr: Tensor) -> Tensor:
        return 0.1 * x.square().flatten(1).sum(1).sin() - 0.4 * torch.sigmoid(log_snr)

    settings: dict[str, Any] = {"generator": seeded(1), "steps": 100, "dtype": torch.float64}
    varied = steered(model, 8, (4, 5), rate=rate, **settings)
    assert varied.x.shape == (8, 4, 5)
    assert (realised(exact, varied) - varied.target).abs().max() < 0.01
    constant = steered(model, 8, (20,), rate=lambda x, _: torch.full((len(x),), -0.5), **settings)
    latent = model.prior.log_prob(torch.full((1, 20), chi.ppf(0.5, 20) / 20**0.5).double())
    assert torch.allclose(constant.target, latent - 10, atol=1e-3)
    assert (realised(exact, constant) - constant.target).abs().max() < 0.01
    assert not torch.allclose(constant.x[0], constant.x[1])


def test_a_target_beyond_the_mode_is_said_to_be_out_of_reach() -> None:
    exact = spheres(2, 0.5)
    top = exact.log_prob(torch.zeros(1, 2).double(), 0.0)
    samples = draw(exact, quantile=0.9, steps=60)
    assert (samples.target > top).all()
    assert samples.out_of_reach.all()
    assert samples.x.isfinite().all()
    floored = draw(exact, quantile=0.9, steps=200, floor=0.3)
    assert (floored.log_prob < top + 0.05).all()
    assert (realised(exact, floored) - floored.log_prob).abs().max() < 0.05
    assert floored.out_of_reach.all()
    assert (floored.target > floored.log_prob + 5).all()


def test_the_shape_of_the_event_changes_nothing() -> None:
    exact = spheres(20, 0.25, 0.16, distance=3.0)
    flat = draw(exact, 3, quantile=0.4, steps=10, stochasticity=0.3, divergence="exact")
    image = draw(exact, 3, quantile=0.4, steps=10, stochasticity=0.3, divergence="exact", event=(5, 2, 2))
    assert image.x.shape == (3, 5, 2, 2)
    assert torch.allclose(image.x.flatten(1), flat.x)
    assert torch.allclose(image.target, flat.target)
    assert draw(exact, 3, quantile=0.4, steps=2).log_prob.dtype == torch.float64


def test_single_precision_in_any_mode_of_autograd() -> None:
    exact = spheres(4, 0.25)
    model = generative(exact)
    found = []
    for mode in (torch.inference_mode(), torch.enable_grad()):
        with mode:
            samples = guided(model, 5, (4,), quantile=0.4, steps=40, stochasticity=0.1, generator=seeded(0))
            alignment = score_alignment(model, samples.x, steps=3)
        assert samples.x.dtype == alignment.dtype == torch.float32
        assert not samples.x.requires_grad
        found.append((samples, alignment))
    (first, aligned), (second, again) = found
    assert torch.equal(first.x, second.x)
    assert torch.equal(aligned, again)
    assert torch.allclose(exact.log_prob(first.x.double(), exact.schedule.s_start), first.target, atol=0.3)


# With noise


@pytest.mark.parametrize(("dimension", "n", "steps"), [(2, 400, 60), (20, 400, 60), (200, 100, 100)])
def test_the_exact_drift_hits_and_the_published_one_misses_by_a_nat(dimension: int, n: int, steps: int) -> None:
    """For N(0, I) nᵀ Hess n = −1, so that the published drift adds ½ φ² ∫ σ² dλ: 1.00 nat from −8 to 8.

    Measured from −10 to 10, where it is 1.25, with 200 steps: errors of 0.00, 0.00 and 0.08 ± 0.27, misses of 1.26,
    1.26 and 1.34 nats in 2, 20 and 200 dimensions.
    """
    exact = spheres(dimension, 1.0, schedule=LogLinear(-8, 8))
    surplus = 0.125 * (softplus(doubles(8.0)) - softplus(doubles(-8.0))).item()
    assert abs(surplus - 1) < 1e-3
    cases: tuple[tuple[Drift, float], ...] = (("exact", 0.0), ("published", surplus))
    for drift, shift in cases:
        samples = draw(exact, n, quantile=0.45, steps=steps, stochasticity=0.5, drift=drift)
        error = realised(exact, samples) - samples.target
        stderr = error.std().item() / n**0.5
        assert abs(error.mean().item() - shift) < 3.5 * stderr + 0.05
        assert stderr < 0.45
        assert (samples.log_prob - samples.target - shift).abs().max() < 0.01


def test_noise_turns_samples_and_leaves_their_log_density() -> None:
    """The ordinary reverse SDE spreads log p of N(0, I) by √(D/2) = 10; the error here falls as steps^-1/2."""
    exact = spheres(200, 1.0, schedule=LogLinear(-8, 8))
    quiet = draw(exact, 50, quantile=0.5, steps=30)
    found = [draw(exact, 50, quantile=0.5, steps=steps, stochasticity=0.5) for steps in (30, 120)]
    coarse, fine = ((realised(exact, samples) - samples.target).std().item() for samples in found)
    assert 1.4 < coarse / fine < 2.9
    assert fine < 5
    turned = torch.cosine_similarity(quiet.x, found[0].x)
    assert turned.max() < 0.9
    still = torch.cosine_similarity(quiet.x, draw(exact, 50, quantile=0.4, steps=30).x)
    assert still.min() > 0.999


def test_a_mixture_with_noise_and_an_exact_divergence() -> None:
    exact = spheres(3, 0.3, 0.2, distance=2.0)
    samples = draw(exact, 300, quantile=0.4, steps=60, stochasticity=0.4, divergence="exact")
    error = realised(exact, samples) - samples.target
    assert abs(error.mean().item()) < 3.5 * error.std().item() / 300**0.5 + 0.03
    published = draw(exact, 300, quantile=0.4, steps=60, stochasticity=0.4, divergence="exact", drift="published")
    assert (published.log_prob - published.target).min() > 0.3
    missed = realised(exact, published) - published.log_prob
    assert abs(missed.mean().item()) < 3.5 * missed.std().item() / 300**0.5 + 0.03


# The prior


def test_a_shorter_latent_is_denser() -> None:
    exact = spheres(50, 0.5)
    model = generative(exact)
    found = [
        prior_guided(model, 5, (50,), quantile=q, steps=50, generator=seeded(2), dtype=torch.float64)
        for q in (0.001, 0.5, 0.999)
    ]
    for quantile, samples in zip((0.001, 0.5, 0.999), found, strict=True):
        radius = chi.ppf(quantile, 50) * math.sqrt(0.5)
        assert torch.allclose(samples.x.norm(dim=1), torch.tensor(radius).double(), rtol=1e-3)
        assert torch.allclose(samples.log_prob, realised(exact, samples), atol=0.01)
        assert torch.equal(samples.log_prob, samples.target)
    assert found[0].log_prob.min() > found[1].log_prob.max() > found[2].log_prob.max()


# Errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"quantile": 0.0}, "quantile must lie between 0 and 1"),
        ({"quantile": math.nan}, "quantile must lie between 0 and 1"),
        ({"n": 0}, "n must be at least 1"),
        ({"steps": 0}, "steps >= 1"),
        ({"stochasticity": -0.1}, "stochasticity >= 0"),
        ({"floor": 0.0}, "floor > 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(spheres(2, 1.0), **{"n": 2, "quantile": 0.4, "steps": 2} | wrong)


def test_a_prior_that_cannot_be_drawn_is_refused() -> None:
    exact = spheres(2, 1.0)
    for method in (guided, prior_guided):
        with pytest.raises(InputError, match="prior is not Gaussian"):
            method(exact, 2, (2,), quantile=0.4, generator=seeded(0))
    with pytest.raises(InputError, match="prior_guided: quantile"):
        prior_guided(generative(exact), 2, (2,), quantile=1.0, generator=seeded(0))


# Score alignment


def flow_end(exact: ExactModel, x: Tensor) -> Tensor:
    """The flow of a one-dimensional mixture to s_start: it keeps the distribution function."""
    grid = torch.linspace(-6, 6, 400_001, dtype=torch.float64)

    def cumulative(s: float) -> Tensor:
        density = exact.log_prob(grid[:, None], s).exp()
        return torch.cat([doubles(0.0), torch.cumulative_trapezoid(density, grid)])

    first, last = cumulative(exact.schedule.s_start), cumulative(exact.schedule.s_max)
    nearest = torch.searchsorted(grid, x.flatten())
    part = (x.flatten() - grid[nearest - 1]) / (grid[1] - grid[0])
    level = last[nearest - 1] + part * (last[nearest] - last[nearest - 1])
    there = torch.searchsorted(first, level)
    part = (level - first[there - 1]) / (first[there] - first[there - 1])
    return (grid[there - 1] + part * (grid[1] - grid[0]))[:, None]


@pytest.mark.parametrize("schedule", [SCHEDULE, VariancePreserving()], ids=["log-linear", "vp"])
def test_a_gaussian_is_aligned(schedule: Schedule) -> None:
    exact = random_mixture(2, components=1, seed=3).diffused(schedule)
    x = torch.randn(6, 2, generator=seeded(0), dtype=torch.float64)
    found = score_alignment(exact, x, steps=30)
    truth = exact.score(x, schedule.s_max).square().sum(1)
    assert torch.allclose(found, truth, rtol=1e-4)
    assert torch.allclose(score_alignment(exact, x[:1].reshape(1, 1, 2), steps=30), found[:1], rtol=1e-9)


def test_alignment_is_the_derivative_of_log_p_along_the_score_and_may_be_negative() -> None:
    exact = spheres(1, 0.1, 0.1, distance=2.0, schedule=LogLinear(-8, 8))
    x = doubles(-1.5, -0.3, 0.2, 0.5, 1.8)[:, None]
    shift = 1e-3 * exact.score(x, exact.schedule.s_max)
    ends = [exact.log_prob(flow_end(exact, point), exact.schedule.s_start) for point in (x + shift, x - shift)]
    found = score_alignment(exact, x, steps=40)
    assert torch.allclose(found, (ends[0] - ends[1]) / 2e-3, rtol=0.01, atol=0.01)
    assert found.sign().tolist() == [1, -1, -1, -1, 1]


def test_latents_and_steps_out_of_range_are_refused() -> None:
    exact = spheres(2, 1.0)
    with pytest.raises(InputError, match="steps must be at least 1"):
        score_alignment(exact, torch.zeros(2, 2), steps=0)
    with pytest.raises(InputError, match="point 1 has numbers"):
        score_alignment(exact, doubles(0.0, math.nan)[:, None])
