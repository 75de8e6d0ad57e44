"""The mixture in one dimension that papers B and C's sheets compute with."""

import torch

from diffusion_density.mixtures import GaussianMixture


def sheet_mixture() -> GaussianMixture:
    """The mixture in one dimension of sheet B, section 2: weights .3/.7, means −1.5/1, standard deviations .5/.35."""
    scales = torch.tensor([0.5, 0.35], dtype=torch.float64)
    means = torch.tensor([[-1.5], [1.0]], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.3, 0.7]), means, scales.square()[:, None, None])
