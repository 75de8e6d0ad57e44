r"""The score-based density formula: log p as an integral over the errors of the noise prediction (Li and Yan 2024).

Let x_s = α x + σ ε be made from a clean point x, λ the log-SNR, and t = 1/(1 + e^λ), the time of the paper. The exact
score has

.. math:: \log p(x) = -\tfrac d2 (1 + \log 2\pi)
          - \tfrac12 \int_{-\infty}^{\infty} \big\{ E\|\epsilon - \hat\epsilon(x_s)\|^2 - (1 - t)\, d \big\}\, d\lambda

(Li and Yan 2024, eq. 3.1, in log-SNR), the same for every schedule. On the times [s_start, s_max], where λ falls from
λ₁ to λ₂, it becomes

.. math:: E\big[\log \bar p_{s_{start}}(\bar x_{s_{start}})\big] = -\tfrac d2 (1 + \log 2\pi t_1)
          - KL\big(N(\alpha_2 x, \sigma_2^2 I)\,\|\,p_{s_{max}}\big)
          - \tfrac12 \int_{\lambda_2}^{\lambda_1} E\|\epsilon - \hat\epsilon(x_s)\|^2 d\lambda,

where a bar is the scaling x_s/√(α² + σ²), which is x_s itself where the variance is preserved. The left side differs
from log p(x) by ½ t₁ (d + 2 Δ log p + ‖∇log p‖²) + O(t₁²). For a trained score and the model's own prior, the right
side is a lower bound: it is below the same expectation of the log density of the model's reverse SDE by
½ ∫ g² E‖s_θ − ∇log p_SDE‖² ds, and equal to it for an exact score (docs/derivations/density_formula.md). The integral
is replaced by a weighted sum Σ w_i e_i of e = E‖ε − ε̂‖² at a few times:

- ``sum``: the DDPM sum over steps t = 2 … T, w_t = (1 − α_t)/(2 (α_t − ᾱ_t)) = ½ (e^{λ_{t−1} − λ_t} − 1). It is the
  lower bound of the chain of T ancestral steps (Ho et al. 2020), below the integral by O(1/T) in the mean. Li and Yan
  neglect the KL; it is included here.
- ``trapezoid``: the trapezoid rule in λ on the same steps, without an error of first order.
- ``quadrature``: Gauss–Legendre nodes in the angle φ = arctan(σ/α), dλ = −4 dφ/sin 2φ, which are dense at both ends.
  The baseline ½ ∫ (1 − t) d dλ is integrated in closed form, so N(0, I) has no error.

Each e_i is a mean over antithetic pairs ±ε of ‖ε − ε̂‖² − (1 − t)(‖ε‖² − d). The second term has the mean 0 and, for
data of unit variance, cancels most of the noise. All times get the same number of throws, so the only variance is that
of the pairs at each time.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import roots_legendre
from torch import Tensor
from torch.nn.functional import softplus

from diffusion_density.density.result import LogDensity, check_points, estimated
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import NORMALS_PER_BLOCK, ROWS_PER_CALL, flat, normals, per_row
from diffusion_density.process.model import GaussianPrior, Model
from diffusion_density.process.schedules import Schedule

Rule = Literal["sum", "trapezoid", "quadrature"]


def formula(
    model: Model,
    x: Float[Tensor, "b *event"],
    *,
    steps: int = 1000,
    rule: Rule = "trapezoid",
    throws: int = 16,
    generator: torch.Generator,
    chunk: int = ROWS_PER_CALL,
) -> LogDensity:
    """The density formula by Monte Carlo over the noise, for any model and any schedule.

    The draws of a point are consecutive in the generator's stream: a batch gives the same values as its points one
    after the other from the same generator, for every ``chunk``.

    Args:
        model: the score and its schedule.
        x: (B, *) clean points.
        steps: T, the number of times. For ``sum`` and ``trapezoid`` they are ``schedule.chain_times(T)``: times at
            equal distances in log-SNR, or the steps of a discrete schedule, for which this number is not used. For
            ``quadrature`` they are T nodes: 32 resolve a density of unit scale, 64 one whose smallest scale is 0.03,
            256 one of 0.003.
        rule: ``sum``, ``trapezoid`` or ``quadrature``.
        throws: n, draws of the noise at each time for each point, in antithetic pairs: even, at least 4.
        generator: draws the noise.
        chunk: the most rows of one network call, at least 32.

    Returns:
        LogDensity in nats with the standard error of its noise: a ``lower`` bound in expectation, up to the error of
        the rule, of the ``sde`` density at s_start, averaged over the noise there. n network evaluations per time.
        Points where the score was not finite are NaN with their status.

    Raises:
        InputError: for points that are not finite, or settings out of range.
    """
    check_points(x)
    if throws < 4 or throws % 2:
        raise InputError(f"formula: throws come in pairs, an even number of at least 4, got {throws}")
    if chunk < 2 * NORMALS_PER_BLOCK:
        raise InputError(f"formula: chunk must be at least {2 * NORMALS_PER_BLOCK}, got {chunk}")
    nodes = time_nodes(model.schedule, rule, steps)
    times = len(nodes.times)
    values, variances = [], []
    with torch.inference_mode():
        for part, points in model.split(x, max(1, chunk // (times * throws))):
            errors, gains = _pairs(part, points, nodes, throws // 2, generator, chunk)
            spread = nodes.weights.to(x.device).square() * errors.var(2) / errors.shape[2]
            values.append(assembled(model, points, nodes, errors.mean(2)))
            variances.append(spread.sum(1))
            if gains is not None:
                values[-1] = values[-1] + gains.mean(1)
                variances[-1] = variances[-1] + gains.var(1) / gains.shape[1]
    return estimated(
        torch.cat(values).clone(),
        torch.cat(variances).sqrt(),
        kind="lower",
        density="sde",
        network_evaluations=times * throws,
        settings={"estimator": "formula", "rule": rule, "steps": nodes.steps, "throws": throws},
    )


@dataclass(frozen=True)
class TimeNodes:
    """Times and weights that stand for ½ ∫ E‖ε − ε̂‖² dλ.

    Attributes:
        times: (n,) times s, from data to noise, double precision.
        weights: (n,) of E‖ε − ε̂‖² at these times.
        offset: nats per dimension that do not depend on the model: −½(1 + log 2πt₁), and for ``quadrature`` the error
            of the rule on the baseline.
        steps: T of the chain, or the number of quadrature nodes.
    """

    times: Float[Tensor, " n"]
    weights: Float[Tensor, " n"]
    offset: float
    steps: int


def time_nodes(schedule: Schedule, rule: Rule, steps: int) -> TimeNodes:
    """The times and weights of a rule on a schedule, see :func:`formula`.

    Raises:
        InputError: unless ``rule`` is known and there are at least 2 steps.
    """
    if rule not in get_args(Rule):
        raise InputError(f"formula: rule is one of {', '.join(get_args(Rule))}, not {rule!r}")
    if steps < 2:
        raise InputError(f"formula: steps must be at least 2, got {steps}")
    ends = schedule.log_snr(torch.tensor([schedule.s_start, schedule.s_max], dtype=torch.float64))
    start = -0.5 * (1 + math.log(2 * math.pi) - softplus(ends[0]).item())  # −log t₁ = log(1 + e^λ₁)
    if rule == "quadrature":
        first, last = (-0.5 * ends).exp().atan().tolist()
        position, weight = (torch.from_numpy(a) for a in roots_legendre(steps))
        angle = 0.5 * (first + last) + 0.5 * (last - first) * position
        log_snr = -2 * angle.tan().log()
        weights = 0.5 * (last - first) * weight * 2 / (2 * angle).sin()
        baseline = 0.5 * (softplus(ends[0]) - softplus(ends[1])) - (weights * log_snr.sigmoid()).sum()
        times = schedule.inverse(log_snr).clamp(schedule.s_start, schedule.s_max)
        return TimeNodes(times, weights, start - baseline.item(), steps)
    times, log_snr = schedule.chain_times(steps)
    falls = -log_snr.diff()
    if rule == "sum":
        return TimeNodes(times[1:], 0.5 * torch.expm1(falls), start, len(times))
    zero = falls.new_zeros(1)
    return TimeNodes(times, 0.25 * (torch.cat([zero, falls]) + torch.cat([falls, zero])), start, len(times))


def squared_errors(
    model: Model, x: Float[Tensor, "b *event"], s: Float[Tensor, " m"], noise: Float[Tensor, "b m *event"]
) -> Float[Tensor, "b m"]:
    """‖ε − ε̂(α x + σ ε, s)‖² in double precision, for m pairs of a time and a noise at each of B points."""
    count = len(x)
    epsilon = noise.flatten(0, 1)
    alpha, sigma = (
        per_row(f(s).to(x.dtype).repeat(count), epsilon) for f in (model.schedule.alpha, model.schedule.sigma)
    )
    y = alpha * x.repeat_interleave(len(s), dim=0) + sigma * epsilon
    errors = flat(epsilon - model.noise(y, s.to(x.dtype).repeat(count)))
    return errors.square().sum(1, dtype=torch.float64).reshape(count, len(s))


def assembled(
    model: Model, x: Float[Tensor, "b *event"], nodes: TimeNodes, errors: Float[Tensor, "b n"]
) -> Float[Tensor, " b"]:
    """The formula in nats from E‖ε − ε̂‖² at the nodes, with the KL to a Gaussian for any prior."""
    alpha, sigma = model.schedule.at(model.schedule.s_max)
    points = x.double()
    entropy = 0.5 * (1 + math.log(2 * math.pi * sigma**2))
    end = model.normal_prior.expected_log_prob(alpha * points, sigma)
    return flat(x).shape[1] * (nodes.offset + entropy) + end - errors @ nodes.weights.to(x.device)


def expectation(
    model: Model, x: Float[Tensor, "b 1"], *, steps: int = 1000, rule: Rule = "trapezoid", points: int = 80
) -> Float[Tensor, " b"]:
    """The expectation of :func:`formula` in nats without Monte Carlo, by Gauss–Hermite quadrature, in one dimension.

    Args:
        model: the score and its schedule.
        x: (B, 1) clean points.
        steps: as in :func:`formula`.
        rule: as in :func:`formula`.
        points: of the Gauss–Hermite rule.

    Raises:
        InputError: for points that are not finite, or settings out of range.
    """
    check_points(x)
    if points < 2:
        raise InputError(f"formula: points must be at least 2, got {points}")
    nodes = time_nodes(model.schedule, rule, steps)
    place, weight = (torch.from_numpy(a).to(x.device) for a in np.polynomial.hermite_e.hermegauss(points))
    place, weight = place.to(x.dtype), weight / weight.sum()
    with torch.inference_mode():
        errors = [
            squared_errors(
                model, x, s.repeat_interleave(points), place.repeat(len(s))[None, :, None].expand(len(x), -1, 1)
            ).unflatten(1, (len(s), points))
            @ weight
            for s in nodes.times.to(x.device).split(max(1, ROWS_PER_CALL // (len(x) * points)))
        ]
        value = assembled(model, x, nodes, torch.cat(errors, dim=1))
        noise = place[None, :, None].expand(len(x), -1, 1)
        if not isinstance(model.prior, GaussianPrior):
            value = value + _gain(model, x, noise) @ weight
    return value.clone()


def _gain(model: Model, x: Tensor, noise: Tensor) -> Float[Tensor, "b m"]:
    """log of a non-Gaussian prior minus log of its Gaussian reference at α x + σ ε, the noise of shape (B, m, *)."""
    alpha, sigma = model.schedule.at(model.schedule.s_max)
    end = (alpha * x[:, None] + sigma * noise).flatten(0, 1)
    return (model.prior.log_prob(end) - model.normal_prior.log_prob(end)).double().reshape(noise.shape[:2])


def _pairs(
    model: Model, x: Tensor, nodes: TimeNodes, pairs: int, generator: torch.Generator, chunk: int
) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b m"] | None]:
    """Means over antithetic pairs at every node of squared errors with their control variate, and of `_gain`."""
    batch, event = x.shape[0], x.shape[1:]
    size, free = event.numel(), not isinstance(model.prior, GaussianPrior)
    times = nodes.times.to(x.device).repeat_interleave(pairs)
    share = model.schedule.log_snr(times).sigmoid()  # 1 − t
    errors, gains = [], []
    # several points are one chunk; a point alone takes whole blocks of normals, so that its draws are the same
    most = len(times) if batch > 1 else max(NORMALS_PER_BLOCK, chunk // 2 // NORMALS_PER_BLOCK * NORMALS_PER_BLOCK)
    for s, coefficient in zip(times.split(most), share.split(most), strict=True):
        draws = normals(x, len(s), size * (2 if free else 1), generator)
        z = draws[..., :size].reshape(batch, len(s), *event)
        both = squared_errors(model, x, s.repeat(2), torch.cat([z, -z], dim=1)).unflatten(1, (2, len(s))).mean(1)
        excess = draws[..., :size].double().square().sum(2) - size
        errors.append(both - coefficient * excess)
        if free:
            end = draws[..., size:].reshape(batch, len(s), *event)
            gains.append(0.5 * (_gain(model, x, end) + _gain(model, x, -end)))
    return torch.cat(errors, 1).unflatten(1, (-1, pairs)), torch.cat(gains, 1) if free else None
