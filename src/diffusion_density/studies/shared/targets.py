"""Distributions that several experiments use: a mixture in one dimension, and normal distributions."""

import torch

from diffusion_density.process.mixtures import GaussianMixture


def one_dimensional_mixture() -> GaussianMixture:
    """Two unequal components in one dimension: weights .3/.7, means −1.5/1, standard deviations .5/.35."""
    scales = torch.tensor([0.5, 0.35], dtype=torch.float64)
    means = torch.tensor([[-1.5], [1.0]], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.3, 0.7]), means, scales.square()[:, None, None])


def normal(dimension: int, scale: float = 1.0) -> GaussianMixture:
    """N(0, scale² I) as a mixture of one."""
    identity = torch.eye(dimension, dtype=torch.float64)
    return GaussianMixture(torch.ones(1), torch.zeros(1, dimension), scale**2 * identity[None])
