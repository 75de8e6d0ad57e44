r"""Approximate trajectories of a probability flow on a grid, and log p along them with a correction of first order.

On a grid of times t ∈ [0, 1] (:mod:`diffusion_density.density.ode.gauss_grid`) a *sweep* visits them in order. Let v be
the field computed so far, and p the field of the last sweep as a polynomial (0 at first, or that of a coarser grid):

.. math:: x_{j+1} = x_j + \int_{t_j}^{t_{j+1}} p\, dt + \text{step of two-step Adams and Bashforth with } (v - p):

This is a spectral deferred correction (Dutt, Greengard and Rokhlin 2000), with one network evaluation per time. The
first sweep is the multistep method alone; the short first interval of the grid gives it a good start.

Let L be log p_t of the flow, with ∂_t L + v·∇L = −div v. Along *any* curve x(t) from x

.. math:: \log p(x) = \log p_{prior}(x(1)) + \int_0^1 \mathrm{div}\, v\, dt
          + \int_0^1 (v - \dot x) \cdot \nabla L\, dt .

The last term is the effect of the curve's defect. With the model's score instead of ∇L it is known from the sweep. It
is exact if the score is exact; otherwise the error is a product of two errors, that of the curve and that of the score
as the score of the flow's density. It is integrated by parts: e(t) = x + ∫v − x(t) is 0 at t = 0 and, for the curve
that ends at x + ∫v, at t = 1, so the term is −∫ e·∂_t ∇L dt.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffusion_density.density.ode.divergence import flow_with_divergence
from diffusion_density.density.ode.flow_time import Stations
from diffusion_density.density.ode.gauss_grid import grid
from diffusion_density.process.batches import flat
from diffusion_density.process.model import Model


@dataclass(frozen=True)
class Sweep:
    """Curves of B points on the times of M nodes.

    Attributes:
        field: (M + 1, B, D) v = dx/dt in double precision.
        end: (B, *) x(1).
        defect: (B,) the effect of the curve's defect on log p, nats.
        error: (B,) the same as a sum of absolute values: opposite signs do not hide a poor curve.
        divergence: (M, B) div v at the nodes per unit of t, or None if it was not computed.
        failed: (B,) whether the field was not finite somewhere.
    """

    field: Float[Tensor, "n b d"]
    end: Float[Tensor, "b *event"]
    defect: Float[Tensor, " b"]
    error: Float[Tensor, " b"]
    divergence: Float[Tensor, "m b"] | None
    failed: Bool[Tensor, " b"]


def sweep(
    model: Model,
    x: Float[Tensor, "b *event"],
    place: Stations,
    first: Float[Tensor, "b d"],
    before: Float[Tensor, "n b d"],
    divergence: bool = False,
) -> Sweep:
    """One pass from the points to the prior.

    Args:
        model: the flow, for these points.
        x: (B, *) points at the first time; their dtype is that of the network's input.
        place: the times of the grid of M nodes.
        first: (B, D) dx/ds there, computed once for all sweeps.
        before: (M + 1, B, D) the field of the last sweep, or zeros.
        divergence: whether to compute it, by D vector-Jacobian products per node.
    """
    nodes = len(before) - 1
    on = grid(nodes)
    steps = on.times.diff().tolist()
    known = _apply(on.integral[:-1].diff(dim=0), before)
    here = flat(x).double()
    path, drift, field = (torch.empty_like(before) for _ in range(3))
    traces, change = [], torch.zeros_like(here)
    for j, (s, rate) in enumerate(zip(place.s.to(x), place.rate.tolist(), strict=True)):
        point = here.to(x.dtype)
        path[j] = point
        if j == 0:
            value = first
        elif divergence:
            value, trace = flow_with_divergence(model, point.reshape(x.shape), s)
            traces.append(trace.double() * rate)
        else:
            value = model.flow_drift(point.reshape(x.shape), s)
        drift[j] = flat(value)
        field[j] = drift[j] * rate
        if j < nodes:
            last, change = change, field[j] - before[j]
            here = here + known[j] + steps[j] * change
            if j > 0:
                here = here + (0.5 * steps[j] ** 2 / steps[j - 1]) * (change - last)
    reached = flat(x).double() + _apply(on.integral, field)
    factors = (2 / place.diffusion).to(x.device)[:, None, None]
    score = factors * (place.drift.to(x.device)[:, None, None] * path - drift)
    turn = _apply(on.derivative[1:], score)
    effects = -torch.einsum("nbd,nbd->nb", reached[1:-1] - path[1:], turn)
    defect, error = on.weights.to(x.device) @ effects, on.weights.to(x.device) @ effects.abs()
    log_det = torch.stack(traces) if divergence else None
    failed = ~field.isfinite().all(2).all(0) | ~(defect if log_det is None else defect + log_det.sum(0)).isfinite()
    return Sweep(field, reached[-1].to(x.dtype).reshape(x.shape), defect, error, log_det, failed)


def _apply(matrix: Tensor, values: Float[Tensor, "n b d"]) -> Float[Tensor, "m b d"]:
    """A matrix that acts on the times."""
    return (matrix.to(values.device) @ values.flatten(1)).unflatten(1, values.shape[1:])
