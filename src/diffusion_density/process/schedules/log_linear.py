"""Schedules whose log-SNR is linear in time, on two paths."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffusion_density.machine.errors import InputError
from diffusion_density.process.schedules.schedule import Schedule
from diffusion_density.process.times import AlphaSquared, AlphaSquaredStraight


class LogLinear(Schedule):
    r"""γ = −λ linear in s ∈ [0, 1], on the variance-preserving or on the straight path (Zheng et al. 2023).

    .. math:: \gamma(s) = \gamma_{min} + (\gamma_{max} - \gamma_{min}) s; \qquad
              \text{vp: } \sigma^2 = \mathrm{sigmoid}(\gamma),\ \alpha^2 = \mathrm{sigmoid}(-\gamma); \qquad
              \text{straight: } \sigma = \mathrm{sigmoid}(\gamma/2),\ \alpha = 1 - \sigma.

    Raises:
        InputError: unless gamma_min < gamma_max and ``path`` is known.
    """

    def __init__(
        self, gamma_min: float = -13.3, gamma_max: float = 5.0, path: Literal["vp", "straight"] = "vp"
    ) -> None:
        if not -float("inf") < gamma_min < gamma_max < float("inf"):
            raise InputError(f"schedule: need gamma_min < gamma_max, got {gamma_min} and {gamma_max}")
        if path not in ("vp", "straight"):
            raise InputError(f"schedule: path is 'vp' or 'straight', not {path!r}")
        self.gamma_min = gamma_min
        self.gamma_max = gamma_max
        self.path = path

    def _gamma(self, s: Tensor) -> Tensor:
        return self.gamma_min + (self.gamma_max - self.gamma_min) * s

    def alpha(self, s: Tensor) -> Tensor:
        return self.log_alpha(s).exp()

    def log_alpha(self, s: Tensor) -> Tensor:
        gamma = self._gamma(s)
        return 0.5 * logsigmoid(-gamma) if self.path == "vp" else logsigmoid(-0.5 * gamma)

    def sigma(self, s: Tensor) -> Tensor:
        gamma = self._gamma(s)
        return gamma.sigmoid().sqrt() if self.path == "vp" else (0.5 * gamma).sigmoid()

    def log_snr(self, s: Tensor) -> Tensor:
        return -self._gamma(s)

    def inverse(self, log_snr: Tensor) -> Tensor:
        return (-log_snr - self.gamma_min) / (self.gamma_max - self.gamma_min)

    def drift(self, s: Tensor) -> Tensor:
        sigma = self.sigma(s)
        return -0.5 * (self.gamma_max - self.gamma_min) * (sigma.square() if self.path == "vp" else sigma)

    def diffusion(self, s: Tensor) -> Tensor:
        return (self.gamma_max - self.gamma_min) * self.sigma(s).square()

    def velocity(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = torch.ones_like(s)
        return (self.alpha(s), self.sigma(s), one) if self.path == "vp" else (one, one, 2**0.5 * one)

    def alpha_squared(self, gamma_min: float, gamma_max: float) -> AlphaSquared:
        return (AlphaSquared if self.path == "vp" else AlphaSquaredStraight)(gamma_min, gamma_max)
