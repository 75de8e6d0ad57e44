"""Models: a network read as a score, its drifts, and the prior."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import DiffusionModel, GaussianPrior
from diffusion_density.process.predictions import PREDICTIONS, Prediction
from diffusion_density.process.schedules import Schedule
from truths import EVERY_SCHEDULE, PAPER_A, network_of, random_mixture, seeded

each_schedule = pytest.mark.parametrize("schedule", EVERY_SCHEDULE.values(), ids=EVERY_SCHEDULE.keys())
each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def points(*event: int, n: int = 16) -> tuple[Tensor, Tensor]:
    generator = seeded(8)
    x = 2 * torch.randn(n, *event, generator=generator, dtype=torch.float64)
    return x, 0.1 + 0.85 * torch.rand(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("variance", [1.0, 0.25])
def test_the_gaussian_prior(variance: float) -> None:
    x, _ = points(2, 3)
    normal = Normal(0.0, torch.tensor(variance, dtype=torch.float64).sqrt())
    expected = normal.log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(GaussianPrior(variance).log_prob(x), expected, rtol=1e-13, atol=1e-13)
    distribution = Normal(x, 0.7)  # E_q log p = −KL(q‖p) − H(q)
    cross = (-kl_divergence(distribution, normal) - distribution.entropy()).flatten(1).sum(1)
    torch.testing.assert_close(GaussianPrior(variance).expected_log_prob(x, 0.7), cross, rtol=1e-13, atol=1e-13)


@each_schedule
@each_prediction
@pytest.mark.parametrize("event", [(4,), (1, 2, 2)])
def test_a_network_of_any_prediction_is_the_same_model(
    schedule: Schedule, prediction: Prediction, event: tuple[int, ...]
) -> None:
    exact = random_mixture(4).diffused(schedule)
    model = network_of(exact, prediction)
    x, s = points(*event)
    for time in (s, 0.4, torch.tensor(0.4, dtype=torch.float64)):
        for name in (*PREDICTIONS, "flow_drift"):
            found, expected = getattr(model, name)(x, time), getattr(exact, name)(x, time)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@each_schedule
def test_the_flow_follows_the_velocity_of_the_path(schedule: Schedule) -> None:
    exact = random_mixture(2).diffused(schedule)
    x, s = points(2)
    time = s.clone().requires_grad_()
    rates = [torch.autograd.grad(f(time).sum(), time)[0] for f in (schedule.alpha, schedule.sigma)]
    speed = (rates[0].square() + rates[1].square()).sqrt()
    torch.testing.assert_close(exact.flow_drift(x, s), speed[:, None] * exact.velocity(x, s), rtol=1e-8, atol=1e-9)


@each_schedule
def test_the_flow_carries_the_density(schedule: Schedule) -> None:
    """The continuity equation at a point: ∂ₛ log p + v·∇log p + div v = 0."""
    exact = random_mixture(3).diffused(schedule)
    x, s = points(3)
    time = s.clone().requires_grad_()
    change = torch.autograd.grad(exact.log_prob(x, time).sum(), time)[0]
    divergence = 3 * schedule.drift(s) - 0.5 * schedule.diffusion(s) * exact.score_divergence(x, s)
    transport = (exact.flow_drift(x, s) * exact.score(x, s)).sum(1)
    scale = change.abs() + transport.abs() + divergence.abs()
    assert ((change + transport + divergence).abs() / scale).max() < 1e-9


@each_prediction
def test_a_models_own_prediction_is_its_networks_output(prediction: Prediction) -> None:
    outputs = torch.randn(5, 2, generator=seeded(0))
    model = DiffusionModel(lambda _x, _s: outputs, PAPER_A, prediction)
    assert torch.equal(getattr(model, prediction)(torch.ones(5, 2), 0.3), outputs)


@each_prediction
def test_networks_get_a_time_for_each_row_in_the_points_precision(prediction: Prediction) -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, s: Tensor) -> Tensor:
        seen.append(s)
        return x

    model = DiffusionModel(network, PAPER_A, prediction)
    for method in (model.score, model.noise, model.entropy, model.velocity, model.flow_drift):
        method(torch.ones(5, 2, dtype=torch.float64), 0.25)
    assert len(seen) == 5
    assert all(s.shape == (5,) and s.dtype == torch.float64 and bool((s == 0.25).all()) for s in seen)


@each_schedule
def test_the_default_prior_is_the_noise_of_the_end(schedule: Schedule) -> None:
    prior = DiffusionModel(lambda x, _s: x, schedule).prior
    assert isinstance(prior, GaussianPrior)
    assert prior.variance == pytest.approx(schedule.at(schedule.s_max)[1] ** 2, rel=1e-14)


def test_a_given_prior_is_used_even_if_it_is_empty() -> None:
    class Empty(GaussianPrior):
        def __len__(self) -> int:
            return 0

    prior = Empty(2.0)
    assert DiffusionModel(lambda x, _s: x, PAPER_A, prior=prior).prior is prior


def test_unknown_predictions_are_refused() -> None:
    unchecked = getattr(DiffusionModel.__init__, "__wrapped__", DiffusionModel.__init__)
    with pytest.raises(InputError, match="'eps' is not one of"):
        unchecked(object.__new__(DiffusionModel), lambda x, _s: x, PAPER_A, "eps")


def test_log_prob_of_the_standard_normal() -> None:
    x = torch.zeros(1, 3, dtype=torch.float64)
    assert GaussianPrior(1.0).log_prob(x).item() == pytest.approx(-1.5 * math.log(2 * math.pi), rel=1e-14)
