r"""Noise schedules: how data become noise along the forward time ``s``.

The forward process is linear with Gaussian kernels,

.. math:: dx = f(s)\, x\, ds + g(s)\, dW, \qquad x_s \mid x_0 \sim N(\alpha(s)\, x_0,\ \sigma^2(s)\, I),

and everything follows from α and σ. With the log signal-to-noise ratio λ = log(α²/σ²),

.. math:: f = \frac{d \log \alpha}{ds}, \qquad g^2 = -\sigma^2 \frac{d\lambda}{ds}.

Small ``s`` is data, large ``s`` is noise; λ decreases along ``s``; γ = −λ. Every method takes a tensor of times of any
shape and returns a tensor of that shape and dtype. Near the data end 1 − α² loses all digits in single precision, so
σ² is always computed by ``expm1`` or a sigmoid, never as a difference.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Schedule(ABC):
    """A forward process on the times ``[s_min, s_max]``.

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
    def log_alpha(self, s: Tensor) -> Tensor:
        """log α(s), the logarithm of the factor on the data."""

    @abstractmethod
    def sigma(self, s: Tensor) -> Tensor:
        """σ(s), the standard deviation of the noise."""

    @abstractmethod
    def log_snr(self, s: Tensor) -> Tensor:
        """λ(s) = log(α²/σ²), decreasing in s; +inf where σ = 0."""

    @abstractmethod
    def inverse(self, log_snr: Tensor) -> Tensor:
        """The time s at which the log-SNR has the given value."""

    @abstractmethod
    def drift(self, s: Tensor) -> Tensor:
        """f(s) = d log α / ds of the forward process."""

    @abstractmethod
    def diffusion(self, s: Tensor) -> Tensor:
        """g²(s) = −σ² dλ/ds of the forward process: the square, since only the square is ever needed."""

    def alpha(self, s: Tensor) -> Tensor:
        """α(s), the factor on the data."""
        return self.log_alpha(s).exp()

    def transition(self, start: float, s: Tensor) -> tuple[Tensor, Tensor]:
        """(α, σ) of the forward kernel from time ``start`` to times s > start: x_s | x_start ~ N(α x_start, σ² I)."""
        origin = torch.tensor([start], dtype=s.dtype, device=s.device)
        alpha = (self.log_alpha(s) - self.log_alpha(origin)).exp()
        return alpha, self.sigma(s) * (-torch.expm1(self.log_snr(s) - self.log_snr(origin))).sqrt()

    def at(self, s: float) -> tuple[float, float]:
        """(α, σ) at one time, computed in double precision."""
        time = torch.tensor(s, dtype=torch.float64)
        return self.alpha(time).item(), self.sigma(time).item()
