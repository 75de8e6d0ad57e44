r"""Trajectories of a probability flow on a grid, and log p along them though they are not quite trajectories.

On a grid of times t ∈ [0, 1] (:mod:`diffusion_density.density.chebyshev`) a *sweep* visits them in order. With the
field v seen so far, and the field p of the sweep before (0 at first, or that of a coarser grid), as polynomials,

.. math:: x_{j+1} = x_j + \int_{t_j}^{t_{j+1}} p\, dt + \text{Adams-Bashforth step of } (v - p):

a spectral deferred correction (Dutt, Greengard and Rokhlin 2000), one network evaluation a time. The first sweep is
the multistep method alone, which the short first intervals of the grid start well.

Let L be log p_t of the flow, with ∂_t L + v·∇L = −div v. Along *any* curve x(t) from x

.. math:: \log p(x) = \log p_{prior}(x(1)) + \int_0^1 \mathrm{div}\, v\, dt
          + \int_0^1 (v - \dot x) \cdot \nabla L\, dt .

The last term is the effect of the curve's defect. With the model's own score in the place of ∇L it is known from the
sweep itself, and is all of it where the score is exact; what it leaves out is the product of two errors, that of the
curve and that of the score as a score of the flow's density. Here it is integrated by parts: with e(t) = x + ∫v − x(t)
it is e(1)·∇L(1) − ∫ e·∂_t ∇L dt.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffusion_density.broadcasting import flat
from diffusion_density.density.chebyshev import adams, grid
from diffusion_density.density.divergence import with_divergence
from diffusion_density.density.flow_time import stations
from diffusion_density.model import Model


@dataclass(frozen=True)
class Sweep:
    """Curves of B points on N + 1 times.

    Attributes:
        field: (N + 1, B, D) v = dx/dt in double precision.
        end: (B, *) x(1).
        defect: (B,) the effect of the curve's defect on log p, nats.
        divergence: (N + 1, B, K) div v by probe, per unit of t, or None if it was not asked for.
        failed: (B,) whether the field was not finite somewhere.
    """

    field: Float[Tensor, "n b d"]
    end: Float[Tensor, "b *event"]
    defect: Float[Tensor, " b"]
    divergence: Float[Tensor, "n b k"] | None
    failed: Bool[Tensor, " b"]


def sweep(
    model: Model,
    x: Float[Tensor, "b *event"],
    start: float,
    before: Float[Tensor, "n b d"],
    order: int,
    probes: Tensor | None = None,
    divergence: bool = False,
) -> Sweep:
    """One pass from the points to the prior.

    Args:
        model: the flow, for these points.
        x: (B, *) points at time ``start``; their dtype is that of the network's input.
        start: their time.
        before: (N + 1, B, D) the field of the sweep before, or zeros.
        order: of the multistep method.
        probes: (B, K, *) of the divergence; None for the exact one.
        divergence: whether to compute it, by D or K vector-Jacobian products a time.
    """
    intervals = len(before) - 1
    nodes, steps = grid(intervals), adams(intervals, order).to(x.device)
    place = stations(model.schedule, start, nodes.points, x.dtype)
    known = _apply(nodes.integral.diff(dim=0), before)
    here = flat(x).double()
    visited, drift = before.new_empty(before.shape, dtype=x.dtype), torch.empty_like(before)
    field, traces = torch.empty_like(before), []
    failed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for j, (s, rate) in enumerate(zip(place.s.to(x), place.rate.tolist(), strict=True)):
        visited[j] = here
        point = visited[j].reshape(x.shape)
        if divergence:
            value, trace = with_divergence(lambda y, s=s: model.flow_drift(y, s), point, probes)  # type: ignore[misc]
            failed |= ~trace.isfinite().all(1)
            traces.append(trace.double() * rate)
        else:
            value = model.flow_drift(point, s)
        failed |= ~flat(value).isfinite().all(1)
        drift[j] = flat(value).masked_fill(failed[:, None], 0.0)
        field[j] = drift[j] * rate
        if j < intervals:
            lags = list(range(j, max(-1, j - order), -1))
            change = (field[lags] - before[lags]) * steps[j, : len(lags), None, None]
            here = here + known[j] + change.sum(0)
    path = visited.double()
    error = flat(x).double() + _apply(nodes.integral, field) - path
    factors = (2 / place.diffusion).to(x.device)[:, None, None]
    score = factors * (place.drift.to(x.device)[:, None, None] * path - drift)
    by_parts = -nodes.weights[:, None] * nodes.derivative
    by_parts[-1, -1] += 1
    return Sweep(
        field=field,
        end=visited[-1].reshape(x.shape),
        defect=(error * _apply(by_parts, score)).sum((0, 2)),
        divergence=torch.stack(traces) if divergence else None,
        failed=failed,
    )


def _apply(matrix: Tensor, values: Float[Tensor, "n b d"]) -> Float[Tensor, "m b d"]:
    """A matrix over the times."""
    return (matrix.to(values.device) @ values.flatten(1)).unflatten(1, values.shape[1:])
