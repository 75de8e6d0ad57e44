"""Samples of the reverse process, from the prior to the data, by Euler–Maruyama (`process.reverse_process`)."""

import torch
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import Model
from diffusion_density.process.reverse_process import prior_sample, reverse_steps


def sample(
    model: Model,
    n: int,
    event: tuple[int, ...],
    *,
    steps: int = 500,
    stochasticity: float = 1.0,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw n samples of shape ``event`` from a model with a Gaussian prior.

    Args:
        model: the score and its schedule.
        n: how many.
        event: the shape of one sample.
        steps: Euler–Maruyama steps, one network evaluation each.
        stochasticity: κ, 0 for the flow, 1 for the reverse SDE.
        generator: draws the sample of the prior and the noise, on its own device.
        dtype: of the samples.

    Returns:
        (n, *event) samples at ``schedule.s_start``.

    Raises:
        InputError: for counts below one, a negative stochasticity, or a prior that can't be sampled.
    """
    if n < 1 or steps < 1 or not stochasticity >= 0:
        raise InputError(f"sample: n, steps >= 1 and stochasticity >= 0, got {n}, {steps} and {stochasticity}")
    x = prior_sample(model, n, event, generator=generator, dtype=dtype)
    with torch.inference_mode():
        for step in reverse_steps(model.schedule, steps, stochasticity, dtype, generator.device):
            x = step.move(x, model.score(x, step.s), step.noise(x, generator))
    return x.clone()
