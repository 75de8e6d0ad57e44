"""The flow density against exact mixtures, closed-form wrong flows, and its own promises."""

import itertools
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from diffusion_density.density.ode.flow import flow
from diffusion_density.density.result import LogDensity, check_points
from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import ExactModel
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.predictions import PREDICTIONS, Prediction
from diffusion_density.process.schedules import Schedule
from truths import PAPER_A, SCHEDULES, Counting, ScaledGaussian, doubles, network_of, random_mixture, seeded

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def exact_points(dimension: int, n: int, schedule: Schedule = PAPER_A) -> tuple[ExactModel, Tensor, Tensor]:
    """An exact model, points, and their log density at the data end of the schedule."""
    mixture = random_mixture(dimension)
    x = mixture.sample(n, generator=seeded(3))
    return mixture.diffused(schedule), x, mixture.diffused(schedule).log_prob(x, schedule.s_start)


@pytest.mark.parametrize("start", [0.0, None])
@pytest.mark.parametrize(("dimension", "n"), [(1, 16), (3, 16), (10, 6), (30, 2)])
def test_exact_mixtures(dimension: int, n: int, start: float | None) -> None:
    exact, x, _ = exact_points(dimension, n)
    result = flow(exact, x, rtol=1e-6, atol=1e-6, start=start)
    truth = exact.mixture.log_prob(x)
    assert (result.value - truth).abs().max() < 1e-4
    assert (result.kind, result.density, result.stderr) == ("exact", "flow", None)
    assert result.status is not None
    assert result.status.tolist() == [0] * n
    assert result.failures() is None
    assert result.value.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "prediction"),
    [*((name, "noise") for name in SCHEDULES), *itertools.product(("vp", "log-linear-straight"), PREDICTIONS)],
)
def test_every_schedule_and_prediction(name: str, prediction: Prediction) -> None:
    exact, x, truth = exact_points(2, 4, SCHEDULES[name])
    result = flow(network_of(exact, prediction), x, rtol=1e-6, atol=1e-6)
    assert (result.value - truth).abs().max() < 1e-4


@each_schedule
def test_a_model_is_never_asked_beyond_its_times(schedule: Schedule) -> None:
    exact, x, _ = exact_points(2, 4, schedule)
    asked: list[float] = []

    def network(y: Tensor, s: Tensor) -> Tensor:
        asked.extend(s.tolist())
        return exact.noise(y, s)

    flow(DiffusionModel(network, schedule, "noise"), x, rtol=1e-4, atol=1e-4)
    assert schedule.s_start * (1 - 1e-12) <= min(asked)
    assert max(asked) <= schedule.s_max * (1 + 1e-12)
    assert max(asked) > 0.999 * schedule.s_max


def test_points_far_from_the_data() -> None:
    exact, x, _ = exact_points(2, 4)
    far = torch.cat([x + 6, 0 * x])
    result = flow(exact, far, rtol=1e-6, atol=1e-6, start=0.0)
    truth = exact.mixture.log_prob(far)
    assert truth.min() < -20
    assert ((result.value - truth).abs() / (1 + truth.abs())).max() < 1e-4


def test_any_start() -> None:
    exact, x, _ = exact_points(2, 8)
    result = flow(exact, x, rtol=1e-6, atol=1e-6, start=0.25)
    assert (result.value - exact.log_prob(x, 0.25)).abs().max() < 1e-4
    assert result.settings["start"] == 0.25


@pytest.mark.parametrize("factor", [1.2, 0.7])
def test_the_flow_of_a_wrong_score_has_its_own_density(factor: float) -> None:
    """Not that of the reverse SDE, and not that of the data."""
    truth = ScaledGaussian(1.3, 0.36, factor)
    x = doubles(0.0, 0.9, 1.3, 2.0)
    result = flow(truth.model, x[:, None], rtol=1e-6, atol=1e-6, start=0.0)
    torch.testing.assert_close(result.value, truth.flow.log_prob(x), rtol=0, atol=1e-4)
    assert (result.value - truth.sde.log_prob(x)).abs().min() > 0.05


def test_the_flow_of_a_wrong_score() -> None:
    truth = ScaledGaussian(1.3, 0.36, 1.2)
    assert truth.flow.mean.item() == pytest.approx(1.294, abs=1e-3)
    assert truth.flow.variance.item() == pytest.approx(0.059, abs=1e-3)
    data = Normal(doubles(1.3), doubles(0.6))
    assert kl_divergence(data, truth.flow).item() == pytest.approx(1.66, abs=0.01)
    x = data.icdf((torch.arange(64, dtype=torch.float64) + 0.5) / 64)  # quantiles: a quadrature of E over the data
    values = flow(truth.model, x[:, None], rtol=1e-6, atol=1e-6, start=0.0).value
    assert (data.log_prob(x) - values).mean().item() == pytest.approx(1.66, abs=0.06)


@pytest.mark.parametrize("prediction", ["entropy", "noise"])
def test_network_evaluations_of_the_exact_divergence(prediction: Prediction) -> None:
    exact, x, _ = exact_points(3, 5)
    model = network_of(exact, prediction)
    model.network = counter = Counting(model.network)
    result = flow(model, x)
    assert counter.backward == 3 * counter.calls
    assert result.network_evaluations == counter.calls + counter.backward == 4 * result.settings["solver_calls"]
    assert counter.rows == 5 * counter.calls


@pytest.mark.parametrize("probes", [1, 3])
def test_network_evaluations_of_hutchinson(probes: int) -> None:
    exact, x, _ = exact_points(4, 5)
    model = network_of(exact, "score")
    model.network = counter = Counting(model.network)
    result = flow(model, x, divergence="hutchinson", probes=probes, generator=seeded(0))
    assert counter.backward == probes * counter.calls
    assert result.network_evaluations == counter.calls + counter.backward == (1 + probes) * counter.calls
    assert result.settings["probes"] == probes


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_a_point_alone_and_among_others(tolerance: float) -> None:
    exact, x, truth = exact_points(3, 5)
    x = torch.cat([x, 5 * torch.ones(1, 3, dtype=torch.float64)])
    many = flow(exact, x, rtol=tolerance, atol=tolerance).value
    one = torch.cat([flow(exact, row[None], rtol=tolerance, atol=tolerance).value for row in x])
    assert ((many - one).abs() / (1 + one.abs())).max() < 10 * tolerance
    assert not torch.equal(many, one)  # the steps do differ: something was tested
    assert ((many[:-1] - truth).abs() / (1 + truth.abs())).max() < 10 * tolerance + 1e-4


@pytest.mark.parametrize("options", [{}, {"divergence": "hutchinson", "probes": 2}])
def test_images_are_points(options: dict[str, object]) -> None:
    exact, x, _ = exact_points(6, 5)
    flat = flow(exact, x, generator=seeded(1), **options)
    image = flow(exact, x.reshape(5, 1, 2, 3), generator=seeded(1), **options)
    torch.testing.assert_close(image.value, flat.value, rtol=1e-11, atol=1e-11)
    assert image.network_evaluations == flat.network_evaluations


@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_is_unbiased(probes: int) -> None:
    exact, x, truth = exact_points(4, 2)
    repeats = 300
    result = flow(exact, x.repeat_interleave(repeats, 0), divergence="hutchinson", probes=probes, generator=seeded(6))
    assert result.kind == "unbiased"
    values = result.value.reshape(2, repeats)
    error = values.std(1) / repeats**0.5
    assert ((values.mean(1) - truth).abs() < 4 * error + 1e-4).all()
    assert (error < 0.1).all()  # sharp enough to see a bias
    assert (values.std(1) * probes**0.5 > 0.05).all()


def test_the_standard_error_of_several_probes_is_honest() -> None:
    exact, x, truth = exact_points(4, 1)
    result = flow(exact, x.expand(500, 4), divergence="hutchinson", probes=6, generator=seeded(7))
    assert result.stderr is not None
    spread = result.value.var()
    assert result.stderr.square().mean().item() == pytest.approx(spread.item(), rel=0.25)
    z = (result.value - truth) / spread.sqrt()
    assert 0.75 < z.square().mean() < 1.3


def test_one_probe_has_no_standard_error() -> None:
    exact, x, _ = exact_points(2, 3)
    assert flow(exact, x, divergence="hutchinson", generator=seeded(0)).stderr is None


def test_probes_follow_their_generator() -> None:
    exact, x, _ = exact_points(4, 3)
    values = [flow(exact, x, divergence="hutchinson", generator=seeded(seed)).value for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def broken(exact: ExactModel, when: float) -> DiffusionModel:
    """The exact entropy, but NaN beyond 4 in the first coordinate after some time."""

    def network(x: Tensor, s: Tensor) -> Tensor:
        bad = (x[:, 0] > 4) & (s > when)
        return exact.entropy(x, s).masked_fill(bad[:, None], torch.nan)

    return DiffusionModel(network, exact.schedule, "entropy", exact.prior)


@pytest.mark.parametrize("when", [-1.0, 0.3])
@pytest.mark.parametrize("options", [{}, {"divergence": "hutchinson", "probes": 2}])
def test_a_point_without_a_finite_field_is_told_and_harms_no_other(when: float, options: dict[str, object]) -> None:
    exact, x, truth = exact_points(2, 6)
    far = torch.cat([x[:3], doubles(9.0, 0.0)[None], x[3:]])
    result = flow(broken(exact, when), far, rtol=1e-6, atol=1e-6, generator=seeded(0), **options)
    assert result.status is not None
    assert result.status.tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert result.value.isnan().tolist() == [False] * 3 + [True] + [False] * 3
    others = result.value[result.status == 0]
    if options:
        assert result.stderr is not None
        assert result.stderr.isnan().tolist() == result.value.isnan().tolist()
        alone = flow(exact, far, rtol=1e-6, atol=1e-6, generator=seeded(0), **options)
        truth = alone.value[result.status == 0]
    assert (others - truth).abs().max() < 1e-4
    assert result.failures() == "1 of 7 points: the field was not finite"


def test_too_many_steps_are_told() -> None:
    exact, x, _ = exact_points(2, 4)
    result = flow(exact, x, rtol=1e-8, atol=1e-8, max_steps=3)
    assert result.status is not None
    assert result.status.tolist() == [2] * 4
    assert result.value.isnan().all()
    assert result.failures() == "4 of 4 points: the solver stopped before the end"
    assert result.network_evaluations == 3 * result.settings["solver_calls"] > 0


def test_an_explosion_ends() -> None:
    """dx/ds = 4 x³ leaves every bound before s = 1: the solver must stop, not hang."""
    model = DiffusionModel(lambda x, _s: -(x**3) / 2, SCHEDULES["vp-constant"], "entropy")
    result = flow(model, doubles(3.0)[:, None])
    assert result.status is not None
    assert result.status.item() > 0
    assert result.value.isnan().all()


def test_an_assertion_in_the_network_is_not_the_solvers() -> None:
    def network(_x: Tensor, _s: Tensor) -> Tensor:
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        flow(DiffusionModel(network, PAPER_A), torch.zeros(2, 3))


@pytest.mark.parametrize("mode", [nullcontext(), torch.no_grad(), torch.inference_mode()])
def test_the_callers_autograd_is_left_alone(mode: AbstractContextManager[None]) -> None:
    exact, x, truth = exact_points(2, 4)
    weight = torch.nn.Parameter(doubles(1.0))
    model = DiffusionModel(lambda y, s: weight * exact.entropy(y, s), PAPER_A, "entropy", exact.prior)
    with mode:
        points = x.clone()
        if not torch.is_inference_mode_enabled():
            points.requires_grad_()
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        result = flow(model, points, rtol=1e-6, atol=1e-6)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert (result.value - truth).abs().max() < 1e-4
    assert not result.value.requires_grad
    assert not result.value.is_inference()
    assert weight.grad is None
    assert points.grad is None
    assert torch.equal(points.detach(), x)


def test_single_precision() -> None:
    exact, x, truth = exact_points(3, 16)
    result = flow(exact, x.float())
    assert (result.value - truth).abs().max() < 2e-3
    assert result.value.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0.0}, "tolerances must be positive, got rtol=0.0"),
        ({"atol": -1.0}, "atol=-1.0"),
        ({"rtol": 1e-7}, "below 1e-6 need points in double precision"),
        ({"atol": 1e-7}, "below 1e-6 need points in double precision"),
        ({"divergence": "hutchinson"}, "hutchinson draws its probes from a generator"),
        ({"divergence": "hutchinson", "probes": 0, "generator": seeded(0)}, "probes >= 1"),
        ({"start": 1.0}, r"start must lie in \[0.0, 1.0\), got 1.0"),
        ({"start": 1.5}, "got 1.5"),
        ({"start": -0.1}, "got -0.1"),
        ({"start": float("nan")}, "got nan"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, object], message: str) -> None:
    exact, x, _ = exact_points(2, 3)
    with pytest.raises(InputError, match=message):
        flow(exact, x.float(), **options)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3), r"a floating-point batch \(B, \*\) expected, got torch.float32 of shape \(3,\)"),
        (torch.zeros(3, 2, dtype=torch.long), "got torch.int64"),
        (torch.zeros(0, 2), r"shape \(0, 2\)"),
        (torch.tensor([[0.0], [1.0], [torch.nan], [torch.inf]]), "point 2 has numbers that are not finite"),
    ],
)
def test_batches_that_no_estimator_can_use(x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_points(x)


def test_points_that_are_not_finite_are_named() -> None:
    exact, x, _ = exact_points(2, 3)
    x[1, 0] = torch.inf
    with pytest.raises(InputError, match="point 1 has"):
        flow(exact, x)


def test_failures_are_counted_by_reason() -> None:
    status = torch.tensor([0, 1, 2, 1])
    value = doubles(0, 0, 0, 0)
    result = LogDensity(value, None, "exact", "flow", 1, status=status)
    assert result.failures() == (
        "2 of 4 points: the field was not finite; 1 of 4 points: the solver stopped before the end"
    )
    assert LogDensity(value, None, "exact", "flow", 1).failures() is None
