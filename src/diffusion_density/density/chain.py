r"""The chain of T ancestral steps of DDPM sampling, and its log density by importance weights.

The model's steps are p(x_{t−1}|x_t) = N(μ_t(x_t, x̂₀), β̃_t I): the posterior of the forward process with x₀ replaced by
x̂₀ = (x_t − σ_t ε̂)/α_t. A forward path from x₁ has the weight

.. math:: \log w = \log p(x_T) + \sum_{t=2}^T \log p(x_{t-1} \mid x_t) - \log q(x_t \mid x_{t-1}),

with E w = p(x₁), the chain's density at the first time. Hence E log w is a lower bound: it is the DDPM sum
(`density.formula`, ``sum``). The mean of log (1/K) Σ w_k is a lower bound too; it increases with K and tends to
log p(x₁) (Burda et al. 2016). Over the chain's own paths, which start from x_T ~ p(x_T), E log w is an upper bound on
the mean of log p(x₁) over its samples. Both bounds hold for every T: steps add no error
(docs/derivations/reverse-process.md).

A step of the forward process is x_t = a x_{t−1} + b z, and a step of the chain is x_{t−1} = μ_t + β̃_t^½ n. By Bayes'
rule for Gaussians, one noise is the other one rotated by an angle φ and shifted by the prediction:

.. math:: z = \hat\varepsilon \sin\phi - n \cos\phi, \qquad
          \cos\phi = a\,\sigma_{t-1}/\sigma_t = e^{(\lambda_t - \lambda_{t-1})/2}, \qquad b = \sigma_t \sin\phi,

.. math:: \log p(x_{t-1} \mid x_t) - \log q(x_t \mid x_{t-1})
          = D \log(\sigma_t/\sigma_{t-1}) + \tfrac12 \|z\|^2 - \tfrac12 \|n\|^2 .
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.formula import time_nodes
from diffusion_density.density.result import LogDensity, check_points, estimated
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS_PER_CALL, flat
from diffusion_density.process.model import Model
from diffusion_density.process.reverse_process import prior_sample
from diffusion_density.process.schedules import Schedule


def chain(
    model: Model,
    x: Float[Tensor, "b *event"],
    *,
    steps: int = 100,
    paths: int = 16,
    generator: torch.Generator,
    clean: bool = True,
) -> LogDensity:
    """A lower bound on log p of the chain of T ancestral steps, by K importance-weighted forward paths.

    Args:
        model: the score, its schedule and its prior.
        x: (B, *) points.
        steps: T. The times are those of `formula` with the rule ``sum``: equal distances in log-SNR, or the steps of a
            discrete schedule.
        paths: K, at least 2.
        generator: draws the paths, point after point in chunks.
        clean: True if the points are clean: each gets one draw of the noise at the first time, s_start, where the chain
            ends. False if they are points of that time, like the samples of :func:`reverse_chain`.

    Returns:
        LogDensity in nats, a ``lower`` bound in expectation of the ``sde`` density, that of the chain; it increases
        with K. The standard error is that of the mean of the weights, by the delta method. (T − 1) K network
        evaluations per point.

    Raises:
        InputError: for points that are not finite, or settings out of range.
    """
    check_points(x)
    if paths < 2:
        raise InputError(f"chain: paths must be at least 2, got {paths}")
    times = time_nodes(model.schedule, "trapezoid", steps).times
    with torch.inference_mode():
        parts = [
            _log_weights(part, points, times, paths, generator, clean)
            for part, points in model.split(x, max(1, ROWS_PER_CALL // paths))
        ]
    log_weights = torch.cat(parts).clone()
    value = log_weights.logsumexp(1) - math.log(paths)
    share = (log_weights - value[:, None]).exp()
    return estimated(
        value,
        share.std(1) / paths**0.5,
        kind="lower",
        density="sde",
        network_evaluations=(len(times) - 1) * paths,
        settings={"estimator": "chain", "steps": len(times), "paths": paths},
    )


def reverse_chain(
    model: Model,
    n: int,
    *,
    event: tuple[int, ...],
    steps: int = 100,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "n *event"], LogDensity]:
    """Draw n samples of the chain of T ancestral steps, each with an upper bound on its log density.

    Args:
        model: the score and its schedule, with a Gaussian prior.
        n: how many.
        event: the shape of one sample.
        steps: T, as in :func:`chain`.
        generator: draws the paths; its device is the samples'.
        dtype: of the samples.

    Returns:
        (n, *event) samples at the first time, s_start, and a LogDensity in nats: an ``upper`` bound of the ``sde``
        density, that of the chain, in the mean over samples and for every T. There is one path per sample, so no
        standard error; T − 1 network evaluations. Samples that are not finite have the value NaN with their status.

    Raises:
        InputError: for n below one, fewer than two steps, or a prior that can't be sampled.
    """
    if n < 1:
        raise InputError(f"reverse_chain: n must be at least 1, got {n}")
    times = time_nodes(model.schedule, "trapezoid", steps).times
    descent = _chain_steps(model.schedule, times)[::-1]
    samples, log_weights = [], []
    with torch.inference_mode():
        for first in range(0, n, ROWS_PER_CALL):
            x = prior_sample(model, min(ROWS_PER_CALL, n - first), event, generator=generator, dtype=dtype)
            log_weight = model.prior.log_prob(x).double()
            for step in descent:
                back = torch.randn(x.shape, generator=generator, dtype=dtype, device=x.device)
                z = step.sine * model.noise(x, step.s) - step.cosine * back
                log_weight += step.log_ratio(z, back)
                x = (x - step.spread * z) / step.scale
            samples.append(x)
            log_weights.append(log_weight)
    return torch.cat(samples), estimated(
        torch.cat(log_weights),
        None,
        kind="upper",
        density="sde",
        network_evaluations=len(descent),
        settings={"estimator": "reverse_chain", "steps": len(times)},
    )


@dataclass(frozen=True)
class _ChainStep:
    """The step between two times of the chain.

    Attributes:
        s: the later time.
        scale: a of the forward kernel N(a x, b² I).
        cosine: cos φ.
        sine: sin φ.
        before: σ at the earlier time.
        sigma: σ at the later time.
    """

    s: float
    scale: float
    cosine: float
    sine: float
    before: float
    sigma: float

    @property
    def spread(self) -> float:
        """b of the forward kernel."""
        return self.sigma * self.sine

    def log_ratio(self, z: Tensor, back: Tensor) -> Float[Tensor, " b"]:
        """log p(x_{t−1} | x_t) − log q(x_t | x_{t−1}) from the noise z of the forward step and n of the chain."""
        forward, backward = (flat(noise).square().sum(1, dtype=torch.float64) for noise in (z, back))
        return z[0].numel() * math.log(self.sigma / self.before) + 0.5 * (forward - backward)


def _chain_steps(schedule: Schedule, times: Float[Tensor, " t"]) -> list[_ChainStep]:
    """The steps from data to noise."""
    alpha, sigma, fall = schedule.alpha(times), schedule.sigma(times), schedule.log_snr(times).diff()
    columns = (times[1:], alpha[1:] / alpha[:-1], (0.5 * fall).exp(), (-fall.expm1()).sqrt(), sigma[:-1], sigma[1:])
    return [_ChainStep(*values) for values in torch.stack(columns, dim=1).tolist()]


def _log_weights(
    model: Model, x: Tensor, times: Float[Tensor, " t"], paths: int, generator: torch.Generator, clean: bool = True
) -> Float[Tensor, "b k"]:
    """log w of K paths from one draw of x₁ for each clean point, or from the point itself."""

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=x.dtype, device=x.device)

    if clean:
        alpha, sigma = model.schedule.at(times[0].item())
        x = alpha * x + sigma * normal(x)
    here = x.repeat_interleave(paths, dim=0)
    log_weight = torch.zeros(len(here), dtype=torch.float64, device=x.device)
    for step in _chain_steps(model.schedule, times):
        z = normal(here)
        here = step.scale * here + step.spread * z
        log_weight += step.log_ratio(z, (step.sine * model.noise(here, step.s) - z) / step.cosine)
    return (log_weight + model.prior.log_prob(here).double()).reshape(len(x), paths)
