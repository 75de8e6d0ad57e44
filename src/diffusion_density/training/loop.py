r"""Training of image models: one run, on one device or many, that ends the same however often it was stopped.

A step draws a batch of B images, a throw (time, noise) for each, and moves the weights along the mean loss. Everything
drawn depends on the seed and the step alone, and is drawn for the whole batch: process r of R takes rows r, r + R, …,
so that a run has one loss curve on any number of processes and with any micro-batch, up to the order of sums, and a run
that resumes from a checkpoint is the undisturbed one bit by bit (on CPUs; on GPUs as far as the kernels repeat
themselves). Only dropout, which torch's global generator draws, differs between processes and micro-batches; that
generator too is set anew each step.

Times come from B strata of [0, 1) (`times.low_discrepancy`), of which each process gets its own. Images come in the
order of a new shuffle each epoch. The learning rate rises linearly over ``warmup`` steps and then stays, or falls along
a half cosine to zero.
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
    """What a run ends with.

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

    At SIGTERM the run writes a checkpoint after the step it is in and lets the signal through.

    Args:
        network: called as ``network(y, s)``, (B, C, H, W) and (B,) to (B, C, H, W); it is left as it is.
        images: their bin centres in (−1, 1) are the data.
        objective: gives each example's loss.
        settings: of the optimisation.
        folder: for the checkpoints of this run alone.
        devices: of `devices.open_devices`; one CPU by default.
        micro_batch: images that a process sends through the network at once; by default its whole share. Where memory
            runs out it is halved, in all processes, and the batch stays.
        checkpoint_every: steps between checkpoints.
        identity: what else a checkpoint must agree on, such as the size and seed of the network; as JSON holds it.
        snapshots: steps after which ``on_snapshot`` gets the step and the averaged network, in the first process. A run
            that resumes repeats the snapshots since its checkpoint, and no others.
        on_snapshot: called before the checkpoint of its step is written, so that no snapshot is lost.
        progress: whether to show a bar, in the first process.

    Raises:
        InputError: if the batch can't be shared, the checkpoint is of another run or can't be written, or one image
            at a time is more than the memory holds.
        NumericalError: if the loss or its gradient is not finite, naming the step and the images; the last checkpoint
            stays.
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
    """What two runs must agree on for one to go on from the other's checkpoint."""
    data = {"name": images.name, "variant": images.variant, "levels": images.levels, "sha256": dict(images.sha256)}
    return {"data": data, "objective": objective.settings, "training": asdict(settings), **more}


def _resume(checkpoints: Checkpoints, optimiser: AveragedAdamW, devices: Devices) -> list[float]:
    """Load the last checkpoint that the first process sees, and give the losses up to there."""
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
    """Note SIGTERM instead of dying of it; outside the main thread, where Python can't, leave it alone."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, previous)
