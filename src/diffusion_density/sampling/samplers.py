r"""Ancestral sampling: from the prior back to data, with any amount of noise on the way.

For a stochasticity κ = φ²/g² >= 0 the reverse process (paper C, section 1)

.. math:: dx = \big(f x - \tfrac12 (1 + \kappa) g^2 \nabla\log p_s\big) ds + \sqrt{\kappa}\, g\, d\bar W

has the same marginals for the exact score: κ = 0 is the probability-flow ODE and κ = 1 the reverse SDE. It is solved by
Euler–Maruyama on times uniform in s, whose error falls as 1/steps in the ODE and in the marginals of the SDE.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.errors import InputError
from diffusion_density.model import GaussianPrior, Model
from diffusion_density.schedules import Schedule


@dataclass(frozen=True)
class ReverseStep:
    """One Euler–Maruyama step of the reverse process, from the time s down by ``length``.

    Attributes:
        s: (), double precision; all else in the precision of the samples.
        length: (), positive.
        drift: (), f(s).
        diffusion: (), g²(s).
        stochasticity: κ.
    """

    s: Float[Tensor, ""]
    length: Float[Tensor, ""]
    drift: Float[Tensor, ""]
    diffusion: Float[Tensor, ""]
    stochasticity: float

    def noise(self, x: Float[Tensor, "n *event"], generator: torch.Generator) -> Float[Tensor, "n *event"] | None:
        """The standard normal noise of the step, None where κ = 0."""
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) if self.stochasticity else None

    def move(
        self, x: Float[Tensor, "n *event"], score: Float[Tensor, "n *event"], noise: Float[Tensor, "n *event"] | None
    ) -> Float[Tensor, "n *event"]:
        """x one step on."""
        backward = 0.5 * (1 + self.stochasticity) * self.diffusion * score - self.drift * x
        x = x + self.length * backward
        return x if noise is None else x + self.spread * noise

    @property
    def spread(self) -> Float[Tensor, ""]:
        """√(κ g² length), the standard deviation of the step's noise."""
        return (self.stochasticity * self.diffusion * self.length).sqrt()


def reverse_steps(
    schedule: Schedule, steps: int, stochasticity: float, dtype: torch.dtype, device: torch.device
) -> Iterator[ReverseStep]:
    """The steps from s_max to s_start on times uniform in s."""
    times = torch.linspace(schedule.s_max, schedule.s_start, steps + 1, dtype=torch.float64, device=device)
    for s, following in pairwise(times):
        drift, diffusion = schedule.drift(s).to(dtype), schedule.diffusion(s).to(dtype)
        yield ReverseStep(s, (s - following).to(dtype), drift, diffusion, stochasticity)


def prior_sample(
    model: Model, n: int, event: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype
) -> Float[Tensor, "n *event"]:
    """n samples of shape ``event`` at s_max, on the device of the generator.

    Raises:
        InputError: if the prior is not Gaussian.
    """
    if not isinstance(model.prior, GaussianPrior):
        raise InputError("sample: the model's prior is not Gaussian; its samples can't be drawn here")
    return model.prior.variance**0.5 * torch.randn(n, *event, generator=generator, dtype=dtype, device=generator.device)


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
    x = prior_sample(model, n, event, generator=generator, dtype=dtype)
    with torch.inference_mode():
        for step in reverse_steps(model.schedule, steps, stochasticity, dtype, generator.device):
            x = step.move(x, model.score(x, step.s), step.noise(x, generator))
    return x.clone()
