r"""The path-integral bound: the log density of the reverse SDE without simulation (Premkumar 2024).

The reverse SDE with drift u = b₊ − g² a (forward in s; b₊ = f x, a the model's score) has a density p_SDE for which the
Feynman–Kac formula, Girsanov's theorem and Jensen's inequality give (Premkumar 2024, eq. 3.8)

.. math:: \log p_{SDE}(x) \ge E\big[\log p_{prior}(Y_{s_{max}})\big]
          - \int E\Big[\tfrac12 g^2 \|a\|^2 - (f\,Y_s - g^2 a)\cdot\frac{z}{\sigma_s}\Big] ds,
          \qquad Y_s = \alpha_s x + \sigma_s z,

where Y is the forward process from x. Its kernel is Gaussian, so integration by parts replaces the divergence of u by
−u·z/σ, and a *throw* is one draw of (s, z). Equality holds if the forward process is the time reversal of the
generative one: for the exact score with its own end marginal as prior (docs/derivations/path_integral.md).

The plain method draws s uniformly on [s_min + cutoff, s_max]. The part below the cutoff is dropped, a bias of the order
of cutoff × integrand. Without a cutoff the variance would be infinite: near the data end that of one throw is of order
1/s if σ² ∝ s, and of order 1/s² if σ ∝ s, where a cutoff of 1e-3 is better. For the same bound with less variance see
:mod:`~diffusion_density.density.path_integral.reduced`.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.path_integral.adaptive import rounds
from diffusion_density.density.path_integral.reduced import reduced
from diffusion_density.density.result import LogDensity, check_points, estimated
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS_PER_CALL, normals, per_row
from diffusion_density.process.model import GaussianPrior, Model

Method = Literal["plain", "reduced"]


def path_integral(
    model: Model,
    x: Float[Tensor, "b *event"],
    *,
    throws: int = 1024,
    method: Method = "plain",
    generator: torch.Generator,
    cutoff: float = 1e-5,
    target_stderr: float | None = None,
    max_throws: int = 65_536,
    chunk: int = ROWS_PER_CALL,
) -> LogDensity:
    """A lower bound on log p of the reverse SDE, with its standard error.

    The draws of a point are consecutive in the generator's stream: a batch gives the same values as its points one
    after the other from the same generator, and the errors of its points are independent.

    Args:
        model: the score and its schedule.
        x: (B, *) points at the data end s_min.
        throws: n, draws of (s, z) per point: at least 2; for ``reduced`` a multiple of 16, best 16 · 2^k.
        method: ``plain``, the published estimator, with independent throws; or ``reduced``, the same expectation with
            less variance, from pairs of throws on quasi-random point sets and regression. Its error is that of 8 point
            sets: intervals need Student's t with 7 degrees of freedom.
        generator: draws the throws.
        cutoff: the first drawn time, as a fraction of [s_min, s_max].
        target_stderr: a standard error in nats; points above it get further rounds of doubled throws. Rounds come one
            after the other, so a batch then draws other numbers than its points one by one.
        max_throws: the most throws per point in all rounds.
        chunk: the most rows of one network call; at least 2, less for large networks on images.

    Returns:
        LogDensity in nats, a ``lower`` bound (in expectation) of the ``sde`` density; n network evaluations per point,
        or with ``target_stderr`` their mean, rounded up. Points where the score was not finite are NaN with their
        status. If ``max_throws`` throws did not reach the target, the standard error shows it.

    Raises:
        InputError: for points that are not finite, or settings out of range.
    """
    check_points(x)
    if throws < 2:
        raise InputError(f"path_integral: throws must be at least 2, got {throws}")
    if method not in get_args(Method):
        raise InputError(f"path_integral: method is one of {', '.join(get_args(Method))}, not {method!r}")
    if not 0 < cutoff < 1:
        raise InputError(f"path_integral: cutoff must lie between 0 and 1, got {cutoff}")
    if target_stderr is not None and not target_stderr > 0:
        raise InputError(f"path_integral: target_stderr must be positive, got {target_stderr}")
    if chunk < 2:
        raise InputError(f"path_integral: chunk must be at least 2, the rows of a pair, got {chunk}")
    method_of = _plain if method == "plain" else reduced

    def estimate(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return method_of(model.at_rows(index, len(x)), x[index], count, generator, cutoff, chunk)

    with torch.inference_mode():
        integral, stderr, spent = rounds(estimate, len(x), throws, target_stderr or math.inf, max_throws, x.device)
        value = _prior_reference(model, x).double() + integral
    return estimated(
        value.clone(),
        stderr.clone(),
        kind="lower",
        density="sde",
        network_evaluations=math.ceil(spent.double().mean().item()),
        settings={
            "estimator": "path_integral",
            "method": method,
            "throws": throws,
            "cutoff": cutoff,
            "target_stderr": target_stderr,
        },
    )


def _plain(
    model: Model, x: Tensor, throws: int, generator: torch.Generator, cutoff: float, chunk: int
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The mean of independent throws and its standard error."""
    means, variances = [], []
    for part, points in model.split(x, max(1, chunk // throws)):
        total = square = torch.zeros(len(points), dtype=torch.float64, device=x.device)
        for count in _chunks(throws, max(1, chunk // len(points))):
            terms = _throw(part, points, count, generator, cutoff).double()
            total, square = total + terms.sum(1), square + terms.square().sum(1)
        means.append(total / throws)
        variances.append((square / throws - means[-1].square()).clamp_min(0) / (throws - 1))
    return torch.cat(means), torch.cat(variances).sqrt()


def _chunks(throws: int, size: int) -> list[int]:
    """Throws in chunks of a fixed size. A point with more throws than one chunk is always alone in its batch."""
    return [size] * (throws // size) + ([throws % size] if throws % size else [])


def _throw(model: Model, x: Tensor, count: int, generator: torch.Generator, cutoff: float) -> Tensor:
    """(B, n) independent, unbiased terms of the bound, without the part of the prior that is known in closed form."""
    schedule = model.schedule
    batch, event = x.shape[0], x.shape[1:]
    free = not isinstance(model.prior, GaussianPrior)
    size = event.numel()
    draws = normals(x, count, 1 + size * (2 if free else 1), generator).flatten(0, 1)
    first = schedule.s_min + cutoff * (schedule.s_max - schedule.s_min)
    s = first + (schedule.s_max - first) * torch.special.ndtr(draws[:, 0])
    z = draws[:, 1 : 1 + size].reshape(-1, *event)
    start = x.repeat_interleave(count, dim=0)
    alpha, sigma = schedule.transition(schedule.s_min, s)
    y = per_row(alpha, x) * start + per_row(sigma, x) * z
    score = model.score(y, s)
    diffusion = per_row(schedule.diffusion(s), x)
    drift = per_row(schedule.drift(s), x) * y - diffusion * score
    integrand = 0.5 * diffusion * score.square() - drift * z / per_row(sigma, x)
    terms = -(schedule.s_max - first) * integrand.flatten(1).sum(1)
    if free:  # E log prior is that of the Gaussian reference, in closed form, plus the mean of this small difference
        alpha_end, sigma_end = schedule.transition(schedule.s_min, s.new_tensor([schedule.s_max]))
        end = alpha_end * start + sigma_end * draws[:, 1 + size :].reshape(-1, *event)
        terms = terms + model.prior.log_prob(end) - model.normal_prior.log_prob(end)
    return terms.reshape(batch, count)


def _prior_reference(model: Model, x: Tensor) -> Float[Tensor, " b"]:
    """E log of the Gaussian reference prior at Y_{s_max}, in closed form."""
    end = torch.tensor([model.schedule.s_max], dtype=torch.float64)
    alpha, sigma = model.schedule.transition(model.schedule.s_min, end)
    return model.normal_prior.expected_log_prob(x * alpha.item(), sigma.item())
