"""The flow by sweeps: its tolerances, its points that are independent of each other, and what it counts."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap
from torchdiffeq import odeint

from diffusion_density import density
from diffusion_density.density.result import LogDensity
from diffusion_density.machine.errors import InputError
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.predictions import Prediction
from diffusion_density.process.schedules import Schedule
from truths import PAPER_A, SCHEDULES, Counting, doubles, network_of, random_mixture, seeded

SIZES: dict[str, Any] = {"widths": (16, 16), "frequencies": 8, "time_frequencies": 8, "frequency_scale": 0.1}
flow = partial(density.flow, solver="sweeps")


def exact_points(dimension: int, n: int, schedule: Schedule = PAPER_A) -> tuple[ExactModel, Tensor, Tensor]:
    mixture = random_mixture(dimension)
    exact = mixture.diffused(schedule)
    x = mixture.sample(n, generator=seeded(3))
    return exact, x, exact.log_prob(x, schedule.s_start)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mixture_on_every_schedule(schedule: Schedule, dtype: torch.dtype) -> None:
    exact, x, truth = exact_points(3, 20, schedule)
    result = flow(exact, x.to(dtype), rtol=1e-4, atol=1e-4)
    assert ((result.value - truth).abs() < 3e-4 * (1 + truth.abs())).all()
    assert (result.kind, result.density, result.stderr, result.value.dtype) == ("exact", "flow", None, torch.float64)


def random_network(dimension: int, stack: int = 1) -> MLP:
    """A stack of untrained networks in double precision: fields whose density no score of theirs belongs to."""
    members = [MLP(dimension, **SIZES, generator=seeded(seed)) for seed in range(stack)]
    return MLP.stack(members).double() if stack > 1 else members[0].double()


def by_torchdiffeq(model: DiffusionModel, x: Tensor) -> Tensor:
    """log p by an adaptive Runge-Kutta method, the trace by the whole Jacobian."""
    jacobian = vmap(jacrev(lambda y, s: model.flow_drift(y[None], s)[0]), in_dims=(0, None))

    def field(s: Tensor, state: Tensor) -> Tensor:
        y = state[:, :-1]
        trace = jacobian(y, s).diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
        return torch.cat([model.flow_drift(y, s), trace], dim=1)

    times = doubles(model.schedule.s_start, model.schedule.s_max)
    end = odeint(field, torch.cat([x, 0 * x[:, :1]], dim=1), times, rtol=1e-9, atol=1e-9)[-1]
    return model.prior.log_prob(end[:, :-1]) + end[:, -1]


@pytest.mark.parametrize("prediction", ["entropy", "noise"])
def test_network_evaluations_of_the_exact_divergence(prediction: Prediction) -> None:
    exact, x, _ = exact_points(4, 5)
    model = network_of(exact, prediction)
    model.network = counter = Counting(model.network)
    result = flow(model, x)
    settings = result.settings
    assert counter.calls == settings["solver_calls"]
    assert counter.rows + counter.pulled == settings["total_evaluations"]
    assert result.network_evaluations == math.ceil(settings["total_evaluations"] / 5)
    assert result.network_evaluations <= settings["most_evaluations"] < settings["total_evaluations"]
    assert 0 < counter.pulled < 4 * counter.rows  # fewer times for the divergence than for the field
    assert (settings["probes"], settings["by_steps"]) == (0, 0)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
def test_batch_mates_change_nothing(tolerance: float) -> None:
    """Alone, among others, and among one that needs many more nodes than the rest."""
    exact, x, _ = exact_points(3, 5)
    x = torch.cat([x, 8 * torch.ones(1, 3, dtype=torch.float64)])
    many = flow(exact, x, rtol=tolerance, atol=tolerance)
    one = [flow(exact, row[None], rtol=tolerance, atol=tolerance) for row in x]
    torch.testing.assert_close(many.value, torch.cat([single.value for single in one]), rtol=1e-10, atol=1e-10)
    assert sum(single.network_evaluations for single in one) == many.settings["total_evaluations"]
    assert len({single.network_evaluations for single in one}) > 1


@pytest.mark.usefixtures("settings_put_back")
def test_threads_change_nothing() -> None:
    """Each takes points of its own, and torch has its threads back afterwards."""
    exact, x, _ = exact_points(3, 7)
    model = network_of(exact, "entropy")
    alone = flow(model, x, rtol=1e-6, atol=1e-6)
    torch.set_num_threads(3)
    together = flow(model, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together.value, alone.value, rtol=1e-12, atol=1e-12)
    assert torch.get_num_threads() == 3
    assert together.network_evaluations == alone.network_evaluations
    assert together.settings["solver_calls"] > alone.settings["solver_calls"]


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_the_flow_of_a_network_that_is_no_score(tolerance: float) -> None:
    model = DiffusionModel(random_network(3), PAPER_A, "entropy")
    x = 2 * torch.randn(20, 3, generator=seeded(2), dtype=torch.float64)
    truth = by_torchdiffeq(model, x)
    assert (truth - model.prior.log_prob(x)).abs().min() > 1e-2
    result = flow(model, x, rtol=tolerance, atol=tolerance)
    assert ((result.value - truth).abs() < 3 * tolerance * (1 + truth.abs())).all()


def sharp_mixture(dimension: int) -> GaussianMixture:
    """Standard deviations from 0.05 to 0.3 along random axes, means in [−2, 2]^D."""
    mixture = random_mixture(dimension, components=5)
    spread = torch.rand(5, dimension, generator=seeded(9), dtype=torch.float64)
    variances = (0.05 * 6**spread).square()
    covariances = (mixture.eigenvectors * variances[:, None]) @ mixture.eigenvectors.mT
    return GaussianMixture(mixture.weights, mixture.means, 0.5 * (covariances + covariances.mT))


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(
    ("mixture", "n"),
    [
        (random_mixture(1), 100),
        (random_mixture(3), 60),
        (random_mixture(10), 12),
        (random_mixture(30), 3),
        (random_mixture(60), 2),
        (sharp_mixture(1), 60),
        (sharp_mixture(3), 16),
    ],
    ids=["1", "3", "10", "30", "60", "sharp-1", "sharp-3"],
)
def test_tolerances_mean_what_they_say(mixture: GaussianMixture, n: int, tolerance: float) -> None:
    """Nearly all errors are within three times the tolerance, and none is a large multiple of it."""
    exact = mixture.diffused(PAPER_A)
    x = mixture.sample(n, generator=seeded(4))
    truth = exact.log_prob(x, PAPER_A.s_start)
    result = flow(exact, x, rtol=tolerance, atol=tolerance)
    assert result.failures() is None
    ratio = (result.value - truth).abs() / (tolerance * (1 + truth.abs()))
    assert (ratio < 3).double().mean() >= 0.95
    assert ratio.max() < 10


def test_points_that_no_grid_suits_go_by_steps() -> None:
    exact = sharp_mixture(3).diffused(PAPER_A)
    x = exact.mixture.sample(40, generator=seeded(4))
    result = flow(exact, x, rtol=1e-5, atol=1e-5)
    steps = result.settings["by_steps"]
    assert 0 < steps < 40
    assert result.settings["most_evaluations"] > result.network_evaluations
    truth = exact.log_prob(x, PAPER_A.s_start)
    assert ((result.value - truth).abs() / (1 + truth.abs())).max() < 1e-4
    assert flow(exact, x, rtol=1e-5, atol=1e-5, max_steps=5).settings["by_steps"] == 40  # no grid so coarse


def test_members_of_a_stack_keep_their_rows() -> None:
    """Points leave the batch as they are done; those that stay are still given to their own networks."""
    x = 3 * torch.randn(12, 2, generator=seeded(1), dtype=torch.float64)
    stack = random_network(2, stack=3)
    options = {"rtol": 1e-7, "atol": 1e-7}
    together = flow(DiffusionModel(stack.side_by_side(), PAPER_A, "entropy"), x, **options)
    pairs = zip(stack.members(), x.split(4), strict=True)
    alone = [flow(DiffusionModel(network, PAPER_A, "entropy"), part, **options) for network, part in pairs]
    torch.testing.assert_close(together.value, torch.cat([part.value for part in alone]), rtol=1e-9, atol=1e-9)
    assert together.settings["total_evaluations"] == sum(part.settings["total_evaluations"] for part in alone)
    assert together.settings["most_evaluations"] > together.network_evaluations  # some rows did leave


def test_contexts_keep_their_rows() -> None:
    x = 3 * torch.randn(12, 2, generator=seeded(1), dtype=torch.float64)
    context = torch.arange(6, dtype=torch.float64)[:, None]
    network = MLP(2, **SIZES, context=1, generator=seeded(0)).double()
    options = {"rtol": 1e-7, "atol": 1e-7}

    def solved(rows: Tensor, given: Tensor) -> LogDensity:
        return flow(DiffusionModel(network, PAPER_A, "entropy").given(given), rows, **options)

    together = solved(x, context)
    alone = torch.cat([solved(rows, c[None]).value for rows, c in zip(x.split(2), context, strict=True)])
    torch.testing.assert_close(together.value, alone, rtol=1e-9, atol=1e-9)
    assert together.settings["most_evaluations"] > together.network_evaluations  # some rows did leave
    assert (solved(x, context[:1]).value - alone).abs().max() > 1e-3  # contexts matter


def test_what_is_not_swept_is_told() -> None:
    exact, x, _ = exact_points(2, 3)
    with pytest.raises(InputError, match="of vectors"):
        flow(exact, x, divergence="hutchinson", generator=seeded(0))
    with pytest.raises(InputError, match="use solver='steps'"):
        flow(exact, x[:, None])


@pytest.mark.parametrize("when", [-1.0, 0.3])
def test_a_point_without_a_finite_field_is_told_and_harms_no_other(when: float) -> None:
    exact, x, truth = exact_points(2, 6)

    def network(y: Tensor, s: Tensor) -> Tensor:
        return exact.entropy(y, s).masked_fill(((y[:, 0] > 4) & (s > when))[:, None], torch.nan)

    far = torch.cat([x[:3], doubles(9.0, 0.0)[None], x[3:]])
    result = flow(DiffusionModel(network, exact.schedule, "entropy", exact.prior), far, rtol=1e-6, atol=1e-6)
    assert result.status is not None
    assert result.status.tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert result.value.isnan().tolist() == [False] * 3 + [True] + [False] * 3
    assert (result.value[result.status == 0] - truth).abs().max() < 1e-4


def test_an_explosion_ends() -> None:
    """dx/ds = 4 x³ leaves every bound before s = 1: sweeps and then steps must stop, not hang."""
    model = DiffusionModel(lambda x, _s: -(x**3) / 2, SCHEDULES["vp-constant"], "entropy")
    result = flow(model, doubles(3.0)[:, None])
    assert result.status is not None
    assert result.status.item() > 0
    assert result.value.isnan().all()


def test_inference_mode_changes_nothing() -> None:
    exact, x, truth = exact_points(2, 4)
    with torch.inference_mode():
        result = flow(exact, x.clone(), rtol=1e-6, atol=1e-6)
    assert (result.value - truth).abs().max() < 1e-4
    assert not result.value.is_inference()
