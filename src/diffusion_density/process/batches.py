"""How many rows go through a network at once, and random draws that no batch mate changes."""

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 16_384  # rows of one network call: more only leave the cache
BLOCK = 16  # torch fills normals in blocks of 16


def normals(x: Float[Tensor, "b *event"], count: int, width: int, generator: torch.Generator) -> Float[Tensor, "b n w"]:
    """``count`` rows of ``width`` normal numbers for each of B points, in the precision and on the device of x.

    The numbers of a point are consecutive in the generator's stream and fill whole blocks of it: a batch gets what its
    points get one after the other from the same generator.
    """
    padded = -(-count * width // BLOCK) * BLOCK
    drawn = torch.randn(len(x), padded, generator=generator, dtype=x.dtype, device=x.device)
    return drawn[:, : count * width].reshape(len(x), count, width)
