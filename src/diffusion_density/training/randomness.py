"""Random numbers that depend only on a key of numbers, and not on earlier draws, so that any step can be repeated."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


class Purpose(IntEnum):
    """The use of random numbers. Numbers for different uses are independent."""

    THROWS = 0
    DROPOUT = 1
    SHUFFLE = 2


def seed_of(*key: int) -> int:
    """A seed for a generator from several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def shuffled_rows(samples: int, seed: int, start: int, count: int) -> Int64[Tensor, " count"]:
    """Entries start … start + count − 1 of an endless list of the samples, in which each epoch has a new order."""
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
    """Seed torch's global generator, which dropout uses, and restore it afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(*key))
        yield
