"""Failures on clusters: memory, disks, broken files, other processes."""

import copy
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_density.machine import artifacts
from diffusion_density.machine.devices import OneDevice, in_first
from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.training.checkpoints import Checkpoints
from diffusion_density.training.flow_matching import FlowMatching
from diffusion_density.training.loop import Trained
from diffusion_density.training.randomness import shuffled_rows
from image_training import OBJECTIVE, SETTINGS, squares, train


class Greedy(FlowMatching):
    """The objective, out of memory above so many images at once."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__(OBJECTIVE.schedule)
        self.most = most
        self.error = error
        self.sizes: list[int] = []

    def __call__(self, network: Any, x: Tensor, u: Tensor, noise: Tensor, probe: Tensor | None = None) -> Tensor:  # noqa: ANN401
        self.sizes.append(len(x))
        loss = super().__call__(network, x, u, noise, probe)
        if len(x) > self.most:
            raise self.error
        return loss


EXHAUSTED = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


FEW = {"steps": 4}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of few steps by one process, without dropout, which micro-batches and processes do not share."""
    return train(tmp_path_factory.mktemp("undisturbed"), dropout=0.0, settings=FEW)


@pytest.mark.parametrize("error", EXHAUSTED, ids=["cuda", "cpu", "onednn", "python"])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(
    undisturbed: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    greedy = Greedy(2, error)
    losses = train(tmp_path, dropout=0.0, objective=greedy, settings=FEW).losses
    assert greedy.sizes == [8, 4, *[2] * 4 * FEW["steps"]]
    assert [record.message for record in caplog.records] == [
        "training: memory ran out at step 1; from now on 4 images at a time, not 8; the batch stays 8",
        "training: memory ran out at step 1; from now on 2 images at a time, not 4; the batch stays 8",
    ]
    torch.testing.assert_close(losses, undisturbed.losses, rtol=1e-5, atol=0)


def test_a_step_that_ran_out_of_memory_leaves_no_gradient(tmp_path: Path) -> None:
    """Memory runs out at the second micro-batch, with the gradient of the first in the weights."""

    class Late(Greedy):
        def __call__(self, network: Any, x: Tensor, u: Tensor, noise: Tensor, probe: Tensor | None = None) -> Tensor:  # noqa: ANN401
            self.most = 0 if len(self.sizes) == 1 else 8
            return super().__call__(network, x, u, noise, probe)

    late = Late(8, EXHAUSTED[1])
    first = train(tmp_path / "late", dropout=0.0, objective=late, micro_batch=4, settings=FEW)
    assert late.sizes[:4] == [4, 4, 2, 2]
    second = train(tmp_path / "two", dropout=0.0, micro_batch=2, settings=FEW)
    assert all(torch.equal(a, second.network.state_dict()[name]) for name, a in first.network.state_dict().items())


def test_memory_for_not_even_one_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"the memory of cpu is too small for one image at a time, at step 1; .* \(CUDA out"
    ):
        train(tmp_path, objective=Greedy(0, EXHAUSTED[0]))


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    greedy = Greedy(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        train(tmp_path, objective=greedy)
    assert greedy.sizes == [8]


class Threads:
    """The two processes of a run as two threads, that meet in `all_reduce` and `broadcast`."""

    def __init__(self) -> None:
        self.meeting = threading.Barrier(2, timeout=60)
        self.brought: list[Any] = [None, None]

    def exchange(self, rank: int, value: Any) -> list[Any]:  # noqa: ANN401
        self.brought[rank] = value
        self.meeting.wait()
        everything = list(self.brought)
        self.meeting.wait()
        return everything


class Member(OneDevice):
    world_size = 2

    def __init__(self, threads: Threads, rank: int) -> None:
        super().__init__()
        self.threads = threads
        self.global_rank = rank

    def all_reduce(self, data: Tensor) -> Tensor:
        return torch.stack(self.threads.exchange(self.global_rank, data.clone())).mean(0)

    def broadcast(self, obj: Any, src: int = 0) -> Any:  # noqa: ANN401
        return copy.deepcopy(self.threads.exchange(self.global_rank, obj)[src])  # processes share no memory


def together(work: Callable[[Member], object]) -> list[object]:
    """What ``work`` gives, or the error it ends with, in each of two processes."""
    threads, ends = Threads(), Queue[tuple[int, object]]()

    def member(rank: int) -> None:
        try:
            ends.put((rank, work(Member(threads, rank))))
        except Exception as error:
            ends.put((rank, error))

    for rank in range(2):
        threading.Thread(target=member, args=(rank,), daemon=True).start()
    return [end for _, end in sorted((ends.get(timeout=120) for _ in range(2)), key=lambda pair: pair[0])]


def two(folder: Path, objectives: list[FlowMatching], **options: Any) -> list[Any]:  # noqa: ANN401
    return together(
        lambda devices: (
            train(folder, dropout=0.0, objective=objectives[devices.global_rank], devices=devices, **options).losses
        )
    )


def test_a_process_without_memory_takes_the_other_along(undisturbed: Trained, tmp_path: Path) -> None:
    greedy, modest = Greedy(1, EXHAUSTED[0]), Greedy(8, EXHAUSTED[0])
    losses = two(tmp_path, [modest, greedy], settings=FEW)
    assert greedy.sizes == [4, 2, *[1] * 4 * FEW["steps"]]
    assert modest.sizes == [4, 2, 2, *[1] * 4 * FEW["steps"]]
    for each in losses:
        torch.testing.assert_close(each, undisturbed.losses, rtol=1e-5, atol=0)


def test_a_process_whose_node_sees_no_checkpoint_goes_on_with_the_others(tmp_path: Path) -> None:
    """Only the first process reads; the other's folder is empty, as on a file system that lags."""
    whole = train(tmp_path / "seen", dropout=0.0).losses
    (tmp_path / "seen" / "step-000000012.safetensors").unlink()
    folders = [tmp_path / "seen", tmp_path / "lagging"]
    losses = together(lambda devices: train(folders[devices.global_rank], dropout=0.0, devices=devices).losses)
    assert not folders[1].exists()
    for each in losses:
        assert isinstance(each, Tensor)
        torch.testing.assert_close(each, whole, rtol=1e-5, atol=0)


def test_an_error_in_the_first_process_ends_all() -> None:
    def fail() -> int:
        raise InputError("disk full")

    assert [str(error) for error in together(lambda devices: in_first(devices, fail))] == ["disk full"] * 2
    assert together(lambda devices: in_first(devices, lambda: 3)) == [3, 3]


class Poisoned(FlowMatching):
    """The objective, with a loss that is not a number for one image at one step."""

    def __init__(self, row: int, step: int) -> None:
        super().__init__(OBJECTIVE.schedule)
        self.row, self.step, self.calls = row, step, 0

    def __call__(self, network: Any, x: Tensor, u: Tensor, noise: Tensor, probe: Tensor | None = None) -> Tensor:  # noqa: ANN401
        self.calls += 1
        loss = super().__call__(network, x, u, noise, probe)
        if self.calls == self.step and self.row >= 0:
            loss = torch.where(torch.arange(len(x)) == self.row, torch.nan, loss)
        return loss


def test_a_loss_that_is_not_finite_names_step_and_images(tmp_path: Path) -> None:
    image = shuffled_rows(len(squares().train), SETTINGS.seed, 6 * 8, 8)[5].item()
    said = rf"the loss is nan at step 7 by 1 of the batch: training images {image}; .* keeps the last checkpoint"
    with pytest.raises(NumericalError, match=said):
        train(tmp_path / "one", objective=Poisoned(5, 7))
    assert [path.stem for path in (tmp_path / "one").iterdir()] == ["step-000000004"]
    errors = two(tmp_path / "two", [Poisoned(-1, 7), Poisoned(2, 7)])  # row 2 of the second process is 5 of the batch
    for error in errors:
        assert isinstance(error, NumericalError)
        assert f"at step 7 by 1 of the batch: training images {image};" in str(error)


def test_checkpoints_that_cannot_be_read_are_out_of_the_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    assert Checkpoints(tmp_path, {}).latest() is None
    assert "holds no checkpoint that can be read; the run starts from scratch" in caplog.text
    Checkpoints(tmp_path, {}).write(2, {"a": torch.zeros(1)})
    assert [path.stem for path in tmp_path.iterdir()] == ["step-000000002"]
    assert Checkpoints(tmp_path, {}).latest() is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill a disk but for so many bytes."""
    filler = folder / "filler"
    free = os.statvfs(folder)
    filler.write_bytes(bytes(max(free.f_bavail * free.f_frsize - left, 0)))
    return filler


def test_a_full_disk_stops_the_run_and_keeps_what_was_there(small_disk: Path) -> None:
    folder = small_disk / "run"
    half = train(folder, checkpoint_every=4, settings={"steps": 12})
    newest = folder / "step-000000012.safetensors"
    newest.unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    filler = fill(small_disk, 8192)
    said = (
        r"run/step-0+12\.safetensors: cannot be written \(No space left on device\); make room in .*run and run again"
    )
    with pytest.raises(InputError, match=said):
        train(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    filler.unlink()
    assert torch.equal(train(folder).losses, half.losses)


def test_a_table_on_a_full_disk_names_file_and_folder_and_keeps_the_old_one(small_disk: Path) -> None:
    table = small_disk / "tables" / "t.csv"
    artifacts.write_text(table, "a\n1\n")
    fill(small_disk, 4096)
    with pytest.raises(InputError, match=r"tables/t\.csv: cannot be written \(No space left .* make room in .*tables"):
        artifacts.write_text(table, "a\n" + "1\n" * 100_000)
    assert table.read_text() == "a\n1\n"
    assert [path.name for path in table.parent.iterdir()] == ["t.csv"]
