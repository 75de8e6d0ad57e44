r"""Randomised nets: points that fill a cube evenly, each uniform on its own, and normal numbers made of them.

A scrambled Sobol' net fills [0, 1)^d more evenly than independent draws. Shifted digitally, that is xor-ed with one
random point, every point of it is uniform and the net stays as even (Owen, "Scrambled net variance for integrals of
smooth functions", 1997; Lemieux, "Monte Carlo and quasi-Monte Carlo sampling", 2009, section 6.2). So a mean over it is
unbiased, and means over nets with shifts of their own are independent. The nets here are eight, scrambled once and for
all; the shifts are drawn anew for each point of a batch, whose errors are independent therefore.
"""

from functools import lru_cache
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.quasirandom import SobolEngine

from diffusion_density.process.batches import normals

NETS = 8  # independent ones, of which a standard error is made
DIMENSIONS = 100  # of noise, beyond which it is drawn independently
BITS = 30  # of torch's Sobol' points


def draw(
    x: Float[Tensor, "b *event"], count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "b r n"], Float[Tensor, "b r n *event"]]:
    """Uniform numbers and normal noise like x for each of B points, on R = 8 independent nets of ``count`` points.

    The net is of both together in up to 100 dimensions, of the uniform numbers alone in more. What a point gets is
    consecutive in the generator's stream: a batch gets what its points get one after the other.

    Args:
        x: (B, *) points; only their shape, precision and device matter.
        count: points of a net, at best a power of two.
        generator: draws the shifts, and the noise in more than 100 dimensions.

    Returns:
        (B, R, n) uniform numbers in double precision, never 0 or 1; (B, R, n, *) normal ones in the precision of x.
    """
    size = prod(x.shape[1:])
    joint = size <= DIMENSIONS
    width = 1 + size if joint else 1
    wide = NETS * (width if joint else width + count * size)
    numbers = normals(x.double() if joint else x, 1, wide, generator)[:, 0]
    shift = (torch.special.ndtr(numbers[:, : NETS * width].double()) * 2**BITS).long().clamp(0, 2**BITS - 1)
    points = torch.stack([_net(width, count, seed) for seed in range(NETS)]).to(x.device)
    uniform = ((points ^ shift.reshape(-1, NETS, 1, width)).double() + 0.5) / 2**BITS
    u, rest = uniform[..., 0], uniform[..., 1:]
    z = torch.special.ndtri(rest).to(x.dtype) if joint else numbers[:, NETS:]
    return u, z.reshape(len(x), NETS, count, *x.shape[1:])


@lru_cache(maxsize=64)
def _net(dimension: int, count: int, seed: int) -> Tensor:
    """(n, d) integers of 30 bits: the points of a scrambled net."""
    return (SobolEngine(dimension, scramble=True, seed=seed).draw(count, dtype=torch.float64) * 2**BITS).long()
