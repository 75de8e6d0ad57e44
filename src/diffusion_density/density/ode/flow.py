r"""The flow density: the exact log density of the probability-flow ODE.

Along dx/ds = v(x, s), from the point at the data end to the prior at s_max,

.. math:: \log p_{flow}(x) = \log p_{prior}(x_{s_{max}}) + \int_{s_{start}}^{s_{max}} \mathrm{div}\, v(x_s, s)\, ds

(paper A, section 3; Chen et al. 2018). There are two solvers.

*Steps* (:mod:`.runge_kutta`) suit every field, event and divergence; the worst point's error decides for all of them.

*Sweeps* (:mod:`.spectral`) integrate the exact divergence of vectors, each point with an error of its own, and hand
points that no grid of theirs suits to steps. They need half the evaluations or less where the field is smooth and the
tolerance moderate, and pay where the network is what takes the time and the dimension is up to ten or so. On rough
fields, as of networks trained on thin data, and in tens of dimensions, steps are often faster.
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

SINGLE = 1e-6  # the least tolerance in single precision
CAUTION = 0.1  # of the tolerance of steps, whose error adds up to 20 tolerances where the field is sharp (measured)


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
        x: (B, *) points; their dtype is the precision of the solve.
        rtol: relative tolerance, of dopri5's steps or of log p by sweeps; at least 1e-6 in single precision.
        atol: absolute tolerance, likewise. By sweeps errors of nearly all points are within 3 (atol + rtol |log p|).
        solver: ``steps``, or ``sweeps`` for the exact divergence of points that are vectors.
        divergence: ``exact`` (D vector-Jacobian products a time) or ``hutchinson``.
        probes: K, the Rademacher probes per point, fixed over the solve; or the probes themselves, (B, K, *).
        generator: draws the probes; needed by ``hutchinson`` only, where the probes are not given.
        start: the time of the points, ``schedule.s_start`` by default.
        max_steps: the solver by steps gives up after this many, and no grid of sweeps has more nodes.
        per_dimension: whether the tolerances hold for log p over D, as for images, instead of for log p.

    Returns:
        LogDensity in nats of the flow: ``exact``, or ``unbiased`` with a standard error for K >= 2 probes. Points whose
        field was not finite, and all points that go by steps if these stopped early, are NaN with their status.
        ``settings["solver_calls"]`` are the calls of the network. By sweeps ``network_evaluations`` are the mean over
        the points, rounded up, ``settings["total_evaluations"]`` their sum, ``"most_evaluations"`` those of the dearest
        point, and ``"by_steps"`` the number of points that went by steps after all.

    Raises:
        InputError: for points that are not finite, or settings out of range.
    """
    check_points(x)
    if not (rtol > 0 and atol > 0):
        raise InputError(f"flow: tolerances must be positive, got rtol={rtol} and atol={atol}")
    if x.dtype != torch.float64 and min(rtol, atol) < SINGLE:
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
    with torch.inference_mode(False), torch.no_grad():  # the divergence needs autograd, whatever mode the caller is in
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
        of="flow",
        network_evaluations=steps.calls * (1 + (number or x[0].numel())),
        settings=_settings("steps", rtol, atol, number, first, per_dimension) | {"solver_calls": steps.calls},
        status=steps.status,
    )


def _sweeps(
    model: Model, x: Tensor, rtol: float, atol: float, start: float, max_steps: int, per_dimension: bool
) -> LogDensity:
    """By sweeps, and by steps where there is no answer."""
    dimension = x.shape[1]
    swept = Spectral(model, x, start, max_steps)
    swept.solve(rtol, atol * dimension if per_dimension else atol)
    value, spent, status, calls = swept.value, swept.spent, torch.zeros_like(swept.spent), swept.calls
    left = (~swept.found).nonzero()[:, 0]
    if len(left):
        own = model if len(left) == len(x) else model.at_rows(left, len(x))
        least = 0.0 if x.dtype == torch.float64 else SINGLE
        careful = (max(CAUTION * rtol, least), max(CAUTION * atol, least))
        steps = runge_kutta.solve(own, x[left], *careful, None, start, max_steps, per_dimension)
        value[left], status[left] = steps.value, steps.status
        spent[left] += steps.calls * (1 + dimension)
        calls += steps.calls
    return LogDensity(
        value=value,
        stderr=None,
        kind="exact",
        of="flow",
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
