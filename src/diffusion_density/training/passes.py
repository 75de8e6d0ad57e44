r"""The forward and backward passes of one training step on images, on all processes and within their memory.

Each process takes its rows of the batch in micro-batches and keeps their gradients. Then all processes exchange the
mean loss, whether one was asked to stop, and whether memory ran out in one. If it did, all repeat the step with half
the micro-batch; the batch stays, and so does the result except for the order of sums. Gradients are averaged only after
this exchange, so that no process waits for one that ran out of memory during its passes.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from diffusion_density.data.images import ImageSet
from diffusion_density.density.images.dequantization import to_unit
from diffusion_density.machine.devices import Devices
from diffusion_density.machine.errors import InputError
from diffusion_density.process.times import independent, low_discrepancy
from diffusion_density.training.flow_matching import FlowMatching
from diffusion_density.training.randomness import Purpose, global_seed, seed_of, shuffled_rows

_LOG = logging.getLogger(__name__)
_OUT_OF_MEMORY_TEXTS = (  # of RuntimeErrors, which have no class of their own; the last is of oneDNN
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a primitive",
)
_MOST_IMAGES_IN_MESSAGE = 8


@dataclass(frozen=True)
class ImageTraining:
    """All settings of the optimisation; with network, images and objective they determine the final weights.

    Attributes:
        steps: number of optimiser steps.
        batch_size: B, images per step, of all processes together.
        learning_rate: the highest learning rate of AdamW.
        warmup: number of steps in which the learning rate rises from zero.
        cosine: whether the learning rate falls to zero afterwards.
        weight_decay: of AdamW, for all parameters except biases.
        clip: largest norm of the gradient; None for no limit.
        ema: decay of the averaged weights.
        flips: whether each image is mirrored left to right with probability ½.
        low_discrepancy: whether the times of a batch are stratified.
        bfloat16: whether the network computes in bfloat16 where torch's autocast uses it.
        seed: of all random numbers except the initial weights.
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


class Passes:
    """Forward and backward passes of a network; the gradients are the mean over all processes.

    Args:
        network: on its device.
        images: the data.
        objective: gives each example's loss.
        settings: of the optimisation.
        devices: the processes.
        micro_batch: number of images that a process gives to the network at once; by default its whole share.
    """

    def __init__(
        self,
        network: nn.Module,
        images: ImageSet,
        objective: FlowMatching,
        settings: ImageTraining,
        devices: Devices,
        micro_batch: int | None,
    ) -> None:
        share = settings.batch_size // devices.world_size
        self.network = network
        self.images = images
        self.objective = objective
        self.settings = settings
        self.devices = devices
        self.micro_batch = min(micro_batch or share, share)
        self._bad = torch.zeros(share, dtype=torch.bool, device=devices.device)
        self._weights = [value for value in network.parameters() if value.requires_grad]
        self._shortage = ""
        several = devices.world_size > 1
        self._gradient = torch.cat([torch.zeros_like(value).flatten() for value in self._weights]) if several else None

    def step(self, step: int, stop: Callable[[], bool]) -> tuple[float, bool]:
        """Store the gradient of the mean loss in the weights' ``grad``; then ask ``stop`` whether to stop.

        Returns:
            The mean loss over the whole batch, and whether any process was asked to stop.

        Raises:
            InputError: if the memory of a device is too small for a single image.
        """
        while True:
            loss = self._attempt(step)
            own = torch.zeros(3, dtype=torch.float64, device=self.devices.device)
            if loss is not None:
                own[0] = loss
            own[1], own[2] = float(stop()), float(loss is None)
            mean, stopped, failed = self.devices.all_reduce(own).tolist()
            if not failed:
                break
            self._halve(step)
        if math.isfinite(mean):
            self._average()
        return mean, stopped > 0

    def batch(self, step: int) -> Int64[Tensor, " batch"]:
        """The numbers of the training images of this step, of all processes together."""
        count = self.settings.batch_size
        return shuffled_rows(len(self.images.train), self.settings.seed, step * count, count)

    def culprits(self, step: int) -> str:
        """A text that names the images of the last step's batch whose loss is not finite."""
        rows = torch.zeros(self.settings.batch_size, dtype=torch.float64, device=self._bad.device)
        rows[self._mine] = self._bad.double()
        bad = self.devices.all_reduce(rows).nonzero().flatten().cpu()  # rows of all processes, in the batch's order
        if not len(bad):
            return f"the sum over {named(self.batch(step))}"
        return f"{len(bad)} of the batch: {named(self.batch(step)[bad])}"

    @property
    def _mine(self) -> slice:
        return slice(self.devices.global_rank, None, self.devices.world_size)

    def _attempt(self, step: int) -> float | None:
        """This process's mean loss, with the gradient in the weights; None, and no gradient, if memory ran out."""
        try:
            return self._passes(step)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            self._shortage = str(error).partition("\n")[0]
        # after the handler, because the traceback in it keeps the activations in memory
        for value in self._weights:
            value.grad = None
        if self.devices.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _halve(self, step: int) -> None:
        """Halve the micro-batch; all processes do so together."""
        for value in self._weights:
            value.grad = None
        if self.micro_batch == 1:
            raise InputError(
                f"training: the memory of {self.devices.device} is too small for one image at a time, at step "
                f"{step + 1}; ask for more memory or train a smaller network"
                + (f" ({self._shortage})" if self._shortage else "")
            )
        before, self.micro_batch = self.micro_batch, self.micro_batch // 2
        if self.devices.global_rank == 0:
            _LOG.warning(
                "training: memory ran out at step %d; from now on %d images at a time, not %d; the batch stays %d",
                step + 1,
                self.micro_batch,
                before,
                self.settings.batch_size,
            )

    def _average(self) -> None:
        """Replace each process's gradient by the mean over all processes."""
        if self._gradient is None:
            return
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in self._weights]
        torch.cat([gradient.flatten() for gradient in gradients], out=self._gradient)
        mean = self.devices.all_reduce(self._gradient)
        parts = mean.split([value.numel() for value in self._weights])
        for value, part in zip(self._weights, parts, strict=True):
            if value.grad is not None:
                value.grad.copy_(part.view_as(value))

    def _passes(self, step: int) -> float:
        draws = self._draw(step)
        share = len(draws[0])
        total = torch.zeros((), dtype=torch.float64, device=self.devices.device)
        finite = []
        with global_seed(self.devices.device, self.settings.seed, Purpose.DROPOUT, step, self.devices.global_rank):
            for x, u, noise, *probe in zip(*(rows.split(self.micro_batch) for rows in draws), strict=True):
                each = self.objective(self._forward, x, u, noise, *probe)
                loss = each.sum() / share
                loss.backward()
                total += loss.detach()
                finite.append(each.detach().isfinite())
        self._bad = ~torch.cat(finite)
        return total.item()

    def _forward(self, y: Tensor, s: Tensor) -> Tensor:
        with torch.autocast(y.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            output: Tensor = self.network(y, s)
        return output.to(y.dtype)

    def _draw(self, step: int) -> list[Tensor]:
        """This process's rows of the batch: images in (−1, 1), uniform random numbers, noise, and probes if needed."""
        settings, device = self.settings, self.devices.device
        count = settings.batch_size
        mine = self._mine
        chosen = self.batch(step)[mine]
        x = to_unit(self.images.train[chosen].to(device), self.images.levels)
        generator = torch.Generator(device).manual_seed(seed_of(settings.seed, Purpose.THROWS, step))
        u = (low_discrepancy if settings.low_discrepancy else independent)(count, generator)
        noise = torch.randn(count, *x.shape[1:], generator=generator, device=device)
        flipped = torch.rand(count, generator=generator, device=device)[mine] < 0.5
        if settings.flips:
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
        probe = self.objective.probe(noise, generator)
        return [x, u[mine], noise[mine], *([] if probe is None else [probe[mine]])]


def named(images: Int64[Tensor, " n"]) -> str:
    """A text with the numbers of training images; of many, the first few."""
    listed = ", ".join(str(i) for i in images[:_MOST_IMAGES_IN_MESSAGE].tolist())
    rest = len(images) - _MOST_IMAGES_IN_MESSAGE
    more = f" and {rest} more" if rest > 0 else ""
    return f"training images {listed}{more}"


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, in GPU or processor memory."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)
