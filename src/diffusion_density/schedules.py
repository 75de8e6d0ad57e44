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
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from diffusion_density.errors import InputError


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


class VariancePreserving(Schedule):
    r"""The variance-preserving process with linear β, α² + σ² = 1 (Song et al. 2021, eq. 33; paper A).

    .. math:: \beta(s) = \beta_{min} + (\beta_{max} - \beta_{min}) s, \quad
              \log \alpha = -\tfrac12 \int_0^s \beta, \quad f = -\beta/2, \quad g^2 = \beta, \quad s \in [0, 1].

    Since σ(0) = 0, training and the simulation-free estimators start at the cutoff ``s_start`` = 1e-5.

    Raises:
        InputError: unless 0 < beta_min <= beta_max.
    """

    s_start = 1e-5

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max < float("inf"):
            raise InputError(f"schedule: need 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")
        self.beta_min = beta_min
        self.beta_max = beta_max

    def log_alpha(self, s: Tensor) -> Tensor:
        return -0.5 * s * (self.beta_min + 0.5 * s * (self.beta_max - self.beta_min))

    def sigma(self, s: Tensor) -> Tensor:
        return (-torch.expm1(2 * self.log_alpha(s))).sqrt()

    def log_snr(self, s: Tensor) -> Tensor:
        return -torch.expm1(-2 * self.log_alpha(s)).log()

    def inverse(self, log_snr: Tensor) -> Tensor:
        integral = softplus(-log_snr)  # −2 log α
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())

    def drift(self, s: Tensor) -> Tensor:
        return -0.5 * self.diffusion(s)

    def diffusion(self, s: Tensor) -> Tensor:
        return self.beta_min + s * (self.beta_max - self.beta_min)


class LogLinear(Schedule):
    r"""γ = −λ linear in s ∈ [0, 1], on the variance-preserving or on the straight path (paper D, section 1.1).

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


class Discrete(Schedule):
    r"""A discrete chain of T steps (DDPM; paper B, section 1), joined to a variance-preserving process.

    .. math:: \bar\alpha_t = \prod_{i \le t} (1 - \beta_i), \qquad \alpha^2(t/T) = \bar\alpha_t,

    with λ linear between the steps, so that every time in [1/T, 1] has a meaning. The steps themselves are the times
    ``steps``, in order. λ is held in double precision.

    Args:
        betas: (T,) the variance added by each step, each in (0, 1); T >= 2.

    Raises:
        InputError: if a beta lies outside (0, 1) or there are fewer than two.
    """

    smooth = False

    def __init__(self, betas: Tensor) -> None:
        betas = betas.to(torch.float64)
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
            raise InputError("schedule: betas must be a vector of at least two numbers between 0 and 1")
        self.betas = betas
        log_alpha_bar = torch.log1p(-betas).cumsum(0)
        self.log_snr_steps = log_alpha_bar - (-torch.expm1(log_alpha_bar)).log()
        self.steps = torch.arange(1, len(betas) + 1, dtype=torch.float64) / len(betas)
        self.s_min = self.s_start = 1 / len(betas)

    def _segment(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """λ(s) and dλ/ds by linear interpolation between the steps."""
        count = len(self.betas)
        position = s.to(torch.float64) * count - 1
        left = position.floor().clamp(0, count - 2).long()
        nodes = self.log_snr_steps.to(s.device)
        rise = nodes[left + 1] - nodes[left]
        return (nodes[left] + (position - left) * rise).to(s.dtype), (rise * count).to(s.dtype)

    def log_alpha(self, s: Tensor) -> Tensor:
        return 0.5 * logsigmoid(self.log_snr(s))

    def sigma(self, s: Tensor) -> Tensor:
        return (-self.log_snr(s)).sigmoid().sqrt()

    def log_snr(self, s: Tensor) -> Tensor:
        return self._segment(s)[0]

    def inverse(self, log_snr: Tensor) -> Tensor:
        count = len(self.betas)
        nodes = -self.log_snr_steps.to(log_snr.device)
        value = -log_snr.to(torch.float64)
        left = (torch.searchsorted(nodes, value, right=True) - 1).clamp(0, count - 2)
        fraction = (value - nodes[left]) / (nodes[left + 1] - nodes[left])
        return ((left + 1 + fraction) / count).to(log_snr.dtype)

    def drift(self, s: Tensor) -> Tensor:
        return -0.5 * self.diffusion(s)

    def diffusion(self, s: Tensor) -> Tensor:
        log_snr, slope = self._segment(s)
        return -slope * (-log_snr).sigmoid()
