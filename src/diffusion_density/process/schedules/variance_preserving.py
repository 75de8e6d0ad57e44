"""The variance-preserving schedule with linear β."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffusion_density.machine.errors import InputError
from diffusion_density.process.schedules.schedule import Schedule


class VariancePreserving(Schedule):
    r"""The variance-preserving process with linear β, α² + σ² = 1 (Song et al. 2021, eq. 33).

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

    def alpha(self, s: Tensor) -> Tensor:
        return self.log_alpha(s).exp()

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

    def velocity(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.alpha(s), self.sigma(s), torch.ones_like(s)

    def noise_share(self, s: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma(s)
        return sigma, 0.5 * self.diffusion(s) / sigma + self.drift(s) * sigma
