r"""Randomised quasi-random point sets: points that fill a cube evenly, and normal numbers made from them.

A scrambled Sobol' point set fills [0, 1)^d more evenly than independent draws. After a digital shift, the xor with one
random point, every point of it is uniformly distributed and the set is as even as before (Owen, "Scrambled net variance
for integrals of smooth functions", 1997; Lemieux, "Monte Carlo and quasi-Monte Carlo sampling", 2009, section 6.2). So
a mean over it is unbiased, and means over point sets with independent shifts are independent. There are eight point
sets here, with a fixed scrambling; the shifts are drawn again for each point of a batch, so that the errors of the
points are independent.
"""

from functools import lru_cache
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.quasirandom import SobolEngine

from diffusion_density.process.batches import normals

POINT_SETS = 8  # independent ones: their spread gives the standard error
MOST_DIMENSIONS = 100  # of the noise; in more dimensions it is drawn independently
BITS = 30  # of the Sobol' points of torch


def draw(
    x: Float[Tensor, "b *event"], count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "b r n"], Float[Tensor, "b r n *event"]]:
    """Uniform numbers and normal noise like x for each of B points, on R = 8 independent sets of ``count`` points.

    In up to 100 dimensions the uniform numbers and the noise are one point set; in more, the uniform numbers alone are.
    The draws of a point are consecutive in the generator's stream: a batch gets the same as its points one after the
    other.

    Args:
        x: (B, *) points; only their shape, precision and device matter.
        count: points of a set, best a power of two.
        generator: draws the shifts, and the noise in more than 100 dimensions.

    Returns:
        (B, R, n) uniform numbers in double precision, never 0 or 1; (B, R, n, *) normal ones in the precision of x.
    """
    size = prod(x.shape[1:])
    joint = size <= MOST_DIMENSIONS
    width = 1 + size if joint else 1
    wide = POINT_SETS * (width if joint else width + count * size)
    numbers = normals(x.double() if joint else x, 1, wide, generator)[:, 0]
    shift = (torch.special.ndtr(numbers[:, : POINT_SETS * width].double()) * 2**BITS).long().clamp(0, 2**BITS - 1)
    points = torch.stack([_point_set(width, count, seed) for seed in range(POINT_SETS)]).to(x.device)
    uniform = ((points ^ shift.reshape(-1, POINT_SETS, 1, width)).double() + 0.5) / 2**BITS
    u, rest = uniform[..., 0], uniform[..., 1:]
    z = torch.special.ndtri(rest).to(x.dtype) if joint else numbers[:, POINT_SETS:]
    return u, z.reshape(len(x), POINT_SETS, count, *x.shape[1:])


@lru_cache(maxsize=64)
def _point_set(dimension: int, count: int, seed: int) -> Tensor:
    """(n, d) integers of 30 bits: the points of a scrambled Sobol' set."""
    return (SobolEngine(dimension, scramble=True, seed=seed).draw(count, dtype=torch.float64) * 2**BITS).long()
