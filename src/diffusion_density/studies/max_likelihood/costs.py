"""What training costs before it starts: parameters, operations, and hours of a GPU, from counts and not from clocks."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from diffusion_density.data.images import load
from diffusion_density.networks.build import build_unet
from diffusion_density.networks.cost import flops, parameters
from diffusion_density.networks.sizes import FullResolutionUNetSize, SmallUNetSize
from diffusion_density.studies.max_likelihood.runs import DIGITS, Run
from diffusion_density.training.cost import FIRST_ORDER, SECOND_ORDER

GPU_FLOPS = 0.3 * 312e12
"""Operations a second of one GPU: 30 % of the bfloat16 peak of an A100, which convolutions of this size reach."""


@dataclass(frozen=True)
class Cost:
    """The cost of a run's training.

    Attributes:
        parameters: of one network.
        image_flops: operations of one forward pass on one image.
        total_flops: of training all networks of the run; each step is a forward pass and a backward pass of twice it.
    """

    parameters: int
    image_flops: int
    total_flops: float

    @property
    def gpu_hours(self) -> float:
        """On one GPU at ``GPU_FLOPS``."""
        return self.total_flops / GPU_FLOPS / 3600


def cost(run: Run, data_dir: Path) -> Cost:
    """Count the cost of a run; its image set need not be there, unless it is a file of the user's."""
    weights, once = _counted(run.network, *_shape(run.dataset, data_dir))
    images = run.snapshots[-1] * run.optimiser.batch_size * len(run.seeds)
    return Cost(weights, once, float(images) * once * (SECOND_ORDER if run.trace_weight else FIRST_ORDER))


@cache
def _counted(size: SmallUNetSize | FullResolutionUNetSize, shape: tuple[int, int, int], levels: int) -> tuple[int, int]:
    """Parameters, and operations of a forward pass on one image."""
    with torch.device("meta"):  # shapes without contents
        network = build_unet(size, shape[0], levels, gammas=(-13.3, 5.0))
    return parameters(network), flops(network, (1, *shape))


def _shape(dataset: str, data_dir: Path) -> tuple[tuple[int, int, int], int]:
    """(C, H, W) and the levels of an image set."""
    if dataset == DIGITS:
        return (1, 8, 8), 17
    if dataset.startswith("npz:"):
        images = load(dataset, data_dir)
        return images.shape, images.levels
    return (3, 32, 32), 256
