"""Batches of points of any event shape: their times, how many go through a network at once, and their random draws."""

import torch
from jaxtyping import Float
from torch import Tensor

ROWS_PER_CALL = 16_384  # of a network on points: more only leave the cache
NORMALS_PER_BLOCK = 16  # torch draws normal numbers in blocks of 16


def per_row(values: Tensor, x: Tensor) -> Tensor:
    """Values of shape (B,) or (1,) viewed so that they multiply x of shape (B, *)."""
    return values.reshape(-1, *([1] * (x.ndim - 1)))


def expand_time(s: Tensor | float, x: Tensor) -> Float[Tensor, " b"]:
    """A number, a scalar tensor or a (B,) tensor as times of shape (B,) for x of shape (B, *), without a copy."""
    return torch.as_tensor(s, dtype=x.dtype, device=x.device).expand(x.shape[0])


def distinct_time(s: Float[Tensor, " b"]) -> Float[Tensor, " n"]:
    """Times of shape (B,), or (1,) where one number was expanded to all B: a network then embeds it only once."""
    return s[:1] if s.stride(0) == 0 and len(s) else s


def flat(x: Tensor) -> Float[Tensor, "b d"]:
    """x of shape (B, *) as a matrix (B, D)."""
    return x.reshape(x.shape[0], -1)


def normals(x: Float[Tensor, "b *event"], count: int, width: int, generator: torch.Generator) -> Float[Tensor, "b n w"]:
    """``count`` rows of ``width`` normal numbers for each of B points, in the precision and on the device of x.

    The numbers of a point are consecutive in the generator's stream and fill whole blocks of it. So a batch gets the
    same numbers as its points would get one after the other from the same generator.
    """
    padded = -(-count * width // NORMALS_PER_BLOCK) * NORMALS_PER_BLOCK
    drawn = torch.randn(len(x), padded, generator=generator, dtype=x.dtype, device=x.device)
    return drawn[:, : count * width].reshape(len(x), count, width)
