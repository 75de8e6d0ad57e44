"""Gaussian mixtures and their exact diffusion against torch.distributions, integrals and autograd."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.schedules import LogLinear, Schedule
from truths import SCHEDULES, doubles, random_mixture, seeded

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def reference(mixture: GaussianMixture, alpha: float = 1.0, sigma: float = 0.0) -> MixtureSameFamily:
    noise = sigma**2 * torch.eye(mixture.dimension, dtype=torch.float64)
    normal = MultivariateNormal(alpha * mixture.means, alpha**2 * mixture.covariances + noise)
    return MixtureSameFamily(Categorical(mixture.weights), normal)


@pytest.mark.parametrize("dimension", [1, 2, 5, 30])
def test_log_prob(dimension: int, generator: torch.Generator) -> None:
    mixture = random_mixture(dimension)
    x = torch.cat([mixture.sample(50, generator=generator), 30 * torch.ones(1, dimension, dtype=torch.float64)])
    torch.testing.assert_close(mixture.log_prob(x), reference(mixture).log_prob(x), rtol=1e-10, atol=1e-10)


@each_schedule
@pytest.mark.parametrize("dimension", [1, 4])
def test_the_diffused_density_has_the_diffused_moments(schedule: Schedule, dimension: int) -> None:
    mixture = random_mixture(dimension)
    exact = mixture.diffused(schedule)
    x = 3 * torch.randn(20, dimension, generator=seeded(2), dtype=torch.float64)
    for s in (schedule.s_start, 0.2, 0.7, schedule.s_max):
        expected = reference(mixture, *schedule.at(s)).log_prob(x)
        torch.testing.assert_close(exact.log_prob(x, s), expected, rtol=1e-9, atol=1e-9)


def test_time_zero_is_the_mixture_itself(generator: torch.Generator) -> None:
    mixture = random_mixture(3)
    x = mixture.sample(10, generator=generator)
    torch.testing.assert_close(mixture.diffused(SCHEDULES["vp"]).log_prob(x), mixture.log_prob(x), rtol=0, atol=1e-12)


@each_schedule
def test_the_diffused_density_integrates_to_one(schedule: Schedule) -> None:
    exact = random_mixture(1).diffused(schedule)
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    for s in (schedule.s_start, 0.4, schedule.s_max):
        assert torch.trapezoid(exact.log_prob(x[:, None], s).exp(), x).item() == pytest.approx(1, abs=1e-9)


@each_schedule
@pytest.mark.parametrize("event", [(1,), (4,), (1, 2, 3)])
def test_the_score_is_the_gradient_and_its_divergence_the_trace(schedule: Schedule, event: tuple[int, ...]) -> None:
    exact = random_mixture(math.prod(event)).diffused(schedule)
    x = 2 * torch.randn(12, *event, generator=seeded(3), dtype=torch.float64)
    s = torch.linspace(0.15, 1.0, 12, dtype=torch.float64)
    point = x.clone().requires_grad_()
    gradient = torch.autograd.grad(exact.log_prob(point, s).sum(), point)[0]
    torch.testing.assert_close(exact.score(x, s), gradient, rtol=1e-9, atol=1e-10)

    def score(row: Tensor, time: Tensor) -> Tensor:
        return exact.score(row.reshape(1, *event), time[None]).reshape(-1)

    traces = [torch.func.jacrev(score)(row.reshape(-1), t).trace() for row, t in zip(x, s, strict=True)]
    torch.testing.assert_close(exact.score_divergence(x, s), torch.stack(traces), rtol=1e-9, atol=1e-9)


@each_schedule
@pytest.mark.parametrize("dimension", [1, 5])
def test_the_posterior_covariance_is_tweedies(schedule: Schedule, dimension: int) -> None:
    """Of second order, Cov(x₀|x) = (σ²/α²)(I + σ² ∇² log p_s), its trace by the divergence of the score."""
    exact = random_mixture(dimension).diffused(schedule)
    x = 2 * torch.randn(12, dimension, generator=seeded(3), dtype=torch.float64)
    s = torch.linspace(0.15, 1.0, 12, dtype=torch.float64)
    found = exact.posterior_covariance(x, s)
    ratio, variance = (-schedule.log_snr(s)).exp(), schedule.sigma(s).square()
    trace = ratio * (dimension + variance * exact.score_divergence(x, s))
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2).sum(1), trace, rtol=1e-8, atol=1e-8)
    hessians = [
        torch.func.jacrev(lambda row, t=t: exact.score(row[None], t[None])[0])(row) for row, t in zip(x, s, strict=True)
    ]
    eye = torch.eye(dimension, dtype=torch.float64)
    expected = ratio[:, None, None] * (eye + variance[:, None, None] * torch.stack(hessians))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@each_schedule
def test_the_posterior_covariance_of_a_gaussian(schedule: Schedule) -> None:
    """(C⁻¹ + (α²/σ²) I)⁻¹, wherever the point lies."""
    mixture = random_mixture(4, components=1)
    x = 3 * torch.randn(5, 2, 2, generator=seeded(3), dtype=torch.float64)
    alpha, sigma = schedule.at(0.4)
    precision = mixture.covariances[0].inverse() + (alpha / sigma) ** 2 * torch.eye(4, dtype=torch.float64)
    found = mixture.diffused(schedule).posterior_covariance(x, 0.4)
    torch.testing.assert_close(found, precision.inverse().expand(5, 4, 4), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dimension", [1, 3, 20])
def test_posterior_covariances_are_covariances(dimension: int, generator: torch.Generator) -> None:
    exact = random_mixture(dimension, components=6).diffused(SCHEDULES["vp"])
    x = 2 * torch.randn(300, dimension, generator=generator, dtype=torch.float64)
    s = torch.rand(300, generator=generator, dtype=torch.float64)
    found = exact.posterior_covariance(x, s)
    torch.testing.assert_close(found, found.mT, rtol=1e-12, atol=1e-14)
    assert torch.linalg.eigvalsh(found).min() > -1e-12
    at_zero = exact.posterior_covariance(x, 0.0)
    assert at_zero.abs().max() < 1e-25  # the point is known


def test_noise_forgets_the_point_and_keeps_the_covariance() -> None:
    mixture = random_mixture(3, components=4)
    centred = mixture.means - mixture.weights @ mixture.means
    total = torch.einsum("k,kde->de", mixture.weights, mixture.covariances + centred[:, :, None] * centred[:, None])
    exact = mixture.diffused(LogLinear(-5.0, 40.0))
    found = exact.posterior_covariance(torch.randn(4, 3, generator=seeded(0), dtype=torch.float64), 1.0)
    torch.testing.assert_close(found, total.expand(4, 3, 3), rtol=1e-6, atol=1e-6)


def test_one_time_is_as_good_as_a_time_a_row() -> None:
    exact = random_mixture(3).diffused(SCHEDULES["vp"])
    x = torch.randn(5, 3, generator=seeded(4), dtype=torch.float64)
    times = torch.full((5,), 0.3, dtype=torch.float64)
    for method in (exact.score, exact.log_prob, exact.score_divergence, exact.posterior_covariance):
        for s in (0.3, torch.tensor(0.3, dtype=torch.float64)):
            torch.testing.assert_close(method(x, s), method(x, times), rtol=1e-13, atol=1e-13)


@each_schedule
def test_the_prior_is_the_end_marginal(schedule: Schedule) -> None:
    mixture = random_mixture(2)
    x = torch.randn(5, 2, generator=seeded(4), dtype=torch.float64)
    expected = reference(mixture, *schedule.at(schedule.s_max)).log_prob(x)
    torch.testing.assert_close(mixture.diffused(schedule).prior.log_prob(x), expected, rtol=1e-10, atol=1e-10)


def test_samples_have_the_moments_of_the_mixture(generator: torch.Generator) -> None:
    mixture, n = random_mixture(3, components=4), 200_000
    x = mixture.sample(n, generator=generator)
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean
    covariance = torch.einsum(
        "k,kde->de", mixture.weights, mixture.covariances + centred[:, :, None] * centred[:, None]
    )
    error = (x.mean(0) - mean).abs() / (covariance.diagonal() / n).sqrt()
    assert error.max() < 5
    products = (x - mean)[:, :, None] * (x - mean)[:, None]
    assert ((products.mean(0) - covariance).abs() / (products.std(0) / n**0.5)).max() < 5
    log_prob = mixture.log_prob(x)  # its mean is minus the entropy: compare with draws of torch.distributions
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = mixture.log_prob(reference(mixture).sample((n,)))
    assert abs(log_prob.mean() - other.mean()) < 5 * (log_prob.var() / n + other.var() / n).sqrt()


def test_samples_follow_their_generator() -> None:
    mixture = random_mixture(2)
    first, again = (mixture.sample(5, generator=seeded(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, mixture.sample(5, generator=seeded(2)))
    assert mixture.sample(5, generator=seeded(1), dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("full", [False, True])
def test_random_mixtures_have_the_published_ranges(full: bool) -> None:
    mixture = GaussianMixture.random(3, 200, seeded(0), full=full)
    assert mixture.means.min() >= -2
    assert mixture.means.max() <= 2
    assert mixture.means.std().item() == pytest.approx(4 / 12**0.5, abs=0.1)
    assert mixture.eigenvalues.min().item() == pytest.approx(0.25, abs=0.01)
    assert mixture.eigenvalues.max().item() == pytest.approx(1.0, abs=0.01)
    assert mixture.weights.sum().item() == pytest.approx(1, abs=1e-12)
    off_diagonal = mixture.covariances - torch.diag_embed(mixture.covariances.diagonal(dim1=1, dim2=2))
    assert bool((off_diagonal.abs().amax((1, 2)) > 1e-3).all()) == full


def test_single_precision_points_give_single_precision() -> None:
    mixture = random_mixture(3)
    exact, x = mixture.diffused(SCHEDULES["vp"]), torch.randn(4, 3, generator=seeded(0))
    for value, fine in (
        (mixture.log_prob(x), mixture.log_prob(x.double())),
        (exact.score(x, 0.3), exact.score(x.double(), 0.3)),
        (exact.score_divergence(x, 0.3), exact.score_divergence(x.double(), 0.3)),
        (exact.posterior_covariance(x, 0.3), exact.posterior_covariance(x.double(), 0.3)),
    ):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), fine, rtol=1e-4, atol=1e-4)


def test_a_mixture_does_not_change_with_what_it_was_made_of() -> None:
    means = torch.zeros(1, 2, dtype=torch.float64)
    mixture = GaussianMixture(doubles(1.0), means, torch.eye(2, dtype=torch.float64)[None])
    means += 1
    assert mixture.means.abs().max() == 0


EYE = torch.eye(2, dtype=torch.float64)
GOOD = {"weights": doubles(0.25, 0.75), "means": torch.zeros(2, 2), "covariances": torch.stack([EYE, EYE])}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": doubles(0.25, 0.7)}, "weights must sum to 1, they sum to 0.95"),
        ({"weights": doubles(-0.25, 1.25)}, "weights must be positive"),
        ({"weights": doubles(math.nan, 1.0)}, "weights contain numbers that are not finite"),
        ({"weights": doubles(1.0)}, r"weights \(K,\) and means \(K, D\)"),
        ({"weights": EYE}, r"weights \(K,\) and means \(K, D\)"),
        ({"means": torch.full((2, 2), math.inf)}, "means contain numbers that are not finite"),
        ({"covariances": EYE[None]}, r"covariances of shape \(2, 2, 2\) expected, got \(1, 2, 2\)"),
        ({"covariances": torch.full((2, 2, 2), math.nan)}, "covariances contain numbers that are not finite"),
        (
            {"covariances": torch.stack([EYE, EYE + doubles(0, 1) * EYE.roll(1, 0)])},
            "covariances must be symmetric",
        ),
        (
            {"covariances": torch.stack([EYE, EYE - 2 * EYE.roll(1, 0)])},
            "covariances must be positive definite",
        ),
    ],
)
def test_wrong_mixtures_name_the_culprit(changed: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GaussianMixture(**GOOD | changed)


@pytest.mark.parametrize("shape", [(5, 3), (5, 1, 1), (5, 2, 2)])
def test_points_of_another_dimension_are_refused(shape: tuple[int, ...]) -> None:
    mixture = GaussianMixture(**GOOD)
    for method in (mixture.log_prob, lambda x: mixture.diffused(SCHEDULES["vp"]).score(x, 0.5)):
        with pytest.raises(InputError, match=r"numbers each, the mixture has 2 dimensions"):
            method(torch.zeros(shape))
