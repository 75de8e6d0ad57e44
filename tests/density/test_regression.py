"""Control variates by regression across groups: unbiased, exact where the features explain all, honest errors."""

import torch
from torch import Tensor

from diffusion_density.density.regression import group_means
from truths import seeded


def problem(count: int, groups: int, size: int, noise: float) -> tuple[Tensor, Tensor]:
    """Terms of mean 1 that are linear in normal features, and noise of their size and sign."""
    z = torch.randn(count, groups, size, 3, generator=seeded(0), dtype=torch.float64)
    error = torch.randn(count, groups, size, generator=seeded(1), dtype=torch.float64)
    slopes = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    return 1 + z @ slopes + noise * error * (1 + z[..., 0]), z


def test_what_the_features_explain_is_gone() -> None:
    terms, features = problem(50, 8, 400, 0.0)
    means = group_means(terms, features)
    assert (means - 1).abs().max() < 3e-3  # the ridge leaves a thousandth of the slopes
    assert (terms.mean(2) - 1).abs().max() > 0.1


def test_means_are_unbiased_and_their_scatter_tells_their_error() -> None:
    terms, features = problem(4000, 8, 6, 0.5)
    means = group_means(terms, features)
    value, error = means.mean(1), means.std(1) / 8**0.5
    assert abs(value.mean() - 1) < 4 * value.std() / 4000**0.5
    assert 0.85 < error.square().mean() / value.var() < 1.15
    assert value.var() < 0.3 * terms.mean((1, 2)).var()


def test_a_group_is_not_fitted_to_itself() -> None:
    """Features that have nothing to do with the terms cost variance but can't explain it away."""
    terms = torch.randn(3000, 8, 2, generator=seeded(0), dtype=torch.float64)
    features = torch.randn(3000, 8, 2, 10, generator=seeded(1), dtype=torch.float64)
    assert group_means(terms, features).mean(1).var() > 0.95 * terms.mean((1, 2)).var()


def test_no_features_change_nothing() -> None:
    terms, features = problem(3, 8, 5, 1.0)
    assert torch.equal(group_means(terms, features[..., :0]), terms.mean(2))


def test_a_term_that_is_not_finite_stays_with_its_problem() -> None:
    terms, features = problem(3, 8, 20, 1.0)
    terms[1, 2, 3] = torch.nan
    means = group_means(terms, features)
    assert means.isfinite().all(1).tolist() == [True, False, True]
