r"""The variational bound of the reverse SDE on the probability of an image, in its three terms (Kingma et al. 2021).

With z_γ = α x + σ ε from the data end γ₀ to the noise end γ₁, and the prior p₁ that generation starts from,

.. math:: -\log P(k) \le \underbrace{E[-\log P(k | z_{\gamma_0})]}_{\text{reconstruction}}
          + \underbrace{KL\big(N(\alpha_1 x, \sigma_1^2 I)\,\|\,p_1\big)}_{\text{prior}}
          + \underbrace{\tfrac12 \int_{\gamma_0}^{\gamma_1} E\|\epsilon - \hat\epsilon(z_\gamma)\|^2\, d\gamma}
          _{\text{diffusion}} .

The reconstruction is a sum over pixels of a function of the level alone, integrated numerically. The prior of a trained
model is N(0, σ₁² I), where σ₁² is 0.854 and not 1 at the end γ₁ = 5 of the straight path; the KL is a closed form. The
diffusion term is an average over throws of (γ, ε). γ has the density α²(γ)/Z (`process.times`), for which the integrand
is nearly constant for a velocity and for a noise prediction, at low-discrepancy uniform numbers: one lattice with a
random shift per image.

On such a lattice the spread of the throws overestimates the error. Half the mean squared difference of neighbours, the
last and the first included, estimates their variance around the trend in time, with a small excess.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.images.dequantization import Variational, nats_to_bits_per_dim, to_unit
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import flat, per_row
from diffusion_density.process.model import GaussianPrior, Model
from diffusion_density.process.times import low_discrepancy

IMAGES_PER_CALL = 64  # of a network on images, which stores activations for each


@dataclass(frozen=True)
class BoundTerms:
    """The bound on −log P of B images, in bits/dim.

    Attributes:
        reconstruction: (B,) −log P(k|z) of the softmax decoder at the data end, in expectation; exact.
        prior: (B,) the KL of the noise end from the prior; exact for a Gaussian prior, else by throws.
        diffusion: (B,) the integral of the squared error of the noise prediction, by throws.
        stderr: (B,) standard error of the sum of the three; None for one throw.
    """

    reconstruction: Float[Tensor, " b"]
    prior: Float[Tensor, " b"]
    diffusion: Float[Tensor, " b"]
    stderr: Float[Tensor, " b"] | None

    @property
    def total(self) -> Float[Tensor, " b"]:
        """(B,) the bound, the sum of the three terms."""
        return self.reconstruction + self.prior + self.diffusion


def check_images(images: Tensor, levels: int) -> None:
    """Check that images have a probability.

    Raises:
        InputError: unless images are uint8 (B, C, H, W), not empty, with values below ``levels``, 2 to 256.
    """
    if not 2 <= levels <= 256:
        raise InputError(f"images: 2 to 256 levels expected, got {levels}")
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        raise InputError(f"images: uint8 (B, C, H, W) expected, got {images.dtype} of shape {tuple(images.shape)}")
    if int(images.max()) >= levels:
        raise InputError(f"images: value {int(images.max())} is beyond the {levels} levels 0 … {levels - 1}")


def checked_start(model: Model, start: float | None) -> float:
    """The time of the data end: ``start``, or the schedule's own.

    Raises:
        InputError: unless it is before the noise end and has noise.
    """
    schedule = model.schedule
    first = schedule.s_start if start is None else start
    if not schedule.s_min <= first < schedule.s_max:
        raise InputError(f"images: start must lie in [{schedule.s_min}, {schedule.s_max}), got {start}")
    if not schedule.at(first)[1] > 0:
        raise InputError(f"images: there is no noise at start {first:g}, where integers have no density")
    return first


def bound_terms(
    model: Model,
    images: Tensor,
    *,
    levels: int = 256,
    throws: int = 16,
    generator: torch.Generator,
    start: float | None = None,
    chunk: int = IMAGES_PER_CALL,
    dtype: torch.dtype = torch.float32,
) -> BoundTerms:
    """The three terms of the variational bound on −log₂ P(image)/N; any prediction, any schedule.

    The draws of an image are consecutive in the generator's stream: a batch gives the same values as its images one by
    one.

    Args:
        model: the score and its schedule.
        images: (B, C, H, W) uint8, values below ``levels``, on the model's device.
        levels: the number of integer levels, 2 to 256.
        throws: n, draws of (time, noise) for each image; as many network evaluations.
        generator: draws the throws.
        start: the time of the data end, ``schedule.s_start`` by default.
        chunk: the most rows of one network call.
        dtype: of the network's input.

    Returns:
        BoundTerms in bits/dim.

    Raises:
        InputError: for images as in :func:`check_images`, or settings out of range.
    """
    check_images(images, levels)
    if throws < 1 or chunk < 1:
        raise InputError(f"bound: throws and chunk must be at least 1, got {throws} and {chunk}")
    first = checked_start(model, start)
    table = reconstruction_table(levels, *model.schedule.at(first)).to(images.device)
    closed = isinstance(model.prior, GaussianPrior)
    reference = model.normal_prior
    alpha, sigma = model.schedule.at(model.schedule.s_max)
    dims = images[0].numel()
    entropy = 0.5 * dims * (1 + math.log(2 * math.pi * sigma**2))
    columns: list[tuple[Tensor, ...]] = []
    with torch.inference_mode():
        for their, part in model.split(images, max(1, chunk // throws)):
            x = to_unit(part, levels, torch.float64)
            prior = -entropy - reference.expected_log_prob(alpha * x, sigma)
            noise, extra, u = _draw(part, throws, generator, closed)
            squares = _diffusion(their, x, noise, u, first, chunk, dtype)
            differences = torch.zeros_like(squares)
            if extra is not None:  # E log prior is that of the Gaussian reference, closed, plus the mean difference
                end = alpha * x[:, None] + sigma * extra
                rows = end.flatten(0, 1).to(dtype)
                gain = torch.cat([model.prior.log_prob(z) - reference.log_prob(z) for z in rows.split(chunk)])
                differences = -gain.double().reshape(squares.shape)
            spread = _variance_of_mean(squares + differences)
            reconstruction = table[part.long()].flatten(1).sum(1)
            columns.append((reconstruction, prior + differences.mean(1), squares.mean(1), spread.sqrt()))
    values = [-nats_to_bits_per_dim(torch.cat(column), dims) for column in zip(*columns, strict=True)]
    return BoundTerms(values[0], values[1], values[2], values[3] if throws > 1 else None)


def reconstruction_table(levels: int, alpha0: float, sigma0: float) -> Float[Tensor, " levels"]:
    """E[−log P(k|z)] of the softmax decoder in nats, for each level k, z ~ N(α₀ x_k, σ₀²), by the trapezoid rule."""
    scheme = Variational(levels, alpha0, sigma0)
    noise = torch.linspace(-9, 9, 801, dtype=torch.float64)
    weights = (-0.5 * noise.square()).exp()
    images = torch.arange(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    log_decoder = scheme.log_decoder(noise.view(1, -1, 1, 1, 1).expand(levels, -1, -1, -1, -1), images)
    return -(log_decoder * weights).sum(1) / weights.sum()


def _draw(
    images: Tensor, throws: int, generator: torch.Generator, closed: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Noise of the throws, and of the noise end unless the prior is ``closed``, (B, n, C, H, W); a lattice (B, n)."""
    shape = (1 if closed else 2, throws, *images.shape[1:])
    lattices, noises = [], []
    for _ in images:
        lattices.append(low_discrepancy(throws, generator))
        noises.append(torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device))
    noise, u = torch.stack(noises).to(images.device), torch.stack(lattices).to(images.device)
    return noise[:, 0], None if closed else noise[:, 1], u


def _diffusion(
    model: Model, x: Tensor, noise: Tensor, u: Tensor, first: float, chunk: int, dtype: torch.dtype
) -> Float[Tensor, "b n"]:
    """½ ‖ε − ε̂‖² divided by the density of γ, in nats, for every throw."""
    schedule = model.schedule
    ends = -schedule.log_snr(torch.tensor([first, schedule.s_max], dtype=torch.float64))
    gamma0, gamma1 = ends.tolist()
    proposal = schedule.alpha_squared(gamma0, gamma1)
    place = proposal.times(u)
    weight = 0.5 * (gamma1 - gamma0) / proposal.density(place)
    s = schedule.inverse(-(gamma0 + (gamma1 - gamma0) * place)).flatten()
    epsilon = noise.flatten(0, 1)
    clean = x.repeat_interleave(u.shape[1], dim=0)
    z = per_row(schedule.alpha(s), clean) * clean + per_row(schedule.sigma(s), clean) * epsilon
    squares = [
        flat(e - model.noise(y.to(dtype), t.to(dtype)).double()).square().sum(1)
        for y, t, e in zip(z.split(chunk), s.split(chunk), epsilon.split(chunk), strict=True)
    ]
    return weight * torch.cat(squares).reshape(u.shape)


def _variance_of_mean(terms: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """The variance of the mean of n terms on a randomly shifted lattice of times, from differences of neighbours."""
    return (terms - terms.roll(1, dims=1)).square().sum(1) / (2 * terms.shape[1] ** 2)
