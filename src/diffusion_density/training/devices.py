"""Where training runs: one device, or many through lightning-fabric, behind the few calls that the loop makes.

Starting a job on many devices is lightning-fabric's business: under SLURM or torchrun it finds the processes made for
it, elsewhere it starts the command again once per device. It takes two seconds to import, which one device spares.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from diffusion_density.errors import InputError

_LOG = logging.getLogger(__name__)


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

    def setup_module(self, module: nn.Module) -> nn.Module:
        """The module on this device, whose backward passes average the gradients over all processes."""

    def no_backward_sync(self, module: nn.Module, enabled: bool = True) -> AbstractContextManager[object]:
        """Backward passes that leave the gradients to this process, of a module from ``setup_module``."""

    def all_reduce(self, data: Tensor) -> Tensor:
        """The mean over all processes."""

    def barrier(self) -> None:
        """Wait for all processes."""


class OneDevice:
    """This process alone.

    Args:
        device: such as "cpu" or "cuda".
    """

    global_rank = 0
    world_size = 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def setup_module(self, module: nn.Module) -> nn.Module:
        return module.to(self.device)

    def no_backward_sync(self, module: nn.Module, enabled: bool = True) -> AbstractContextManager[object]:  # noqa: ARG002
        return nullcontext()

    def all_reduce(self, data: Tensor) -> Tensor:
        return data

    def barrier(self) -> None:
        pass


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

    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return cast(Devices, fabric)


def available(gpus: int) -> int:
    """How many of the GPUs that a job may use are there: all, or none, which a warning says.

    Raises:
        InputError: if there are some, but fewer.
    """
    found = torch.cuda.device_count()
    if 0 < found < gpus:
        raise InputError(f"devices: {gpus} GPUs are asked for and {found} are here")
    if gpus and not found:
        _LOG.warning("this job may use %d GPUs and there are none: it runs on the processor", gpus)
    return min(gpus, found)


def open_available(gpus: int) -> Devices:
    """The GPUs that a job may use, or the processor where there are none.

    Raises:
        InputError: if there are some, but fewer.
    """
    count = available(gpus)
    return open_devices("cuda", count) if count else OneDevice("cpu")
