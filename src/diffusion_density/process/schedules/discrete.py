r"""Discrete schedules of T steps (DDPM; Ho et al. 2020), each a :class:`Discrete` that holds its betas.

Step t = 1 … T maps x_{t−1} to √(1 − β_t) x_{t−1} + √β_t w, so that ᾱ_t = Π (1 − β_i) = 1/(1 + e^{−λ_t}):

=================== ==================================================================================================
``paper``           β₁ = T^{−c₀}, β_t = (c₁ log T / T) min{β₁ (1 + c₁ log T / T)^t, 1} (Li et al. 2023)
``linear``          β_t equally spaced from β_min/T to β_max/T; 10⁻⁴ to 0.02 for T = 1000 (Ho et al. 2020)
``cosine``          ᾱ_t ∝ cos²(½π (t/T + o)/(1 + o)), β_t at most 0.999 (Nichol and Dhariwal 2021, eq. 17)
``uniform_log_snr`` λ_t equally spaced from λ_max to λ_min
=================== ==================================================================================================
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffusion_density.machine.errors import InputError
from diffusion_density.process.schedules.schedule import Schedule


class Discrete(Schedule):
    r"""A discrete chain of T steps (DDPM), continued to a variance-preserving process between the steps.

    .. math:: \bar\alpha_t = \prod_{i \le t} (1 - \beta_i), \qquad \alpha^2(t/T) = \bar\alpha_t,

    with λ linear between the steps, so that all times in [1/T, 1] are defined. The steps themselves are the times
    ``steps``, in order. λ is stored in double precision.

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

    def alpha(self, s: Tensor) -> Tensor:
        return self.log_alpha(s).exp()

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

    def velocity(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.alpha(s), self.sigma(s), torch.ones_like(s)

    def chain_times(self, steps: int) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:  # noqa: ARG002
        """The schedule's own steps and their log-SNR, whatever ``steps`` is."""
        return self.steps, self.log_snr_steps


def paper(steps: int, c0: float = 2.0, c1: float = 4.0) -> Discrete:
    """The schedule of the convergence theory of Li et al. 2023 (arXiv 2306.09251): geometric growth, then a constant.

    (1 − α_t)/(1 − ᾱ_{t−1}) is of the order of log T / T at every step, and ᾱ_T a negative power of T.

    Args:
        steps: T.
        c0: the exponent of the first beta, T^{−c₀}.
        c1: the factor of the rate c₁ log T / T.

    Raises:
        InputError: unless T is at least 2, both constants are positive and the rate is below 1.
    """
    _check_steps(steps)
    if not (c0 > 0 and c1 > 0):
        raise InputError(f"schedule: c0 and c1 must be positive, got {c0} and {c1}")
    rate = c1 * math.log(steps) / steps
    if not rate < 1:
        raise InputError(f"schedule: {steps} steps are too few for c1 = {c1}: c1 log T / T = {rate:.3g} is not below 1")
    first = steps**-c0
    growth = first * torch.exp(math.log1p(rate) * torch.arange(1, steps + 1, dtype=torch.float64))
    betas = rate * growth.clamp(max=1)
    betas[0] = first
    return Discrete(betas)


def linear(steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Discrete:
    """Betas equally spaced from ``beta_min``/T to ``beta_max``/T: the DDPM schedule, rescaled to T steps.

    Raises:
        InputError: unless T is at least 2 and 0 < beta_min <= beta_max < T.
    """
    _check_steps(steps)
    if not 0 < beta_min <= beta_max < steps:
        raise InputError(f"schedule: need 0 < beta_min <= beta_max < {steps} steps, got {beta_min} and {beta_max}")
    return Discrete(torch.linspace(beta_min, beta_max, steps, dtype=torch.float64) / steps)


def cosine(steps: int, offset: float = 0.008, beta_max: float = 0.999) -> Discrete:
    """ᾱ is a squared cosine of time; betas are at most ``beta_max``.

    Raises:
        InputError: unless T is at least 2, the offset is not negative, and beta_max lies between 0 and 1.
    """
    _check_steps(steps)
    if not (0 <= offset < math.inf and 0 < beta_max < 1):
        raise InputError(f"schedule: need offset >= 0 and 0 < beta_max < 1, got {offset} and {beta_max}")
    fraction = (torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset)
    alpha_bar = (0.5 * math.pi * fraction).cos().square()
    return Discrete((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max))


def uniform_log_snr(steps: int, log_snr_max: float = 9.0, log_snr_min: float = -9.0) -> Discrete:
    """λ_t equally spaced from ``log_snr_max`` at the first step to ``log_snr_min`` at the last.

    Raises:
        InputError: unless T is at least 2 and log_snr_min < log_snr_max.
    """
    _check_steps(steps)
    if not -math.inf < log_snr_min < log_snr_max < math.inf:
        raise InputError(f"schedule: need log_snr_min < log_snr_max, got {log_snr_min} and {log_snr_max}")
    log_alpha_bar = logsigmoid(torch.linspace(log_snr_max, log_snr_min, steps, dtype=torch.float64))
    return Discrete(-torch.expm1(log_alpha_bar.diff(prepend=log_alpha_bar.new_zeros(1))))


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise InputError(f"schedule: at least 2 steps expected, got {steps}")
