r"""Gaussian mixtures with full covariances, and their exact diffusion: the truth for tests of estimators.

If x₀ ~ Σ w_k N(m_k, C_k) then x_s = α x₀ + σ ε ~ Σ w_k N(α m_k, α² C_k + σ² I). With C_k = V_k diag(e_k) V_kᵀ every
diffused covariance shares its eigenvectors with C_k, so the density, the score and its divergence at any s cost two
matrix products. Writing P_k for the precision, a_k = −P_k (x − α m_k), and r_k for the posterior weight of component k,

.. math:: \nabla\log p_s = \sum_k r_k a_k, \qquad
          \Delta\log p_s = \sum_k r_k (\|a_k\|^2 - \mathrm{tr} P_k) - \|\nabla\log p_s\|^2.

The covariance of the clean point, given a noisy one, is the sum of that within the components and that of their
posterior means,

.. math:: \mathrm{Cov}(x_0 | x_s = x) = \sum_k r_k \sigma^2 C_k P_k
          + \sum_k r_k (\mu_k - \bar\mu)(\mu_k - \bar\mu)^T, \qquad
          \mu_k = m_k - \alpha C_k a_k, \quad \bar\mu = \sum_k r_k \mu_k.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import distinct_time, expand_time, flat
from diffusion_density.process.model import Model
from diffusion_density.process.schedules import Schedule


class GaussianMixture:
    """A mixture of K Gaussians in D dimensions, stored in double precision.

    Args:
        weights: (K,) positive, summing to one.
        means: (K, D).
        covariances: (K, D, D) symmetric, positive definite.

    Raises:
        InputError: if an argument is not as described; it names the argument.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        weights, means, covariances = (
            torch.as_tensor(value, dtype=torch.float64).detach().clone() for value in (weights, means, covariances)
        )
        if weights.ndim != 1 or means.ndim != 2 or len(means) != len(weights):
            raise InputError(
                f"mixture: weights (K,) and means (K, D) expected, got {(*weights.shape,)}, {(*means.shape,)}"
            )
        count, dimension = means.shape
        if covariances.shape != (count, dimension, dimension):
            raise InputError(
                f"mixture: covariances of shape {(count, dimension, dimension)} expected, got {(*covariances.shape,)}"
            )
        for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
            if not bool(value.isfinite().all()):
                raise InputError(f"mixture: {name} contain numbers that are not finite")
        if bool((weights <= 0).any()):
            raise InputError("mixture: weights must be positive")
        if abs(weights.sum().item() - 1) > 1e-6:
            raise InputError(f"mixture: weights must sum to 1, they sum to {weights.sum().item():.6g}")
        if not torch.allclose(covariances, covariances.mT, rtol=1e-8, atol=1e-12):
            raise InputError("mixture: covariances must be symmetric")
        eigenvalues, eigenvectors = torch.linalg.eigh(covariances)
        if bool((eigenvalues <= 0).any()):
            raise InputError("mixture: covariances must be positive definite")
        self.weights = weights / weights.sum()
        self.means = means
        self.covariances = covariances
        self.eigenvalues = eigenvalues  # (K, D)
        self.eigenvectors = eigenvectors  # (K, D, D), columns

    @classmethod
    def random(
        cls, dimension: int, components: int, generator: torch.Generator, full: bool = False
    ) -> "GaussianMixture":
        """A random mixture, as in the code of Premkumar for "Neural Entropy" (arXiv 2409.03817).

        Means are uniform on [−2, 2]^D, standard deviations uniform on [½, 1] (isotropic, or along random axes if
        ``full``), weights uniform and normalised.
        """
        uniform = torch.rand(components, 2 * dimension + 2, generator=generator, dtype=torch.float64)
        means = 4 * uniform[:, :dimension] - 2
        weights = uniform[:, -2] / uniform[:, -2].sum()
        if not full:
            variances = (0.5 + 0.5 * uniform[:, -1]).square()
            return cls(weights, means, variances[:, None, None] * torch.eye(dimension, dtype=torch.float64))
        noise = torch.randn(components, dimension, dimension, generator=generator, dtype=torch.float64)
        axes = torch.linalg.qr(noise).Q
        variances = (0.5 + 0.5 * uniform[:, dimension : 2 * dimension]).square()
        covariances = (axes * variances[:, None]) @ axes.mT
        return cls(weights, means, 0.5 * (covariances + covariances.mT))

    @property
    def dimension(self) -> int:
        """D."""
        return self.means.shape[1]

    def log_prob(self, x: Tensor) -> Float[Tensor, " b"]:
        """(B,) log density in nats at x of shape (B, *) with D numbers an event, in the precision of x."""
        return self._terms(x, torch.ones(1).to(x), torch.zeros(1).to(x))[0].logsumexp(1)

    def sample(self, n: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Float[Tensor, "n d"]:
        """(n, D) independent draws."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64)
        roots = self.eigenvectors * self.eigenvalues.sqrt()[:, None]
        return (self.means[component] + torch.einsum("nde,ne->nd", roots[component], noise)).to(dtype)

    def diffused(self, schedule: Schedule) -> "ExactModel":
        """The exact diffusion of this mixture: a model whose score and density at every time are closed forms."""
        return ExactModel(self, schedule)

    def _terms(self, x: Tensor, alpha: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Joint log density (B, K), and (x − α m_k) and its variances in eigenbasis k, (B, K, D) and (1 or B, K, D)."""
        if flat(x).shape[1] != self.dimension:
            raise InputError(
                f"points have {flat(x).shape[1]} numbers each, the mixture has {self.dimension} dimensions"
            )
        vectors, values, means = self.eigenvectors.to(x), self.eigenvalues.to(x), self.means.to(x)
        count = len(values)
        basis = vectors.permute(1, 0, 2).reshape(self.dimension, -1)  # (D, K·D)
        centres = torch.einsum("kd,kde->ke", means, vectors)
        offsets = (flat(x) @ basis).reshape(-1, count, self.dimension) - alpha[:, None, None] * centres
        variances = alpha.square()[:, None, None] * values + variance[:, None, None]
        log_det = variances.log().sum(2)
        quadratic = (offsets.square() / variances).sum(2)
        joint = self.weights.to(x).log() - 0.5 * (quadratic + log_det + self.dimension * math.log(2 * math.pi))
        return joint, offsets, variances


class ExactModel(Model):
    """A Gaussian mixture diffused by a schedule: exact log p_s, score and divergence, for any event shape of D numbers.

    Its prior is its own exact marginal at s_max, so the prior causes no error in an estimate.
    """

    def __init__(self, mixture: GaussianMixture, schedule: Schedule) -> None:
        self.mixture = mixture
        self.schedule = schedule
        schedule.noise_end()
        self.prior = _Marginal(self, schedule.s_max)

    def log_prob(self, x: Tensor, s: Tensor | float = 0.0) -> Float[Tensor, " b"]:
        """(B,) log p_s(x) in nats; s = 0 is the mixture itself for schedules that start without noise."""
        return self._terms(x, s)[0].logsumexp(1)

    def score(self, x: Tensor, s: Tensor | float) -> Tensor:
        joint, offsets, variances = self._terms(x, s)
        weighted = joint.softmax(1)[..., None] * offsets / variances
        basis = self.mixture.eigenvectors.to(x).permute(0, 2, 1).reshape(-1, self.mixture.dimension)  # (K·D, D)
        return -(weighted.reshape(len(x), -1) @ basis).reshape(x.shape)

    def score_divergence(self, x: Tensor, s: Tensor | float) -> Float[Tensor, " b"]:
        """(B,) div ∇log p_s(x), the Laplacian of the log density."""
        joint, offsets, variances = self._terms(x, s)
        curvature = (offsets / variances).square().sum(2) - (1 / variances).sum(2)
        return (joint.softmax(1) * curvature).sum(1) - flat(self.score(x, s)).square().sum(1)

    def posterior_covariance(self, x: Tensor, s: Tensor | float) -> Float[Tensor, "b d d"]:
        """(B, D, D) Cov(x₀ | x_s = x) of clean points given noisy ones, positive semi-definite, in x's precision.

        Args:
            x: (B, *) noisy points, D numbers an event.
            s: one time or (B,) times.
        """
        time = distinct_time(expand_time(s, x))
        alpha, sigma = (f(time)[:, None, None] for f in (self.schedule.alpha, self.schedule.sigma))
        joint, offsets, variances = self._terms(x, s)
        values, vectors = self.mixture.eigenvalues.to(x), self.mixture.eigenvectors.to(x)
        shares = joint.softmax(1)[..., None]
        means = self.mixture.means.to(x) + torch.einsum("kde,bke->bkd", vectors, alpha * values / variances * offsets)
        spread = shares.sqrt() * (means - (shares * means).sum(1, keepdim=True))
        widths = (shares * values / variances).sqrt() * sigma  # (B, K, D)
        roots = torch.cat([(widths[..., None] * vectors.mT).flatten(1, 2), spread], dim=1)  # (B, K·D + K, D)
        return roots.mT @ roots

    def _terms(self, x: Tensor, s: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        time = distinct_time(expand_time(s, x))
        return self.mixture._terms(x, self.schedule.alpha(time), self.schedule.sigma(time).square())


class _Marginal:
    """The marginal of an exact model at one time, as a prior."""

    def __init__(self, model: ExactModel, s: float) -> None:
        self._model = model
        self._s = s

    def log_prob(self, x: Tensor) -> Float[Tensor, " b"]:
        return self._model.log_prob(x, self._s)
