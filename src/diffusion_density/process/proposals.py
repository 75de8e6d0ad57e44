r"""Proposals: densities r(s) from which times are drawn. Weights 1/r make the estimate unbiased.

An integral over time is estimated as ∫ h ds = E_{s~r}[h(s)/r(s)]. In likelihood objectives and path integrals the part
that depends on the score is singular at the data end, of order g²/σ. A proposal that is uniform in the share of the
noise, ν = σ/√(α² + σ²), removes the singularity. Alone it would have infinite weights at the noise end, where dν/ds
goes to zero. Hence the mixture

.. math:: r(s) = \tfrac12 \frac{1}{s_1 - s_0} + \tfrac12 \frac{d\nu/ds}{\nu(s_1) - \nu(s_0)}, \qquad
          \frac{d\nu}{ds} = \frac{\alpha^2 g^2}{2\,\sigma\,(\alpha^2 + \sigma^2)^{3/2}} .

ν rises from the data to the noise on every schedule, and is σ where the variance is preserved. Details:
docs/derivations/schedules.md.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffusion_density.process.schedules import Schedule


@runtime_checkable
class Proposal(Protocol):
    """A density on times, drawn by transforming uniform numbers."""

    def times(self, u: Tensor) -> Tensor:
        """Times for uniform numbers u in [0, 1), same shape."""

    def density(self, s: Tensor) -> Tensor:
        """r(s), same shape; integrates to one over the proposal's times."""


class Uniform:
    """Uniform on [start, end]."""

    def __init__(self, start: float, end: float) -> None:
        self.start = start
        self.end = end

    def times(self, u: Tensor) -> Tensor:
        return self.start + (self.end - self.start) * u

    def density(self, s: Tensor) -> Tensor:
        return torch.full_like(s, 1 / (self.end - self.start))


class HalfSigma:
    """Half uniform in s, half uniform in the share ν of the noise, on [start, s_max]."""

    def __init__(self, schedule: Schedule, start: float) -> None:
        self.schedule = schedule
        self.uniform = Uniform(start, schedule.s_max)
        ends = torch.tensor([start, schedule.s_max], dtype=torch.float64)
        self.first, self.last = schedule.noise_share(ends)[0].tolist()

    def times(self, u: Tensor) -> Tensor:
        v = (2 * u) % 1
        share = self.first + (self.last - self.first) * v
        in_share = self.schedule.inverse(torch.log1p(-share.square()) - 2 * share.log())
        s = torch.where(u < 0.5, self.uniform.times(v), in_share)
        return s.clamp(self.uniform.start, self.uniform.end)

    def density(self, s: Tensor) -> Tensor:
        slope = self.schedule.noise_share(s)[1]
        return 0.5 * (self.uniform.density(s) + slope / (self.last - self.first))
