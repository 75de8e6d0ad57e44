r"""How far the DDPM sum of the density formula lies below log p in the mean over the data (Li and Yan 2024).

On a chain of T steps the sum is the variational bound of the ancestral sampler, so that in the mean over x ~ p₀

.. math:: E\big[\log \bar p_{s_{start}}(\bar x_{s_{start}}) - \text{sum}(x)\big]
          = \sum_{t=2}^T E\, KL\big(q(x_{t-1} | x_t)\,\|\,N(\mu_t, \tilde\beta_t I)\big) \ge 0.

The posterior q has the covariance β̃_t (I + L_t) with L_t = (SNR_{t−1} − SNR_t) Cov(x₀ | x_t). Taken for normal, with
l_i the eigenvalues of L_t, it gives

.. math:: \text{sharp} = \tfrac12 \sum_t E \sum_i \big(l_i - \log(1 + l_i)\big)
          \le \text{quadratic} = \tfrac14 \sum_t E \sum_i l_i^2 = O(d \log^2 T / T) \text{ for the paper's schedule},

the first of them an equality for normal data. Neither holds the truncation at β₁, E[log p(x) − log p̄_{s_start}], which
is the other part of E[log p(x) − sum(x)].
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.schedules import Discrete


class Gap(NamedTuple):
    """Predictions of the mean gap of the sum in nats.

    Attributes:
        quadratic: ¼ Σ E ‖L_t‖², above the gap where l is not small.
        sharp: ½ Σ E Σ (l − log(1 + l)).
    """

    quadratic: float
    sharp: float


def predicted_gap(mixture: GaussianMixture, schedule: Discrete, *, points: int = 40) -> Gap:
    """The predicted mean gap on a chain in one dimension, by Gauss–Hermite over every component of p_t.

    Args:
        mixture: the data, D = 1.
        schedule: the chain.
        points: of the Gauss–Hermite rule, for each component.

    Raises:
        InputError: for data of another dimension, or too few points.
    """
    s = schedule.steps[1:]
    y, weight = mixture_nodes(mixture, schedule.alpha(s), schedule.sigma(s), points)
    falls = -schedule.log_snr_steps.exp().diff()
    with torch.inference_mode():
        covariance = mixture.diffused(schedule).posterior_covariance(y.reshape(-1, 1), s.repeat_interleave(y.shape[1]))
        eigenvalue = falls[:, None] * covariance.reshape(y.shape)
        terms = torch.stack([0.25 * eigenvalue.square(), 0.5 * (eigenvalue - eigenvalue.log1p())])
    return Gap(*(terms @ weight).sum(1).tolist())


def mixture_nodes(
    mixture: GaussianMixture, alpha: Float[Tensor, " t"], sigma: Float[Tensor, " t"], points: int
) -> tuple[Float[Tensor, "t n"], Float[Tensor, " n"]]:
    """Nodes y (t, n) and weights (n,) with E f(α x₀ + σ ε) = Σ_n w_n f(y_n) over a mixture in one dimension.

    α = 1 and σ = 0 is the mixture itself. n is ``points`` of a Gauss–Hermite rule for each component.

    Raises:
        InputError: unless the mixture has one dimension and there are at least 2 points.
    """
    if mixture.dimension != 1:
        raise InputError(f"quadrature: one dimension expected, the mixture has {mixture.dimension}")
    if points < 2:
        raise InputError(f"quadrature: points must be at least 2, got {points}")
    place, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(points))
    centres = alpha[:, None] * mixture.means[:, 0]
    scales = (alpha.square()[:, None] * mixture.eigenvalues[:, 0] + sigma.square()[:, None]).sqrt()
    y = centres[..., None] + scales[..., None] * place
    return y.flatten(1), (mixture.weights[:, None] * weight / weight.sum()).flatten()
