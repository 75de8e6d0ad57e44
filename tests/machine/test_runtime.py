"""The process: threads and the precision of matrix products, put back after each test."""

import logging

import pytest
import torch

from diffusion_density.machine import runtime

pytestmark = pytest.mark.usefixtures("settings_put_back")


def test_products_of_highest_precision_are_single_precision() -> None:
    torch.set_float32_matmul_precision("highest")
    assert 0 < runtime.matmul_error() < 1e-6


@pytest.mark.parametrize(("error", "precision"), [(1e-7, "medium"), (1e-3, "highest")])
def test_fast_products_are_kept_only_if_they_are_accurate(
    error: float, precision: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "matmul_error", lambda: error)
    with caplog.at_level(logging.WARNING):
        runtime.configure(1)
    assert torch.get_float32_matmul_precision() == precision
    assert torch.get_num_threads() == 1
    assert ("using 'highest'" in caplog.text) == (precision == "highest")
