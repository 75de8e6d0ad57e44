"""Times and rows of every shape."""

import pytest
import torch

from diffusion_density.process.batches import distinct_time, expand_time, flat, per_row
from truths import doubles


def test_values_meet_rows() -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    torch.testing.assert_close(per_row(torch.tensor([2.0, 3.0]), x) * x, torch.stack([2 * x[0], 3 * x[1]]))
    torch.testing.assert_close(per_row(torch.tensor([2.0]), x) * x, 2 * x)
    assert flat(x).shape == (2, 12)


@pytest.mark.parametrize("s", [0.25, torch.tensor(0.25), torch.tensor([0.25]), torch.full((3,), 0.25)])
def test_every_form_of_one_time_expands_to_the_points(s: torch.Tensor | float) -> None:
    time = expand_time(s, torch.zeros(3, 2, dtype=torch.float64))
    assert time.dtype == torch.float64
    assert time.tolist() == [0.25, 0.25, 0.25]


def test_one_time_is_seen_once_and_several_are_kept() -> None:
    x = torch.zeros(3, 2, dtype=torch.float64)
    assert distinct_time(expand_time(0.25, x)).tolist() == [0.25]
    assert distinct_time(doubles(0.1, 0.2, 0.3)).tolist() == [0.1, 0.2, 0.3]
