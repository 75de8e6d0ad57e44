"""A small training run, for tests in their own process and in others.

As a program, ``image_training.py FOLDER PROCESSES STEPS EVERY OUTPUT`` trains in that many processes with one thread
each, which it starts itself; the first writes losses and averaged weights to OUTPUT. `start` starts the processes as
``torchrun`` would, from a server that has imported the heavy packages once.
"""

import logging
import os
import resource
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_density.data.images import ImageSet
from diffusion_density.machine import artifacts
from diffusion_density.machine.devices import open_devices
from diffusion_density.networks.unet import SmallUNet
from diffusion_density.process.schedules import LogLinear
from diffusion_density.training.flow_matching import FlowMatching
from diffusion_density.training.loop import Trained, train_images
from diffusion_density.training.passes import ImageTraining

SETTINGS = ImageTraining(
    steps=12, batch_size=8, learning_rate=1e-3, warmup=4, cosine=True, clip=50.0, ema=0.9, flips=True, seed=3
)
OBJECTIVE = FlowMatching(LogLinear(-7.876, 5.0))


FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["lightning_fabric", "diffusion_density.training.loop", "diffusion_density.networks.unet"])


@cache
def squares() -> ImageSet:
    """Noisy 8×8 images of a bright square on a dark ground, with 17 levels."""
    generator = torch.Generator().manual_seed(0)
    corners, side = torch.randint(6, (320, 2, 1), generator=generator), torch.arange(8)
    rows, columns = ((corners <= side) & (side < corners + 3)).unbind(1)
    bright = rows[:, None, :, None] & columns[:, None, None, :]
    pixels = (12 * bright + torch.randint(5, bright.shape, generator=generator)).to(torch.uint8)
    return ImageSet("squares", pixels[:256], pixels[256:], 17, "", "made here", {"pixels": "always the same"}, "none")


def network(dropout: float = 0.1, seed: int = 0) -> SmallUNet:
    return SmallUNet(
        1,
        (8, 8),
        patch=2,
        contrasts=2,
        frequencies=(17 / 4, 17 / 2),
        time_width=8,
        dropout=dropout,
        generator=torch.Generator().manual_seed(seed),
    )


def train(folder: Path, *, dropout: float = 0.1, settings: Mapping[str, Any] | None = None, **options: Any) -> Trained:  # noqa: ANN401
    """Train the small network; ``settings`` change ``SETTINGS``."""
    options = {"objective": OBJECTIVE, "checkpoint_every": 4} | options
    return train_images(
        network(dropout), squares(), settings=replace(SETTINGS, **settings or {}), folder=folder, **options
    )


def tensors(trained: Trained) -> dict[str, Tensor]:
    return {"losses": trained.losses, **trained.network.state_dict()}


def main(folder: str | Path, devices: int | str, steps: int | str, every: int | str, output: str | Path) -> None:
    torch.set_num_threads(1)
    count = int(devices)
    opened = open_devices("cpu", count)
    trained = train(
        Path(folder),
        dropout=0.1 if count == 1 else 0.0,
        settings={"steps": int(steps)},
        checkpoint_every=int(every),
        devices=opened,
    )
    if opened.global_rank == 0:
        artifacts.write_safetensors(Path(output), tensors(trained))


def start(processes: int, folder: Path, steps: int, every: int, output: Path) -> list[ForkServerProcess]:
    """Start `main` in processes that find each other as those of ``torchrun`` do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [in_process(_member, rank, processes, port, folder, steps, every, output) for rank in range(processes)]


def _member(rank: int, processes: int, port: int, *arguments: Any) -> None:  # noqa: ANN401
    if processes > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": processes, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    folder, steps, every, output = arguments
    main(folder, processes, steps, every, output)


def in_process(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:  # noqa: ANN401
    process = FORKS.Process(target=function, args=arguments)
    process.start()
    return process


def train_in_little_memory(folder: Path, batch_size: int, log: Path) -> None:
    """Train once, then with a larger batch and little more address space than the process has by then."""
    logging.basicConfig(filename=log)
    torch.set_num_threads(1)
    train(folder / "warm", dropout=0.0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    allowed = pages * resource.getpagesize() + 24 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    tight = train(folder / "tight", dropout=0.0, settings={"steps": 1, "batch_size": batch_size})
    assert tight.losses.isfinite().all()


if __name__ == "__main__":
    main(*sys.argv[1:])
