"""Times and rows: how one time, or one time a row, meets a batch of any event shape."""

import torch
from jaxtyping import Float
from torch import Tensor


def per_row(values: Tensor, x: Tensor) -> Tensor:
    """Values of shape (B,) or (1,) viewed so that they multiply x of shape (B, *)."""
    return values.reshape(-1, *([1] * (x.ndim - 1)))


def expand_time(s: Tensor | float, x: Tensor) -> Float[Tensor, " b"]:
    """A number, a scalar tensor or a (B,) tensor as times of shape (B,) for x of shape (B, *), without a copy."""
    return torch.as_tensor(s, dtype=x.dtype, device=x.device).expand(x.shape[0])


def distinct_time(s: Float[Tensor, " b"]) -> Float[Tensor, " n"]:
    """Times of shape (B,), or of shape (1,) where they are one number seen B times: so that it's embedded once."""
    return s[:1] if s.stride(0) == 0 and len(s) else s


def flat(x: Tensor) -> Float[Tensor, "b d"]:
    """x of shape (B, *) as a matrix (B, D)."""
    return x.reshape(x.shape[0], -1)
