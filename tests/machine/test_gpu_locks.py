"""Jobs on one machine never have the same GPU, whatever ends them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffusion_density.machine.errors import InputError
from diffusion_density.machine.gpu_locks import reserve, visible

JOB = """
import logging, os, sys
from diffusion_density.machine.gpu_locks import reserve
logging.basicConfig()
reserve(int(sys.argv[1]), poll=0.01)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
input()
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts jobs that take a number of GPUs and keep them until they are asked to end."""
    jobs: list[subprocess.Popen[str]] = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}

    def started(count: int, gpus: str = "0,1,2") -> "subprocess.Popen[str]":
        with (tmp_path / f"{len(jobs)}.log").open("w") as log:
            job = subprocess.Popen(
                [sys.executable, "-c", JOB, str(count)],
                env=environment | {"CUDA_VISIBLE_DEVICES": gpus, "TMPDIR": str(tmp_path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        jobs.append(job)
        return job

    yield started
    for job in jobs:
        job.kill()
        job.communicate()


def ids(job: "subprocess.Popen[str]") -> set[str]:
    """The GPUs of a job; waits until it has them."""
    assert job.stdout
    return set(job.stdout.readline().strip().split(","))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_jobs_have_different_gpus(start: Start) -> None:
    jobs = [start(1), start(2)]
    assert ids(jobs[0]) | ids(jobs[1]) == {"0", "1", "2"}


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_job_waits_for_a_gpu_and_says_so_until_its_holder_is_dead(start: Start, tmp_path: Path, end: str) -> None:
    first, second = start(1, "GPU-a,GPU-b"), start(1, "GPU-a,GPU-b")
    held = ids(first), ids(second)
    third = start(1, "GPU-a,GPU-b")
    wait_for(lambda: "waiting for 1 of the GPUs GPU-a, GPU-b" in (tmp_path / "2.log").read_text())
    getattr(first, end)()
    assert ids(third) == held[0]
    assert second.poll() is None


def test_jobs_do_not_wait_for_each_others_half(start: Start, tmp_path: Path) -> None:
    logs = [tmp_path / f"{job}.log" for job in range(3)]
    first = start(2)
    held = ids(first)
    others = [start(2), start(2)]  # one GPU is free: if each of the three kept one, none would ever run
    wait_for(lambda: all("waiting" in log.read_text() for log in logs[1:]))
    first.kill()
    wait_for(lambda: any("has the GPUs" in log.read_text() for log in logs[1:]))
    early, late = others if "has the GPUs" in logs[1].read_text() else reversed(others)
    assert len(held) == len(ids(early)) == 2
    early.kill()
    assert len(ids(late)) == 2


def test_fewer_than_asked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3 GPUs are asked for and 2 are here \(0, 1\)"):
        reserve(3, ["0", "1"], tmp_path)
    assert reserve(3, [], tmp_path) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [("0,1", ["0", "1"]), ("1, GPU-5a", ["1", "GPU-5a"]), ("", []), ("NoDevFiles", []), ("0,-1,1", ["0"])],
)
def test_what_cuda_may_see(monkeypatch: pytest.MonkeyPatch, given: str, expected: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible() == expected


@pytest.mark.parametrize("variable", [("LOCAL_RANK", "1"), ("SLURM_NTASKS", "2")])
def test_the_processes_of_a_launcher_lock_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: tuple[str, str]
) -> None:
    monkeypatch.setenv(*variable)
    assert reserve(2, ["0", "1", "2"], tmp_path / "locks") == ["0", "1"]
    assert not (tmp_path / "locks").exists()
