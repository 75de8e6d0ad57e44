"""Fixtures of all tests: one thread, and a generator with a fixed seed."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20_241_009)
