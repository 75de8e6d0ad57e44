r"""The log density of the probability-flow ODE, exact up to the error of the solver.

Along dx/ds = v(x, s), from the point at the data end to the prior at s_max,

.. math:: \log p_{flow}(x) = \log p_{prior}(x_{s_{max}}) + \int_{s_{start}}^{s_{max}} \mathrm{div}\, v(x_s, s)\, ds

(Chen et al. 2018; Song et al. 2021, section 4.3). There are two solvers.

*Steps* (:mod:`.runge_kutta`) work for every field, event and divergence; all points share the steps that the worst
point needs.

*Sweeps* (:mod:`.spectral`) integrate the exact divergence of vectors, with a separate error estimate for each point.
Points for which no grid is fine enough are left to steps. Sweeps need half the evaluations or less if the field is
smooth and the tolerance moderate. They save time if the network takes most of it and the dimension is at most about
ten. On rough fields, for example of networks trained on few data, and in tens of dimensions, steps are often faster.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.ode import runge_kutta
from diffusion_density.density.ode.divergence import rademacher
from diffusion_density.density.ode.spectral import Spectral
from diffusion_density.density.result import LogDensity, check_points
from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import Model

LEAST_IN_SINGLE = 1e-6  # the smallest tolerance in single precision
FALLBACK_FACTOR = 0.1  # on the tolerance of steps after sweeps: on sharp fields their error is up to 20 tolerances


def flow(
    model: Model,
    x: Float[Tensor, "b *event"],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    solver: Literal["steps", "sweeps"] = "steps",
    divergence: Literal["exact", "hutchinson"] = "exact",
    probes: int | Float[Tensor, "b k *event"] = 1,
    generator: torch.Generator | None = None,
    start: float | None = None,
    max_steps: int = 10_000,
    per_dimension: bool = False,
) -> LogDensity:
    """log p of the probability-flow ODE.

    Args:
        model: the score and its schedule.
        x: (B, *) points; their dtype is the precision of the solver.
        rtol: relative tolerance, of the steps of dopri5 or of log p by sweeps; at least 1e-6 in single precision.
            Default: 1e-5.
        atol: absolute tolerance, likewise. With sweeps the errors of nearly all points are below
            3 (atol + rtol |log p|).
        solver: ``steps``, or ``sweeps`` for the exact divergence of points that are vectors.
        divergence: ``exact`` (D vector-Jacobian products per time) or ``hutchinson``.
        probes: K, the Rademacher probes per point, the same over the solve; or the probes themselves, (B, K, *).
        generator: draws the probes; needed only by ``hutchinson`` with a number of probes.
        start: the time of the points, ``schedule.s_start`` by default.
        max_steps: the most steps, and the most nodes of a grid of sweeps.
        per_dimension: whether the tolerances are for log p over D, as for images, instead of for log p.

    Returns:
        LogDensity in nats of the flow: ``exact``, or ``unbiased`` with a standard error for K >= 2 probes. Points where
        the field was not finite are NaN with their status, and so are all points of a solver by steps that stopped
        early. ``settings["solver_calls"]`` are the calls of the network. With sweeps ``network_evaluations`` are the
        mean over the points, rounded up, ``settings["total_evaluations"]`` their sum, ``"most_evaluations"`` those of
        the most expensive point, and ``"by_steps"`` the number of points that were left to steps.

    Raises:
        InputError: for points that are not finite, or settings out of range.
    """
    check_points(x)
    if not (rtol > 0 and atol > 0):
        raise InputError(f"flow: tolerances must be positive, got rtol={rtol} and atol={atol}")
    if x.dtype != torch.float64 and min(rtol, atol) < LEAST_IN_SINGLE:
        raise InputError("flow: tolerances below 1e-6 need points in double precision")
    given = probes if isinstance(probes, Tensor) else None
    count = probes.shape[1] if isinstance(probes, Tensor) else probes
    if divergence not in ("exact", "hutchinson") or count < 1:
        raise InputError(f"flow: divergence 'exact' or 'hutchinson' with probes >= 1, got {divergence!r} and {count}")
    if divergence == "hutchinson" and given is None and generator is None:
        raise InputError("flow: hutchinson draws its probes from a generator; none was given")
    if solver not in ("steps", "sweeps"):
        raise InputError(f"flow: solver 'steps' or 'sweeps', got {solver!r}")
    if solver == "sweeps" and (divergence != "exact" or x.ndim != 2):
        raise InputError("flow: sweeps are for the exact divergence of vectors, of shape (B, D); use solver='steps'")
    first, last = model.schedule.s_start if start is None else start, model.schedule.s_max
    if not model.schedule.s_min <= first < last:
        raise InputError(f"flow: start must lie in [{model.schedule.s_min}, {last}), got {start}")
    if max_steps < 1:
        raise InputError(f"flow: max_steps must be at least 1, got {max_steps}")
    with torch.inference_mode(False), torch.no_grad():  # the divergence needs autograd, in any mode of the caller
        x = x.clone()
        if solver == "sweeps":
            return _sweeps(model, x, rtol, atol, first, max_steps, per_dimension)
        eta = None
        if divergence == "hutchinson":
            eta = rademacher(x, count, generator) if given is None else given.to(x, copy=True)
        steps = runge_kutta.solve(model, x, rtol, atol, eta, first, max_steps, per_dimension)
    number = 0 if eta is None else eta.shape[1]
    return LogDensity(
        value=steps.value,
        stderr=steps.log_dets.std(1) / number**0.5 if number > 1 else None,
        kind="exact" if eta is None else "unbiased",
        density="flow",
        network_evaluations=steps.calls * (1 + (number or x[0].numel())),
        settings=_settings("steps", rtol, atol, number, first, per_dimension) | {"solver_calls": steps.calls},
        status=steps.status,
    )


def _sweeps(
    model: Model, x: Tensor, rtol: float, atol: float, start: float, max_steps: int, per_dimension: bool
) -> LogDensity:
    """By sweeps, and by steps for the points without an answer."""
    dimension = x.shape[1]
    swept = Spectral(model, x, start, max_steps)
    swept.solve(rtol, atol * dimension if per_dimension else atol)
    value, spent, status, calls = swept.value, swept.spent, torch.zeros_like(swept.spent), swept.calls
    left = (~swept.found).nonzero()[:, 0]
    if len(left):
        own = model if len(left) == len(x) else model.at_rows(left, len(x))
        least = 0.0 if x.dtype == torch.float64 else LEAST_IN_SINGLE
        careful = (max(FALLBACK_FACTOR * rtol, least), max(FALLBACK_FACTOR * atol, least))
        steps = runge_kutta.solve(own, x[left], *careful, None, start, max_steps, per_dimension)
        value[left], status[left] = steps.value, steps.status
        spent[left] += steps.calls * (1 + dimension)
        calls += steps.calls
    return LogDensity(
        value=value,
        stderr=None,
        kind="exact",
        density="flow",
        network_evaluations=math.ceil(spent.double().mean().item()),
        settings=_settings("sweeps", rtol, atol, 0, start, per_dimension)
        | {
            "solver_calls": calls,
            "by_steps": len(left),
            "total_evaluations": int(spent.sum()),
            "most_evaluations": int(spent.max()),
        },
        status=status,
    )


def _settings(
    solver: str, rtol: float, atol: float, probes: int, start: float, per_dimension: bool
) -> dict[str, object]:
    return {
        "estimator": "flow",
        "solver": solver,
        "rtol": rtol,
        "atol": atol,
        "divergence": "hutchinson" if probes else "exact",
        "probes": probes,
        "start": start,
        "per_dimension": per_dimension,
    }
