r"""Dequantization: from a density of noisy real images to the probability of an image of integers (Zheng et al. 2023).

An image k of N values in {0, …, B − 1} has the bin centres x = 2 (k + ½)/B − 1 in (−1, 1). At the data end of the
forward process, z = α₀ x + σ₀ ε has a density p, so k has the probability P(k) = ∫ p(z) P(k|z) dz. For any distribution
q of z given k,

.. math:: \log P(k) \;\ge\; E_{q(z|k)}\Big[\log p(z) + \underbrace{\log P(k|z) - \log q(z|k)}_{\text{log weight}}\Big],
          \qquad z = \alpha_0 x + \sigma_0 \eta,

and the log of the mean of K weighted draws, logsumexp − log K, is a bound that increases with K. In units of η a bin is
[−τ, τ], τ = α₀/(B σ₀). The three schemes are three distributions of η, drawn by inverting their distribution function:

* truncated normal: N(0, 1) on [−τ, τ]; P(k|z) = 1 within the bin; very close to the inputs of training;
* uniform: on [−τ, τ]; P(k|z) = 1 within the bin;
* variational: N(0, 1), which can leave the bin; P(k|z) is a softmax over levels of −½ ((z − α₀ x_j)/σ₀)².

τ = 3.0187 for B = 256 and γ = log(σ₀²/α₀²) = −13.3, the values of Zheng et al.; ``start_gamma`` keeps τ for other B.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusion_density.machine.errors import InputError

TAU = math.exp(13.3 / 2) / 256
"""Half a bin in standard deviations of the noise, for 256 levels at γ = −13.3."""

UNIFORM_LATER = 1.5
"""Uniform dequantization starts at a γ that is larger by this: at −11.8 for 256 levels, as Zheng et al. do."""

NEGLIGIBLE = 40.0
"""Terms of a sum over levels are left out if they are e⁻⁴⁰ times smaller than another one."""

Scheme = Literal["truncated_normal", "uniform", "variational"]


def start_gamma(levels: int, scheme: Scheme = "truncated_normal") -> float:
    """γ₀ = −2 log(B τ) at which the density should be evaluated for B levels: −13.3 for 256, −7.876 for 17."""
    return -2 * math.log(levels * TAU) + (UNIFORM_LATER if scheme == "uniform" else 0.0)


def to_unit(
    images: UInt8[Tensor, "b c h w"], levels: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "b c h w"]:
    """Bin centres 2 (k + ½)/B − 1 in (−1, 1) of images of integers k in {0, …, B − 1}.

    Raises:
        InputError: if a value is beyond the levels.
    """
    if levels < 256 and images.numel() and int(images.max()) >= levels:
        raise InputError(f"images: value {int(images.max())} is beyond the {levels} levels 0 … {levels - 1}")
    return (2 * (images.to(dtype) + 0.5) / levels - 1).to(dtype)


def to_images(x: Float[Tensor, "b c h w"], levels: int) -> UInt8[Tensor, "b c h w"]:
    """The nearest image of integers, the inverse of ``to_unit``; values beyond (−1, 1) become the end levels."""
    return ((x.double() + 1) * levels / 2).floor().clamp(0, levels - 1).to(torch.uint8)


def nats_to_bits_per_dim(log_prob: Float[Tensor, " b"], dims: int) -> Float[Tensor, " b"]:
    """−log₂ P / N from log P in nats; a standard error in nats becomes minus the one in bits/dim."""
    return -log_prob / (dims * math.log(2))


@dataclass(frozen=True)
class Draws:
    """K dequantized versions of each of B images.

    Attributes:
        z: (B, K, C, H, W) the points for the density p of the data end.
        log_weight: (B, K) nats, log P(k|z) − log q(z|k), for weighted averages of p.
        mean_log_weight: (B, K) nats, the same with −log q replaced by its exact mean, the entropy of q: for averages
            of log p with less noise.
    """

    z: Float[Tensor, "b k c h w"]
    log_weight: Float[Tensor, "b k"]
    mean_log_weight: Float[Tensor, "b k"]

    def average(self, log_density: Float[Tensor, "b k"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"] | None]:
        """The one-draw bound on log P (nats), averaged over K draws, and its standard error (None for K = 1).

        ``log_density`` is log p(z) in nats.
        """
        terms = log_density.double() + self.mean_log_weight
        count = terms.shape[1]
        return terms.mean(1), terms.std(1) / math.sqrt(count) if count > 1 else None

    def importance_weighted(
        self, log_density: Float[Tensor, "b k"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"] | None]:
        """The K-draw bound log (1/K) Σ p(z)/q on log P (nats), and its standard error (None for K = 1).

        log K is subtracted; without it the number is no bound. The error is that of the logarithm of a mean to first
        order; it is meaningful only if no single draw dominates the sum.
        """
        terms = log_density.double() + self.log_weight
        count = terms.shape[1]
        value = terms.logsumexp(1) - math.log(count)
        if count == 1:
            return value, None
        return value, (terms - value[:, None]).exp().std(1) / math.sqrt(count)


@dataclass(frozen=True)
class Dequantization(ABC):
    """A distribution q(z | k) around an image, at a data end where z = α₀ x + σ₀ ε.

    Args:
        levels: B, the number of integer levels.
        alpha0: α₀ at the time where the density is evaluated.
        sigma0: σ₀ there.

    Raises:
        InputError: unless 2 <= levels <= 256 and α₀, σ₀ > 0.
    """

    levels: int
    alpha0: float
    sigma0: float

    def __post_init__(self) -> None:
        if not (2 <= self.levels <= 256 and 0 < self.alpha0 < math.inf and 0 < self.sigma0 < math.inf):
            raise InputError(
                f"dequantization: need 2 to 256 levels and positive alpha0 and sigma0,"
                f" got {self.levels}, {self.alpha0} and {self.sigma0}"
            )

    @property
    def tau(self) -> float:
        """Half a bin in standard deviations of the noise, τ = α₀/(B σ₀)."""
        return self.alpha0 / (self.levels * self.sigma0)

    @property
    @abstractmethod
    def entropy(self) -> float:
        """The entropy of q(z|k) in nats per dimension, exactly."""

    @abstractmethod
    def noise(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """η of the scheme, by inverting its distribution function at uniform u in [0, 1], double precision."""

    @abstractmethod
    def log_q(self, noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """log q(z|k) of one dimension, in nats, at z = α₀ x + σ₀ η."""

    def log_decoder(
        self,
        noise: Float[Tensor, "b k c h w"],
        images: UInt8[Tensor, "b c h w"],  # noqa: ARG002
    ) -> Float[Tensor, "b k"]:
        """log P(k|z) in nats, summed over dimensions: 0 for a distribution within the bin."""
        return noise.new_zeros(noise.shape[:2])

    def draw(
        self,
        images: UInt8[Tensor, "b c h w"],
        draws: int = 1,
        *,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """K = ``draws`` random versions of each image, on the images' device.

        Raises:
            InputError: unless draws >= 1 and all values are within the levels.
        """
        if draws < 1:
            raise InputError(f"dequantization: draws must be at least 1, got {draws}")
        shape = (images.shape[0], draws, *images.shape[1:])
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return self.place(images, u.to(images.device), dtype)

    def place(
        self,
        images: UInt8[Tensor, "b c h w"],
        u: Float[Tensor, "b k c h w"],
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """The versions of each image at given uniform numbers in [0, 1], for example the nodes of a quadrature.

        Raises:
            InputError: if a value is beyond the levels.
        """
        x = to_unit(images, self.levels, torch.float64)[:, None]
        noise = self.noise(u.double())
        decoder = self.log_decoder(noise, images)
        dims = images[0].numel()
        return Draws(
            z=(self.alpha0 * x + self.sigma0 * noise).to(dtype),
            log_weight=decoder - self.log_q(noise).flatten(2).sum(2),
            mean_log_weight=decoder + dims * self.entropy,
        )


class TruncatedNormal(Dequantization):
    """N(α₀ x, σ₀²) within the bin: needs no training, and is tight if τ is 3 or more."""

    @property
    def mass(self) -> float:
        """The probability of [−τ, τ] under N(0, 1); 0.9974613 for τ = 3.0187."""
        return math.erf(self.tau / math.sqrt(2))

    @property
    def entropy(self) -> float:
        missing = self.tau * math.exp(-0.5 * self.tau**2) / (math.sqrt(2 * math.pi) * self.mass)
        return _normal_entropy(self.sigma0) + math.log(self.mass) - missing

    def noise(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _normal_quantile(0.5 + self.mass * (u - 0.5)).clamp(-self.tau, self.tau)

    def log_q(self, noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _normal_log_density(noise, self.sigma0) - math.log(self.mass)


class Uniform(Dequantization):
    """Uniform within the bin: accurate only if the noise is as wide as the bin."""

    @property
    def entropy(self) -> float:
        return math.log(2 * self.alpha0 / self.levels)

    def noise(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.tau * (2 * u - 1)

    def log_q(self, noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.full_like(noise, -self.entropy)


class Variational(Dequantization):
    """N(α₀ x, σ₀²) with a softmax decoder over levels: the reconstruction term of variational diffusion models."""

    @property
    def entropy(self) -> float:
        return _normal_entropy(self.sigma0)

    def noise(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _normal_quantile(u)

    def log_q(self, noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _normal_log_density(noise, self.sigma0)

    def log_decoder(self, noise: Float[Tensor, "b k c h w"], images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """log P(k|z) = −½ η² − log Σ_j exp −½ (η − 2 τ (j − k))², summed over dimensions; j runs over the levels.

        Negligible levels (``NEGLIGIBLE``) are left out; at τ = 3, seven of 256 are used.
        """
        largest = float(noise.abs().max())
        reach = math.ceil((largest + math.sqrt(largest**2 + 2 * NEGLIGIBLE)) / (2 * self.tau))
        reach = min(reach, self.levels - 1)
        k = images.long()[:, None]
        total = torch.full_like(noise, -math.inf)
        for offset in range(-reach, reach + 1):
            inside = (k + offset >= 0) & (k + offset < self.levels)
            term = -0.5 * (noise - 2 * self.tau * offset).square()
            total = torch.logaddexp(total, term.where(inside, -math.inf))
        return (-0.5 * noise.square() - total).flatten(2).sum(2)


SCHEMES: dict[Scheme, type[Dequantization]] = {
    "truncated_normal": TruncatedNormal,
    "uniform": Uniform,
    "variational": Variational,
}


def dequantization(scheme: Scheme, levels: int, alpha0: float, sigma0: float) -> Dequantization:
    """The scheme of that name.

    Raises:
        InputError: for a name that is not one of the three, or as the scheme does.
    """
    if scheme not in SCHEMES:
        raise InputError(f"no dequantization '{scheme}': know {', '.join(SCHEMES)}")
    return SCHEMES[scheme](levels, alpha0, sigma0)


def _normal_entropy(sigma: float) -> float:
    return 0.5 * (1 + math.log(2 * math.pi)) + math.log(sigma)


def _normal_log_density(noise: Tensor, sigma: float) -> Tensor:
    return -0.5 * noise.square() - 0.5 * math.log(2 * math.pi) - math.log(sigma)


def _normal_quantile(u: Tensor) -> Tensor:
    """Φ⁻¹(u), finite for every double in [0, 1]."""
    return torch.special.ndtri(u.clamp(2.0**-54, 1 - 2.0**-53))
