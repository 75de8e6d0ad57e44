"""The path-integral bound against exact mixtures, closed-form wrong models, and its own promises."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from diffusion_density.density.ode.divergence import with_divergence
from diffusion_density.density.path_integral.plain import ROWS_PER_CALL, path_integral
from diffusion_density.machine.errors import InputError
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.batches import per_row
from diffusion_density.process.mixtures import ExactModel
from diffusion_density.process.model import DiffusionModel, GaussianPrior, Model
from diffusion_density.process.predictions import PREDICTIONS, Prediction
from diffusion_density.process.schedules import LogLinear, Schedule, VariancePreserving
from truths import PAPER_A, SCHEDULES, Altered, Counting, ScaledGaussian, doubles, network_of, random_mixture, seeded

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def exact_points(dimension: int, n: int, schedule: Schedule = PAPER_A) -> tuple[ExactModel, Tensor, Tensor]:
    """An exact model, points, and their log density at the first time of the schedule."""
    mixture = random_mixture(dimension)
    x = mixture.sample(n, generator=seeded(3))
    return mixture.diffused(schedule), x, mixture.diffused(schedule).log_prob(x, schedule.s_min)


def z_scores(model: Model, x: Tensor, truth: Tensor, throws: int, seed: int = 5) -> Tensor:
    result = path_integral(model, x, throws=throws, generator=seeded(seed))
    assert result.stderr is not None
    return (result.value - truth) / result.stderr


@pytest.mark.parametrize("dimension", [1, 3, 10, 30])
def test_exact_mixtures(dimension: int) -> None:
    exact, x, truth = exact_points(dimension, 200)
    result = path_integral(exact, x, throws=512, generator=seeded(5))
    assert result.stderr is not None
    inside = (result.value - truth).abs() < 4 * result.stderr
    assert inside.double().mean() >= 0.99
    assert result.stderr.mean() < 0.1 * dimension + 0.1  # sharp enough to mean something
    mean_error = result.stderr.square().sum().sqrt() / len(x)
    assert abs((result.value - truth).mean()) < 4 * mean_error
    assert (result.kind, result.density) == ("lower", "sde")
    assert result.status is not None
    assert result.status.tolist() == [0] * 200
    assert result.failures() is None


@each_schedule
def test_every_schedule(schedule: Schedule) -> None:
    exact, x, truth = exact_points(2, 100, schedule)
    z = z_scores(exact, x, truth, throws=1024)
    assert (z.abs() < 4).double().mean() >= 0.99
    assert abs(z.mean()) < 4 / 100**0.5


@pytest.mark.parametrize("schedule", [LogLinear(-1.0, 5.0), LogLinear(-2.0, 5.0, "straight")])
def test_points_at_a_noisy_data_end(schedule: Schedule) -> None:
    """The points are samples at s_min, not of clean data: the forward process goes on from there."""
    exact, x, truth = exact_points(2, 200, schedule)
    assert schedule.at(0.0)[1] > 0.2
    z = z_scores(exact, x, truth, throws=2048)
    assert (z.abs() < 4).double().mean() >= 0.99
    assert abs(z.mean()) < 4 / 200**0.5


def test_the_standard_error_is_honest() -> None:
    """Sum of squared z-scores of independent points: χ² with as many degrees of freedom."""
    exact, x, truth = exact_points(3, 400)
    z = z_scores(exact, x, truth, throws=2048)
    assert 0.7 < z.square().mean() < 1.35
    assert abs(z.mean()) < 4 / 400**0.5


def test_the_standard_error_falls_as_the_square_root() -> None:
    exact, x, _ = exact_points(3, 100)
    results = [path_integral(exact, x, throws=throws, generator=seeded(0)) for throws in (128, 512, 2048)]
    squares = [result.stderr.square().mean().item() for result in results if result.stderr is not None]
    assert squares[0] / squares[1] == pytest.approx(4, rel=0.15)
    assert squares[1] / squares[2] == pytest.approx(4, rel=0.15)
    scatter = results[0].value - results[2].value
    assert scatter.square().mean().item() == pytest.approx(squares[0] + squares[2], rel=0.6)


def test_the_standard_error_is_that_of_the_throws() -> None:
    """Against many runs of the same point."""
    exact, x, _ = exact_points(2, 1)
    result = path_integral(exact, x.expand(400, 2), throws=256, generator=seeded(2))
    assert result.stderr is not None
    assert result.stderr.square().mean().item() == pytest.approx(result.value.var().item(), rel=0.3)


@pytest.mark.parametrize("factor", [1.2, 0.7, 0.0])
@pytest.mark.parametrize("schedule", [PAPER_A, VariancePreserving(2.0, 2.0)])
def test_a_wrong_score_has_the_bound_of_its_quadrature(factor: float, schedule: Schedule) -> None:
    truth = ScaledGaussian(1.3, 0.36, factor, schedule)
    x = doubles(0.6, 0.9, 1.3, 2.0)
    result = path_integral(truth.model, x[:, None], throws=50_000, generator=seeded(1))
    assert result.stderr is not None
    assert ((result.value - truth.bound(x)).abs() < 4 * result.stderr).all()
    assert (result.stderr < 0.05).all()


@pytest.mark.parametrize("factor", [1.2, 0.7])
def test_the_bound_of_a_wrong_score_is_below_its_sde_density(factor: float) -> None:
    truth = ScaledGaussian(1.3, 0.36, factor)
    x = torch.linspace(-0.5, 3.0, 15, dtype=torch.float64)
    result = path_integral(truth.model, x[:, None], throws=8000, generator=seeded(1))
    assert result.stderr is not None
    log_prob = truth.sde.log_prob(x)
    assert (truth.bound(x) < log_prob).all()
    assert (result.value < log_prob + 4 * result.stderr).all()
    assert (result.value - log_prob).mean() < -0.05  # the gap of these two factors is not nothing


def test_the_sde_of_a_wrong_score() -> None:
    truth = ScaledGaussian(1.3, 0.36, 1.2)
    assert truth.sde.mean.item() == pytest.approx(1.300, abs=1e-3)
    assert truth.sde.variance.item() == pytest.approx(0.257, abs=1e-3)
    data = Normal(doubles(1.3), doubles(0.6))
    assert kl_divergence(data, truth.sde).item() == pytest.approx(0.032, abs=1e-3)
    assert truth.gap() == pytest.approx(0.182, abs=1e-3)
    x = 1.3 + 0.6 * torch.randn(4000, 1, generator=seeded(0), dtype=torch.float64)
    result = path_integral(truth.model, x, throws=64, generator=seeded(1))
    gaps = data.log_prob(x[:, 0]) - result.value
    error = gaps.std() / 4000**0.5
    assert error < 0.02
    assert abs(gaps.mean() - 0.182) < 4 * error + 5e-4


def test_zero_entropy_is_the_standard_normal() -> None:
    model = DiffusionModel(lambda x, _s: torch.zeros_like(x), PAPER_A, "entropy", GaussianPrior(1.0))
    x = 1.5 * torch.randn(200, 3, generator=seeded(0), dtype=torch.float64)
    z = z_scores(model, x, GaussianPrior(1.0).log_prob(x), throws=512)
    assert (z.abs() < 4).double().mean() >= 0.99
    assert abs(z.mean()) < 4 / 200**0.5
    assert 0.6 < z.square().mean() < 1.5


def trained_like(prediction: Prediction) -> DiffusionModel:
    network = MLP(3, (16, 16), 4, 4, 0.3, generator=seeded(0)).double()
    return DiffusionModel(network, PAPER_A, prediction)


@pytest.mark.parametrize("prediction", ["entropy", "score"])
def test_integration_by_parts(prediction: Prediction) -> None:
    """The bound with div u as it is, by throws of its own, agrees with the estimator's u·z/σ for a random network."""
    model = trained_like(prediction)
    x = torch.randn(3, 3, generator=seeded(1), dtype=torch.float64)
    result = path_integral(model, x, throws=20_000, generator=seeded(2))
    assert result.stderr is not None
    n, generator = 20_000, seeded(3)
    s = 1e-5 + (1 - 1e-5) * torch.rand(3 * n, generator=generator, dtype=torch.float64)
    noise = torch.randn(3 * n, 3, generator=generator, dtype=torch.float64)
    y = PAPER_A.alpha(s)[:, None] * x.repeat_interleave(n, 0) + PAPER_A.sigma(s)[:, None] * noise
    diffusion = PAPER_A.diffusion(s)

    def drift(y: Tensor) -> Tensor:
        return PAPER_A.drift(s)[:, None] * y - diffusion[:, None] * model.score(y, s)

    divergence = with_divergence(drift, y)[1][:, 0]
    with torch.no_grad():
        cost = 0.5 * diffusion * model.score(y, s).square().sum(1)
    alpha, sigma = PAPER_A.at(1.0)
    assert isinstance(model.prior, GaussianPrior)
    terms = (divergence - cost).reshape(3, n)
    value = model.prior.expected_log_prob(alpha * x, sigma) + terms.mean(1)
    error = (result.stderr.square() + terms.var(1) / n).sqrt()
    assert ((result.value - value).abs() < 4.5 * error).all()
    assert (error < 0.5).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_of_one_function_gives_the_same(prediction: Prediction) -> None:
    exact, x, _ = exact_points(2, 5)
    expected = path_integral(exact, x, throws=64, generator=seeded(0))
    found = path_integral(network_of(exact, prediction), x, throws=64, generator=seeded(0))
    torch.testing.assert_close(found.value, expected.value, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.stderr, expected.stderr, rtol=1e-7, atol=1e-7)


def test_a_prior_of_any_kind_enters_as_its_expectation() -> None:
    """The same prior as an object that only knows its log density."""

    class Opaque:
        def log_prob(self, x: Tensor) -> Tensor:
            return GaussianPrior(2.0).log_prob(x)

    exact, x, _ = exact_points(2, 50)
    closed = path_integral(Altered(exact, lambda a, _x, _s: a, GaussianPrior(2.0)), x, throws=2000, generator=seeded(0))
    opaque = path_integral(Altered(exact, lambda a, _x, _s: a, Opaque()), x, throws=2000, generator=seeded(1))
    assert closed.stderr is not None
    assert opaque.stderr is not None
    z = (closed.value - opaque.value) / (closed.stderr.square() + opaque.stderr.square()).sqrt()
    assert z.abs().max() < 4.5
    assert abs(z.mean()) < 4 / 50**0.5


def elementwise(prior: GaussianPrior | None) -> Model:
    """A model of elementwise arithmetic only, so that the size of a batch cannot change its rounding."""
    exact = random_mixture(3).diffused(PAPER_A)
    model = DiffusionModel(lambda x, s: (2 * x).tanh() * (1 + per_row(s, x)), PAPER_A, "score", prior)
    if prior is None:
        model.prior = exact.prior
    return model


@pytest.mark.parametrize("prior", [GaussianPrior(1.0), None])
@pytest.mark.parametrize("throws", [2, 37, 48, 1000, ROWS_PER_CALL + 5])
def test_a_point_alone_is_a_point_among_others(prior: GaussianPrior | None, throws: int) -> None:
    model = elementwise(prior)
    count = max(3, min(24, 3 * ROWS_PER_CALL // throws))
    for event in ((3,), (1, 3, 1)):
        x = torch.randn(count, *event, generator=seeded(0))
        many = path_integral(model, x, throws=throws, generator=seeded(4))
        generator = seeded(4)
        ones = [path_integral(model, row[None], throws=throws, generator=generator) for row in x]
        values = torch.cat([one.value for one in ones])
        tolerance = 0 if prior else 1e-5  # a mixture's prior has matrix products, whose rounding a batch may change
        torch.testing.assert_close(many.value, values, rtol=tolerance, atol=tolerance)
        assert len(values.unique()) == count


def test_the_same_generator_gives_the_same_and_another_another() -> None:
    exact, x, _ = exact_points(2, 4)
    values = [path_integral(exact, x, throws=50, generator=seeded(seed)).value for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert (values[0] - values[2]).abs().min() > 0


@pytest.mark.parametrize(("points", "throws"), [(5, 2), (5, 100), (40, 1000), (2, ROWS_PER_CALL + 1)])
def test_network_evaluations(points: int, throws: int) -> None:
    counter = Counting(lambda x, _s: x)
    model = DiffusionModel(counter, PAPER_A, "noise")
    x = torch.randn(points, 2, generator=seeded(0))
    result = path_integral(model, x, throws=throws, generator=seeded(1))
    assert counter.rows == points * throws == points * result.network_evaluations
    assert counter.backward == 0


@pytest.mark.parametrize("dimension", [4])
def test_images_are_points(dimension: int) -> None:
    exact, x, _ = exact_points(dimension, 6)
    flat = path_integral(exact, x, throws=100, generator=seeded(0))
    image = path_integral(exact, x.reshape(6, 1, 2, 2), throws=100, generator=seeded(0))
    torch.testing.assert_close(image.value, flat.value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(image.stderr, flat.stderr, rtol=1e-12, atol=1e-12)


def test_single_precision() -> None:
    exact, x, truth = exact_points(3, 200)
    result = path_integral(exact, x.float(), throws=512, generator=seeded(0))
    assert result.value.dtype == torch.float64
    assert result.stderr is not None
    z = (result.value - truth) / result.stderr
    assert (z.abs() < 4).double().mean() >= 0.99
    assert 0.6 < z.square().mean() < 1.5


def test_the_cutoff_is_the_first_time() -> None:
    asked: list[Tensor] = []

    def network(x: Tensor, s: Tensor) -> Tensor:
        asked.append(s)
        return x

    schedule = SCHEDULES["discrete-short"]
    x = doubles(1.0)[:, None]
    path_integral(DiffusionModel(network, schedule), x, throws=10_000, generator=seeded(0), cutoff=0.25)
    first = schedule.s_min + 0.25 * (1 - schedule.s_min)
    times = torch.cat(asked)
    assert first <= times.min() < first + 1e-3
    assert 1 - 1e-3 < times.max() <= 1
    uniform = (times - first) / (1 - first)
    assert uniform.mean().item() == pytest.approx(0.5, abs=4.5 * (1 / 12 / 10_000) ** 0.5)
    assert uniform.square().mean().item() == pytest.approx(1 / 3, abs=4.5 * (4 / 45 / 10_000) ** 0.5)


def test_results_are_ordinary_tensors_without_gradients() -> None:
    exact, x, _ = exact_points(2, 3)
    weight = torch.nn.Parameter(doubles(1.0))
    model = DiffusionModel(lambda y, s: weight * exact.noise(y, s), PAPER_A)
    points = x.clone().requires_grad_()
    result = path_integral(model, points, throws=8, generator=seeded(0))
    for value in (result.value, result.stderr, result.status):
        assert value is not None
        assert not value.requires_grad
        assert not value.is_inference()
        value += 0  # an inference tensor would refuse
    assert weight.grad is None
    assert torch.is_grad_enabled()


def test_a_score_that_is_not_finite_is_told() -> None:
    exact, x, _ = exact_points(2, 4)
    far = torch.cat([x, doubles(500.0, 0.0)[None]])

    def network(y: Tensor, s: Tensor) -> Tensor:
        return exact.noise(y, s).masked_fill((y[:, :1] > 100), torch.nan)

    model = DiffusionModel(network, PAPER_A, prior=exact.prior)
    result = path_integral(model, far, throws=64, generator=seeded(0))
    assert result.status is not None
    assert result.stderr is not None
    assert result.status.tolist() == [0, 0, 0, 0, 1]
    assert result.value.isnan().tolist() == result.stderr.isnan().tolist() == [False] * 4 + [True]
    expected = path_integral(exact, x, throws=64, generator=seeded(0)).value
    torch.testing.assert_close(result.value[:4], expected, rtol=1e-10, atol=1e-10)
    assert result.failures() == "1 of 5 points: the field was not finite"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"throws": 1}, "throws must be at least 2, got 1"),
        ({"throws": -3}, "got -3"),
        ({"cutoff": 0.0}, "cutoff must lie between 0 and 1, got 0.0"),
        ({"cutoff": 1.0}, "got 1.0"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    exact, x, _ = exact_points(2, 3)
    with pytest.raises(InputError, match=message):
        path_integral(exact, x, generator=seeded(0), **options)


def test_points_that_are_not_finite_are_named() -> None:
    exact, x, _ = exact_points(2, 3)
    x[2, 1] = torch.nan
    with pytest.raises(InputError, match="point 2 has numbers that are not finite"):
        path_integral(exact, x, generator=seeded(0))
