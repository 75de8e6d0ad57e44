"""Times for training: those of the likelihood objective, :mod:`diffusion_density.times`, which the bound shares."""

from diffusion_density.times import (
    AlphaSquared,
    DiffusionPath,
    alpha_squared,
    independent,
    likelihood_weight,
    low_discrepancy,
)

__all__ = [
    "AlphaSquared",
    "DiffusionPath",
    "alpha_squared",
    "independent",
    "likelihood_weight",
    "low_discrepancy",
]
