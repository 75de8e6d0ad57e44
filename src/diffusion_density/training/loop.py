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
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_density.data.images import ImageSet
from diffusion_density.density.dequantization import to_unit
from diffusion_density.errors import InputError, NumericalError
from diffusion_density.training import times
from diffusion_density.training.averaged_adamw import AveragedAdamW
from diffusion_density.training.checkpoints import Checkpoints
from diffusion_density.training.devices import Devices, OneDevice
from diffusion_density.training.flow_matching import FlowMatching
from diffusion_density.training.randomness import Purpose, global_seed, seed_of, shuffled_rows

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class ImageTraining:
    """What decides the weights that a run ends with, beside network, images and objective.

    Attributes:
        steps: of the optimiser.
        batch_size: B, images a step, all processes together.
        learning_rate: of AdamW, at its highest.
        warmup: steps over which it rises to that.
        cosine: whether it falls to zero afterwards.
        weight_decay: of AdamW, on all but biases.
        clip: largest norm of the gradient; None leaves it.
        ema: decay of the averaged weights.
        flips: whether half of the images are mirrored, left to right.
        low_discrepancy: whether the times of a batch are stratified.
        bfloat16: whether the network computes in bfloat16 where torch's autocast thinks it harmless.
        seed: of all that is random but the initial weights.
    """

    steps: int
    batch_size: int
    learning_rate: float = 2e-4
    warmup: int = 100
    cosine: bool = False
    weight_decay: float = 0.01
    clip: float | None = None
    ema: float = 0.9999
    flips: bool = False
    low_discrepancy: bool = True
    bfloat16: bool = False
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        return self.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / self.steps) if self.cosine else 1.0)


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
        micro_batch: images that a process sends through the network at once; by default its whole share.
        checkpoint_every: steps between checkpoints.
        identity: what else a checkpoint must agree on, such as the size and seed of the network; as JSON holds it.
        snapshots: steps after which ``on_snapshot`` gets the step and the averaged network, in the first process. A run
            that resumes repeats the snapshots since its checkpoint, and no others.
        on_snapshot: called before the checkpoint of its step is written, so that no snapshot is lost.
        progress: whether to show a bar, in the first process.

    Raises:
        InputError: if the batch can't be shared, or the checkpoint is of another run.
        NumericalError: if the loss or its gradient is not finite, naming the step; the last checkpoint stays.
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
    passes = _Passes(devices.setup_module(network), images, objective, settings, devices, micro_batch)
    bar = tqdm(total=settings.steps, initial=len(losses), unit="step", disable=not (progress and first))
    stop = False
    with bar, _termination() as asked:
        for step in range(len(losses), settings.steps):
            loss, stop = passes.step(step, asked.is_set)
            if not math.isfinite(loss):
                raise NumericalError(
                    f"training: the loss is {loss} at step {step + 1}; {folder} keeps the last checkpoint"
                )
            norm = optimiser.step(settings.rate(step), settings.clip)
            if not math.isfinite(norm):
                raise NumericalError(f"training: the gradient is {norm} at step {step + 1}; the loss is {loss}")
            losses.append(loss)
            bar.update()
            done = step + 1
            if first and done in snapshots and on_snapshot is not None:
                on_snapshot(done, optimiser.averaged(network))
            if stop or done % checkpoint_every == 0 or done == settings.steps:
                if first:
                    curve = torch.tensor(losses, dtype=torch.float64)
                    checkpoints.write(done, {**optimiser.tensors(), "losses": curve})
                bar.set_postfix_str(f"bits/dim {loss / (images.train[0].numel() * math.log(2)):.3f}")
                devices.barrier()
            if stop:
                break
    if stop or asked.is_set():
        signal.raise_signal(signal.SIGTERM)
        raise SystemExit(128 + signal.SIGTERM)  # where the signal was ignored
    return Trained(optimiser.averaged(network), torch.tensor(losses, dtype=torch.float64))


class _Passes:
    """The forward and backward passes of a step."""

    def __init__(
        self,
        network: nn.Module,
        images: ImageSet,
        objective: FlowMatching,
        settings: ImageTraining,
        devices: Devices,
        micro_batch: int | None,
    ) -> None:
        self.network = network
        self.images = images
        self.objective = objective
        self.settings = settings
        self.devices = devices
        self.micro_batch = micro_batch or settings.batch_size

    def step(self, step: int, stop: Callable[[], bool]) -> tuple[float, bool]:
        """Leave the gradient of the mean loss in the weights; then ask whether to ``stop``.

        Returns:
            The mean loss over the whole batch, and whether any process has been told to stop.
        """
        draws = self._draw(step)
        share = len(draws[0])
        parts = list(zip(*(rows.split(self.micro_batch) for rows in draws), strict=True))
        total = torch.zeros((), dtype=torch.float64, device=self.devices.device)
        with global_seed(self.devices.device, self.settings.seed, Purpose.DROPOUT, step, self.devices.global_rank):
            for i, (x, u, noise, *probe) in enumerate(parts):
                with self.devices.no_backward_sync(self.network, enabled=i + 1 < len(parts)):
                    loss = self.objective(self._forward, x, u, noise, *probe).sum() / share
                    loss.backward()
                total += loss.detach()
        told = torch.stack([total, torch.full_like(total, float(stop()))])
        mean, stopped = self.devices.all_reduce(told).tolist()
        return mean, stopped > 0

    def _forward(self, y: Tensor, s: Tensor) -> Tensor:
        with torch.autocast(y.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            output: Tensor = self.network(y, s)
        return output.to(y.dtype)

    def _draw(self, step: int) -> list[Tensor]:
        """This process's rows of the step: images in (−1, 1), uniform numbers, noise, and probes if needed."""
        settings, device = self.settings, self.devices.device
        count = settings.batch_size
        mine = slice(self.devices.global_rank, None, self.devices.world_size)
        chosen = shuffled_rows(len(self.images.train), settings.seed, step * count, count)[mine]
        x = to_unit(self.images.train[chosen].to(device), self.images.levels)
        generator = torch.Generator(device).manual_seed(seed_of(settings.seed, Purpose.THROWS, step))
        u = (times.low_discrepancy if settings.low_discrepancy else times.independent)(count, generator)
        noise = torch.randn(count, *x.shape[1:], generator=generator, device=device)
        flipped = torch.rand(count, generator=generator, device=device)[mine] < 0.5
        if settings.flips:
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
        probe = self.objective.probe(noise, generator)
        return [x, u[mine], noise[mine], *([] if probe is None else [probe[mine]])]


def _identity(
    images: ImageSet, objective: FlowMatching, settings: ImageTraining, more: Mapping[str, Any]
) -> dict[str, Any]:
    """What two runs must agree on for one to go on from the other's checkpoint."""
    data = {"name": images.name, "variant": images.variant, "levels": images.levels, "sha256": dict(images.sha256)}
    return {"data": data, "objective": objective.settings, "training": asdict(settings), **more}


def _resume(checkpoints: Checkpoints, optimiser: AveragedAdamW, devices: Devices) -> list[float]:
    """Load the last checkpoint, and give the losses up to there."""
    found = checkpoints.latest()
    step, tensors = (0, {}) if found is None else found
    mean = devices.all_reduce(torch.tensor(float(step), dtype=torch.float64, device=devices.device)).item()
    if mean != step:
        raise InputError(f"training: the processes do not see the same checkpoints in {checkpoints.folder}")
    if not step:
        return []
    losses = tensors.pop("losses", torch.empty(0))
    optimiser.load(tensors, step)
    return losses.tolist()


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
