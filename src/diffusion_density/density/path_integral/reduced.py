r"""The path-integral bound with less variance: a Gaussian reference, antithetic pairs, quasi-random points, regression.

Data from N(0, I) diffuse to N(0, v I), v = α² + σ², with the score −y/v; on a variance-preserving path this is the
equilibrium. The bound of this reference is an equality, so its integral is known in closed form. The remaining
integrand for the model's score a = e − y/v has the factor e, which is the model's entropy prediction where v = 1. With
the kernel Y = α' x + σ' z from x at s_min, and v₀, v₁ the variances of the reference at s_min and s_max, the bound of
:func:`~diffusion_density.density.path_integral.plain.path_integral` is

.. math:: E\log p_{prior}(Y_{s_{max}}) + \log N(x; 0, v_0) - E\log N(Y_{s_{max}}; 0, v_1)
          - \int g^2 E\Big[e \cdot \Big(\frac{e}{2} + \frac{z}{\sigma'} - \frac{Y}{v}\Big)\Big]\, ds,

without variance where e = 0 (docs/derivations/path_integral.md). Four more methods reduce the variance:

* Times are uniform in (1 − q) φ^⅔ + q s, both scaled to [0, 1], with φ = arctan(σ/α): g² ds = 2 v tan φ dφ on every
  schedule. The power gives more times at the data end, where sharp data need them. The share q of the times of the
  plain method keeps the weights below 1/q of the plain ones, which matters for a score that is wrong at the noise end.
  The map is a table with the exact slopes as weights, so it adds no error.
* A pair ±z cancels the singularity of e · z/σ'.
* The pairs (time, z) are quasi-random points (:mod:`~diffusion_density.density.path_integral.quasi_random`).
* Near a mode the score is linear in y and the integrand quadratic in z, with coefficients that depend on time. So the
  terms are regressed (:mod:`.control_variates`) on Legendre polynomials of the uniform time, and on their products with
  the Hermite polynomials z_i z_j − δ_ij: with all of these in few dimensions, with their trace |z|² − D in many. There
  are at least eight terms per feature: with four, the heavy tails of a network cost more coverage than is gained.

A proposal of times fitted to each point by a pilot run was tested too: together with the regression it gains nothing.
The regression needs some hundred throws. With fewer, the variance can be larger than that of the plain method for
images, which are sharp in most of their dimensions, and for a score that is far off at the noise end.
"""

from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.path_integral.control_variates import adjusted_mean
from diffusion_density.density.path_integral.quasi_random import POINT_SETS, draw
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import flat, per_row
from diffusion_density.process.model import GaussianPrior, Model
from diffusion_density.process.schedules import Schedule

THROWS_MULTIPLE = 2 * POINT_SETS
TIME_POLYNOMIALS = (10, 6, 3)  # their numbers: the first one with enough throws is used
TERMS_PER_FEATURE = 8  # at least
MOST_FEATURES = 128
PLAIN_SHARE = 0.1  # q
TABLE_CELLS = 2000  # of the table of times


def reduced(
    model: Model,
    x: Float[Tensor, "b *event"],
    throws: int,
    generator: torch.Generator,
    cutoff: float,
    chunk: int,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The bound minus the expectation of the Gaussian prior, in nats; its standard error, with 7 degrees of freedom.

    Args:
        model: the score and its schedule.
        x: (B, *) points at the data end s_min.
        throws: n, network evaluations per point, a multiple of 16; best 16 · 2^k.
        generator: draws the shifts of the point sets, and the noise in more than 100 dimensions.
        cutoff: the first drawn time, as a fraction of [s_min, s_max].
        chunk: the most rows of one network call.

    Raises:
        InputError: unless throws are a multiple of 16.
    """
    if throws < THROWS_MULTIPLE or throws % THROWS_MULTIPLE:
        raise InputError(
            f"path_integral: the reduced method takes throws in multiples of {THROWS_MULTIPLE}, got {throws}"
        )
    parts = model.split(x, max(1, chunk // throws))
    found = [_integral(part, points, throws, generator, cutoff, chunk) for part, points in parts]
    value, error = (torch.cat(column) for column in zip(*found, strict=True))
    return _reference(model.schedule, x) + value, error


def _integral(
    model: Model, x: Tensor, throws: int, generator: torch.Generator, cutoff: float, chunk: int
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The mean over the point sets for a few points x, and its standard error."""
    u, z = draw(x, throws // THROWS_MULTIPLE, generator)
    s, weight = (value.flatten(1) for value in _times(model.schedule, u, cutoff))
    noise = z.flatten(1, 2)
    parts = zip(s.split(chunk // 2, 1), weight.split(chunk // 2, 1), noise.split(chunk // 2, 1), strict=True)
    terms = torch.cat([_pairs(model, x, *part) for part in parts], dim=1)
    return adjusted_mean(terms.unflatten(1, (POINT_SETS, -1)), _features(u, z))


def _times(schedule: Schedule, u: Tensor, cutoff: float) -> tuple[Float[Tensor, "b r n"], Float[Tensor, "b r n"]]:
    """Times for uniform numbers, and their weights for an integral of g² ds."""
    first = schedule.s_min + cutoff * (schedule.s_max - schedule.s_min)
    ends = (-0.5 * schedule.log_snr(u.new_tensor([first, schedule.s_max]))).exp().atan()
    low, high = ends.pow(0.25).tolist()
    roots = torch.linspace(low, high, TABLE_CELLS + 1, dtype=u.dtype, device=u.device)
    angles = roots**4  # fine at the data end
    crowded, plain = (
        (value - value[0]) / (value[-1] - value[0])
        for value in (angles ** (2 / 3), schedule.inverse(-2 * angles.tan().log()))
    )
    places = (1 - PLAIN_SHARE) * crowded + PLAIN_SHARE * plain
    cell = torch.searchsorted(places, u.contiguous(), right=True).clamp(1, TABLE_CELLS) - 1
    slope = (angles.diff() / places.diff())[cell]
    angle = angles[cell] + slope * (u - places[cell])
    s = schedule.inverse(-2 * angle.tan().log()).clamp(first, schedule.s_max)
    return s, 2 * angle.tan() * _variance(schedule, s) * slope


def _variance(schedule: Schedule, s: Tensor) -> Tensor:
    """v = α² + σ², the variance of the reference."""
    return schedule.alpha(s).square() + schedule.sigma(s).square()


def _reference(schedule: Schedule, x: Tensor) -> Float[Tensor, " b"]:
    """log N(x; 0, v₀) − E log N(Y_{s_max}; 0, v₁), the integral of the reference, in nats."""
    ends = torch.tensor([schedule.s_min, schedule.s_max], dtype=torch.float64)
    first, last = (GaussianPrior(variance) for variance in _variance(schedule, ends).tolist())
    alpha, sigma = (value.item() for value in schedule.transition(schedule.s_min, ends[1:]))
    return first.log_prob(x.double()) - last.expected_log_prob(alpha * x.double(), sigma)


def _pairs(model: Model, x: Tensor, s: Tensor, weight: Tensor, z: Tensor) -> Float[Tensor, "b n"]:
    """The terms of n antithetic pairs at each of B points: of the integral, and of a non-Gaussian prior."""
    schedule = model.schedule
    signed = torch.stack([z, -z], dim=1).flatten(0, 2)  # rows (b, sign, n)
    start = x.repeat_interleave(2 * s.shape[1], dim=0)
    time = s[:, None].expand(-1, 2, -1).flatten()
    alpha, sigma = (per_row(value.to(x), x) for value in schedule.transition(schedule.s_min, time))
    y = alpha * start + sigma * signed
    excess = y / per_row(_variance(schedule, time).to(x), x)
    e = excess + model.score(y, time.to(x))
    integrand = flat(e * (0.5 * e + signed / sigma - excess)).sum(1, dtype=torch.float64)
    terms = -weight * integrand.reshape(len(x), 2, -1).mean(1)
    if not isinstance(model.prior, GaussianPrior):
        last = s.new_tensor([schedule.s_max])
        alpha, sigma = (value.to(x) for value in schedule.transition(schedule.s_min, last))
        end = alpha * start + sigma * signed
        gains = model.prior.log_prob(end) - model.normal_prior.log_prob(end)
        terms = terms + gains.double().reshape(len(x), 2, -1).mean(1)
    return terms


def _features(u: Tensor, z: Tensor) -> Float[Tensor, "b r n k"]:
    """Functions of time, and their products with even functions of the noise, of expectation zero."""
    size, fitted = z[0, 0, 0].numel(), (POINT_SETS - 1) * u.shape[2]
    affordable = min(fitted // TERMS_PER_FEATURE, MOST_FEATURES)
    pairs = size * (size + 1) // 2
    for degrees, polynomials in (
        *((count, pairs) for count in TIME_POLYNOMIALS[:2]),
        *((count, 1) for count in TIME_POLYNOMIALS),
    ):
        if degrees * (1 + polynomials) <= affordable:
            noise = z.double().flatten(3)
            hermite = _hermite(noise) if polynomials > 1 else _trace(noise)
            legendre = _legendre(u, degrees)
            return torch.cat([legendre[..., 1:], (legendre[..., None] * hermite[..., None, :]).flatten(3)], dim=-1)
    return u.new_zeros(*u.shape, 0)


def _hermite(z: Tensor) -> Float[Tensor, "b r n p"]:
    """z_i z_j − δ_ij for i ≤ j."""
    pairs = torch.tensor(list(combinations_with_replacement(range(z.shape[-1]), 2)), device=z.device)
    i, j = pairs.unbind(1)
    return z[..., i] * z[..., j] - (i == j).to(z)


def _trace(z: Tensor) -> Float[Tensor, "b r n 1"]:
    """|z|² − D over its standard deviation."""
    size = z.shape[-1]
    return (z.square().sum(-1, keepdim=True) - size) / (2 * size) ** 0.5


def _legendre(u: Tensor, count: int) -> Float[Tensor, "b r n k"]:
    """The first Legendre polynomials on [0, 1], the constant included, of mean square 1."""
    x = 2 * u - 1
    found = [torch.ones_like(x), x]
    for degree in range(2, count):
        found.append(((2 * degree - 1) * x * found[-1] - (degree - 1) * found[-2]) / degree)
    return torch.stack([(2 * degree + 1) ** 0.5 * value for degree, value in enumerate(found)], dim=-1)
