r"""Noise schedules: how data become noise along the forward time ``s``.

The forward process is linear with Gaussian kernels,

.. math:: dx = f(s)\, x\, ds + g(s)\, dW, \qquad x_s \mid x_0 \sim N(\alpha(s)\, x_0,\ \sigma^2(s)\, I),

and everything follows from α and σ. With the log signal-to-noise ratio λ = log(α²/σ²) and dots for d/ds,

.. math:: f = \frac{\dot\alpha}{\alpha}, \qquad
          g^2 = -\sigma^2 \dot\lambda = 2\sigma(\dot\sigma - f\sigma).

Small ``s`` is data, large ``s`` is noise; λ decreases along ``s``; γ = −λ. Every method takes a tensor of times of any
shape and returns tensors of that shape and dtype.

The path (α, σ) has a direction at each time. We write it as (α̇, σ̇) ∝ (−c, b), with the factor chosen such that
α b + σ c = 1. The *velocity* of a point x = α x₀ + σ ε is the movement along the path in this direction, per unit of
length of the path in the plane of (α, σ):

.. math:: F = \frac{\dot\alpha\, x_0 + \dot\sigma\, \varepsilon}{\sqrt{\dot\alpha^2 + \dot\sigma^2}}
            = \frac{b\, \varepsilon - c\, x_0}{n}, \qquad
          b = \frac{\dot\sigma}{\alpha\dot\sigma - \sigma\dot\alpha}, \quad
          c = \frac{-\dot\alpha}{\alpha\dot\sigma - \sigma\dot\alpha}, \quad n = \sqrt{b^2 + c^2} .

Both published conventions are cases of it: α ε − σ x₀ where the variance is preserved, α² + σ² = 1, since there b = α
and c = σ (Salimans and Ho 2022), and (ε − x₀)/√2 on the straight path α + σ = 1, where b = c = 1 (Zheng et al. 2023).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp

from diffusion_density.machine.errors import InputError
from diffusion_density.process.times import AlphaSquared

HALVINGS = 60  # of an interval: to rounding, in double precision


class Schedule(ABC):
    """A forward process on the times ``[s_min, s_max]``.

    A subclass must define ``alpha`` and ``sigma`` and nothing else. Everything is derived from them: derivatives by
    automatic differentiation, the inverse of the log-SNR by bisection. Closed forms may replace any method; they are
    faster, and more exact where α or σ is close to 0 or to 1::

        class Rectified(Schedule):
            s_start, s_max = 1e-5, 1 - 1e-3

            def alpha(self, s):
                return 1 - s

            def sigma(self, s):
                return s

    Both ends need a signal and a noise. If σ(s_min) = 0, as above, set ``s_start`` to a small positive time. If α is 0
    at the noise end, as above at s = 1, log α, f and g² are infinite there: end at an ``s_max`` a little earlier. Times
    from 1e-5 to 1e-3 from the end are suitable; the steps of the reverse SDE (`sampling.samplers`) should not be much
    longer than this distance. Near s_min = 0, compute σ without a difference like 1 − α², which loses all digits in
    single precision: use ``expm1`` or a sigmoid.

    Attributes:
        s_min: the data end, where σ may be 0.
        s_max: the noise end.
        s_start: where estimators and training start: ``s_min`` itself if σ(s_min) > 0, else a small cutoff.
        smooth: whether drift and diffusion have no jumps along s. If they do, λ is the time for a solver.
    """

    s_min: float = 0.0
    s_max: float = 1.0
    s_start: float = 0.0
    smooth: bool = True

    @abstractmethod
    def alpha(self, s: Tensor) -> Tensor:
        """α(s), the factor on the data."""

    @abstractmethod
    def sigma(self, s: Tensor) -> Tensor:
        """σ(s), the standard deviation of the noise."""

    def log_alpha(self, s: Tensor) -> Tensor:
        """log α(s)."""
        return self.alpha(s).log()

    def log_snr(self, s: Tensor) -> Tensor:
        """λ(s) = log(α²/σ²), decreasing in s; +inf where σ = 0."""
        return 2 * (self.log_alpha(s) - self.sigma(s).log())

    def inverse(self, log_snr: Tensor) -> Tensor:
        """The time s at which the log-SNR has the given value."""
        value = log_snr.to(torch.float64)
        ends = (torch.full_like(value, end) for end in (self.s_min, self.s_max))
        return bisected(lambda s: self.log_snr(s) > value, *ends)[1].to(log_snr.dtype)

    def drift(self, s: Tensor) -> Tensor:
        """f(s) = d log α / ds of the forward process."""
        return derivative(self.log_alpha, s)

    def diffusion(self, s: Tensor) -> Tensor:
        """g²(s) of the forward process: the square, since only the square is ever needed."""
        sigma = self.sigma(s)
        return 2 * sigma * (derivative(self.sigma, s) - self.drift(s) * sigma)

    def velocity(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, c, n) of the velocity F = (b ε − c x₀)/n, with α b + σ c = 1: the direction of the path."""
        fall, rise = derivative(self.alpha, s), derivative(self.sigma, s)
        turn = self.alpha(s) * rise - self.sigma(s) * fall
        b, c = rise / turn, -fall / turn
        return b, c, (b.square() + c.square()).sqrt()

    def noise_share(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """ν = σ/√(α² + σ²), which is σ where the variance is preserved and rises with s on every path, and dν/ds."""
        alpha, sigma = self.alpha(s), self.sigma(s)
        scale = (alpha.square() + sigma.square()).sqrt()
        return sigma / scale, 0.5 * alpha.square() * self.diffusion(s) / (sigma * scale**3)

    def alpha_squared(self, gamma_min: float, gamma_max: float) -> AlphaSquared:
        """The density of γ on an interval that makes the integrand of the variational bound flat: ∝ α²/(α² + σ²)."""
        return AlphaSquared(gamma_min, gamma_max)

    def chain_times(self, steps: int) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
        """The times of a chain of T steps and their log-SNR, double precision, from data to noise.

        Here T = ``steps`` times from s_start to s_max at equal distances in log-SNR.
        """
        first, last = self.log_snr(torch.tensor([self.s_start, self.s_max], dtype=torch.float64)).tolist()
        log_snr = torch.linspace(first, last, steps, dtype=torch.float64)
        return self.inverse(log_snr).clamp(self.s_start, self.s_max), log_snr

    def transition(self, start: float, s: Tensor) -> tuple[Tensor, Tensor]:
        """(α, σ) of the forward kernel from time ``start`` to times s > start: x_s | x_start ~ N(α x_start, σ² I)."""
        origin = torch.tensor([start], dtype=s.dtype, device=s.device)
        alpha = (self.log_alpha(s) - self.log_alpha(origin)).exp()
        return alpha, self.sigma(s) * (-torch.expm1(self.log_snr(s) - self.log_snr(origin))).sqrt()

    def at(self, s: float) -> tuple[float, float]:
        """(α, σ) at one time, computed in double precision."""
        time = torch.tensor(s, dtype=torch.float64)
        return self.alpha(time).item(), self.sigma(time).item()

    def noise_end(self) -> tuple[float, float]:
        """(α, σ) at s_max, after a check that models can use the schedule.

        Raises:
            InputError: unless the times are in order, with σ > 0 at s_start and α > 0 at s_max.
        """
        name = type(self).__name__
        if not self.s_min <= self.s_start < self.s_max:
            raise InputError(
                f"schedule {name}: need s_min <= s_start < s_max, got {self.s_min}, {self.s_start} and {self.s_max}"
            )
        if not self.at(self.s_start)[1] > 0:
            raise InputError(
                f"schedule {name}: sigma is not positive at s_start = {self.s_start}; start a little later"
            )
        end = self.at(self.s_max)
        if not end[0] > 0:
            raise InputError(f"schedule {name}: alpha is not positive at s_max = {self.s_max}; end a little earlier")
        return end


def derivative(function: Callable[[Tensor], Tensor], s: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """d function/ds of a function that maps every time by itself."""
    _, pull, *_ = vjp(function, s)
    return pull(torch.ones_like(s))[0]


def bisected(
    before: Callable[[Tensor], Tensor], low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Bounds, equal up to rounding, of the numbers where ``before`` changes from true to false between two bounds."""
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        below = before(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low, high
