"""Mode tracking against the posterior's mode on a grid, and high-density samples in 200 dimensions."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import LogLinear, Schedule, VariancePreserving
from diffusion_density.sampling.mode_tracking import ascend, high_density, track_mode
from diffusion_density.sampling.samplers import sample
from truths import doubles, gaussian, network_of, random_mixture, seeded

SCHEDULE = LogLinear(-10, 10)
MIXTURE = GaussianMixture(doubles(0.3, 0.7), doubles(-1.5, 1)[:, None], doubles(0.25, 0.1225)[:, None, None])
NOISY = doubles(-1, 0.2, 0.8)[:, None]


def time_of(log_snr: float, schedule: Schedule = SCHEDULE) -> float:
    return schedule.inverse(doubles(log_snr)).item()


def posterior_mode(s: float) -> Tensor:
    """The argmax over a fine grid of log p(x) + log p(x_s | x), x at s_start."""
    grid = torch.linspace(-3, 3, 100_001, dtype=torch.float64)
    alpha, sigma = SCHEDULE.transition(SCHEDULE.s_start, doubles(s))
    prior = MIXTURE.diffused(SCHEDULE).log_prob(grid[:, None], SCHEDULE.s_start)
    return grid[(prior - 0.5 * ((NOISY - alpha * grid) / sigma).square()).argmax(1)][:, None]


def two_modes(dimension: int = 200) -> GaussianMixture:
    """Two spheres 7 standard deviations apart, whose peaks have log p −1.6 and −16.6."""
    peaks = doubles(-1.6, -16.6)
    variances = (-2 / dimension * (peaks + math.log(2))).exp() / (2 * math.pi)
    means = 0.1 * torch.stack([torch.ones(dimension), -torch.ones(dimension)])
    mixture = GaussianMixture(
        doubles(0.5, 0.5), means, variances[:, None, None] * torch.eye(dimension, dtype=torch.float64)
    )
    assert torch.allclose(mixture.log_prob(mixture.means), peaks, atol=1e-3)
    return mixture


def unguided(mixture: GaussianMixture) -> DiffusionModel:
    """The exact score with the prior N(0, σ²(s_max) I)."""
    return DiffusionModel(mixture.diffused(SCHEDULE).score, SCHEDULE, "score")


@pytest.mark.parametrize("log_snr", [2.0, 0.0, -1.0, -3.0])
def test_the_end_is_the_mode_of_the_posterior(log_snr: float) -> None:
    s = time_of(log_snr)
    truth = posterior_mode(s)
    assert (track_mode(MIXTURE.diffused(SCHEDULE), NOISY, s, steps=20) - truth).abs().max() < 1e-3


def test_without_the_correction_the_error_grows_with_the_noise() -> None:
    model = MIXTURE.diffused(SCHEDULE)
    errors = [
        (ascend(model, NOISY, time_of(log_snr), steps=20) - posterior_mode(time_of(log_snr))).abs().mean().item()
        for log_snr in (4.0, 2.0, 0.0, -1.0)
    ]
    assert all(b > 2.5 * a for a, b in pairwise(errors))
    assert errors[-1] > 0.05  # where with it the error is below 1e-3


def test_the_order_is_four() -> None:
    model = MIXTURE.diffused(SCHEDULE)
    s = time_of(2.0)
    ends = [track_mode(model, NOISY, s, steps=steps) for steps in (10, 20, 40)]
    assert 9 < (ends[0] - ends[1]).norm() / (ends[1] - ends[2]).norm() < 25
    ends = [ascend(model, NOISY, s, steps=steps) for steps in (20, 40, 80)]
    assert 11 < (ends[0] - ends[1]).norm() / (ends[1] - ends[2]).norm() < 22


@pytest.mark.parametrize("schedule", [SCHEDULE, VariancePreserving(), LogLinear(-10, 10, path="straight")])
def test_for_a_gaussian_nothing_is_left_out(schedule: Schedule) -> None:
    """H = 0, and the mode is the mean: E[x₀ | x_s] at s_start, but for the noise that is left there."""
    mixture = random_mixture(2, components=1, seed=1)
    model = mixture.diffused(schedule)
    s = time_of(-1.0, schedule)
    x = torch.randn(4, 2, generator=seeded(0), dtype=torch.float64)
    with_correction = track_mode(model, x, s, steps=15)
    assert torch.allclose(with_correction, ascend(model, x, s, steps=15), rtol=0, atol=1e-12)
    alpha, sigma = schedule.transition(schedule.s_start, doubles(s))
    first, noise = schedule.at(schedule.s_start)
    covariance = first**2 * mixture.covariances[0] + noise**2 * torch.eye(2, dtype=torch.float64)
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
    mean = first * mixture.means[0]
    assert torch.allclose(with_correction, mean + (x - alpha * mean) @ gain.T, atol=2e-4)


def test_a_mode_in_three_dimensions_is_stationary() -> None:
    model = random_mixture(3).diffused(SCHEDULE)
    s = time_of(0.5)
    x = torch.randn(5, 3, generator=seeded(2), dtype=torch.float64)
    alpha, sigma = SCHEDULE.transition(SCHEDULE.s_start, doubles(s))

    def gradient(y: Tensor) -> Tensor:
        return model.score(y, SCHEDULE.s_start) + alpha * (x - alpha * y) / sigma.square()

    end = track_mode(model, x, s, steps=10)
    assert gradient(end).norm(dim=1).max() < 2e-3
    assert gradient(ascend(model, x, s, steps=10)).norm(dim=1).max() > 0.05
    image = track_mode(model, x.reshape(5, 1, 3, 1), s, steps=10)
    assert torch.allclose(image, end.reshape(5, 1, 3, 1), atol=1e-10)
    assert torch.allclose(track_mode(model, x[:1], s, steps=10), end[:1], atol=1e-10)
    assert torch.allclose(ascend(model, x[:1], s), ascend(model, x, s)[:1], atol=1e-10)


def test_a_mode_that_is_lost_is_said() -> None:
    """Above two equal, sharp modes the point between them is a mode under much noise and a saddle in the end."""
    mixture = GaussianMixture(doubles(0.5, 0.5), doubles(-1, 1)[:, None], doubles(0.05, 0.05)[:, None, None])
    end = track_mode(mixture.diffused(SCHEDULE), doubles(0.0, 0.9)[:, None], time_of(-2.0), steps=20)
    assert end.isnan().flatten().tolist() == [True, False]


def test_a_lower_threshold_is_denser_up_to_the_highest_mode() -> None:
    """Measured with 50 samples, 40 steps a part; thresholds 6 to −4: −112, −105, −72, −26, −5.3, −1.95."""
    mixture = two_modes()
    model = unguided(mixture)

    def mean(x: Tensor) -> float:
        return mixture.log_prob(x).mean().item()

    ordinary = mean(sample(model, 30, (200,), steps=40, generator=seeded(0), dtype=torch.float64))
    assert abs(ordinary - (-1.6 - 16.6) / 2 + 100) < 12  # E log p lies D/2 below the peaks
    found = [
        high_density(model, 30, (200,), threshold=t, steps=30, generator=seeded(0), dtype=torch.float64)
        for t in (6.0, 4.0, 2.0, 0.0, -2.0, -4.0)
    ]
    means = [mean(x) for x in found]
    assert all(b > a + 2 for a, b in pairwise(means))
    assert abs(means[0] - ordinary) < 5
    assert -3 < means[-1] <= -1.6
    again = high_density(model, 30, (8, 25), threshold=-4.0, steps=30, generator=seeded(0), dtype=torch.float64)
    assert torch.allclose(again.flatten(1), found[-1])


def test_the_first_part_is_the_sampler_down_to_the_threshold() -> None:
    """The flow of N(0, 1) keeps x, and then d log y/dλ = −σ²/2: y moves as 1/α."""
    model = unguided(gaussian(0.0, 1.0))
    for threshold in (-2.0, 1.0):
        x = high_density(
            model, 5, (1,), threshold=threshold, steps=30, stochasticity=0.0, generator=seeded(3), dtype=torch.float64
        )
        latent = torch.randn(5, 1, generator=seeded(3), dtype=torch.float64)
        noisy, clean = (torch.sigmoid(-doubles(value)) for value in (threshold, 10.0))
        factor = ((1 - noisy) / (1 - clean)).sqrt()
        assert torch.allclose(x, latent * factor, rtol=1e-3)
    assert model.schedule.s_start == 0.0


def test_single_precision_in_any_mode_of_autograd() -> None:
    model = MIXTURE.diffused(SCHEDULE)
    s = time_of(0.0)
    with torch.inference_mode():
        single = track_mode(model, NOISY.float(), s, steps=10)
    assert single.dtype == torch.float32
    double = track_mode(model, NOISY.clone().requires_grad_(), s, steps=10)
    assert torch.allclose(single.double(), double, atol=1e-4)
    assert not double.requires_grad
    dense = high_density(unguided(MIXTURE), 4, (1,), threshold=-2.0, steps=20, generator=seeded(0))
    assert dense.dtype == torch.float32
    assert dense.isfinite().all()


@pytest.mark.parametrize("wrong", [{"s": 0.0}, {"s": 1.1}, {"s": math.nan}, {"steps": 0}])
def test_times_and_steps_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    model = MIXTURE.diffused(SCHEDULE)
    settings: dict[str, Any] = {"s": 0.5, "steps": 2} | wrong
    for method in (track_mode, ascend):
        with pytest.raises(InputError, match="steps >= 1 and a time in"):
            method(model, NOISY, **settings)


@pytest.mark.parametrize("threshold", [10.0, -10.0, 50.0, math.nan])
def test_thresholds_out_of_range_are_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold must be a log-SNR"):
        high_density(network_of(MIXTURE.diffused(SCHEDULE), "score"), 2, (1,), threshold=threshold, generator=seeded(0))


def test_what_cannot_be_sampled_or_tracked_is_refused() -> None:
    with pytest.raises(InputError, match="prior is not Gaussian"):
        high_density(MIXTURE.diffused(SCHEDULE), 2, (1,), threshold=0.0, generator=seeded(0))
    with pytest.raises(InputError, match="point 1 has numbers"):
        track_mode(MIXTURE.diffused(SCHEDULE), doubles(0.0, math.inf)[:, None], 0.5)
