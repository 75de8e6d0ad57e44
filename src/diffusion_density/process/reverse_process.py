r"""The reverse process, from noise back to data, with a chosen amount of noise, and its Euler–Maruyama steps.

For a stochasticity κ >= 0 (Song et al. 2021; docs/derivations/reverse-process.md)

.. math:: dx = \big(f x - \tfrac12 (1 + \kappa) g^2 \nabla\log p_s\big) ds + \sqrt{\kappa}\, g\, d\bar W

has the marginals of the forward process if the score is exact: κ = 0 is the probability-flow ODE, κ = 1 the reverse
SDE. On times uniform in s the error of the steps falls as 1/steps, in the ODE and in the marginals of the SDE.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import GaussianPrior, Model
from diffusion_density.process.schedules import Schedule


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
        """x after the step."""
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
        raise InputError("sample: the model's prior is not Gaussian, so it can't be sampled here")
    return model.prior.variance**0.5 * torch.randn(n, *event, generator=generator, dtype=dtype, device=generator.device)
