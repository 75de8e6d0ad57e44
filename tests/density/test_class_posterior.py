"""The diffusion classifier against Bayes' rule."""

from functools import partial

import pytest
import torch
from torch import Tensor

from diffusion_density.density.class_posterior import FORMULA, class_log_posterior
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import LogLinear
from truths import random_mixture, seeded

WIDE = LogLinear(-20.0, 9.0)
CLASSES = tuple(random_mixture(3, seed=seed) for seed in (0, 1, 2))
MODELS = [DiffusionModel(mixture.diffused(WIDE).noise, WIDE) for mixture in CLASSES]
LOG_PRIOR = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()


def points(count: int) -> Tensor:
    everything = GaussianMixture(
        torch.full((9,), 1 / 9),
        torch.cat([mixture.means for mixture in CLASSES]),
        torch.cat([mixture.covariances for mixture in CLASSES]),
    )
    return everything.sample(count, generator=seeded(3))


def bayes(x: Tensor, log_prior: Tensor = LOG_PRIOR) -> Tensor:
    return (log_prior + torch.stack([mixture.log_prob(x) for mixture in CLASSES], dim=1)).log_softmax(1)


@pytest.mark.parametrize("common", [True, False])
def test_the_posterior_is_that_of_bayes_within_its_noise(common: bool) -> None:
    x = points(20)
    repeats = torch.stack(
        [
            class_log_posterior(
                MODELS, x, LOG_PRIOR, estimator=partial(FORMULA, throws=32), seed=seed, common=common
            ).diff(dim=1)
            for seed in range(24)
        ]
    )
    z = (repeats.mean(0) - bayes(x).diff(dim=1)) / (repeats.std(0) / 24**0.5)
    assert z.abs().max() < 5
    assert 0.5 < z.square().mean() < 2
    assert repeats.std(0).max() > 1e-3


def test_common_noise_has_the_smaller_error() -> None:
    x = points(100)
    truth = bayes(x).exp()
    errors = {
        common: sum(
            (
                class_log_posterior(
                    MODELS, x, LOG_PRIOR, estimator=partial(FORMULA, throws=8), seed=seed, common=common
                ).exp()
                - truth
            )
            .abs()
            .mean()
            for seed in range(4)
        )
        for common in (True, False)
    }
    assert errors[True] < 0.9 * errors[False]


def test_classes_alike_differ_by_their_priors_alone() -> None:
    """With common noise even at few throws; with independent noise not."""
    alike = [MODELS[0]] * 3
    x = points(10)
    common, independent = (
        class_log_posterior(alike, x, LOG_PRIOR + 2, estimator=partial(FORMULA, throws=4), seed=1, common=c)
        for c in (True, False)
    )
    torch.testing.assert_close(common, LOG_PRIOR.expand(10, 3), rtol=1e-10, atol=1e-10)
    assert (independent - LOG_PRIOR).abs().min() > 1e-4


def test_priors_enter() -> None:
    x = points(10)
    other = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64).log()
    first, second = (
        class_log_posterior(MODELS, x, prior, estimator=partial(FORMULA, throws=4), seed=1)
        for prior in (LOG_PRIOR, other)
    )
    torch.testing.assert_close((first + other - LOG_PRIOR).log_softmax(1), second, rtol=1e-10, atol=1e-10)
    assert (first - second).abs().max() > 0.5


def test_one_class_is_sure() -> None:
    found = class_log_posterior(MODELS[:1], points(5), torch.zeros(1), estimator=partial(FORMULA, throws=4), seed=0)
    assert torch.equal(found, torch.zeros(5, 1, dtype=torch.float64))


def test_refusals() -> None:
    for models, prior in (([], torch.zeros(0)), (MODELS, torch.zeros(2))):
        with pytest.raises(InputError, match="one log prior per model"):
            class_log_posterior(models, points(2), prior, estimator=partial(FORMULA, throws=4), seed=0)


@pytest.mark.parametrize("method", ["plain", "reduced"])
def test_any_estimator_serves(method: str) -> None:
    """The path integral: near Bayes for many throws; with common throws classes alike differ by their priors alone."""
    x = points(30)
    many, few = (partial(path_integral, throws=throws, method=method) for throws in (2048, 16))
    found = class_log_posterior(MODELS, x, LOG_PRIOR, estimator=many, seed=0)
    assert (found.exp() - bayes(x).exp()).abs().mean() < 0.03
    common, independent = (
        class_log_posterior([MODELS[0]] * 3, x, LOG_PRIOR, estimator=few, seed=0, common=c) for c in (True, False)
    )
    torch.testing.assert_close(common, LOG_PRIOR.expand(30, 3), rtol=1e-10, atol=1e-10)
    assert (independent - LOG_PRIOR).abs().mean() > 1e-2
