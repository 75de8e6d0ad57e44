"""Bits per dimension of images against distributions whose probabilities are known, in double precision."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import diffusion_density as dd
from diffusion_density.density import bits_per_dim, bound_terms
from diffusion_density.density.images.bound import reconstruction_table
from diffusion_density.density.images.dequantization import (
    SCHEMES,
    Scheme,
    dequantization,
    start_gamma,
    to_images,
    to_unit,
)
from diffusion_density.density.result import LogDensity
from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import DiffusionModel, GaussianPrior, Model
from diffusion_density.process.predictions import PREDICTIONS, Prediction
from diffusion_density.process.schedules import Discrete, LogLinear, Schedule, VariancePreserving
from truths import Counting, doubles, gaussian, network_of, scaled, seeded

LN2 = math.log(2)
PATHS = ("vp", "straight")
BOTH: Any = pytest.mark.parametrize("path", PATHS)
TWO: Any = pytest.mark.parametrize("options", [{"divergence": "exact"}, {"estimator": "bound", "throws": 8}])


def score(model: Model, images: Tensor, seed: int = 1, **options: Any) -> LogDensity:  # noqa: ANN401
    """In double precision, from a fresh generator."""
    return bits_per_dim(model, images, generator=seeded(seed), **({"dtype": torch.float64} | options))


def stderr(result: LogDensity) -> Tensor:
    assert result.stderr is not None
    return result.stderr


def for_levels(levels: int, path: str = "vp", scheme: Scheme = "truncated_normal") -> LogLinear:
    return LogLinear(start_gamma(levels, scheme), 5.0, path)


def pixels(levels: int, repeats: int = 1) -> Tensor:
    """Every one-pixel image, each several times in a row, (levels · repeats, 1, 1, 1)."""
    return torch.arange(levels, dtype=torch.uint8).repeat_interleave(repeats).view(-1, 1, 1, 1)


def squares(side: int, count: int, schedule: Schedule) -> tuple[ExactModel, Tensor]:
    """A Gaussian of one-channel images with a spectrum like that of photographs, and images of 256 levels."""
    dims = side * side
    spectrum = torch.arange(1, dims + 1, dtype=torch.float64) ** -1.5
    axes = torch.linalg.qr(torch.randn(dims, dims, generator=seeded(0), dtype=torch.float64)).Q
    covariance = (axes * (0.25 * spectrum / spectrum.mean())) @ axes.mT
    mixture = GaussianMixture(doubles(1.0), torch.zeros(1, dims).double(), 0.5 * (covariance + covariance.mT)[None])
    x = mixture.sample(count, generator=seeded(5)).reshape(count, 1, side, side)
    return mixture.diffused(schedule), to_images(x, 256)


def discrete(pmf: Tensor, schedule: Schedule) -> ExactModel:
    """The perfect model of images of D pixels with the probabilities ``pmf``, one axis a pixel."""
    levels = pmf.shape[0]
    x = 2 * (torch.cartesian_prod(*[torch.arange(levels)] * pmf.ndim).reshape(-1, pmf.ndim).double() + 0.5) / levels - 1
    tiny = 1e-14 * torch.eye(pmf.ndim, dtype=torch.float64)
    return GaussianMixture(pmf.flatten(), x, tiny.expand(len(x), -1, -1)).diffused(schedule)


def decoded(pmf: Tensor, schedule: LogLinear) -> Tensor:
    """E over z given k of log P(k|z) of the data minus that of the softmax decoder, in nats, for one pixel."""
    levels = len(pmf)
    alpha, sigma = schedule.at(0.0)
    x = 2 * (torch.arange(levels).double() + 0.5) / levels - 1
    noise = torch.linspace(-8, 8, 161, dtype=torch.float64)
    normal = torch.exp(-0.5 * noise**2)
    far = -0.5 * ((alpha * (x[:, None] - x)[..., None] + sigma * noise) / sigma) ** 2  # image, level, node
    own = torch.arange(levels)
    gain = (far + pmf.log()[:, None]).log_softmax(1) - far.log_softmax(1)
    return (gain[own, own] * normal).sum(1) / normal.sum()


def lumpy(levels: int) -> Tensor:
    """A distribution of one pixel with two modes and some probability on every level."""
    k = torch.arange(levels).double() / levels
    weight = torch.exp(-0.5 * ((k - 0.3) / 0.06) ** 2) + 0.5 * torch.exp(-0.5 * ((k - 0.7) / 0.1) ** 2) + 0.01
    return weight / weight.sum()


# The flow density


@BOTH
def test_a_gaussian_of_64_dimensions(path: str, record_property: Callable[[str, object], None]) -> None:
    """The exact velocity: the solver is the only error. The 90 calls of section 4 are more than enough."""
    exact, images = squares(8, 3, LogLinear(path=path))
    result = score(network_of(exact, "velocity"), images, divergence="exact")
    scheme = dequantization("truncated_normal", 256, *exact.schedule.at(0.0))
    draws = scheme.draw(images, 1, generator=seeded(1), dtype=torch.float64)
    log_prob, _ = draws.average(exact.log_prob(draws.z[:, 0], 0.0)[:, None])
    truth = -log_prob / (64 * LN2)
    assert (result.value - truth).abs().max() < 5e-5
    assert truth.min() > 7
    (calls,) = result.settings["solver_calls"]
    record_property("solver_calls", calls)
    assert 60 <= calls <= 95
    assert result.network_evaluations == 65 * calls
    assert (result.kind, result.density, result.stderr) == ("upper", "flow", None)
    assert result.failures() is None


def uniform_model(schedule: Schedule, bound: float) -> DiffusionModel:
    """A flow that stands still, from the uniform distribution on a cube."""

    class Cube:
        def log_prob(self, x: Tensor) -> Tensor:
            inside = (x.flatten(1).abs() <= bound * (1 + 1e-9)).all(1)
            return x.new_tensor([-math.inf, -x[0].numel() * math.log(2 * bound)])[inside.long()]

    return DiffusionModel(lambda x, _s: 0 * x, schedule, "entropy", Cube())


@BOTH
@pytest.mark.parametrize("gamma", [-13.3, -9.0, -2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_uniform_density_costs_exactly_eight_bits_in_any_scaling(path: str, gamma: float, weighted: bool) -> None:
    """The scaling is α₀, from 1 down to 0.73 here; three channels, several draws."""
    schedule = LogLinear(gamma, 5.0, path)
    model = uniform_model(schedule, schedule.at(0.0)[0])
    images = torch.randint(0, 256, (5, 3, 2, 2), generator=seeded(0), dtype=torch.uint8)
    options = {"dequantization": "uniform", "draws": 3, "importance_weighted": weighted}
    result = score(model, images, **options)
    torch.testing.assert_close(result.value, torch.full((5,), 8.0).double(), rtol=0, atol=1e-12)
    assert weighted or stderr(result).max() < 1e-12
    assert stderr(score(model, images, divergence="exact", **options)).max() < 1e-12


@BOTH
@pytest.mark.parametrize("name", SCHEMES)
def test_the_probabilities_of_a_model_sum_to_one(name: Scheme, path: str) -> None:
    """All 17 levels, with many weighted draws: each P(k) is then unbiased. Also each P(k) by its integral."""
    schedule = for_levels(17, path)
    model = gaussian(0.1, 0.04).diffused(schedule)
    result = score(
        model,
        pixels(17),
        levels=17,
        dequantization=name,
        draws=2000,
        importance_weighted=True,
        divergence="exact",
        chunk=34_000,
    )
    pmf = (-result.value * LN2).exp()
    error = pmf * stderr(result) * LN2
    assert abs(pmf.sum().item() - 1) < 4 * error.square().sum().sqrt().item() + 1e-3
    assert error.square().sum().sqrt() < 0.02
    alpha, sigma = schedule.at(0.0)
    if name != "variational":
        edges = alpha * (2 * torch.arange(18).double() / 17 - 1)
        truth = Normal(0.1 * alpha, math.hypot(0.2 * alpha, sigma)).cdf(edges).diff()
        assert ((pmf - truth).abs() < 4.5 * error + 1e-4 * truth).all()


@pytest.mark.parametrize("name", SCHEMES)
def test_the_one_draw_bound_is_its_quadrature(name: Scheme) -> None:
    """E log p + E log P(k|z) + H(q), entropy included: against nodes of a quadrature."""
    schedule = for_levels(17)
    model = gaussian(0.1, 0.04).diffused(schedule)
    result = score(model, pixels(17, 60), levels=17, dequantization=name, divergence="exact", chunk=1100)
    nodes = ((torch.arange(4000).double() + 0.5) / 4000).view(1, -1, 1, 1, 1).expand(17, -1, -1, -1, -1)
    placed = dequantization(name, 17, *schedule.at(0.0)).place(pixels(17), nodes, torch.float64)
    log_density = model.log_prob(placed.z.reshape(-1, 1), 0.0).reshape(17, -1)
    truth = -(log_density + placed.log_weight).mean(1) / LN2
    values = result.value.reshape(17, 60)
    error = values.std(1) / 60**0.5
    assert ((values.mean(1) - truth).abs() < 4.5 * error + 2e-3).all()


def test_importance_weights_only_tighten_the_bound() -> None:
    """In expectation, for K up to 64; and never below −log₂ P, which without the −log K they would be."""
    schedule = for_levels(17, scheme="uniform")
    model = gaussian(0.1, 0.02).diffused(schedule)
    images = torch.full((300, 1, 1, 2), 10, dtype=torch.uint8)
    double = GaussianMixture(doubles(1.0), torch.full((1, 2), 0.1).double(), 0.02 * torch.eye(2).double()[None])
    model = double.diffused(schedule)
    alpha, sigma = schedule.at(0.0)
    edges = alpha * (2 * doubles(10, 11) / 17 - 1)
    distribution = Normal(0.1 * alpha, math.sqrt(0.02 * alpha**2 + sigma**2))
    truth = -math.log2(distribution.cdf(edges).diff().item())
    means, errors = [], []
    for count in (1, 4, 16, 64):
        options = {"draws": count, "importance_weighted": True, "divergence": "exact", "chunk": 20_000}
        value = score(model, images, seed=count, levels=17, **options).value
        means.append(value.mean().item())
        errors.append(value.std().item() / 300**0.5)
    for before, after, error in zip(means, means[1:], errors, strict=False):
        assert after < before + 3 * error
    assert means[0] - truth > 4 * errors[0]
    assert means[-1] == pytest.approx(truth, abs=4 * errors[-1] + 2e-3)
    assert min(means) > truth - 4 * max(errors[-1], 5e-4)


def test_weights_with_shared_probes() -> None:
    """The draws of an image share their probe, so that its noise is common to them; without weights they do not."""
    exact, images = squares(4, 2, LogLinear())
    seen: list[Tensor] = []

    def network(x: Tensor, s: Tensor) -> Tensor:
        output = exact.velocity(x, s)
        if output.requires_grad:
            output.register_hook(lambda gradient: seen.append(gradient.sign()))
        return output

    model = DiffusionModel(network, exact.schedule, "velocity", exact.prior)
    for weighted, distinct in ((True, 2), (False, 8)):
        seen.clear()
        result = score(model, images, draws=4, importance_weighted=weighted, rtol=1e-2, atol=1e-2)
        assert len({tuple(row.flatten().tolist()) for row in seen[0]}) == distinct
        assert (result.stderr is None) == weighted


@pytest.mark.parametrize(
    "options",
    [
        {"draws": 6},
        {"draws": 6, "divergence": "exact"},
        {"draws": 6, "divergence": "exact", "importance_weighted": True},
        {"draws": 6, "probes": 4, "importance_weighted": True},
    ],
)
def test_the_standard_error_of_draws_is_honest(options: dict[str, Any]) -> None:
    exact, images = squares(2, 1, for_levels(256, scheme="uniform"))
    result = score(exact, images.expand(250, -1, -1, -1), rtol=1e-3, atol=1e-3, chunk=2000, **options)
    spread = result.value.var().item()
    assert 0.75 < stderr(result).square().mean().item() / spread < (2.5 if "probes" in options else 1.35)


def test_one_draw_has_no_standard_error() -> None:
    exact, images = squares(2, 2, LogLinear())
    for options in ({}, {"probes": 3}, {"divergence": "exact", "importance_weighted": True}):
        assert score(exact, images, **options).stderr is None


def test_a_later_start() -> None:
    """Uniform dequantization at γ = −11.8 (section 2.3) loses much less than at the data end."""
    schedule = LogLinear()
    model = discrete(lumpy(256), schedule)
    images = pixels(256)[70:84]
    late = (start_gamma(256, "uniform") + 13.3) / 18.3
    values = {
        start: score(model, images, dequantization="uniform", draws=60, start=start, divergence="exact", chunk=1400)
        for start in (None, late)
    }
    assert values[late].settings["start"] == late
    gaps = [(result.value + lumpy(256)[70:84].log2()).mean().item() for result in values.values()]
    errors = [stderr(result).square().sum().sqrt().item() / len(images) for result in values.values()]
    assert gaps[0] == pytest.approx(0.863, abs=4 * errors[0])
    assert gaps[1] == pytest.approx(0.0116, abs=4 * errors[1])
    assert max(errors) < 0.1


def test_network_evaluations_are_those_of_the_network() -> None:
    exact, images = squares(2, 5, LogLinear())
    model = network_of(exact, "noise")
    model.network = counter = Counting(model.network)
    result = score(model, images, draws=3, probes=2, chunk=7)
    assert counter.calls == sum(result.settings["solver_calls"])
    assert counter.backward == 2 * counter.calls
    assert result.settings["total_evaluations"] == 3 * counter.rows
    assert result.network_evaluations == math.ceil(3 * counter.rows / 5)
    assert len(result.settings["solver_calls"]) == 3  # two images, six rows, a chunk


@pytest.mark.parametrize("options", [{"draws": 3, "chunk": 2}, {"draws": 2, "chunk": 5}, {"chunk": 1}])
@pytest.mark.parametrize("estimator", ["flow", "bound"])
def test_no_call_has_more_rows_than_a_chunk(options: dict[str, Any], estimator: str) -> None:
    exact, images = squares(2, 3, LogLinear())
    model = network_of(exact, "velocity")
    rows: list[int] = []
    model.network = lambda x, s: (rows.append(len(x)), exact.velocity(x, s))[1]
    chunk = options["chunk"]
    if estimator == "bound":
        options = {"estimator": "bound", "throws": 7, "chunk": chunk}
    many = score(model, images, **options)
    assert max(rows) <= chunk
    whole = score(model, images, **(options | {"chunk": 100}))
    assert (many.value - whole.value).abs().max() < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"divergence": "exact", "draws": 2},
        {"draws": 3, "probes": 2},
        {"draws": 3, "importance_weighted": True},
        {"estimator": "bound", "throws": 5},
    ],
)
@BOTH
def test_an_image_alone_and_among_others(options: dict[str, Any], path: str) -> None:
    """One generator, image after image: the same draws, so that nothing but the solver's steps differs."""
    exact, images = squares(3, 3, LogLinear(path=path))
    many = score(exact, images, **options).value
    one = seeded(1)
    alone = [bits_per_dim(exact, i, generator=one, dtype=torch.float64, **options).value for i in images.split(1)]
    assert (many - torch.cat(alone)).abs().max() < 10 * 1e-5
    assert len(set(many.tolist())) == 3


@TWO
def test_all_predictions_agree(options: dict[str, Any]) -> None:
    for schedule in (LogLinear(), LogLinear(path="straight")):
        exact, images = squares(2, 2, schedule)
        tight = options if "estimator" in options else options | {"rtol": 1e-6, "atol": 1e-6}
        values = [score(network_of(exact, p), images, **tight).value for p in PREDICTIONS]
        for value in values[1:]:
            torch.testing.assert_close(value, values[0], rtol=0, atol=1e-5)


@TWO
@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_single_precision(options: dict[str, Any], prediction: Prediction) -> None:
    exact, images = squares(3, 4, LogLinear())
    double = score(network_of(exact, prediction), images, **options).value
    single = score(network_of(exact, prediction), images, dtype=torch.float32, **options)
    assert single.value.dtype == torch.float64
    assert (single.value - double).abs().max() < 2e-3


def test_digits_of_17_levels() -> None:
    """Real images: the Gaussian of the digits costs less than log₂ 17 bits, and two estimators agree."""
    x = torch.tensor(load_digits().images, dtype=torch.uint8)[:, None]
    unit = to_unit(x, 17, torch.float64).flatten(1)
    covariance = torch.cov(unit.T) + 1e-3 * torch.eye(64).double()
    exact = GaussianMixture(doubles(1.0), unit.mean(0)[None], covariance[None]).diffused(for_levels(17))
    flow = score(exact, x[:16], levels=17, draws=4, rtol=1e-3, atol=1e-3)
    bound = score(exact, x[:16], levels=17, estimator="bound", throws=256)
    assert 0.5 < flow.value.mean() < math.log2(17)
    error = math.hypot(stderr(flow).mean() / 4, stderr(bound).mean() / 4)
    assert (flow.value - bound.value).mean().abs() < 4 * error + 0.03  # truncated against variational
    assert flow.settings["levels"] == 17
    with pytest.raises(InputError, match="value 16 is beyond the 16 levels"):
        score(exact, x[:16], levels=16)


# The variational bound


@pytest.mark.parametrize(
    ("distribution", "levels", "path"),
    [
        ("lumpy", 17, "vp"),
        ("lumpy", 17, "straight"),
        ("uniform", 17, "vp"),
        ("uniform", 17, "straight"),
        ("lumpy", 256, "straight"),
        ("uniform", 256, "vp"),
    ],
)
def test_the_bound_of_a_perfect_model_is_the_entropy(distribution: str, levels: int, path: str) -> None:
    """And at each image −log P(k) plus the loss of the decoder, zero for uniform levels: log₂ B bits."""
    schedule = for_levels(levels, path)
    pmf = lumpy(levels) if distribution == "lumpy" else torch.full((levels,), 1 / levels, dtype=torch.float64)
    throws = 50 if levels == 256 else 2000
    result = score(discrete(pmf, schedule), pixels(levels), levels=levels, estimator="bound", throws=throws, chunk=3400)
    truth = -pmf.log2() + decoded(pmf, schedule) / LN2
    z = (result.value - truth) / stderr(result)
    assert (z.abs() < 5).all()
    mean, error = (pmf * result.value).sum().item(), (pmf * stderr(result)).square().sum().sqrt().item()
    entropy = -(pmf * pmf.log2()).sum().item()
    assert abs(mean - (pmf * truth).sum().item()) < 4 * error
    assert entropy - 4 * error < mean < entropy + 4 * error + 0.011
    assert error < (0.2 if levels == 256 else 0.06)
    assert (result.kind, result.density, result.network_evaluations) == ("upper", "sde", throws)


def test_the_bound_of_two_dependent_pixels() -> None:
    schedule = for_levels(5)
    k = torch.arange(5).double()
    weight = 0.02 + torch.exp(-((k[:, None] - k) ** 2)) * (1 + k)
    pmf = weight / weight.sum()
    images = torch.cartesian_prod(*[torch.arange(5, dtype=torch.uint8)] * 2).view(25, 1, 1, 2)
    options = {"levels": 5, "estimator": "bound", "throws": 3000}
    result = score(discrete(pmf, schedule), images, chunk=100_000, **options)
    total, error = 2 * (pmf.flatten() * result.value).sum(), 2 * (pmf.flatten() * stderr(result)).square().sum().sqrt()
    entropy = -(pmf * pmf.log2()).sum()
    assert entropy - 4 * error < total < entropy + 4 * error + 2 * 0.011
    assert error < 0.04


def normal_terms(variance: float, images: Tensor, schedule: LogLinear) -> Tensor:
    """The diffusion term, bits/dim, of images under independent normal pixels N(0, variance), by the trapezoid rule."""
    gamma = torch.linspace(schedule.gamma_min, schedule.gamma_max, 20_001, dtype=torch.float64)
    if schedule.path == "vp":
        alpha, sigma = (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
    else:
        alpha, sigma = (-gamma / 2).sigmoid(), (gamma / 2).sigmoid()
    marginal = alpha**2 * variance + sigma**2  # ε − ε̂ = (α² v ε − α σ x)/marginal
    x = to_unit(images, 256, torch.float64).flatten(1)
    square = (alpha**2 * variance / marginal) ** 2
    data = (alpha * sigma / marginal) ** 2
    integrals = [torch.trapezoid(0.5 * value, gamma) for value in (square, data)]
    return (integrals[0] + integrals[1] * x.square().mean(1)) / LN2


@BOTH
def test_the_three_terms_are_their_closed_forms(path: str) -> None:
    """On images with the mean square of photographs, ¼: 0.0104 and 0.0012 bits/dim, and the integral."""
    schedule = LogLinear(path=path)
    dims, variance = 12, 0.25
    eye = torch.eye(dims, dtype=torch.float64)
    distribution = GaussianMixture(doubles(1.0), torch.zeros(1, dims).double(), variance * eye[None])
    model = DiffusionModel(distribution.diffused(schedule).velocity, schedule, "velocity")
    images = torch.full((40, 3, 2, 2), 191, dtype=torch.uint8)  # |x| = ½
    images[:, :, 0] = 64
    options = {"throws": 400, "chunk": 16_000}
    terms = bound_terms(model, images, generator=seeded(2), dtype=torch.float64, **options)
    assert terms.stderr is not None
    assert terms.reconstruction[0].item() == pytest.approx(0.0104, abs=2e-4)
    alpha, sigma = schedule.at(1.0)
    x = to_unit(images, 256, torch.float64).flatten(1)
    closed = kl_divergence(Normal(alpha * x, sigma), Normal(torch.zeros_like(x), sigma)).mean(1) / LN2
    torch.testing.assert_close(terms.prior, closed, rtol=0, atol=1e-12)
    assert terms.prior[0].item() == pytest.approx(0.0012, abs=5e-5)
    truth = normal_terms(variance, images, schedule)
    z = (terms.diffusion - truth) / terms.stderr
    assert (z.abs() < 4.5).all()
    assert abs(z.mean().item()) < 4 / 40**0.5
    assert (terms.stderr < 0.2).all()
    torch.testing.assert_close(terms.total, terms.reconstruction + terms.prior + terms.diffusion)
    whole = score(model, images, 2, estimator="bound", **options)
    torch.testing.assert_close(whole.value, terms.total, rtol=0, atol=1e-12)
    assert torch.equal(stderr(whole), terms.stderr)


def test_the_prior_is_the_models_own() -> None:
    """The wrong variance, 1, costs 0.0096 bits/dim on the straight path; a prior without closed form is thrown."""
    schedule = LogLinear(path="straight")
    exact, images = squares(4, 3, schedule)
    alpha, sigma = schedule.at(1.0)

    def prior_of(model: Model, throws: int = 2) -> Tensor:
        return bound_terms(model, images, throws=throws, generator=seeded(0), dtype=torch.float64).prior

    mean_square = to_unit(images, 256, torch.float64).square().flatten(1).mean(1)
    own = prior_of(DiffusionModel(exact.noise, schedule, "noise"))
    torch.testing.assert_close(own, 0.5 * alpha**2 * mean_square / sigma**2 / LN2, rtol=1e-9, atol=0)
    unit = prior_of(DiffusionModel(exact.noise, schedule, "noise", GaussianPrior(1.0)))
    closed = 0.5 * (alpha**2 * mean_square + sigma**2 - 1 - 2 * math.log(sigma)) / LN2
    torch.testing.assert_close(unit, closed, rtol=1e-9, atol=0)
    assert (unit - own).min() > 0.007

    class Veiled:
        def log_prob(self, x: Tensor) -> Tensor:
            return GaussianPrior(1.0).log_prob(x)

    veiled = prior_of(DiffusionModel(exact.noise, schedule, "noise", Veiled()), throws=4000)
    assert (veiled - closed).abs().max() < 0.003


@pytest.mark.parametrize("levels", [17, 256])
def test_reconstruction_by_level(levels: int) -> None:
    """The table against draws, and against the isolated pair of neighbours; the ends have one neighbour only."""
    schedule = for_levels(levels)
    table = reconstruction_table(levels, *schedule.at(0.0))
    tau = schedule.at(0.0)[0] / (levels * schedule.at(0.0)[1])
    noise = torch.randn(400_000, generator=seeded(0), dtype=torch.float64)
    distances = torch.stack([noise - 2 * tau * j for j in range(-3, 4)])
    losses = -(-0.5 * distances.square()).log_softmax(0)[3]
    error = losses.std().item() / len(noise) ** 0.5
    assert table[levels // 2].item() == pytest.approx(losses.mean().item(), abs=4 * error)
    ends = -(-0.5 * distances[3:].square()).log_softmax(0)[0]
    assert table[0].item() == pytest.approx(ends.mean().item(), abs=4 * error)
    assert table[-1].item() == pytest.approx(table[0].item(), rel=1e-9)
    assert table[levels // 2].item() / LN2 == pytest.approx(0.0104, abs=2e-4)


@pytest.mark.parametrize("factor", [1.0, 0.9, 1.1])
def test_the_bound_leaves_no_more_than_all_probability(factor: float) -> None:
    """Σ exp(−bound) ≤ 1 for right and wrong scores; equal to it where nothing is lost."""
    schedule = for_levels(17)
    model = scaled(discrete(lumpy(17), schedule).mixture, factor, schedule)
    result = score(model, pixels(17), levels=17, estimator="bound", throws=16_000, chunk=20_000)
    pmf = (-result.value * LN2).exp()
    error = (pmf * stderr(result) * LN2).square().sum().sqrt().item()
    assert pmf.sum().item() < 1 + 4 * error
    assert error < 0.015
    assert (pmf.sum().item() > 0.96) == (factor == 1.0)


@pytest.mark.parametrize("throws", [2, 8, 64])
def test_the_standard_error_of_throws_is_honest(throws: int) -> None:
    """Against the spread of repeats: not smaller, and not much larger, though the times are stratified."""
    exact, images = squares(4, 1, LogLinear())
    repeats = images.expand(600, -1, -1, -1)
    result = score(exact, repeats, estimator="bound", throws=throws, chunk=40_000)
    ratio = stderr(result).square().mean().item() / result.value.var().item()
    assert 0.8 < ratio < {2: 4.0, 8: 2.0, 64: 1.35}[throws]
    assert score(exact, images, estimator="bound", throws=1).stderr is None


@pytest.mark.parametrize(
    "schedule",
    [VariancePreserving(0.1, 20.0), Discrete(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))],
    ids=["linear", "ddpm"],
)
def test_other_schedules(schedule: Schedule) -> None:
    """A perfect model of a uniform distribution: log₂ B bits from the bound; the flow at most a little more."""
    pmf = torch.full((17,), 1 / 17, dtype=torch.float64)
    start = schedule.inverse(doubles(-start_gamma(17))).item()
    model = discrete(pmf, schedule)
    options = {"levels": 17, "start": start, "chunk": 100_000}
    bound = score(model, pixels(17), estimator="bound", throws=1000, **options)
    z = (bound.value - math.log2(17)) / stderr(bound)
    assert (z.abs() < 4.5).all()
    assert stderr(bound).max() < 0.4
    flow = score(model, pixels(17), draws=50, divergence="exact", **options)
    assert ((flow.value - math.log2(17)).abs() < 4.5 * stderr(flow) + 0.01).all()


# What goes wrong


@pytest.mark.parametrize("options", [{"chunk": 4}, {"draws": 3}, {"estimator": "bound"}])
def test_an_image_without_a_finite_score_is_told_and_harms_no_other(options: dict[str, Any]) -> None:
    exact, _ = squares(2, 1, LogLinear())
    images = torch.full((6, 1, 2, 2), 128, dtype=torch.uint8)
    images[3] = 255

    def network(x: Tensor, s: Tensor) -> Tensor:
        near = (x.flatten(1) > 0.9).all(1) & (s < 0.3)
        return exact.velocity(x, s).masked_fill(near[:, None, None, None], torch.nan)

    result = score(DiffusionModel(network, exact.schedule, "velocity"), images, **options)
    assert result.value.isnan().tolist() == [False] * 3 + [True] + [False] * 2
    assert result.failures() == "1 of 6 points: the field was not finite"


@pytest.mark.parametrize(
    ("images", "levels", "message"),
    [
        (torch.zeros(2, 1, 2, 2), 256, r"uint8 \(B, C, H, W\) expected, got torch.float32 of shape \(2, 1, 2, 2\)"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.long), 256, "got torch.int64"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), 256, r"shape \(2, 2, 2\)"),
        (torch.zeros(0, 1, 2, 2, dtype=torch.uint8), 256, r"shape \(0, 1, 2, 2\)"),
        (torch.full((2, 1, 2, 2), 17, dtype=torch.uint8), 17, "value 17 is beyond the 17 levels 0 … 16"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), 1, "2 to 256 levels expected, got 1"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), 257, "got 257"),
    ],
)
def test_images_without_a_probability_are_refused(images: Tensor, levels: int, message: str) -> None:
    model = DiffusionModel(lambda x, _s: x, LogLinear())
    for estimator in ("flow", "bound"):
        with pytest.raises(InputError, match=message):
            score(model, images, levels=levels, estimator=estimator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws, probes and chunk must be at least 1, got 0, 1 and 64"),
        ({"probes": 0}, "got 1, 0 and 64"),
        ({"chunk": 0}, "got 1, 1 and 0"),
        ({"throws": 4}, "estimator 'flow' has no setting throws"),
        ({"estimator": "bound", "chunk": 0}, "throws and chunk must be at least 1, got 16 and 0"),
        ({"start": 1.0}, r"start must lie in \[0.0, 1.0\), got 1.0"),
        ({"start": math.nan}, "got nan"),
        ({"rtol": 1e-8, "dtype": torch.float32}, "below 1e-6"),
        ({"estimator": "bound", "throws": 0}, "throws and chunk must be at least 1, got 0"),
        ({"estimator": "bound", "dequantization": "uniform"}, "the bound is variational, it has no 'uniform'"),
        ({"estimator": "bound", "rtol": 1e-3, "draws": 4}, "estimator 'bound' has no setting draws, rtol"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    model = DiffusionModel(lambda x, _s: x, LogLinear())
    with pytest.raises(InputError, match=message):
        score(model, torch.zeros(2, 1, 2, 2, dtype=torch.uint8), **options)


def test_another_estimator_is_refused() -> None:
    unchecked = getattr(bits_per_dim, "__wrapped__", bits_per_dim)
    model = DiffusionModel(lambda x, _s: x, LogLinear())
    with pytest.raises(InputError, match="estimator is 'flow' or 'bound', not 'formula'"):
        unchecked(model, torch.zeros(2, 1, 2, 2).byte(), estimator="formula", generator=seeded(0))


def test_a_data_end_without_noise_is_refused() -> None:
    model = DiffusionModel(lambda x, _s: x, VariancePreserving())
    with pytest.raises(InputError, match="no noise at start 0"):
        score(model, torch.zeros(1, 1, 1, 1, dtype=torch.uint8), start=0.0)


def test_the_public_name() -> None:
    assert dd.density.bits_per_dim is bits_per_dim
    assert dd.density.bound_terms is bound_terms
