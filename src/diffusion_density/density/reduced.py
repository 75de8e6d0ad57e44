r"""The path-integral bound with its variance reduced: a normal reference, antithetic pairs, scrambled nets of throws.

Data from N(0, I) diffuse to N(0, v I), v = α² + σ², with the score −y/v; on a variance-preserving path that is the
equilibrium. The bound of this reference is an equality, so its integral is known in closed form. What is left of the
integrand for the model's score a = e − y/v has e as a factor, which is the model's entropy prediction where v = 1.
With the kernel Y = α' x + σ' z from x at s_min, and v₀, v₁ the reference's variances at s_min and s_max, the bound of
:func:`~diffusion_density.density.path_integral.path_integral` is

.. math:: E\log p_{prior}(Y_{s_{max}}) + \log N(x; 0, v_0) - E\log N(Y_{s_{max}}; 0, v_1)
          - \int g^2 E\Big[e \cdot \Big(\frac{e}{2} + \frac{z}{\sigma'} - \frac{Y}{v}\Big)\Big]\, ds,

without variance where e = 0. Times are uniform in the root of the angle φ = arctan(σ/α): as dφ/ds = g² α/(2 σ v), the
weight g² ds is (4 √φ σ v/α) d√φ on every schedule. A proposal uniform in σ crowds at the data end too, but less than
sharp data need, and weights a wrong score at the noise end by 1/α², not 1/α. A pair ±z cancels the singularity of
e · z/σ'. The pairs (√φ, z) are points of a Sobol' net, scrambled R = 8 times independently (Owen, "Scrambled net
variance for integrals of smooth functions", 1997); in more than 100 dimensions the net is of √φ alone. The standard
error is that of the R means. A score far off at the noise end, as none at all is, can have more variance than plain.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.quasirandom import SobolEngine

from diffusion_density.batching import ROWS, normals
from diffusion_density.broadcasting import per_row
from diffusion_density.errors import InputError
from diffusion_density.model import GaussianPrior, Model
from diffusion_density.schedules import Schedule

SCRAMBLINGS = 8  # independent ones, of which the standard error is made
NET_DIMENSIONS = 100  # of noise, beyond which it is drawn independently


def reduced(
    model: Model, x: Float[Tensor, "b *event"], throws: int, generator: torch.Generator, cutoff: float
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The bound less the expectation of the normal prior, in nats, and its standard error of 7 degrees of freedom.

    All points share the same throws: a point alone gets what it gets among others from an equal generator, and the
    errors of different points are correlated. The throws are held at once, n/2 times D numbers.

    Args:
        model: the score and its schedule.
        x: (B, *) points at the data end s_min.
        throws: n, network evaluations for each point, a multiple of 16; 16 · 2^k make the best nets.
        generator: draws the scramblings, and the noise in more than 100 dimensions.
        cutoff: the first drawn time, as a fraction of [s_min, s_max].

    Raises:
        InputError: unless throws are a multiple of 16.
    """
    if throws < 2 * SCRAMBLINGS or throws % (2 * SCRAMBLINGS):
        raise InputError(
            f"path_integral: the reduced method takes throws in multiples of {2 * SCRAMBLINGS}, got {throws}"
        )
    u, z = _net(x, throws // (2 * SCRAMBLINGS), generator)
    s, weight = _times(model.schedule, u, cutoff)
    parts = list(zip(s.split(ROWS // 2), weight.split(ROWS // 2), z.split(ROWS // 2), strict=True))
    terms = [
        torch.cat([_pairs(their, points, *part) for part in parts], dim=1).unflatten(1, (SCRAMBLINGS, -1)).mean(2)
        for their, points in model.split(x, max(1, ROWS // throws))
    ]
    means = torch.cat(terms)
    return _reference(model.schedule, x) + means.mean(1), means.std(1) / SCRAMBLINGS**0.5


def _net(x: Tensor, count: int, generator: torch.Generator) -> tuple[Float[Tensor, " n"], Float[Tensor, "n *event"]]:
    """Uniform numbers in double precision for the times, normal ones for the noise: ``count`` pairs a scrambling."""
    size = x[0].numel()
    joint = size <= NET_DIMENSIONS
    seeds = torch.randint(2**31, (SCRAMBLINGS,), generator=generator, device=generator.device).tolist()
    engines = [SobolEngine(1 + size if joint else 1, scramble=True, seed=seed) for seed in seeds]
    net = torch.cat([engine.draw(count, dtype=torch.float64) for engine in engines])
    net = (net + 0.5**31).clamp(max=1 - 0.5**31)  # the middles of a grid of 2⁻³⁰: never 0 or 1
    z = torch.special.ndtri(net[:, 1:]).to(x) if joint else normals(x[:1], len(net), size, generator)[0]
    return net[:, 0].to(x.device), z.reshape(-1, *x.shape[1:])


def _times(schedule: Schedule, u: Tensor, cutoff: float) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Times uniform in the root of the angle arctan(σ/α), and their weights for an integral of g² ds."""
    first = schedule.s_min + cutoff * (schedule.s_max - schedule.s_min)
    start, end = (-0.5 * schedule.log_snr(u.new_tensor([first, schedule.s_max]))).exp().atan().sqrt()
    root = start + (end - start) * u
    s = schedule.inverse(-2 * root.square().tan().log()).clamp(first, schedule.s_max)
    return s, (end - start) * 4 * root * schedule.sigma(s) * _variance(schedule, s) / schedule.alpha(s)


def _variance(schedule: Schedule, s: Tensor) -> Tensor:
    """v = α² + σ², that of the reference."""
    return schedule.alpha(s).square() + schedule.sigma(s).square()


def _reference(schedule: Schedule, x: Tensor) -> Float[Tensor, " b"]:
    """log N(x; 0, v₀) − E log N(Y_{s_max}; 0, v₁): what the integral of the reference contributes, in nats."""
    ends = torch.tensor([schedule.s_min, schedule.s_max], dtype=torch.float64)
    first, last = (GaussianPrior(variance) for variance in _variance(schedule, ends).tolist())
    alpha, sigma = (value.item() for value in schedule.transition(schedule.s_min, ends[1:]))
    return first.log_prob(x.double()) - last.expected_log_prob(alpha * x.double(), sigma)


def _pairs(model: Model, x: Tensor, s: Tensor, weight: Tensor, z: Tensor) -> Float[Tensor, "b n"]:
    """The terms of n antithetic pairs at B points, of the integral and of what a free prior gains on its normal."""
    schedule, points, signed = model.schedule, x[:, None, None], torch.stack([z, -z])
    alpha, sigma = (per_row(value.to(z), z) for value in schedule.transition(schedule.s_min, s))
    y = alpha * points + sigma * signed  # (B, 2, n, *)
    excess = y / per_row(_variance(schedule, s).to(z), z)
    e = excess + model.score(y.flatten(0, 2), s.to(z).repeat(2 * len(x))).reshape(y.shape)
    integrand = (e * (0.5 * e + signed / sigma - excess)).flatten(3).sum(3, dtype=torch.float64)
    terms = -weight * integrand.mean(1)
    if not isinstance(model.prior, GaussianPrior):
        alpha, sigma = schedule.transition(schedule.s_min, s.new_tensor([schedule.s_max]))
        end = (alpha.to(z) * points + sigma.to(z) * signed).flatten(0, 2)
        gains = model.prior.log_prob(end) - model.normal_prior.log_prob(end)
        terms = terms + gains.double().reshape(y.shape[:3]).mean(1)
    return terms
