"""Where training runs: one device, or many through lightning-fabric, behind the few calls that the loop makes.

Starting a job on many devices is lightning-fabric's business: where ``torchrun`` or a SLURM step of several tasks made
the processes, it finds them; elsewhere, also in a SLURM step of one task, it starts the command again once per device.
It takes two seconds to import, which one device spares.
"""

import logging
import os
from collections.abc import Callable
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from diffusion_density.machine import gpu_locks
from diffusion_density.machine.errors import InputError

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


@runtime_checkable
class Devices(Protocol):
    """This process and its companions; `lightning_fabric.Fabric` is one, once launched."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    @property
    def global_rank(self) -> int:
        """Which of the processes this is, from 0."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    def all_reduce(self, data: Tensor) -> Tensor:
        """The mean over all processes."""

    def broadcast(self, obj: T, src: int = 0) -> T:
        """What process ``src`` gives, in all of them."""


class OneDevice:
    """This process alone.

    Args:
        device: such as "cpu" or "cuda".
    """

    global_rank = 0
    world_size = 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def all_reduce(self, data: Tensor) -> Tensor:
        return data

    def broadcast(self, obj: T, src: int = 0) -> T:  # noqa: ARG002
        return obj


def in_first(devices: Devices, action: Callable[[], T]) -> T:
    """What ``action`` gives in the first process, in all of them; the others wait for it.

    Files are read and written so: no process depends on what its own node sees of them, or when.

    Raises:
        InputError: of the action, in every process, so that none waits for one that failed.
    """
    outcome: T | InputError | None = None
    if devices.global_rank == 0:
        try:
            outcome = action()
        except InputError as error:
            outcome = error
    shared = devices.broadcast(outcome)
    if isinstance(shared, InputError):
        raise shared
    return cast(T, shared)


def open_devices(accelerator: str = "cpu", devices: int = 1, nodes: int = 1) -> Devices:
    """The devices that a training job asks for; with several, every one of its processes goes on from here.

    Args:
        accelerator: "cpu" or "cuda".
        devices: processes on each node, one device each.
        nodes: machines; above one, a scheduler must have started a process for every device.

    Raises:
        InputError: if this machine has fewer devices of that kind.
    """
    if accelerator not in ("cpu", "cuda"):
        raise InputError(f"devices: the accelerator is 'cpu' or 'cuda', not {accelerator!r}")
    if devices < 1 or nodes < 1:
        raise InputError(f"devices: at least one device and node are needed, not {devices} on {nodes}")
    available = torch.cuda.device_count()
    if accelerator == "cuda" and devices > available:
        raise InputError(f"devices: {devices} GPUs are asked for and {available} are here")
    if devices == nodes == 1:
        return OneDevice(accelerator)
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    # A step of one task has no companions, though lightning-fabric takes every step of SLURM to have some.
    alone = nodes == 1 and os.environ.get("SLURM_NTASKS", "1") == "1" and "TORCHELASTIC_RUN_ID" not in os.environ
    plugins = LightningEnvironment() if alone else None
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy="ddp", plugins=plugins)
    fabric.launch()
    return cast(Devices, fabric)


def available(gpus: int) -> int:
    """Take the GPUs that a job may use, for this process alone, and say where it runs.

    Returns:
        How many there are: all, or none.

    Raises:
        InputError: if there are some, but fewer.
    """
    if not gpus:
        _LOG.warning("this job was given no GPU: it runs on the processor")
        return 0
    gpu_locks.reserve(gpus)
    found = torch.cuda.device_count()
    if 0 < found < gpus:
        raise InputError(f"devices: {gpus} GPUs are asked for and {found} are here")
    if not found:
        _LOG.warning("this job may use %d GPUs and there are none: it runs on the processor", gpus)
    return min(gpus, found)


def open_available(gpus: int, devices: int = 1, nodes: int = 1) -> Devices:
    """The GPUs that a job may use, one process each, or where there are none as many processes on the processor.

    Args:
        gpus: that it may use on each node; fewer than ``devices`` make as many processes.
        devices: processes on each node.
        nodes: machines.

    Raises:
        InputError: if there are some GPUs, but fewer.
    """
    count = available(min(gpus, devices))
    if not count and devices > 1:
        _LOG.warning("this job runs as %d processes on the processor", devices)
    return open_devices("cuda", count, nodes) if count else open_devices("cpu", devices, nodes)
