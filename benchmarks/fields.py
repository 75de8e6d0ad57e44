"""The models that are timed: the exact diffusion of a Gaussian mixture, and a network trained on its samples."""

from collections.abc import Sequence

import torch

from diffusion_density.networks.mlp import MLP
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.training.stack import Member, train_stack

SCHEDULE = VariancePreserving(0.1, 20.0)


def mixture(dimension: int) -> GaussianMixture:
    """Five Gaussians with random axes."""
    return GaussianMixture.random(dimension, 5, torch.Generator().manual_seed(1), full=True)


def trained(target: GaussianMixture, widths: Sequence[int], frequencies: int, steps: int) -> DiffusionModel:
    """An entropy network with Fourier features of point and time, trained on 16,384 samples, 1,024 per step."""
    generator = torch.Generator().manual_seed(2)
    network = MLP(target.dimension, widths, frequencies, frequencies, 0.1, generator=generator)
    data = target.sample(16_384, generator=generator, dtype=torch.float32)
    member = Member(network, "entropy", "unit", data, stream=3)
    *_, (_, stack) = train_stack(
        [member], SCHEDULE, throws=1, batch_size=1024, learning_rate=1e-3, ema=0.99, checkpoints=[steps]
    )
    assert stack is not None
    return DiffusionModel(stack[0].requires_grad_(False), SCHEDULE, "entropy")
