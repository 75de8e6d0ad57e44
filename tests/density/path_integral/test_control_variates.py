"""Control variates by regression across groups: unbiased, exact where the features explain all, honest errors."""

import torch
from torch import Tensor

from diffusion_density.density.path_integral.control_variates import adjusted_mean
from diffusion_density.density.path_integral.quasi_random import draw
from diffusion_density.density.path_integral.reduced import _hermite, _legendre
from truths import seeded


def problem(count: int, groups: int, size: int, noise: float) -> tuple[Tensor, Tensor]:
    """Terms of mean 1 that are linear in normal features, and noise of their size and sign."""
    z = torch.randn(count, groups, size, 3, generator=seeded(0), dtype=torch.float64)
    error = torch.randn(count, groups, size, generator=seeded(1), dtype=torch.float64)
    slopes = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    return 1 + z @ slopes + noise * error * (1 + z[..., 0]), z


def test_what_the_features_explain_is_gone() -> None:
    terms, features = problem(50, 8, 400, 0.0)
    value, error = adjusted_mean(terms, features)
    assert (value - 1).abs().max() < 1e-3  # the ridge leaves a thousandth of the slopes
    assert (terms.mean((1, 2)) - 1).abs().max() > 0.1
    assert error.max() < 1e-3


def test_means_are_unbiased_and_their_error_is_told() -> None:
    terms, features = problem(4000, 8, 6, 0.5)
    value, error = adjusted_mean(terms, features)
    assert abs(value.mean() - 1) < 4 * value.std() / 4000**0.5
    assert 0.85 < error.square().mean() / value.var() < 1.15
    assert value.var() < 0.3 * terms.mean((1, 2)).var()


def test_a_group_is_not_fitted_to_itself() -> None:
    """Features that have nothing to do with the terms cost variance but can't explain it away."""
    terms = torch.randn(3000, 8, 2, generator=seeded(0), dtype=torch.float64)
    features = torch.randn(3000, 8, 2, 10, generator=seeded(1), dtype=torch.float64)
    assert adjusted_mean(terms, features)[0].var() > 0.95 * terms.mean((1, 2)).var()


def test_the_error_on_point_sets_counts_what_groups_share() -> None:
    """A bump of the noise on point sets, many features, few terms: the spread of the groups is a fifth too small."""
    u, z = draw(torch.zeros(1500, 2, dtype=torch.float64), 32, seeded(0))
    legendre, hermite = _legendre(u, 10), _hermite(z)
    features = torch.cat([legendre[..., 1:], (legendre[..., None] * hermite[..., None, :]).flatten(3)], dim=-1)
    value, error = adjusted_mean((-8 * (z - 0.7).square().sum(3)).exp(), features)
    assert 0.9 < error.square().mean() / value.var() < 1.15


def test_no_features_change_nothing() -> None:
    terms, features = problem(3, 8, 5, 1.0)
    value, error = adjusted_mean(terms, features[..., :0])
    torch.testing.assert_close(value, terms.mean((1, 2)))
    torch.testing.assert_close(error, terms.mean(2).std(1) / 8**0.5)


def test_a_term_that_is_not_finite_stays_with_its_problem() -> None:
    terms, features = problem(3, 8, 20, 1.0)
    terms[1, 2, 3] = torch.nan
    value, error = adjusted_mean(terms, features)
    assert value.isfinite().tolist() == error.isfinite().tolist() == [True, False, True]
