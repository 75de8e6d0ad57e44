"""A job takes the GPUs that it may use, or says that it runs on the processor."""

import logging
from pathlib import Path

import pytest
import torch

from diffusion_density.machine.devices import OneDevice, open_available
from diffusion_density.machine.errors import InputError


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine with two GPUs that CUDA is made to see."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("LOCAL_RANK", "SLURM_NTASKS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.usefixtures("pretended")
def test_a_job_without_gpus_runs_on_the_processor_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert open_available(0).device == torch.device("cpu")
    assert caplog.messages == ["this job was given no GPU: it runs on the processor"]


@pytest.mark.parametrize("ids", ["", "0,1"])
def test_a_machine_without_gpus_is_no_error_and_is_said(
    pretended: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ids: str
) -> None:
    pretended.setenv("CUDA_VISIBLE_DEVICES", ids)
    pretended.setattr(torch.cuda, "device_count", lambda: 0)
    with caplog.at_level(logging.WARNING):
        opened = open_available(2)
    assert isinstance(opened, OneDevice)
    assert opened.device == torch.device("cpu")
    assert caplog.messages[-1].endswith("GPUs and there are none: it runs on the processor")


@pytest.mark.usefixtures("pretended")
def test_a_job_keeps_its_gpus(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert open_available(1).device == torch.device("cuda")
        assert open_available(1).device == torch.device("cuda"), "it keeps what it has"
    assert caplog.messages == ["this job has the GPUs 0"] * 2


def test_fewer_gpus_than_a_job_may_use_are_an_error(pretended: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="3 GPUs are asked for and 2 are here"):
        open_available(3, devices=3)
    pretended.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 GPUs are asked for and 1 are here"):
        open_available(2, devices=2)
