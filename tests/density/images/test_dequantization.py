"""Dequantization against closed forms: a one-pixel model with a perfect density, by quadrature in double precision."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import Tensor

from diffusion_density.density.images.dequantization import (
    SCHEMES,
    TAU,
    Dequantization,
    Draws,
    Scheme,
    dequantization,
    nats_to_bits_per_dim,
    start_gamma,
    to_images,
    to_unit,
)
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.max_likelihood.experiments.gaps import (
    exact_draws,
    gap,
    gaussian_pmf,
    log_mixture,
    pixels_of,
)

LN2 = math.log(2)
NAMES = tuple(SCHEMES)


def ends(gamma: float, path: str = "vp") -> tuple[float, float]:
    """(α₀, σ₀) at γ."""
    sigma = 1 / (1 + math.exp(-gamma)) if path == "vp" else 1 / (1 + math.exp(-gamma / 2))
    return (math.sqrt(1 - sigma), math.sqrt(sigma)) if path == "vp" else (1 - sigma, sigma)


def scheme_at(name: Scheme, gamma: float, levels: int = 256, path: str = "vp") -> Dequantization:
    return dequantization(name, levels, *ends(gamma, path))


def nodes(pixels: int, count: int = 4000) -> Tensor:
    """Midpoints of [0, 1] for each of some one-pixel images, (pixels, count, 1, 1, 1)."""
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return u.view(1, count, 1, 1, 1).expand(pixels, -1, -1, -1, -1)


def gap_by_integration(name: Scheme, gamma: float, pmf: Tensor) -> float:
    """The same from the definitions, by the trapezoid rule over z in units of the noise."""
    alpha, sigma = ends(gamma)
    tau = alpha / (256 * sigma)
    eta = torch.linspace(-tau, tau, 1001) if name != "variational" else torch.linspace(-9, 9, 3001)
    eta = eta.double()
    normal = torch.exp(-0.5 * eta**2)
    q = torch.ones_like(eta) if name == "uniform" else normal
    q = q / (torch.trapezoid(q, eta) * sigma)
    total = 0.0
    for k in pixels_of(pmf).tolist():
        near = torch.arange(max(0, k - 8), min(256, k + 9))
        distance = eta[:, None] - 2 * tau * (near - k)  # of z from the levels around
        likelihood = torch.exp(-0.5 * distance**2)
        p = likelihood @ pmf[near] / (sigma * math.sqrt(2 * math.pi))
        decoder = normal / likelihood.sum(1) if name == "variational" else torch.ones_like(eta)
        bound = torch.trapezoid(q * sigma * (p * decoder / q).log(), eta)
        total += pmf[k].item() * (pmf[k].log() - bound).item()
    return total / pmf[pixels_of(pmf)].sum().item() / LN2


# Section 2.5: the gap in bits/dim for a perfect density


@pytest.mark.parametrize(
    ("std", "name", "published_early", "published_late"),
    [
        (0.3, "uniform", 0.897, 0.183),
        (0.3, "truncated_normal", 0.00, 0.144),
        (0.3, "variational", 0.00, 0.375),
        (0.5, "uniform", 0.877, 0.105),
        (0.5, "truncated_normal", 0.00, 0.082),
        (0.5, "variational", 0.01, 0.198),
        (1.0, "uniform", 0.866, 0.038),
        (1.0, "truncated_normal", 0.00, 0.038),
        (1.0, "variational", 0.00, 0.068),
        (2.0, "uniform", 0.872, 0.024),
        (2.0, "truncated_normal", 0.00, 0.03),
        (2.0, "variational", 0.00, 0.02),
        (math.inf, "uniform", 0.863, 0.0116),
        (math.inf, "truncated_normal", 0.0005, 0.0195),
        (math.inf, "variational", 0.0, 0.0),
    ],
)
def test_gaps_of_a_perfect_model(std: float, name: Scheme, published_early: float, published_late: float) -> None:
    """Exactly equal to an integral over z that shares no code with the library, and near the published Monte Carlo.

    The published values carry errors of about 0.01: the exact ones differ by up to 0.013.
    """
    pmf = gaussian_pmf(std)
    for gamma, published in ((-13.3, published_early), (-11.8, published_late)):
        ours = gap(scheme_at(name, gamma), pmf)
        assert ours == pytest.approx(gap_by_integration(name, gamma, pmf), abs=1e-3)
        assert ours == pytest.approx(published, abs=0.015)
        assert ours > -5e-4


@pytest.mark.parametrize("gamma", [-13.3, -11.8])
def test_gaps_of_an_isolated_level(gamma: float) -> None:
    pmf = torch.zeros(256, dtype=torch.float64)
    pmf[128] = 1
    tau = scheme_at("uniform", gamma).tau
    normal = stats.norm
    closed = {
        "truncated_normal": -math.log(normal.cdf(tau) - normal.cdf(-tau)),
        "uniform": 0.5 * math.log(2 * math.pi) + tau**2 / 6 - math.log(2 * tau),
    }
    for name, nats in closed.items():
        assert gap(scheme_at(name, gamma), pmf) == pytest.approx(nats / LN2, abs=1e-4)
    published = {-13.3: (0.924, 0.0037, 0.0106), -11.8: (0.303, 0.241, 0.548)}[gamma]
    for name, value in zip(("uniform", "truncated_normal", "variational"), published, strict=True):
        assert gap(scheme_at(name, gamma), pmf) == pytest.approx(value, abs=3e-3)


# Constants


def test_the_papers_constants() -> None:
    assert pytest.approx(3.01869, abs=5e-6) == TAU
    for path, published in (("vp", -5.24628), ("straight", -5.24758)):
        scheme = scheme_at("truncated_normal", -13.3, path=path)
        normal = 0.5 * (1 + math.log(2 * math.pi * scheme.sigma0**2))
        assert scheme.tau == pytest.approx(TAU)
        assert scheme.mass == pytest.approx(0.9974613, abs=5e-8)
        assert scheme.entropy - normal == pytest.approx(-0.0152209, abs=5e-8)
        assert scheme.entropy == pytest.approx(published, abs=5e-6)


@pytest.mark.parametrize(("levels", "gamma"), [(256, -13.30), (32, -9.14), (17, -7.876), (16, -7.755), (8, -6.37)])
def test_tau_is_kept_for_any_number_of_levels(levels: int, gamma: float) -> None:
    assert start_gamma(levels) == pytest.approx(gamma, abs=5e-3)
    assert start_gamma(levels, "uniform") - start_gamma(levels) == 1.5
    for path in ("vp", "straight"):
        scheme = scheme_at("truncated_normal", start_gamma(levels), levels, path)
        assert scheme.tau == pytest.approx(TAU, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gamma", [-13.3, -11.8, -5.0])
def test_the_entropy_is_the_mean_of_minus_log_q(name: Scheme, gamma: float) -> None:
    scheme = scheme_at(name, gamma)
    u = nodes(1, 200_000)
    assert -scheme.log_q(scheme.noise(u)).mean().item() == pytest.approx(scheme.entropy, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_draws_follow_the_density_that_log_q_states(name: Scheme) -> None:
    scheme = scheme_at(name, -11.8)
    image = torch.full((1, 1, 100, 100), 7, dtype=torch.uint8)
    draws = scheme.draw(image, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = ((draws.z - scheme.alpha0 * to_unit(image, 256, torch.float64)[:, None]) / scheme.sigma0).flatten()
    grid = torch.linspace(-6, 6, 240_001, dtype=torch.float64)
    density = scheme.sigma0 * scheme.log_q(grid).exp()
    if name != "variational":
        assert noise.abs().max() <= scheme.tau
        density = density * (grid.abs() <= scheme.tau)
    cdf = torch.cumulative_trapezoid(density, grid)
    assert cdf[-1].item() == pytest.approx(1, abs=1e-4)
    at = cdf[torch.searchsorted(grid, noise) - 1].clamp(0, 1)
    assert stats.kstest(at.numpy(), "uniform").pvalue > 1e-3


# What a probability must do


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("levels", "gamma"), [(256, -13.3), (17, start_gamma(17)), (17, start_gamma(17, "uniform"))])
def test_the_pmf_of_a_model_sums_to_one(name: Scheme, levels: int, gamma: float) -> None:
    scheme = scheme_at(name, gamma, levels)
    pmf = 0.7 * gaussian_pmf(0.8, levels) + 0.3 * gaussian_pmf(0.2, levels).roll(-3)
    pixels = torch.arange(levels // 2 - 8, levels // 2 + 8)  # eight standard deviations
    draws, log_density = exact_draws(scheme, pixels, pmf.clamp(min=1e-300).log())
    log_prob, _ = draws.importance_weighted(log_density)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-3 if name == "variational" else 1e-4)


@pytest.mark.parametrize("alpha0", [1.0, 0.5, 0.9987, 127.5])
@pytest.mark.parametrize("draws", [1, 5])
def test_a_uniform_density_costs_exactly_eight_bits_in_any_scaling(alpha0: float, draws: int) -> None:
    images = torch.randint(0, 256, (3, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    made = dequantization("uniform", 256, alpha0, 1e-3).draw(images, draws, generator=torch.Generator())
    log_density = torch.full((3, draws), -48 * math.log(2 * alpha0), dtype=torch.float64)
    for value, stderr in (made.average(log_density), made.importance_weighted(log_density)):
        torch.testing.assert_close(nats_to_bits_per_dim(value, 48), torch.full((3,), 8.0).double(), rtol=0, atol=1e-12)
        assert stderr is None or stderr.abs().max() < 1e-9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("levels", [17, 256])
def test_a_uniform_density_costs_log2_levels_under_every_scheme(name: Scheme, levels: int) -> None:
    """Extended beyond the cube, so that the variational scheme finds a density wherever it lands."""
    scheme = scheme_at(name, start_gamma(levels), levels)
    draws = scheme.place(torch.full((1, 1, 1, 1), 8, dtype=torch.uint8), nodes(1, 50_000), torch.float64)
    log_density = torch.full((1, 50_000), -math.log(2 * scheme.alpha0), dtype=torch.float64)
    value, _ = draws.importance_weighted(log_density)
    assert nats_to_bits_per_dim(value, 1).item() == pytest.approx(math.log2(levels), abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_importance_weighted_bound_rises_with_k_and_stays_a_bound(name: Scheme) -> None:
    """Halves of one set of draws: by Jensen the rise holds exactly, and below log P within the error."""
    levels, dims = 17, 16
    scheme = scheme_at(name, start_gamma(levels, "uniform"), levels)
    pmf = gaussian_pmf(0.7, levels)
    image = torch.tensor([8, 8, 9, 7] * 4, dtype=torch.uint8).view(1, 1, 4, 4).expand(400, -1, -1, -1)
    draws = scheme.draw(image, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_density = log_mixture(draws.z, scheme, pmf.log()).flatten(2).sum(2)
    exact, exact_density = exact_draws(scheme, torch.tensor([8, 9, 7]), pmf.log(), 20_000)
    log_prob = exact.importance_weighted(exact_density)[0] @ torch.tensor([8.0, 4.0, 4.0]).double()
    means = []
    for k in (1, 2, 4, 8, 16):
        blocks = Draws(
            draws.z.reshape(-1, k, 1, 4, 4), draws.log_weight.reshape(-1, k), draws.mean_log_weight.reshape(-1, k)
        )
        value, _ = blocks.importance_weighted(log_density.reshape(-1, k))
        means.append(value.mean().item())
    error = value.std().item() / math.sqrt(len(value))
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(means))
    assert means[-1] > means[0] + 1e-3 * dims
    assert means[-1] <= log_prob.item() + 4 * error
    assert means[-1] > log_prob.item() - 1


def test_one_draw_bounds_agree_in_the_mean_and_the_exact_entropy_has_less_noise() -> None:
    scheme = scheme_at("truncated_normal", -13.3)
    image = torch.full((500, 1, 4, 4), 128, dtype=torch.uint8)
    draws = scheme.draw(image, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    flat = torch.zeros(500, 1, dtype=torch.float64)
    (exact, _), (sampled, none) = draws.average(flat), draws.importance_weighted(flat)
    assert none is None
    assert exact.std() < 1e-9
    assert sampled.mean().item() == pytest.approx(exact[0].item(), abs=4 * sampled.std().item() / math.sqrt(500))


@pytest.mark.parametrize("rule", ["average", "importance_weighted"])
def test_the_stated_errors_are_the_spread_of_repetitions(rule: str) -> None:
    scheme = scheme_at("truncated_normal", start_gamma(17, "uniform"), 17)
    pmf = gaussian_pmf(0.7, 17)
    image = torch.full((2000, 1, 1, 1), 8, dtype=torch.uint8)
    draws = scheme.draw(image, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value, stderr = getattr(draws, rule)(log_mixture(draws.z, scheme, pmf.log()).flatten(1))
    assert stderr.square().mean().sqrt().item() == pytest.approx(value.std().item(), rel=0.1)


# The decoder, images, and what is refused


@pytest.mark.parametrize(("levels", "tau"), [(256, TAU), (17, 0.2), (17, 12.0), (2, 1.0)])
def test_the_decoder_is_the_softmax_over_all_levels(levels: int, tau: float) -> None:
    scheme = dequantization("variational", levels, 1.0, 1 / (levels * tau))
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, levels, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images[0, 0, 0] = levels - 1
    noise = 2 * torch.randn(2, 5, 3, 8, 8, generator=generator, dtype=torch.float64)
    z = scheme.alpha0 * to_unit(images, levels, torch.float64)[:, None] + scheme.sigma0 * noise
    centres = 2 * (torch.arange(levels, dtype=torch.float64) + 0.5) / levels - 1
    logits = -0.5 * ((z[..., None] - scheme.alpha0 * centres) / scheme.sigma0).square()
    chosen = images.long()[:, None, ..., None].expand(-1, 5, -1, -1, -1, -1)
    expected = logits.log_softmax(-1).gather(-1, chosen).flatten(2).sum(2)
    torch.testing.assert_close(scheme.log_decoder(noise, images), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("levels", [2, 8, 17, 256])
def test_images_survive_the_round_trip_and_draws_stay_in_their_bins(levels: int) -> None:
    images = torch.arange(256).remainder(levels).to(torch.uint8).view(1, 1, 16, 16)
    x = to_unit(images, levels)
    assert torch.equal(to_images(x, levels), images)
    assert x.abs().max().item() == pytest.approx(1 - 1 / levels)
    for name in ("truncated_normal", "uniform"):
        scheme = scheme_at(name, start_gamma(levels), levels)
        draws = scheme.draw(images, 3, generator=torch.Generator().manual_seed(5))
        assert draws.z.dtype == torch.float32
        assert draws.log_weight.dtype == torch.float64
        assert all(torch.equal(to_images(draws.z[:, k] / scheme.alpha0, levels), images) for k in range(3))
    assert torch.equal(
        to_images(torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2), levels).flatten().long(), torch.tensor([0, levels - 1])
    )


def test_draws_depend_on_the_generator_alone() -> None:
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    scheme = scheme_at("variational", -13.3)
    first, again, other = (scheme.draw(images, 2, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.z, again.z)
    assert not torch.equal(first.z, other.z)
    assert not torch.equal(first.z[:, 0], first.z[:, 1])


def test_extreme_noise_levels_stay_finite() -> None:
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64).view(1, 3, 1, 1, 1).expand(3, -1, -1, -1, -1)
    for name in NAMES:
        for sigma in (1e-6, 1e-3, 10.0):
            draws = dequantization(name, 256, 1.0, sigma).place(images, u, torch.float64)
            assert all(t.isfinite().all() for t in (draws.z, draws.log_weight, draws.mean_log_weight))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="levels"):
        dequantization("uniform", 1, 1.0, 1e-3)
    with pytest.raises(InputError, match="positive"):
        dequantization("uniform", 256, 1.0, 0.0)
    scheme = dequantization("uniform", 17, 1.0, 1e-2)
    with pytest.raises(InputError, match="beyond the 17 levels"):
        scheme.draw(torch.full((1, 1, 2, 2), 17, dtype=torch.uint8), generator=torch.Generator())
    with pytest.raises(InputError, match="draws must be at least 1, got 0"):
        scheme.draw(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 0, generator=torch.Generator())
