r"""Points of high density: the mode of the clean points given a noisy one, exactly or without third derivatives.

For x_t at time t let y_s be the mode of p(x_s | x_t), s < t. By Bayes' rule the gradient of log p_s(y) + log p(x_t | y)
is zero there. With the Fokker–Planck equation of p_s this gives (Karczewski, Heinonen and Garg 2025;
docs/derivations/reverse-process.md)

.. math:: \frac{dy}{ds} = f y - g^2 \nabla\log p_s(y) + H, \qquad
          H = -\tfrac12 g^2 \big[\nabla^2\log p_s(y) - \psi I\big]^{-1} \nabla\Delta\log p_s(y), \qquad
          \psi = \frac{1}{\sigma_s^2\,(e^{\lambda_s - \lambda_t} - 1)}, \qquad y_t = x_t.

The time of all solvers here is the log-SNR λ, which increases from noise to data: ds = −(σ²/g²) dλ. With c = 1/ψ

.. math:: \frac{dy}{d\lambda} = \tilde f y + \sigma^2 \nabla\log p_s(y)
          - \tfrac12 \sigma^2 c\, \big[I - c\,\nabla^2\log p_s(y)\big]^{-1} \nabla\Delta\log p_s(y), \qquad
          \tilde f = -\frac{f \sigma^2}{g^2}, \quad c = \sigma_s^2\,(e^{\lambda_s - \lambda_t} - 1):

nothing is singular at s = t, where c and H are zero. The matrix in brackets is positive definite as long as y is a
mode. Where it no longer is, the mode has met a saddle point and the path ends.

H needs the Hessian and third derivatives. It is zero where log p_s is quadratic, that is for Gaussian data. The
high-density ODE leaves H out (Karczewski, Heinonen and Garg 2025), and the high-density sampler starts that ODE from a
sample at a threshold: the lower its log-SNR, the higher the density at the end. Steps are those of the classical
Runge–Kutta method of fourth order, equal in log-SNR.
"""

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import grad, vjp, vmap

from diffusion_density.density.result import check_points
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS_PER_CALL, flat, per_row
from diffusion_density.process.model import Model
from diffusion_density.process.schedules import Schedule
from diffusion_density.sampling.samplers import sample


def rates(schedule: Schedule, log_snr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(s, f̃, σ²) at a log-SNR: the time, the drift's factor per unit of log-SNR, and the variance of the noise."""
    s = schedule.inverse(log_snr).clamp(schedule.s_start, schedule.s_max)
    variance = schedule.sigma(s).square()
    return s, -schedule.drift(s) * variance / schedule.diffusion(s), variance


def log_snr_nodes(schedule: Schedule, s: float, steps: int, device: torch.device) -> Float[Tensor, " n"]:
    """steps + 1 log-SNRs at equal distances, in double precision, from time s down to s_start."""
    ends = schedule.log_snr(torch.tensor([s, schedule.s_start], dtype=torch.float64, device=device))
    return torch.linspace(ends[0].item(), ends[1].item(), steps + 1, dtype=torch.float64, device=device)


def runge_kutta(field: Callable[[Tensor, Tensor], Tensor], state: Tensor, nodes: Float[Tensor, " n"]) -> Tensor:
    """The state at the last node, of d state / dλ = field(state, λ), by the classical method of fourth order."""
    for here, step in zip(nodes, nodes.diff(), strict=False):
        first = field(state, here)
        second = field(state + 0.5 * step * first, here + 0.5 * step)
        third = field(state + 0.5 * step * second, here + 0.5 * step)
        fourth = field(state + step * third, here + step)
        state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
    return state


def track_mode(model: Model, x: Float[Tensor, "b *event"], s: float, *, steps: int = 50) -> Float[Tensor, "b *event"]:
    """The mode of p(x_{s_start} | x_s = x) at the end of the exact ODE from x. For few dimensions.

    Args:
        model: the score and its schedule. Its score is differentiated twice.
        x: (B, *) noisy points at time s; their dtype is the precision of the solver.
        s: their time, above s_start.
        steps: of the Runge–Kutta method, four calls each; a call costs about 4 D network evaluations.

    Returns:
        (B, *) modes, up to the error of the solver, which falls as steps⁻⁴. For an approximate score the symmetric part
        of its Jacobian replaces the Hessian. NaN where the path ended at a saddle point.

    Raises:
        InputError: for points that are not finite, a time or steps out of range.
    """
    _check(model, x, s, steps)
    with torch.inference_mode(False), torch.no_grad():
        parts = model.split(x.clone(), max(1, ROWS_PER_CALL // x[0].numel()))
        return torch.cat([_track(part, points, s, steps) for part, points in parts])


def _track(model: Model, x: Tensor, s: float, steps: int) -> Tensor:
    nodes = log_snr_nodes(model.schedule, s, steps, x.device)
    lost = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def field(y: Tensor, log_snr: Tensor) -> Tensor:
        time, factor, variance = rates(model.schedule, log_snr)
        score, correction = _derivatives(model, y, time, variance * torch.expm1(log_snr - nodes[0]), lost)
        return factor * y + variance * (score - 0.5 * correction)

    end = runge_kutta(field, x, nodes)
    return end.masked_fill(per_row(lost, x), math.nan)


def _derivatives(
    model: Model, y: Tensor, s: Tensor, c: Tensor, lost: Bool[Tensor, " b"]
) -> tuple[Float[Tensor, "b *event"], Float[Tensor, "b *event"]]:
    """The score and c [I − c Hess]⁻¹ ∇Δ log p_s at y; marks the points where the matrix is not positive definite."""
    basis = torch.eye(y[0].numel(), dtype=y.dtype, device=y.device).reshape(-1, 1, *y.shape[1:])

    def laplacians(point: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        score, pull, *_ = vjp(lambda p: model.score(p, s), point)
        rows = vmap(lambda e: pull(e.expand_as(point))[0])(basis).flatten(2)  # (D, B, D)
        return torch.einsum("ibi->", rows), (score, rows.transpose(0, 1))

    gradient, (score, jacobian) = grad(laplacians, has_aux=True)(y)
    matrix = torch.eye(len(basis), dtype=y.dtype, device=y.device) - 0.5 * c * (jacobian + jacobian.mT)
    root, failure = torch.linalg.cholesky_ex(matrix)
    lost |= failure > 0
    correction = c * torch.cholesky_solve(flat(gradient)[..., None], root)[..., 0]
    return score, correction.reshape(y.shape)


def ascend(model: Model, x: Float[Tensor, "b *event"], s: float, *, steps: int = 50) -> Float[Tensor, "b *event"]:
    """The end at s_start of the high-density ODE dy/ds = f y − g² ∇log p_s(y) from noisy points: H = 0.

    Args:
        model: the score and its schedule.
        x: (B, *) noisy points at time s; their dtype is the precision of the solver.
        s: their time, above s_start.
        steps: of the Runge–Kutta method, four network evaluations each.

    Returns:
        (B, *) points; the error of the solver falls as steps⁻⁴.

    Raises:
        InputError: for points that are not finite, a time or steps out of range.
    """
    _check(model, x, s, steps)
    nodes = log_snr_nodes(model.schedule, s, steps, x.device)

    def field(part: Model, y: Tensor, log_snr: Tensor) -> Tensor:
        time, factor, variance = rates(model.schedule, log_snr)
        return factor * y + variance * part.score(y, time)

    with torch.inference_mode():
        ends = [runge_kutta(partial(field, part), points, nodes) for part, points in model.split(x, ROWS_PER_CALL)]
        return torch.cat(ends).clone()


def high_density(
    model: Model,
    n: int,
    event: tuple[int, ...],
    *,
    threshold: float,
    steps: int = 100,
    stochasticity: float = 1.0,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n *event"]:
    """Draw n points of high density: samples at a threshold, and from there the high-density ODE.

    Args:
        model: the score, its schedule and a Gaussian prior.
        n: how many.
        event: the shape of one point.
        threshold: the log-SNR at which the ODE starts, within those of (s_start, s_max). A lower one gives points of
            higher density.
        steps: of each of the two parts: Euler–Maruyama of `samplers.sample`, then `ascend`.
        stochasticity: κ of the first part, 1 for the reverse SDE and 0 for the flow.
        generator: draws the sample of the prior and the noise, on its own device.
        dtype: of the samples.

    Returns:
        (n, *event) points at ``schedule.s_start``.

    Raises:
        InputError: for settings out of range, or a prior that can't be sampled.
    """
    schedule = model.schedule
    s = schedule.inverse(torch.tensor(threshold, dtype=torch.float64)).item()
    if not schedule.s_start < s < schedule.s_max:
        raise InputError(f"high_density: threshold must be a log-SNR of the schedule's inner times, got {threshold}")
    shortened = copy.copy(model)  # the same model on the times [s, s_max]
    shortened.schedule = copy.copy(schedule)
    shortened.schedule.s_start = s
    x = sample(shortened, n, event, steps=steps, stochasticity=stochasticity, generator=generator, dtype=dtype)
    return ascend(model, x, s, steps=steps)


def _check(model: Model, x: Tensor, s: float, steps: int) -> None:
    check_points(x)
    if not model.schedule.s_start < s <= model.schedule.s_max or steps < 1:
        raise InputError(
            f"points of high density: steps >= 1 and a time in ({model.schedule.s_start}, {model.schedule.s_max}], "
            f"got {steps} and {s}"
        )
