"""Samples of the flow against its closed form for a Gaussian, where the map from the prior is affine."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel, GaussianPrior
from diffusion_density.process.schedules import LogLinear, Schedule
from diffusion_density.sampling.flow_sampler import sample_flow
from truths import SCHEDULES, Counting, doubles, random_mixture, seeded

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())

NORMAL = GaussianMixture(
    doubles(1.0),
    doubles(1.5, -0.5)[None],
    doubles(0.5, 0.3, 0.3, 0.4).reshape(1, 2, 2),
)


def gaussian_model(schedule: Schedule) -> DiffusionModel:
    """The exact noise of a Gaussian, with the prior N(0, σ²(s_max) I)."""
    exact = NORMAL.diffused(schedule)
    return DiffusionModel(exact.noise, schedule, "noise")


def affine_map(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """A and b of x = A z + b: a normal marginal moves by α m and by the roots of α² C + σ² I, which commute."""
    vectors, values, mean = NORMAL.eigenvectors[0], NORMAL.eigenvalues[0], NORMAL.means[0]
    (alpha, sigma), (alpha_end, sigma_end) = schedule.at(schedule.s_start), schedule.at(schedule.s_max)
    ratio = ((alpha**2 * values + sigma**2) / (alpha_end**2 * values + sigma_end**2)).sqrt()
    matrix = (vectors * ratio) @ vectors.T
    return matrix, alpha * mean - alpha_end * matrix @ mean


def prior_sample(model: DiffusionModel, n: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    assert isinstance(model.prior, GaussianPrior)
    return model.prior.variance**0.5 * torch.randn(n, 2, generator=seeded(seed), dtype=dtype)


@each_schedule
def test_each_sample_of_a_gaussian_is_the_affine_image_of_its_noise(schedule: Schedule) -> None:
    model = gaussian_model(schedule)
    matrix, offset = affine_map(schedule)
    truth = prior_sample(model, 20, seed=1) @ matrix + offset
    errors = []
    for tolerance in (1e-4, 1e-6):
        samples = sample_flow(model, 20, (2,), rtol=tolerance, atol=tolerance, generator=seeded(1), dtype=torch.float64)
        errors.append((samples.x - truth).abs().max().item())
        assert errors[-1] < 20 * tolerance  # a first step chosen from the field near the prior errs by 80 on 'vp'
        assert samples.status.tolist() == [0] * 20
    assert errors[1] < errors[0] / 20


def test_single_precision() -> None:
    schedule = LogLinear()
    model = gaussian_model(schedule)
    matrix, offset = affine_map(schedule)
    samples = sample_flow(model, 20, (2,), generator=seeded(1))
    assert samples.x.dtype == torch.float32
    truth = prior_sample(model, 20, seed=1, dtype=torch.float32).double() @ matrix + offset
    assert (samples.x - truth).abs().max() < 3e-4


def test_mean_and_covariance() -> None:
    schedule, n = LogLinear(), 20_000
    model = gaussian_model(schedule)
    matrix, offset = affine_map(schedule)
    assert isinstance(model.prior, GaussianPrior)
    covariance = model.prior.variance * matrix @ matrix.T
    x = sample_flow(model, n, (2,), rtol=1e-4, atol=1e-4, generator=seeded(2), dtype=torch.float64).x
    variance = covariance.diagonal()
    assert ((x.mean(0) - offset).abs() < 4 * (variance / n).sqrt()).all()
    stderr = ((covariance.square() + variance[:, None] * variance) / n).sqrt()  # Isserlis
    assert ((x.T.cov() - covariance).abs() < 4 * stderr).all()
    assert ((offset - NORMAL.means[0]).abs() < 0.15).all()  # the prior is nearly the marginal: this is the data
    assert torch.allclose(covariance, NORMAL.covariances[0], atol=0.01)


def test_a_chunk_changes_the_samples_within_the_tolerance_only() -> None:
    exact = random_mixture(2).diffused(LogLinear())
    model = DiffusionModel(exact.noise, exact.schedule, "noise")
    drawn = [
        sample_flow(model, 3, (2,), rtol=1e-6, atol=1e-6, generator=seeded(3), chunk=chunk, dtype=torch.float64)
        for chunk in (1, 3, 100, None)
    ]
    for samples in drawn:
        assert samples.x.shape == (3, 2)
        assert (samples.x - drawn[0].x).abs().max() < 3e-5
    assert torch.equal(drawn[1].x, drawn[3].x)
    assert not torch.equal(drawn[0].x, drawn[3].x)  # other steps
    assert len(drawn[0].network_evaluations.unique()) > 1
    assert len(drawn[3].network_evaluations.unique()) == 1


def test_easy_batch_mates_do_not_hide_the_error_of_a_hard_sample() -> None:
    """One sample of a narrow Gaussian among 999 that stay where they are: its error is that of a batch of one."""
    schedule, variance = LogLinear(), 1e-2
    narrow = GaussianMixture(doubles(1.0), doubles(0.0)[:, None], doubles(variance)[:, None, None]).diffused(schedule)

    def noise(x: Tensor, s: Tensor) -> Tensor:
        moving = torch.arange(len(x))[:, None] == 0
        return torch.where(moving, narrow.noise(x, s), schedule.sigma(s)[:, None] * x)  # the score −x: no velocity

    model = DiffusionModel(noise, schedule, "noise")
    assert isinstance(model.prior, GaussianPrior)
    z = model.prior.variance**0.5 * torch.randn(1000, 1, generator=seeded(6), dtype=torch.float64)
    x = sample_flow(model, 1000, (1,), rtol=1e-4, atol=1e-4, generator=seeded(6), dtype=torch.float64).x
    start, end = (
        alpha**2 * variance + sigma**2 for alpha, sigma in map(schedule.at, (schedule.s_start, schedule.s_max))
    )
    assert torch.allclose(x[1:], z[1:], rtol=1e-12)
    assert abs(x[0] - (start / end) ** 0.5 * z[0]) < 1e-3


def test_events_of_any_shape() -> None:
    exact = GaussianMixture(
        doubles(1.0), torch.zeros(1, 12).double(), 0.25 * torch.eye(12, dtype=torch.float64)[None]
    ).diffused(LogLinear())
    model = DiffusionModel(exact.noise, exact.schedule, "noise")
    flat, shaped = (sample_flow(model, 3, event, generator=seeded(5)).x for event in ((12,), (3, 2, 2)))
    assert shaped.shape == (3, 3, 2, 2)
    assert torch.equal(shaped.flatten(1), flat)


@pytest.mark.parametrize("schedule", [SCHEDULES["vp"], SCHEDULES["discrete-short"]], ids=["vp", "discrete-short"])
def test_every_call_of_the_network_is_counted_within_its_times(schedule: Schedule) -> None:
    exact = NORMAL.diffused(schedule)
    asked: list[float] = []

    def noise(x: Tensor, s: Tensor) -> Tensor:
        asked.extend(s.tolist())
        return exact.noise(x, s)

    network = Counting(noise)
    samples = sample_flow(
        DiffusionModel(network, schedule, "noise"), 5, (2,), rtol=1e-3, atol=1e-3, generator=seeded(4), chunk=2
    )
    assert samples.calls == network.calls > 20
    assert samples.network_evaluations.sum() == network.rows
    first, _, third, _, fifth = samples.network_evaluations.tolist()
    assert first + third + fifth == samples.calls
    assert schedule.s_start * (1 - 1e-6) <= min(asked) < 1.01 * schedule.s_start + 1e-6
    assert 0.999 * schedule.s_max < max(asked) <= schedule.s_max * (1 + 1e-6)


def test_a_field_that_is_not_finite_spoils_its_own_sample_only() -> None:
    schedule = LogLinear()
    exact = gaussian_model(schedule)
    spoilt = prior_sample(exact, 6, seed=7)[2]

    def noise(x: Tensor, s: Tensor) -> Tensor:
        bad = torch.isclose(x, spoilt).all(1) & (s > 0.999)
        return torch.where(bad[:, None], torch.nan, exact.noise(x, s))

    model = DiffusionModel(noise, schedule, "noise")
    samples = sample_flow(model, 6, (2,), generator=seeded(7), dtype=torch.float64)
    assert samples.status.tolist() == [0, 0, 1, 0, 0, 0]
    assert samples.x.isnan().all(1).tolist() == [False, False, True, False, False, False]
    good = sample_flow(exact, 6, (2,), generator=seeded(7), dtype=torch.float64).x
    others = samples.status == 0
    assert torch.allclose(samples.x[others], good[others], atol=1e-3)


def test_a_solver_that_stops_early_says_so() -> None:
    samples = sample_flow(gaussian_model(LogLinear()), 4, (2,), generator=seeded(8), max_steps=3, chunk=2)
    assert samples.status.tolist() == [2] * 4
    assert samples.x.isnan().all()
    assert samples.calls == samples.network_evaluations[::2].sum() > 0


def test_an_assertion_of_the_network_is_its_own() -> None:
    def network(_x: Tensor, _s: Tensor) -> Tensor:
        raise AssertionError("the network's")

    with pytest.raises(AssertionError, match="the network's"):
        sample_flow(DiffusionModel(network, LogLinear()), 2, (2,), generator=seeded(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, "n, chunk and max_steps must be at least 1"),
        ({"chunk": 0}, "n, chunk and max_steps must be at least 1"),
        ({"max_steps": 0}, "n, chunk and max_steps must be at least 1"),
        ({"rtol": 0.0}, "tolerances must be positive"),
        ({"atol": math.nan}, "tolerances must be positive"),
        ({"rtol": 1e-7}, "need double precision"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample_flow(gaussian_model(LogLinear()), **{"n": 3, "event": (2,), "generator": seeded(0)} | wrong)


def test_a_prior_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="prior is not Gaussian"):
        sample_flow(NORMAL.diffused(LogLinear()), 3, (2,), generator=seeded(0))
