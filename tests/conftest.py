"""Fixtures of all tests: one thread, a generator with a fixed seed, the settings of torch put back."""

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20_241_009)


@pytest.fixture
def settings_put_back() -> Iterator[None]:
    """For tests that change the threads of torch or the precision of its products."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
