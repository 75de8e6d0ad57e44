r"""Ancestral sampling: from the prior back to data, with any amount of noise on the way.

For a stochasticity κ = φ²/g² >= 0 the reverse process (paper C, section 1)

.. math:: dx = \big(f x - \tfrac12 (1 + \kappa) g^2 \nabla\log p_s\big) ds + \sqrt{\kappa}\, g\, d\bar W

has the same marginals for the exact score: κ = 0 is the probability-flow ODE and κ = 1 the reverse SDE. It is solved by
Euler–Maruyama on times uniform in s, whose error falls as 1/steps in the ODE and in the marginals of the SDE.
"""

from itertools import pairwise

import torch
from torch import Tensor

from diffusion_density.errors import InputError
from diffusion_density.model import GaussianPrior, Model


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
        generator: draws the prior's sample and the noise; its device is the samples'.
        dtype: of the samples.

    Returns:
        (n, *event) samples at ``schedule.s_start``.

    Raises:
        InputError: for counts below one, a negative stochasticity, or a prior that can't be drawn from.
    """
    if n < 1 or steps < 1 or not stochasticity >= 0:
        raise InputError(f"sample: n, steps >= 1 and stochasticity >= 0, got {n}, {steps} and {stochasticity}")
    if not isinstance(model.prior, GaussianPrior):
        raise InputError("sample: the model's prior is not Gaussian; its samples can't be drawn here")

    def normal() -> Tensor:
        return torch.randn(n, *event, generator=generator, dtype=dtype, device=generator.device)

    schedule = model.schedule
    times = torch.linspace(schedule.s_max, schedule.s_start, steps + 1, dtype=torch.float64, device=generator.device)
    x = model.prior.variance**0.5 * normal()
    with torch.inference_mode():
        for s, following in pairwise(times):
            step = (s - following).to(dtype)
            diffusion = schedule.diffusion(s).to(dtype)
            backward = 0.5 * (1 + stochasticity) * diffusion * model.score(x, s) - schedule.drift(s).to(dtype) * x
            x = x + step * backward
            if stochasticity:
                x = x + (stochasticity * diffusion * step).sqrt() * normal()
    return x.clone()
