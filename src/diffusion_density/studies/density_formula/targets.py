"""Normal laws of paper B: the two classes of the classifier, and the laws on which generators collapse."""

import torch

from diffusion_density.mixtures import GaussianMixture

CLASS_DIMENSION = 8
CLASS_SCALES = (1.0, 1.6)  # standard deviations of two centred normal laws: sheet B, section 7


def normal(dimension: int, scale: float = 1.0) -> GaussianMixture:
    """N(0, scale² I) as a mixture of one."""
    identity = torch.eye(dimension, dtype=torch.float64)
    return GaussianMixture(torch.ones(1), torch.zeros(1, dimension), scale**2 * identity[None])
