r"""Density guidance: samples with a chosen log density (Karczewski, Heinonen and Garg 2025b).

Let S = ∇log p_s, and v = f x − ½ g² S the drift of the flow. The time here is the log-SNR λ, which increases from noise
to data: ds = −(σ²/g²) dλ. Along any reverse path dx = u dλ + G dW the log density changes by
(docs/derivations/reverse-process.md)

.. math:: d \log p = \big[ -\mathrm{div}\, v + (u - v) \cdot S + \tfrac12 \mathrm{tr}(G G^T \nabla^2\log p) \big]
          d\lambda + S^T G\, dW, \qquad v = \tilde f x + \tfrac12 \sigma^2 S, \quad \tilde f = -f \sigma^2 / g^2.

If the noise, of variance φ² σ², is orthogonal to n = S/‖S‖, G = φ σ (I − n nᵀ), this change is not random. A wanted
change d log p = b dλ needs the smallest change of the flow if

.. math:: u = v + \frac{S}{\|S\|^2} \big[ b + \mathrm{div}\, v
          - \tfrac12 \varphi^2 \sigma^2 (\Delta\log p - n^T \nabla^2\log p\; n) \big].

The published drift has only Δ log p in the bracket. The resulting log p is too high by −½ ∫ φ² σ² nᵀ ∇² log p n dλ,
about one nat in any dimension. For the quantile q, b is the change along the flow plus a constant,

.. math:: b = -\mathrm{div}\, v + \tfrac12 \sqrt{2D}\, \Phi^{-1}(q)
          \quad\Rightarrow\quad u = \tilde f x + \tfrac12 \sigma^2 \eta S, \qquad
          \eta = 1 + \frac{\sqrt{2D}\, \Phi^{-1}(q)}{\|\sigma S\|^2} \quad (\varphi = 0),

since the distribution of ‖σ S‖² + σ² Δ log p is close to N(0, 2D). So q is a quantile of the rate. It is not a quantile
of log p at the end, which changes by ½ √(2D) Φ⁻¹(q) times the whole range of log-SNR. Near a mode, where S is zero, no
drift along S can increase log p: in a denominator ‖σ S‖² is at least ``floor`` · D, and samples then miss their target.
Their actual log p is integrated by the first equation, but not resolved by steps that jump over a mode: samples that
met the floor or a mode are marked. (For data with a density in all D dimensions ‖σ S‖²/D falls like σ² towards the data
end, hence the small default of the floor.)

Steps are Heun's in the drift, equal in log-SNR, with the noise of the start of a step (Itô). They are of second order
without noise. With noise the errors of log p are of order steps^-1/2 per sample and steps^-1 in the mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float
from scipy.stats import chi
from torch import Tensor
from torch.nn.functional import normalize

from diffusion_density.density.ode.divergence import rademacher, with_divergence
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS_PER_CALL, flat, per_row
from diffusion_density.process.model import Model
from diffusion_density.process.reverse_process import prior_sample
from diffusion_density.sampling.mode_tracking import log_snr_nodes, rates

Divergence = Literal["exact", "hutchinson"]
Drift = Literal["exact", "published"]
Rate = Callable[[Tensor, Tensor], Float[Tensor, " b"]]
Excess = Callable[[Tensor, Tensor, Float[Tensor, " b"]], Float[Tensor, " b"] | float]


@dataclass(frozen=True)
class Guided:
    """Guided samples and their log densities, in nats, of the marginal of the model's score at ``schedule.s_start``.

    Both log densities assume that the score is exact, and have the error of the steps.

    Attributes:
        x: (N, *) samples.
        log_prob: (N,) the log density reached, integrated along the path from that of the prior.
        target: (N,) the log density wanted. It differs from ``log_prob`` where the floor was met, and for the published
            drift with noise.
        out_of_reach: (N,) whether the floor was met at some step, or the score changed its direction because the step
            passed a mode. Both log densities can then be wrong; `density.flow` is not.
    """

    x: Float[Tensor, "n *event"]
    log_prob: Float[Tensor, " n"]
    target: Float[Tensor, " n"]
    out_of_reach: Bool[Tensor, " n"]


def guided(
    model: Model,
    n: int,
    event: tuple[int, ...],
    *,
    quantile: float,
    stochasticity: float = 0.0,
    drift: Drift = "exact",
    steps: int = 100,
    divergence: Divergence = "hutchinson",
    floor: float = 1e-5,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Guided:
    """Draw n samples that gain ½ √(2D) Φ⁻¹(q) nats per unit of log-SNR over the flow. q = 0.5 is the flow.

    Each path starts from a draw of the prior, scaled to the prior's median norm.

    Args:
        model: the score, its schedule and a Gaussian prior.
        n: how many.
        event: the shape of one sample.
        quantile: q, strictly between 0 and 1: above ½ for samples of higher density.
        stochasticity: φ, the noise orthogonal to the score in units of that of the reverse SDE; 0 for none.
        drift: with noise, the ``exact`` correction of the drift or the ``published`` one.
        steps: two network evaluations each, with noise four.
        divergence: ``exact`` (D vector-Jacobian products per call) or ``hutchinson``, one new Rademacher probe per
            call. Without noise it is used for the log densities only, with noise also for the drift.
        floor: the smallest ‖σ S‖²/D in the denominator of the drift.
        generator: draws the latents, the probes and the noise, on its own device.
        dtype: of the samples.

    Returns:
        Guided, the samples with the log density reached and the one wanted.

    Raises:
        InputError: for settings out of range, or a prior that can't be sampled.
    """
    if not 0 < quantile < 1:
        raise InputError(f"guided: quantile must lie between 0 and 1, got {quantile}")
    x = _latents(model, n, event, 0.5, generator, dtype)
    gain = (2 * x[0].numel()) ** 0.5 * torch.special.ndtri(torch.tensor(quantile, dtype=torch.float64)).item()
    settings = _Settings(stochasticity, drift, steps, divergence, floor, generator)
    return _guide(model, x, lambda _x, _log_snr, _divergence: 0.5 * gain, settings)


def steered(
    model: Model,
    n: int,
    event: tuple[int, ...],
    *,
    rate: Rate,
    stochasticity: float = 0.0,
    drift: Drift = "exact",
    steps: int = 100,
    divergence: Divergence = "hutchinson",
    floor: float = 1e-5,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Guided:
    """Draw n samples whose log density changes at a wanted rate, from latents with the median norm of the prior.

    Args:
        model: the score, its schedule and a Gaussian prior.
        n: how many.
        event: the shape of one sample.
        rate: b(x, λ), the wanted d log p/dλ in nats per unit of log-SNR, (B,) for x of shape (B, *).
        stochasticity: φ, as in `guided`.
        drift: as in `guided`.
        steps: as in `guided`.
        divergence: as in `guided`; here it is always used for the drift.
        floor: as in `guided`.
        generator: draws the latents, the probes and the noise, on its own device.
        dtype: of the samples.

    Returns:
        Guided, the samples with the log density reached and the one wanted.

    Raises:
        InputError: for settings out of range, or a prior that can't be sampled.
    """
    x = _latents(model, n, event, 0.5, generator, dtype)
    settings = _Settings(stochasticity, drift, steps, divergence, floor, generator)
    return _guide(model, x, lambda y, log_snr, divergence: rate(y, log_snr).double() + divergence, settings)


def prior_guided(
    model: Model,
    n: int,
    event: tuple[int, ...],
    *,
    quantile: float,
    steps: int = 100,
    divergence: Divergence = "hutchinson",
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Guided:
    """Draw n samples of the flow whose latents have the norm of a given quantile.

    Args:
        model: the score, its schedule and a Gaussian prior.
        n: how many.
        event: the shape of one sample.
        quantile: of the norm under the prior, strictly between 0 and 1. A small one gives a latent of high density,
            and a sample of high density where the score is aligned (`alignment`).
        steps: two network evaluations each.
        divergence: of the log density, as in `guided`.
        generator: draws the latents and the probes, on its own device.
        dtype: of the samples.

    Returns:
        Guided, with the log density itself as the target.

    Raises:
        InputError: for settings out of range, or a prior that can't be sampled.
    """
    if not 0 < quantile < 1:
        raise InputError(f"prior_guided: quantile must lie between 0 and 1, got {quantile}")
    x = _latents(model, n, event, quantile, generator, dtype)
    settings = _Settings(0.0, "exact", steps, divergence, 1.0, generator)
    return _guide(model, x, lambda _x, _log_snr, _divergence: 0.0, settings)


@dataclass(frozen=True)
class _Settings:
    """The settings that all guided paths have, checked."""

    stochasticity: float
    drift: Drift
    steps: int
    divergence: Divergence
    floor: float
    generator: torch.Generator

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.stochasticity >= 0 or not self.floor > 0:
            got = f"{self.steps}, {self.stochasticity} and {self.floor}"
            raise InputError(f"guidance: steps >= 1, stochasticity >= 0 and floor > 0, got {got}")
        if self.drift not in ("exact", "published"):
            raise InputError(f"guidance: drift is 'exact' or 'published', not {self.drift!r}")
        if self.divergence not in ("exact", "hutchinson"):
            raise InputError(f"guidance: divergence is 'exact' or 'hutchinson', not {self.divergence!r}")


def _latents(
    model: Model, n: int, event: tuple[int, ...], quantile: float, generator: torch.Generator, dtype: torch.dtype
) -> Float[Tensor, "n *event"]:
    """Uniform directions times the norm at a quantile of the model's prior."""
    if n < 1:
        raise InputError(f"guidance: n must be at least 1, got {n}")
    z = prior_sample(model, n, event, generator=generator, dtype=dtype)
    radius = model.normal_prior.variance**0.5 * float(chi.ppf(quantile, z[0].numel()))
    return z * per_row(radius / flat(z).norm(dim=1), z)


@dataclass(frozen=True)
class _Slope:
    """d/dλ of a path at one point: its drift, the changes of log p reached and wanted, the score, and the floor."""

    drift: Float[Tensor, "b *event"]
    log_prob: Float[Tensor, " b"]
    target: Float[Tensor, " b"]
    score: Float[Tensor, "b *event"]
    floored: Bool[Tensor, " b"]


def _guide(model: Model, x: Float[Tensor, "n *event"], excess: Excess, settings: _Settings) -> Guided:
    """Guided paths from latents; ``excess`` is b + div v, of x, λ and div v."""
    with torch.inference_mode(False), torch.no_grad():
        parts = [_paths(part, latents, excess, settings) for part, latents in model.split(x, ROWS_PER_CALL)]
    return Guided(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _paths(model: Model, x: Tensor, excess: Excess, settings: _Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of `Guided` for one chunk of latents."""
    slope = partial(_slope, model, excess, settings)
    nodes = log_snr_nodes(model.schedule, model.schedule.s_max, settings.steps, x.device)
    log_prob = target = model.prior.log_prob(x).double()
    beyond = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for here, there in pairwise(nodes):
        step = there - here
        first = slope(x, here)
        noise = torch.zeros_like(x)
        if settings.stochasticity:
            z = torch.randn(x.shape, generator=settings.generator, dtype=x.dtype, device=x.device)
            variance = 0.5 * (rates(model.schedule, here)[2] + rates(model.schedule, there)[2])
            scale = settings.stochasticity * (variance * step).sqrt()
            normal = normalize(flat(first.score))
            noise = scale * (z - ((normal * flat(z)).sum(1, keepdim=True) * normal).reshape(x.shape))
        second = slope(x + step * first.drift + noise, there)
        x = x + 0.5 * step * (first.drift + second.drift) + noise
        log_prob = log_prob + 0.5 * step * (first.log_prob + second.log_prob)
        target = target + 0.5 * step * (first.target + second.target)
        beyond |= first.floored | second.floored | ((first.score * second.score).flatten(1).sum(1) < 0)
    return x, log_prob, target, beyond


def _slope(model: Model, excess: Excess, settings: _Settings, x: Tensor, log_snr: Tensor) -> _Slope:
    s, factor, variance = rates(model.schedule, log_snr)
    dimension = x[0].numel()
    if settings.divergence == "exact":
        basis = torch.eye(dimension, dtype=x.dtype, device=x.device).reshape(1, dimension, *x.shape[1:])
        probes = basis.expand(len(x), *basis.shape[1:])
    else:
        probes = rademacher(x, 1, settings.generator)
    count = probes.shape[1]
    if settings.stochasticity:
        probes = torch.cat([probes, normalize(flat(model.score(x, s))).reshape(x.shape)[:, None]], dim=1)
    score, products = with_divergence(lambda y: model.score(y, s), x, probes)
    along = products[:, -1].double() if settings.stochasticity else 0.0
    laplacian = products[:, :count].double().sum(1)
    spread = 0.5 * settings.stochasticity**2 * variance
    divergence = dimension * factor + 0.5 * variance * laplacian
    wanted = excess(x, log_snr, divergence)
    correction = spread * (laplacian - (along if settings.drift == "exact" else 0.0))
    norm = flat(score).square().sum(1).double()
    floor = settings.floor * dimension / variance
    weight = (wanted - correction) / norm.clamp_min(floor)
    drift = factor * x + per_row((0.5 * variance + weight).to(x), x) * score
    made = weight * norm + spread * (laplacian - along) - divergence
    return _Slope(drift, made, wanted - divergence, score, (norm < floor) & (wanted != correction))
