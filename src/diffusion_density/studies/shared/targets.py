"""Laws that several jobs compute with: the mixture in one dimension of papers B and C's sheets, and normal laws."""

import torch

from diffusion_density.process.mixtures import GaussianMixture


def sheet_mixture() -> GaussianMixture:
    """The mixture in one dimension of sheet B, section 2: weights .3/.7, means −1.5/1, standard deviations .5/.35."""
    scales = torch.tensor([0.5, 0.35], dtype=torch.float64)
    means = torch.tensor([[-1.5], [1.0]], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.3, 0.7]), means, scales.square()[:, None, None])


def normal(dimension: int, scale: float = 1.0) -> GaussianMixture:
    """N(0, scale² I) as a mixture of one."""
    identity = torch.eye(dimension, dtype=torch.float64)
    return GaussianMixture(torch.ones(1), torch.zeros(1, dimension), scale**2 * identity[None])
