"""Where a job computes: on one device, or on several through lightning-fabric, with the few operations that training
needs.

Lightning-fabric starts the processes of a job on several devices. If ``torchrun`` or a SLURM step of several tasks has
started them, it finds them; otherwise, also in a SLURM step of one task, it starts the command again once per device.
A job on one device does not import it, which saves two seconds.
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
    """The processes of a job, seen from one of them. A launched `lightning_fabric.Fabric` has these methods."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    @property
    def global_rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def world_size(self) -> int:
        """The number of processes."""

    def all_reduce(self, data: Tensor) -> Tensor:
        """The mean over all processes."""

    def broadcast(self, obj: T, src: int = 0) -> T:
        """The object of process ``src``, in all processes."""


class OneDevice:
    """A single process.

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
    """Run ``action`` in the first process, and return its result in all processes; the others wait for it.

    Files are read and written in this way, so that a node with a slow file system does no harm.

    Raises:
        InputError: the action's error, in every process, so that none waits for a process that failed.
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
    """The devices that a job asks for. With several devices, each of the job's processes returns from this call.

    Args:
        accelerator: "cpu" or "cuda".
        devices: number of processes on each node, each with one device.
        nodes: number of machines; if more than one, a scheduler must have started a process for every device.

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

    # Lightning-fabric assumes that every SLURM step has several tasks; a step of one task must start them itself.
    alone = nodes == 1 and os.environ.get("SLURM_NTASKS", "1") == "1" and "TORCHELASTIC_RUN_ID" not in os.environ
    plugins = LightningEnvironment() if alone else None
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy="ddp", plugins=plugins)
    fabric.launch()
    return cast(Devices, fabric)


def open_available(gpus: int, devices: int = 1, nodes: int = 1) -> Devices:
    """Reserve the GPUs that a job may use, one process each; without GPUs use as many processes on the processor.

    The log says where the job runs.

    Args:
        gpus: number of GPUs that the job may use on each node; if smaller than ``devices``, the number of processes.
        devices: number of processes on each node.
        nodes: number of machines.

    Raises:
        InputError: if there are GPUs, but fewer.
    """
    wanted, found = min(gpus, devices), 0
    if wanted:
        gpu_locks.reserve(wanted)
        found = torch.cuda.device_count()
        if 0 < found < wanted:
            raise InputError(f"devices: {wanted} GPUs are asked for and {found} are here")
        if not found:
            _LOG.warning("this job may use %d GPUs and there are none: it runs on the processor", wanted)
    else:
        _LOG.warning("this job was given no GPU: it runs on the processor")
    if found:
        return open_devices("cuda", wanted, nodes)
    if devices > 1:
        _LOG.warning("this job runs as %d processes on the processor", devices)
    return open_devices("cpu", devices, nodes)
