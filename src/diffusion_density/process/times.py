r"""Times of the likelihood objective: low-discrepancy uniform numbers, and importance sampling (Zheng et al. 2023).

On the path z = α x + σ ε in γ = log(σ²/α²), the likelihood objective of a velocity prediction F is

.. math:: c \int_{\gamma_0}^{\gamma_1} \alpha^2(\gamma)\, E\|F - \hat F\|^2\, d\gamma,
          \qquad c = \tfrac12 \text{ (variance preserving)},\ 1 \text{ (straight)}.

Times drawn with the density p(γ) = α²/Z leave the constant weight c Z: the objective is a plain mean squared error.
Since α² dγ = d log σ² on the variance-preserving path and α² dγ = 2 d(log σ − σ) on the straight path, the cumulative
distribution function is a difference of log σ² or of 2 (log σ − σ). The first is inverted in closed form. The second
is concave in log σ: Newton's method that starts below the root of log σ − σ = const never goes beyond it.

Times here are shares s ∈ [0, 1] of the interval, γ(s) = γ₀ + (γ₁ − γ₀) s; small s is data. All numbers are in double
precision.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffusion_density.machine.errors import InputError


def independent(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """n independent uniform numbers in [0, 1), double precision, on the generator's device."""
    return torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)


def low_discrepancy(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """One number in each of n equal strata of [0, 1), all at the same random place in them (Kingma et al. 2021).

    Averages over them are unbiased.
    """
    u = (torch.arange(n, dtype=torch.float64, device=generator.device) + independent(1, generator)) / n
    return u.clamp(max=1 - 2**-53)


class AlphaSquared:
    """The density p(γ) = α²(γ)/Z of times on a variance-preserving path, α² = sigmoid(−γ).

    On any other path it is the density ∝ α²/(α² + σ²).

    Args:
        gamma_min: γ₀, at the data end.
        gamma_max: γ₁, at the noise end.

    Attributes:
        scale: c of the likelihood objective of a velocity.
        normalizer: Z = ∫ α² dγ; 13.2933 for γ from −13.3 to 5.

    Raises:
        InputError: unless gamma_min < gamma_max.
    """

    scale = 0.5

    def __init__(self, gamma_min: float, gamma_max: float) -> None:
        if not -float("inf") < gamma_min < gamma_max < float("inf"):
            raise InputError(f"times: need gamma_min < gamma_max, got {gamma_min} and {gamma_max}")
        self.gamma_min, self.gamma_max = gamma_min, gamma_max
        ends = self._primitive(torch.tensor([gamma_min, gamma_max], dtype=torch.float64))
        self._start, self.normalizer = ends[0].item(), (ends[1] - ends[0]).item()

    def at(self, gamma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """α²(γ)."""
        return (-gamma).sigmoid()

    def weight(self, gamma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """c α², the weight per unit of γ of ‖F − F̂‖² in the bound on −log p (nats). The weight of ‖ε − ε̂‖² is ½."""
        return self.scale * self.at(gamma)

    def times(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Times s ∈ [0, 1] for uniform numbers u ∈ [0, 1], same shape and dtype: the inverse of ``cdf``."""
        gamma = self._inverse(self._start + self.normalizer * u.to(torch.float64))
        s = (gamma - self.gamma_min) / (self.gamma_max - self.gamma_min)
        return s.clamp(0, 1).to(u.dtype)

    def cdf(self, s: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The probability of a time below s."""
        return ((self._primitive(self._gamma(s)) - self._start) / self.normalizer).to(s.dtype)

    def density(self, s: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The density at s, with respect to s: α² (γ₁ − γ₀)/Z."""
        scale = (self.gamma_max - self.gamma_min) / self.normalizer
        return (scale * self.at(self._gamma(s))).to(s.dtype)

    def _gamma(self, s: Tensor) -> Tensor:
        return self.gamma_min + (self.gamma_max - self.gamma_min) * s.to(torch.float64)

    def _primitive(self, gamma: Tensor) -> Tensor:
        """An antiderivative of α²(γ): log σ²."""
        return logsigmoid(gamma)

    def _inverse(self, level: Tensor) -> Tensor:
        """γ from the antiderivative."""
        return _logit_of_log(level)


class AlphaSquaredStraight(AlphaSquared):
    """The same on the straight path, α² = sigmoid(−γ/2)²; its Z is 11.2991 for γ from −13.3 to 5."""

    scale = 1.0

    def at(self, gamma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (-gamma / 2).sigmoid().square()

    def _primitive(self, gamma: Tensor) -> Tensor:
        """2 (log σ − σ)."""
        log_sigma = logsigmoid(gamma / 2)
        return 2 * (log_sigma - log_sigma.exp())

    def _inverse(self, level: Tensor) -> Tensor:
        return 2 * _logit_of_log(_log_sigma_straight(level / 2))


def _logit_of_log(log_p: Tensor) -> Tensor:
    """log(p/(1 − p)) from log p < 0."""
    return log_p - (-torch.expm1(log_p)).log()


def _log_sigma_straight(level: Tensor) -> Tensor:
    """The root log σ < 0 of log σ − σ = level < −1, by Newton's method from below.

    Near σ = 1 the root is almost double and the first steps only halve the error, so many steps are allowed.
    """
    log_sigma = level.clone()
    for _ in range(100):
        step = (level - log_sigma + log_sigma.exp()) / -torch.expm1(log_sigma)
        log_sigma = log_sigma + step
        if float(step.abs().max()) < 1e-12:  # quadratic by now: the next step would be rounding
            break
    return log_sigma
