"""Random numbers that depend on what they are for and on nothing that came before, so that any step can be repeated."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


class Purpose(IntEnum):
    """What random numbers are for: those of different purposes are independent."""

    THROWS = 0
    DROPOUT = 1
    SHUFFLE = 2


def seed_of(*key: int) -> int:
    """A seed for a generator from several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def shuffled_rows(samples: int, seed: int, start: int, count: int) -> Int64[Tensor, " count"]:
    """Entries start … start + count − 1 of an endless list of samples, shuffled anew in each epoch."""
    epochs = range(start // samples, (start + count - 1) // samples + 1)
    ends = [(start - epoch * samples, start + count - epoch * samples) for epoch in epochs]
    parts = [
        _shuffle(samples, seed, epoch)[max(low, 0) : high] for epoch, (low, high) in zip(epochs, ends, strict=True)
    ]
    return torch.cat(parts)


@lru_cache(maxsize=2)
def _shuffle(samples: int, seed: int, epoch: int) -> Int64[Tensor, " samples"]:
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed_of(seed, Purpose.SHUFFLE, epoch)))


@contextmanager
def global_seed(device: torch.device, *key: int) -> Iterator[None]:
    """Set torch's global generator, which dropout draws from, and put it back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(*key))
        yield
