"""A small training run, for the tests in their own process and, as a program, for those that kill it or start two.

As a program: ``image_training.py FOLDER PROCESSES STEPS EVERY OUTPUT`` trains in that many processes of one thread, and
the first writes losses and averaged weights to OUTPUT.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_density.data.images import ImageSet, load
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


def digits() -> ImageSet:
    return load("digits", Path())


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
        network(dropout), digits(), settings=replace(SETTINGS, **settings or {}), folder=folder, **options
    )


def tensors(trained: Trained) -> dict[str, Tensor]:
    return {"losses": trained.losses, **trained.network.state_dict()}


def main(folder: str, devices: str, steps: str, every: str, output: str) -> None:
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


if __name__ == "__main__":
    main(*sys.argv[1:])
