"""What estimators return."""

import pytest
import torch

from diffusion_density.density.result import LogDensity
from truths import doubles


def test_the_density_has_an_old_name() -> None:
    result = LogDensity(doubles(1.0), None, "exact", "flow", 3)
    assert result.density == "flow"
    with pytest.warns(DeprecationWarning, match="LogDensity.of is called LogDensity.density now"):
        assert result.of == "flow"


def test_failures_are_counted() -> None:
    values = {"value": doubles(1.0, 2.0, 3.0), "stderr": None, "kind": "exact", "density": "flow"}
    assert LogDensity(**values, network_evaluations=3, status=torch.zeros(3).long()).failures() is None
    found = LogDensity(**values, network_evaluations=3, status=torch.tensor([1, 0, 2])).failures()
    assert found == "1 of 3 points: the field was not finite; 1 of 3 points: the solver stopped before the end"
