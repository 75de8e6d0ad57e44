r"""How far the DDPM sum of the density formula lies below log p in the mean over the data (paper B; sheet, section 4).

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

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.batching import ROWS
from diffusion_density.broadcasting import per_row
from diffusion_density.errors import InputError
from diffusion_density.mixtures import GaussianMixture
from diffusion_density.schedules import Discrete


@dataclass(frozen=True)
class Gap:
    """Predictions of the mean gap of the sum in nats, with the standard errors of their draws.

    Attributes:
        quadratic: ¼ Σ E ‖L_t‖², above the gap where l is not small.
        sharp: ½ Σ E Σ (l − log(1 + l)).
        quadratic_stderr: 0 where nothing is random.
        sharp_stderr: 0 where nothing is random.
    """

    quadratic: float
    sharp: float
    quadratic_stderr: float = 0.0
    sharp_stderr: float = 0.0


def predicted_gap(mixture: GaussianMixture, schedule: Discrete, *, draws: int, generator: torch.Generator) -> Gap:
    """The predicted mean gap on a chain, in any dimension, by draws of x_t that are independent at every step.

    Args:
        mixture: the data.
        schedule: the chain.
        draws: of x_t at each step t = 2 … T, at least 2.
        generator: draws them.

    Raises:
        InputError: for fewer than 2 draws.
    """
    if draws < 2:
        raise InputError(f"predicted_gap: draws must be at least 2, got {draws}")
    s = schedule.steps[1:].repeat_interleave(draws)
    x = mixture.sample(len(s), generator=generator)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    y = per_row(schedule.alpha(s), x) * x + per_row(schedule.sigma(s), x) * noise
    terms = _terms(mixture, schedule, y.unflatten(0, (-1, draws)))
    errors = (terms.var(2) / draws).sum(1).sqrt()
    return Gap(*terms.mean(2).sum(1).tolist(), *errors.tolist())


def predicted_gap_1d(mixture: GaussianMixture, schedule: Discrete, *, points: int = 40) -> Gap:
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
    return Gap(*(_terms(mixture, schedule, y[..., None]) @ weight).sum(1).tolist())


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


def _terms(mixture: GaussianMixture, schedule: Discrete, y: Float[Tensor, "t n d"]) -> Float[Tensor, "2 t n"]:
    """What a point x_t adds to the quadratic and to the sharp prediction, for n points at every step t = 2 … T."""
    exact, dimension = mixture.diffused(schedule), y.shape[2]
    falls = -schedule.log_snr_steps.exp().diff()
    rows = (y.flatten(0, 1), *(values.repeat_interleave(y.shape[1]) for values in (schedule.steps[1:], falls)))
    parts = []
    with torch.inference_mode():
        for x, s, fall in zip(*(values.split(max(1, ROWS // dimension**2)) for values in rows), strict=True):
            eigenvalues = fall[:, None] * torch.linalg.eigvalsh(exact.posterior_covariance(x, s))
            square, sharp = eigenvalues.square().sum(1), (eigenvalues - eigenvalues.log1p()).sum(1)
            parts.append(torch.stack([0.25 * square, 0.5 * sharp]))
    return torch.cat(parts, dim=1).unflatten(1, y.shape[:2])
