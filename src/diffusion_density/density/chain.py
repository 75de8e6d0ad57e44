r"""The chain of T ancestral steps that a DDPM samples with, and its log density by importance weights.

With the posterior of the forward process for x̂₀ = (x_t − σ_t ε̂)/α_t in the place of x₀, the model's steps are
p(x_{t−1}|x_t) = N(μ_t(x_t, x̂₀), β̃_t I). A forward path from x₁ has the weight

.. math:: \log w = \log p(x_T) + \sum_{t=2}^T \log p(x_{t-1} \mid x_t) - \log q(x_t \mid x_{t-1}),

with E w = p(x₁), the chain's density where the first time is reached. Hence E log w is a lower bound, which the DDPM
sum of paper B is (`density.formula`, ``sum``), and so is the mean of log (1/K) Σ w_k, which rises with K and tends to
log p(x₁) (Burda et al. 2016). A step of the forward process from t − 1 to t has the kernel N(a x, b² I); with
u = 1/σ²_{t−1} + a²/b² the posterior N((α_{t−1} x₀/σ²_{t−1} + a x_t/b²)/u, I/u) is Bayes' rule for two normal laws.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.batching import ROWS
from diffusion_density.broadcasting import flat
from diffusion_density.density.formula import time_nodes
from diffusion_density.density.result import LogDensity, check_points, estimated
from diffusion_density.errors import InputError
from diffusion_density.model import Model


def chain(
    model: Model,
    x: Float[Tensor, "b *event"],
    *,
    steps: int = 100,
    paths: int = 16,
    generator: torch.Generator,
) -> LogDensity:
    """A lower bound on log p of the chain of T ancestral steps, by K importance-weighted forward paths.

    Args:
        model: the score, its schedule and its prior.
        x: (B, *) clean points. Each gets one draw of the noise at the first time, s_start, where the chain ends.
        steps: T. The times are those of `formula` with the rule ``sum``: equal distances in log-SNR, or a discrete
            schedule's own.
        paths: K, at least 2.
        generator: draws the paths, for one point after another in chunks.

    Returns:
        LogDensity in nats, a ``lower`` bound in expectation of the ``sde`` density, that of the chain: rising with K.
        The standard error is that of the mean of the weights, by the delta method. (T − 1) K network evaluations a
        point.

    Raises:
        InputError: for points that are not finite, or settings out of range.
    """
    check_points(x)
    if paths < 2:
        raise InputError(f"chain: paths must be at least 2, got {paths}")
    times = time_nodes(model.schedule, "trapezoid", steps).times
    with torch.inference_mode():
        parts = [_log_weights(model, p, times, paths, generator) for p in x.split(max(1, ROWS // paths))]
    log_weights = torch.cat(parts).clone()
    value = log_weights.logsumexp(1) - math.log(paths)
    share = (log_weights - value[:, None]).exp()
    return estimated(
        value,
        share.std(1) / paths**0.5,
        kind="lower",
        of="sde",
        network_evaluations=(len(times) - 1) * paths,
        settings={"estimator": "chain", "steps": len(times), "paths": paths},
    )


def _log_weights(
    model: Model, x: Tensor, times: Float[Tensor, " t"], paths: int, generator: torch.Generator
) -> Float[Tensor, "b k"]:
    """log w of K paths from one draw of x₁ for each point."""
    schedule, size = model.schedule, x[0].numel()
    alphas, sigmas = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=x.dtype, device=x.device)

    start = alphas[0] * x + sigmas[0] * noise(x)
    here = start.repeat_interleave(paths, dim=0)
    log_weight = torch.zeros(len(here), dtype=torch.float64, device=x.device)
    for index in range(1, len(times)):
        a, b = (v.item() for v in schedule.transition(times[index - 1].item(), times[index : index + 1]))
        z = noise(here)
        there = a * here + b * z
        predicted = model.noise(there, times[index].to(x.dtype))
        clean = (there - sigmas[index] * predicted) / alphas[index]
        before = sigmas[index - 1] ** 2
        precision = 1 / before + (a / b) ** 2
        mean = (alphas[index - 1] / before * clean + a / b**2 * there) / precision
        off = flat(here - mean).double().square().sum(1)
        forward = flat(z).double().square().sum(1)
        log_weight += 0.5 * (size * math.log(precision * b**2) - precision * off + forward)
        here = there
    return (log_weight + model.prior.log_prob(here).double()).reshape(len(x), paths)
