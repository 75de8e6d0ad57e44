r"""The time in which a probability flow is smooth, from the data to the noise.

Where the noise is much smaller than the data's own scale w, log densities change like σ²; where it is much larger, like
log σ. The variable

.. math:: u = \mathrm{arsinh}\frac{\sigma}{w\,\alpha}, \qquad
          \frac{ds}{du} = \frac{2\sigma\sqrt{\sigma^2 + w^2\alpha^2}}{g^2}

is σ/(wα) at the data end and the logarithm of the noise beyond w. It depends on s through λ alone, along which no
schedule jumps. Small w suits fine structure, large w needs fewer times for what is smooth; between 0.2 and 0.4 the cost
hardly changes for mixtures with standard deviations from 0.05 to 1, networks trained on them, and normal laws with the
spectrum of photographs (measured). Here w = 0.3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.schedules import Schedule

WIDTH = 0.3


@dataclass(frozen=True)
class Stations:
    """Times of a flow in double precision, and what its field needs at each.

    Attributes:
        s: (n,) times of the schedule.
        rate: (n,) ds/dt, t ∈ [0, 1] the share of u that has passed.
        drift: (n,) f(s).
        diffusion: (n,) g²(s).
    """

    s: Float[Tensor, " n"]
    rate: Float[Tensor, " n"]
    drift: Float[Tensor, " n"]
    diffusion: Float[Tensor, " n"]


def stations(schedule: Schedule, start: float, t: Float[Tensor, " n"], dtype: torch.dtype) -> Stations:
    """The times of ``schedule`` between ``start`` and s_max at increasing shares t of u, from 0 to 1.

    Times are rounded to ``dtype``, in which networks get them: where drifts jump, both sides agree on which is meant.
    """
    ends = torch.tensor([start, schedule.s_max], dtype=torch.float64)
    first, last = ((-0.5 * schedule.log_snr(ends)).exp() / WIDTH).arcsinh()
    ratio = WIDTH * (first + (last - first) * t).sinh()
    s = schedule.inverse(-2 * ratio.log()).clamp(start, schedule.s_max)
    s[0], s[-1] = ends  # not what rounding made of them
    s = s.to(dtype).double()
    sigma, diffusion = schedule.sigma(s), schedule.diffusion(s)
    deviation = (sigma.square() + (WIDTH * schedule.alpha(s)).square()).sqrt()
    return Stations(s, (last - first) * 2 * sigma * deviation / diffusion, schedule.drift(s), diffusion)
