r"""Train a network on images, on one device or several; a run that was stopped and resumed ends with the same result.

A step takes a batch of B images, draws a throw (time, noise) for each, and updates the weights by the gradient of the
mean loss. All random numbers depend only on the seed and the step, and are drawn for the whole batch; process r of R
takes rows r, r + R, … Therefore the loss curve does not depend on the number of processes or the micro-batch, except
for the order of sums, and a run that resumes from a checkpoint gives the same bits as a run without interruption (on
CPUs; on GPUs if the kernels are deterministic). Only dropout, which uses torch's global generator, differs between
processes and micro-batches; each step seeds that generator again.

The B times are stratified (`times.low_discrepancy`). Each epoch shuffles the images again. The learning rate rises
linearly over ``warmup`` steps; then it stays constant, or falls to zero along a half cosine.
"""

import copy
import math
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_density.data.images import ImageSet
from diffusion_density.machine.devices import Devices, OneDevice, in_first
from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.training.averaged_adamw import AveragedAdamW
from diffusion_density.training.checkpoints import Checkpoints
from diffusion_density.training.flow_matching import FlowMatching
from diffusion_density.training.passes import ImageTraining, Passes, named

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Trained(Generic[Network]):
    """The result of a run.

    Attributes:
        network: with the averaged weights, for evaluation.
        losses: (steps,) the mean loss of each step's batch, in nats per image.
    """

    network: Network
    losses: Float[Tensor, " steps"]


def train_images(
    network: Network,
    images: ImageSet,
    objective: FlowMatching,
    settings: ImageTraining,
    folder: Path,
    *,
    devices: Devices | None = None,
    micro_batch: int | None = None,
    checkpoint_every: int = 1000,
    identity: Mapping[str, Any] | None = None,
    snapshots: Collection[int] = (),
    on_snapshot: Callable[[int, Network], None] | None = None,
    progress: bool = False,
) -> Trained[Network]:
    """Train a network on the training images, from the last checkpoint in ``folder`` if there is one.

    After SIGTERM the run finishes its step, writes a checkpoint, and ends by that signal.

    Args:
        network: called as ``network(y, s)`` with y (B, C, H, W) and s (B,), gives (B, C, H, W); it is not changed.
        images: the data are the centres of their levels, in (−1, 1).
        objective: gives each example's loss.
        settings: of the optimisation.
        folder: for the checkpoints of this run only.
        devices: from `machine.devices.open_devices`; one CPU by default.
        micro_batch: number of images that a process gives to the network at once; by default its whole share. If memory
            runs out, all processes halve it; the batch stays the same.
        checkpoint_every: steps between checkpoints.
        identity: further settings that a checkpoint must have, such as the size and seed of the network; JSON values.
        snapshots: steps after which ``on_snapshot`` gets the step and the averaged network, in the first process. A run
            that resumes repeats the snapshots after its checkpoint, and no others.
        on_snapshot: called before the checkpoint of its step is written, so that no snapshot is lost.
        progress: whether the first process shows a progress bar.

    Raises:
        InputError: if the batch cannot be divided among the processes, the checkpoint belongs to another run or cannot
        be
            written, or the memory is too small for a single image.
        NumericalError: if the loss or its gradient is not finite; the message names the step and the images. The last
            checkpoint stays.
    """
    devices = devices or OneDevice()
    if settings.batch_size % devices.world_size:
        raise InputError(
            f"training: batch_size {settings.batch_size} can't be shared by {devices.world_size} processes"
        )
    first = devices.global_rank == 0
    network = copy.deepcopy(network).to(devices.device).train()
    optimiser = AveragedAdamW(network, settings.weight_decay, settings.ema)
    checkpoints = Checkpoints(folder, _identity(images, objective, settings, identity or {}))
    losses = _resume(checkpoints, optimiser, devices)
    if first:
        checkpoints.sweep()
    passes = Passes(network, images, objective, settings, devices, micro_batch)
    bar = tqdm(total=settings.steps, initial=len(losses), unit="step", disable=not (progress and first))
    stop = False
    with bar, _termination() as asked:
        for step in range(len(losses), settings.steps):
            loss, stop = passes.step(step, asked.is_set)
            if not math.isfinite(loss):
                raise NumericalError(
                    f"training: the loss is {loss} at step {step + 1} by {passes.culprits(step)}; "
                    f"{folder} keeps the last checkpoint"
                )
            norm = optimiser.step(settings.rate(step), settings.clip)
            if not math.isfinite(norm):
                raise NumericalError(
                    f"training: the gradient is {norm} at step {step + 1}, on {named(passes.batch(step))}; "
                    f"the loss is {loss}, and {folder} keeps the last checkpoint"
                )
            losses.append(loss)
            bar.update()
            done = step + 1
            if done in snapshots and on_snapshot is not None:
                in_first(devices, partial(_snapshot, on_snapshot, done, optimiser, network))
            if stop or done % checkpoint_every == 0 or done == settings.steps:
                in_first(devices, partial(_write, checkpoints, optimiser, losses))
                bar.set_postfix_str(f"bits/dim {loss / (images.train[0].numel() * math.log(2)):.3f}")
            if stop:
                break
    if stop or asked.is_set():
        signal.raise_signal(signal.SIGTERM)
        raise SystemExit(128 + signal.SIGTERM)  # where the signal was ignored
    return Trained(optimiser.averaged(network), torch.tensor(losses, dtype=torch.float64))


def _identity(
    images: ImageSet, objective: FlowMatching, settings: ImageTraining, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that must be equal for a run to continue from a checkpoint."""
    data = {"name": images.name, "variant": images.variant, "levels": images.levels, "sha256": dict(images.sha256)}
    return {"data": data, "objective": objective.settings, "training": asdict(settings), **more}


def _resume(checkpoints: Checkpoints, optimiser: AveragedAdamW, devices: Devices) -> list[float]:
    """Load the last checkpoint that the first process finds, and return the losses up to its step."""
    found = in_first(devices, checkpoints.latest)
    if found is None:
        return []
    step, tensors = found
    losses = tensors.pop("losses", torch.empty(0))
    optimiser.load(tensors, step)
    return losses.tolist()


def _write(checkpoints: Checkpoints, optimiser: AveragedAdamW, losses: list[float]) -> None:
    curve = torch.tensor(losses, dtype=torch.float64)
    checkpoints.write(len(losses), {**optimiser.tensors(), "losses": curve})


def _snapshot(taker: Callable[[int, Network], None], step: int, optimiser: AveragedAdamW, network: Network) -> None:
    taker(step, optimiser.averaged(network))


@contextmanager
def _termination() -> Iterator[threading.Event]:
    """Set an event at SIGTERM instead of ending; outside the main thread, where Python cannot do that, do nothing."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, previous)
