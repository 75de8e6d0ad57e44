"""Training in processes that are stopped, killed, or out of memory: the run ends as if nothing had happened."""

import copy
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import image_training
from diffusion_density.density.images.bits import bits_per_dim
from diffusion_density.density.result import LogDensity
from diffusion_density.machine import artifacts
from diffusion_density.process.model import DiffusionModel
from diffusion_density.training.loop import Trained
from image_training import OBJECTIVE, in_process, squares, start, tensors, train, train_in_little_memory
from truths import seeded

pytestmark = pytest.mark.slow
STEPS, HALF = 120, 60


@dataclass(frozen=True)
class Alone:
    """A run of one process, without interruption and without dropout, and its checkpoint halfway."""

    trained: Trained
    halfway: Path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    trained = train(folder, dropout=0.0, settings={"steps": STEPS}, checkpoint_every=HALF)
    return Alone(trained, folder / f"step-{HALF:09d}.safetensors")


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.safetensors"))


def wait_for_step(folder: Path, step: int, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while max(steps_in(folder), default=0) < step:
        assert alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_same_run(losses: Tensor, network: nn.Module, alone: Trained) -> None:
    """Equal but for the order of sums, also in bits/dim of test images."""
    torch.testing.assert_close(losses, alone.losses, rtol=1e-5, atol=0)
    ours, theirs = (bits(net) for net in (alone.network, network))
    assert ours.stderr is not None
    assert bool(((ours.value - theirs.value).abs() < 0.01 * ours.stderr).all()), "with the same throws"


def bits(network: nn.Module) -> LogDensity:
    """Bits/dim of four test images by the bound, always with the same random numbers."""
    model = DiffusionModel(network.eval().requires_grad_(False), OBJECTIVE.schedule, "velocity")
    return bits_per_dim(model, squares().test[:4], levels=17, estimator="bound", throws=64, generator=seeded(0))


def test_two_processes_are_stopped_and_one_goes_on(alone: Alone, tmp_path: Path) -> None:
    """The program starts its second process itself. SIGTERM writes one checkpoint, of the step in which it came."""
    folder = tmp_path / "run"
    command = [sys.executable, image_training.__file__, *map(str, (folder, 2, STEPS, 10, tmp_path / "unused"))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            wait_for_step(folder, 30, lambda: process.poll() is None)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, complaints.decode()
    stopped = max(steps_in(folder))
    assert 30 <= stopped < STEPS
    two = artifacts.read_safetensors(folder / f"step-{stopped:09d}.safetensors")[0]["losses"]
    mixed = train(folder, dropout=0.0, settings={"steps": STEPS})
    assert torch.equal(mixed.losses[:stopped], two)
    assert_same_run(mixed.losses, mixed.network, alone.trained)


def test_a_run_begun_by_one_process_is_ended_by_two_though_one_is_killed(alone: Alone, tmp_path: Path) -> None:
    folder, output = tmp_path / "run", tmp_path / "end.safetensors"
    folder.mkdir()
    shutil.copy(alone.halfway, folder)
    first, second = start(2, folder, STEPS, 10, output)
    wait_for_step(folder, HALF + 20, first.is_alive)
    first.kill()
    for process in (first, second):
        process.join(60)
    assert first.exitcode == -signal.SIGKILL
    assert second.exitcode not in (None, 0), "the death of one ends the other"
    stopped = max(steps_in(folder))
    assert HALF + 20 <= stopped < STEPS
    assert stopped % 10 == 0
    for process in start(2, folder, STEPS, 10, output):
        process.join(60)
        assert process.exitcode == 0
    ended, _ = artifacts.read_safetensors(output)
    losses = ended.pop("losses")
    assert torch.equal(losses[:HALF], alone.trained.losses[:HALF])
    network = copy.deepcopy(alone.trained.network)
    network.load_state_dict(ended)
    assert_same_run(losses, network, alone.trained)


def test_a_run_killed_at_three_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    moments = random.Random(0)  # noqa: S311 (no secret)
    for least in (3, 18, 33):
        [process] = start(1, folder, HALF, 3, tmp_path / "unused")
        wait_for_step(folder, least, process.is_alive)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert 33 <= max(steps_in(folder)) < HALF
    resumed = train(folder, settings={"steps": HALF}, checkpoint_every=3)
    assert not list(folder.glob(".*"))
    undisturbed = tensors(train(tmp_path / "undisturbed", settings={"steps": HALF}))
    assert all(torch.equal(value, undisturbed[name]) for name, value in tensors(resumed).items())


def test_memory_that_really_runs_out_is_recognised(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = in_process(train_in_little_memory, tmp_path, 1024, log)
    process.join(120)
    assert process.exitcode == 0
    assert "memory ran out at step 1; from now on 512 images at a time, not 1024" in log.read_text()
