"""The path-integral bound with its variance reduced: against exact mixtures, closed-form wrong models, and plain."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

from diffusion_density.density.path_integral.plain import ROWS_PER_CALL, Method, path_integral
from diffusion_density.density.path_integral.quasi_random import draw
from diffusion_density.density.path_integral.reduced import _features
from diffusion_density.density.result import LogDensity
from diffusion_density.machine.errors import InputError
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.batches import per_row
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import DiffusionModel, GaussianPrior, Model
from diffusion_density.process.schedules import LogLinear, Schedule, VariancePreserving
from truths import PAPER_A, SCHEDULES, Altered, Counting, ScaledGaussian, doubles, random_mixture, seeded

each_schedule = pytest.mark.parametrize(
    "schedule",
    [*SCHEDULES.values(), LogLinear(-2.0, 5.0, "straight")],
    ids=[*SCHEDULES.keys(), "noisy-data-end"],
)


def reduced(model: Model, x: Tensor, throws: int, seed: int = 0, cutoff: float = 1e-5) -> LogDensity:
    return path_integral(model, x, throws=throws, method="reduced", generator=seeded(seed), cutoff=cutoff)


def exact_points(dimension: int, n: int, schedule: Schedule = PAPER_A) -> tuple[ExactModel, Tensor, Tensor]:
    """An exact model, points, and their log density at the first time of the schedule."""
    mixture = random_mixture(dimension)
    x = mixture.sample(n, generator=seeded(3))
    return mixture.diffused(schedule), x, mixture.diffused(schedule).log_prob(x, schedule.s_min)


def runs(model: Model, x: Tensor, throws: int, count: int, cutoff: float = 1e-7) -> tuple[Tensor, Tensor]:
    """Values and standard errors of independent runs, (count, B)."""
    results = [reduced(model, x, throws, seed, cutoff) for seed in range(count)]
    return torch.stack([r.value for r in results]), torch.stack([r.stderr for r in results if r.stderr is not None])


def assert_unbiased(values: Tensor, truth: Tensor, within: float = 1e-6) -> None:
    """The mean of the runs is within four of its standard errors of the truth, and within the bias of the cutoff."""
    error = values.std(0) / len(values) ** 0.5
    assert ((values.mean(0) - truth).abs() < 4 * error + within).all()


@pytest.mark.parametrize("dimension", [1, 3, 10, 120])
def test_exact_mixtures(dimension: int) -> None:
    exact, x, truth = exact_points(dimension, 8)
    values, errors = runs(exact, x, throws=128, count=40)
    assert_unbiased(values, truth)
    assert errors.mean() < 0.1 * dimension  # sharp enough to mean something
    torch.testing.assert_close(errors.square().mean(), values.var(0).mean(), rtol=0.7, atol=0)


@each_schedule
def test_every_schedule(schedule: Schedule) -> None:
    exact, x, truth = exact_points(2, 8, schedule)
    values, errors = runs(exact, x, throws=256, count=40)
    assert_unbiased(values, truth, within=1e-5)
    assert errors.mean() < 0.1


@pytest.mark.parametrize("factor", [1.2, 0.7, 0.0])
@pytest.mark.parametrize("schedule", [PAPER_A, VariancePreserving(2.0, 2.0)])
def test_a_wrong_score_has_the_bound_of_its_quadrature(factor: float, schedule: Schedule) -> None:
    truth = ScaledGaussian(1.3, 0.36, factor, schedule)
    x = doubles(0.6, 0.9, 1.3, 2.0)
    values, _ = runs(truth.model, x[:, None], throws=512, count=40)
    assert_unbiased(values, truth.bound(x), within=1e-5)
    assert values.std(0).max() / 40**0.5 < 0.2  # no score at all is noisy at the noise end


@each_schedule
def test_a_network_has_the_bound_of_the_plain_method(schedule: Schedule) -> None:
    network = MLP(3, (16, 16), 4, 4, 0.3, generator=seeded(0)).double()
    model = DiffusionModel(network, schedule, "velocity")
    x = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64)
    plain = path_integral(model, x, throws=60_000, generator=seeded(2))
    values, _ = runs(model, x, throws=512, count=20, cutoff=1e-5)
    assert plain.stderr is not None
    error = (plain.stderr.square() + values.var(0) / 20).sqrt()
    assert ((values.mean(0) - plain.value).abs() < 4 * error + 1e-3).all()
    assert (error < 0.5).all()


@pytest.mark.parametrize("throws", [64, 1024])
def test_the_intervals_cover(throws: int) -> None:
    """By Student's t of seven degrees of freedom, over the runs of points far from each other."""
    exact, x, truth = exact_points(3, 4)
    values, errors = runs(exact, x, throws=throws, count=120)
    inside = (values - truth).abs() < student.ppf(0.975, 7) * errors
    assert 0.88 <= inside.double().mean() <= 0.99


@each_schedule
def test_a_standard_normal_has_no_variance(schedule: Schedule) -> None:
    """The reference itself: exact whatever the throws and the cutoff."""
    normal = GaussianMixture(doubles(1.0), torch.zeros(1, 2).double(), torch.eye(2).double()[None])
    first, last = (sum(part**2 for part in schedule.at(s)) for s in (schedule.s_min, schedule.s_max))
    model = Altered(normal.diffused(schedule), lambda a, _x, _s: a, GaussianPrior(last))
    x = 1.5 * torch.randn(20, 2, generator=seeded(0), dtype=torch.float64)
    result = reduced(model, x, throws=16, cutoff=0.1)
    torch.testing.assert_close(result.value, GaussianPrior(first).log_prob(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(result.stderr, torch.zeros_like(result.value), rtol=0, atol=1e-10)


def sharp_mixture(seed: int) -> GaussianMixture:
    """A random mixture in three dimensions with a quarter of its standard deviations."""
    mixture = GaussianMixture.random(3, 5, seeded(seed))
    return GaussianMixture(mixture.weights, mixture.means, mixture.covariances / 16)


def variance_ratio(model: Model, x: Tensor, throws: int) -> float:
    """Of plain to reduced at equal evaluations, means over points."""
    plain = path_integral(model, x, throws=throws, generator=seeded(2)).stderr
    _, errors = runs(model, x, throws, count=4, cutoff=1e-5)
    assert plain is not None
    return (plain.square().mean() / errors.square().mean()).item()


@pytest.mark.parametrize(("throws", "points", "least"), [(1024, 40, 30), (4096, 20, 50)])
def test_the_variance_at_equal_evaluations_of_sharp_mixtures(throws: int, points: int, least: float) -> None:
    mixtures = [sharp_mixture(seed) for seed in range(3)]
    ratios = [variance_ratio(m.diffused(PAPER_A), m.sample(points, generator=seeded(1)), throws) for m in mixtures]
    assert doubles(*ratios).median() >= least


def test_the_variance_in_thirty_dimensions() -> None:
    mixture = GaussianMixture.random(30, 5, seeded(0), full=True)
    assert variance_ratio(mixture.diffused(PAPER_A), mixture.sample(40, generator=seeded(1)), 1024) >= 8


def test_a_score_of_nothing_has_less_variance_than_plain() -> None:
    model = DiffusionModel(lambda x, _s: torch.zeros_like(x), PAPER_A, "score")
    x = torch.randn(40, 3, generator=seeded(0), dtype=torch.float64)
    assert variance_ratio(model, x, 1024) > 1


def test_the_errors_of_points_are_independent() -> None:
    """The variance of a mean over points is that of its points over their number."""
    exact, x, _ = exact_points(3, 1)
    values, _ = runs(exact, x.expand(64, -1), throws=64, count=60)
    assert values.mean(1).var() * 64 < 1.8 * values.var()


def test_a_target_is_reached_and_paid_for_by_the_points_that_need_it() -> None:
    exact, x, truth = exact_points(3, 60)
    counter = Counting(exact.score)
    model = DiffusionModel(counter, PAPER_A, "score", exact.prior)
    result = path_integral(model, x, throws=64, method="reduced", target_stderr=0.03, generator=seeded(0))
    assert result.stderr is not None
    assert (result.stderr <= 0.03).all()
    assert ((result.value - truth).abs() < 3 * result.stderr + 2e-3).double().mean() > 0.9
    assert 64 < result.network_evaluations < 8192
    assert math.ceil(counter.rows / 60) == result.network_evaluations
    few = path_integral(exact, x, throws=64, method="reduced", target_stderr=1e-6, max_throws=500, generator=seeded(0))
    assert few.network_evaluations == 64 + 128 + 256


def test_the_error_falls_faster_than_the_square_root() -> None:
    exact, x, _ = exact_points(2, 20)
    squares = [runs(exact, x, throws, count=8)[1].square().mean() for throws in (128, 2048)]
    assert squares[0] / squares[1] > 2 * 16


def test_a_prior_of_any_kind_enters_as_its_expectation() -> None:
    """The same prior as an object that only knows its log density: the same throws, its mean by throws."""

    class Opaque:
        def log_prob(self, x: Tensor) -> Tensor:
            return GaussianPrior(2.0).log_prob(x)

    exact, x, _ = exact_points(2, 8)
    closed = reduced(Altered(exact, lambda a, _x, _s: a, GaussianPrior(2.0)), x, throws=1024)
    values, _ = runs(Altered(exact, lambda a, _x, _s: a, Opaque()), x, throws=1024, count=20)
    expected, _ = runs(Altered(exact, lambda a, _x, _s: a, GaussianPrior(2.0)), x, throws=1024, count=20)
    differences = values - expected  # of equal throws: the prior alone
    assert_unbiased(differences, torch.zeros(8, dtype=torch.float64))
    assert differences.abs().max() > 0
    assert (closed.kind, closed.density) == ("lower", "sde")


def elementwise(dtype: torch.dtype = torch.float64) -> Model:
    """A model of elementwise arithmetic only, so that the size of a batch cannot change its rounding."""
    return DiffusionModel(lambda x, s: (2 * x).tanh() * (1 + per_row(s, x)).to(dtype), PAPER_A, "score")


@pytest.mark.parametrize("throws", [16, 48, 1024, 2 * ROWS_PER_CALL + 16])
def test_a_batch_gives_what_its_points_give(throws: int) -> None:
    """One after the other, from the same generator."""
    for event in ((3,), (1, 3, 1), (101,)):
        x = torch.randn(3, *event, generator=seeded(0), dtype=torch.float64)
        many = reduced(elementwise(), x, throws)
        generator = seeded(0)
        ones = [
            path_integral(elementwise(), row[None], throws=throws, method="reduced", generator=generator) for row in x
        ]
        torch.testing.assert_close(many.value, torch.cat([one.value for one in ones]), rtol=1e-11, atol=1e-11)
        assert len(many.value.unique()) == 3


def test_the_same_generator_gives_the_same_and_another_another() -> None:
    exact, x, _ = exact_points(2, 4)
    values = [reduced(exact, x, 64, seed).value for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert (values[0] - values[2]).abs().min() > 0


@pytest.mark.parametrize(("points", "throws"), [(5, 16), (40, 1024), (2, 2 * ROWS_PER_CALL + 16)])
def test_network_evaluations(points: int, throws: int) -> None:
    counter = Counting(lambda x, _s: x)
    x = torch.randn(points, 2, generator=seeded(0))
    result = reduced(DiffusionModel(counter, PAPER_A, "noise"), x, throws)
    assert counter.rows == points * throws == points * result.network_evaluations
    assert counter.rows <= counter.calls * ROWS_PER_CALL
    assert result.settings["method"] == "reduced"


def test_images_are_points() -> None:
    exact, x, _ = exact_points(4, 6)
    flat, image = reduced(exact, x, 64), reduced(exact, x.reshape(6, 1, 2, 2), 64)
    torch.testing.assert_close(image.value, flat.value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(image.stderr, flat.stderr, rtol=1e-10, atol=1e-12)


def test_single_precision() -> None:
    exact, x, _ = exact_points(3, 20)
    single, double = reduced(exact, x.float(), 1024), reduced(exact, x.float().double(), 1024)
    assert single.value.dtype == torch.float64
    torch.testing.assert_close(single.value, double.value, rtol=0, atol=1e-3)


def test_results_are_ordinary_tensors_without_gradients() -> None:
    exact, x, _ = exact_points(2, 3)
    result = reduced(exact, x.clone().requires_grad_(), 16)
    for value in (result.value, result.stderr, result.status):
        assert value is not None
        assert not value.requires_grad
        value += 0  # an inference tensor would refuse


def test_a_score_that_is_not_finite_is_told() -> None:
    exact, x, _ = exact_points(2, 4)
    model = Altered(exact, lambda a, y, _s: a.masked_fill(y[:, :1] > 100, torch.nan), GaussianPrior(1.0))
    result = reduced(model, torch.cat([x, doubles(500.0, 0.0)[None]]), 64)
    assert result.status is not None
    assert result.status.tolist() == [0, 0, 0, 0, 1]
    assert result.value.isnan().tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(("size", "count"), [(2, 64), (30, 64), (120, 8)])
def test_features_have_no_mean(size: int, count: int) -> None:
    """Over times and noise, in as many polynomials as the throws can fit."""
    x = torch.zeros(400, size, dtype=torch.float64)
    features = _features(*draw(x, count, seeded(0))).flatten(1, 2)
    assert features.shape[2] == {2: 39, 30: 19, 120: 5}[size]
    means = features.mean(1)
    assert (means.mean(0).abs() < 4.5 * means.std(0) / len(x) ** 0.5).all()
    assert (features.square().mean((0, 1)) > 0.1).all()


def test_the_rows_of_a_call_change_nothing() -> None:
    exact, x, _ = exact_points(2, 5)
    whole, parts = (
        path_integral(exact, x, throws=64, method="reduced", generator=seeded(0), chunk=chunk)
        for chunk in (ROWS_PER_CALL, 32)
    )
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["plain", "reduced"])
def test_a_call_of_less_than_a_pair_is_named(method: Method) -> None:
    exact, x, _ = exact_points(2, 5)
    with pytest.raises(InputError, match="chunk must be at least 2"):
        path_integral(exact, x, throws=64, method=method, generator=seeded(0), chunk=1)


@pytest.mark.parametrize("throws", [2, 8, 24, 1000])
def test_throws_that_make_no_pairs_of_scramblings_are_named(throws: int) -> None:
    exact, x, _ = exact_points(2, 3)
    with pytest.raises(InputError, match=f"the reduced method takes throws in multiples of 16, got {throws}"):
        reduced(exact, x, throws)


def test_a_method_without_a_name_is_named() -> None:
    exact, x, _ = exact_points(2, 3)
    unchecked: Callable[..., LogDensity] = getattr(path_integral, "__wrapped__", path_integral)  # past beartype
    with pytest.raises(InputError, match="method is one of plain, reduced, not 'none'"):
        unchecked(exact, x, method="none", generator=seeded(0))
