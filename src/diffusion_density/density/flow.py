r"""The flow density: the exact log density of the probability-flow ODE.

Along dx/ds = v(x, s), from the point at the data end to the prior at s_max,

.. math:: \log p_{flow}(x) = \log p_{prior}(x_{s_{max}}) + \int_{s_{start}}^{s_{max}} \mathrm{div}\, v(x_s, s)\, ds

(paper A, section 3; Chen et al. 2018). The divergence costs D (or K) times the field but is a mere integral along the
trajectory. It is asked for only at the times of a spectral quadrature, and only once the trajectory is good enough
(:mod:`diffusion_density.density.trajectory`). All points share their times, which are thus embedded once; points whose
error is not within their tolerance go on, together, to a grid of half as many times again. What a point gets depends on
no other.

Its error has two parts: the effect of the trajectory's defect, and that of the quadrature. The latter is told from the
Chebyshev coefficients a_k of the divergence. N intervals take T_{2N} for 1: the rule is off by a_{2N} at least, and by
a small share of a_{N+1}. With τ the largest of the last three coefficients and ρ their ratio to those at N/2, a_{2N} is
τρ² if they fall geometrically and τρ if like a power: the estimate is τ max(ρ, 1/N)^1.5. On mixtures its ratio to the
error is mostly far above 1, so that few points are let go on a grid that sees nothing of them. Rounding, which does not
fall, is counted as what it is.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.batching import ROWS
from diffusion_density.broadcasting import flat
from diffusion_density.density.chebyshev import grid, resample
from diffusion_density.density.divergence import rademacher
from diffusion_density.density.result import LogDensity, check_points
from diffusion_density.density.trajectory import Sweep, sweep
from diffusion_density.errors import InputError
from diffusion_density.model import Model

NUMBERS = 1 << 23  # held of the field of points solved at once, in double precision: 64 MiB, several times
GROWTH = 1.5  # of a grid to the next
SWEEPS = 4  # at most, on one grid
GAIN = 10.0  # by which a sweep reduces the defect's effect, at least where the grid suits the trajectory
FIRST, RESAMPLED, LATER = 3, 1, 2  # orders of the multistep method; a resampled field oscillates about the next


def flow(
    model: Model,
    x: Float[Tensor, "b *event"],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    divergence: Literal["exact", "hutchinson"] = "exact",
    probes: int | Float[Tensor, "b k *event"] = 1,
    generator: torch.Generator | None = None,
    start: float | None = None,
    max_steps: int = 2_000,
    per_dimension: bool = False,
) -> LogDensity:
    """log p of the probability-flow ODE, each point with an error estimate of its own within its tolerance.

    Args:
        model: the score and its schedule.
        x: (B, *) points; their dtype is the precision of the field.
        rtol: tolerance relative to log p; at least 1e-6 in single precision.
        atol: absolute tolerance in nats, likewise. Errors of nearly all points are within 3 (atol + rtol |log p|).
        divergence: ``exact`` (D vector-Jacobian products a time) or ``hutchinson``.
        probes: K, the Rademacher probes per point, fixed over the solve; or the probes themselves, (B, K, *).
        generator: draws the probes; needed by ``hutchinson`` only, where the probes are not given.
        start: the time of the points, ``schedule.s_start`` by default.
        max_steps: the intervals of the finest grid of times at most.
        per_dimension: whether the tolerances hold for log p over D, as for images, instead of for log p.

    Returns:
        LogDensity in nats of the flow: ``exact``, or ``unbiased`` with a standard error for K >= 2 probes. Points whose
        field was not finite, and those that no grid brought within their tolerance, are NaN with their status.
        ``network_evaluations`` are the mean over the points, rounded up; ``settings["total_evaluations"]`` is their
        exact sum, ``settings["most_evaluations"]`` the most of any point, and ``settings["solver_calls"]`` counts the
        calls of the network.

    Raises:
        InputError: for points that are not finite, or settings out of range.
    """
    check_points(x)
    if not (rtol > 0 and atol > 0):
        raise InputError(f"flow: tolerances must be positive, got rtol={rtol} and atol={atol}")
    if x.dtype != torch.float64 and min(rtol, atol) < 1e-6:
        raise InputError("flow: tolerances below 1e-6 need points in double precision")
    given = probes if isinstance(probes, Tensor) else None
    count = probes.shape[1] if isinstance(probes, Tensor) else probes
    if divergence not in ("exact", "hutchinson") or count < 1:
        raise InputError(f"flow: divergence 'exact' or 'hutchinson' with probes >= 1, got {divergence!r} and {count}")
    if divergence == "hutchinson" and given is None and generator is None:
        raise InputError("flow: hutchinson draws its probes from a generator; none was given")
    first, last = model.schedule.s_start if start is None else start, model.schedule.s_max
    if not model.schedule.s_min <= first < last:
        raise InputError(f"flow: start must lie in [{model.schedule.s_min}, {last}), got {start}")
    if max_steps < 1:
        raise InputError(f"flow: max_steps must be at least 1, got {max_steps}")
    with torch.inference_mode(False), torch.no_grad():  # the divergence needs autograd, whatever mode the caller is in
        eta = None
        if divergence == "hutchinson":
            eta = rademacher(x, count, generator) if given is None else given.to(x, copy=True)
        scale = flat(x).shape[1] if per_dimension else 1
        intervals = min(max_steps, _intervals(max(rtol, atol)))
        chunks = torch.arange(len(x), device=x.device).split(_rows(x, intervals))
        parts = []
        for rows in chunks:
            own = model if len(chunks) == 1 else model.at_rows(rows, len(x))
            part = _Solve(own, x[rows].clone(), None if eta is None else eta[rows], first)
            part.run(rtol, scale * atol, intervals, max_steps)
            parts.append(part)
        value, log_dets, status, spent = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("value", "log_dets", "status", "spent")
        )
        number = log_dets.shape[1]
        stderr = log_dets.std(1) / number**0.5 if number > 1 else None
    return LogDensity(
        value=value,
        stderr=stderr,
        kind="exact" if eta is None else "unbiased",
        of="flow",
        network_evaluations=-(-int(spent.sum()) // len(x)),
        settings={
            "estimator": "flow",
            "rtol": rtol,
            "atol": atol,
            "divergence": divergence,
            "probes": 0 if eta is None else number,
            "start": first,
            "per_dimension": per_dimension,
            "solver_calls": sum(part.calls for part in parts),
            "total_evaluations": int(spent.sum()),
            "most_evaluations": int(spent.max()),
        },
        status=status,
    )


def _intervals(tolerance: float) -> int:
    """Of the first grid: spectral accuracy gains digits in proportion."""
    return max(6, math.ceil(-4 * math.log10(tolerance)))


def _rows(x: Tensor, intervals: int) -> int:
    """Of points (B, *) that are solved at once on a grid."""
    return max(1, min(ROWS, NUMBERS // ((intervals + 1) * flat(x).shape[1])))


class _Solve:
    """The values of some points: their log-determinants (B, K), their status and evaluations, and calls in all."""

    def __init__(self, model: Model, x: Tensor, probes: Tensor | None, start: float) -> None:
        self.model, self.x, self.probes, self.start = model, x, probes, start
        width = 1 if probes is None else probes.shape[1]
        self.log_dets = torch.full((len(x), width), torch.nan, dtype=torch.float64, device=x.device)
        self.value = self.log_dets[:, 0].clone()
        self.status = torch.full((len(x),), 2, device=x.device)
        self.spent = torch.zeros_like(self.status)
        self.calls = 0

    def run(self, rtol: float, atol: float, intervals: int, most: int) -> None:
        """From grid to grid, until every point has its value or has failed, or the next grid would be too fine."""
        goal = atol + rtol * self.model.prior.log_prob(self.x).double().abs()
        rows, order = torch.arange(len(self.x), device=self.x.device), FIRST
        field = self.log_dets.new_zeros(intervals + 1, *flat(self.x).shape)
        defect = torch.full_like(self.value, torch.inf)
        while True:
            pending = torch.ones_like(rows, dtype=torch.bool)
            for _ in range(SWEEPS):
                ready = pending & (defect <= GAIN * goal[rows])
                for chosen, last in ((pending & ~ready, False), (ready, True)):
                    if not bool(chosen.any()):
                        continue
                    for group in chosen.nonzero()[:, 0].split(_rows(self.x, intervals)):
                        found = self._sweep(rows[group], field[:, group], order, last)
                        field[:, group], defect[group] = found.field, found.defect.abs()
                        if last:
                            self._accept(rows[group], found, rtol, atol)
                pending &= ~ready & (self.status[rows] == 2)
                order = LATER
                if not bool(pending.any()):
                    break
            left = self.status[rows] == 2
            finer = math.ceil(GROWTH * intervals)
            if not bool(left.any()) or finer > most:
                return
            field = torch.einsum("mn,nbd->mbd", resample(intervals, finer).to(field.device), field[:, left])
            rows, defect, intervals, order = rows[left], defect[left], finer, RESAMPLED

    def _sweep(self, rows: Tensor, field: Tensor, order: int, last: bool) -> Sweep:
        everything = len(rows) == len(self.x)
        model = self.model if everything else self.model.at_rows(rows, len(self.x))
        probes = self.probes[rows] if self.probes is not None else None
        found = sweep(model, self.x[rows], self.start, field, order, probes, divergence=last)
        pulled = (flat(self.x).shape[1] if probes is None else probes.shape[1]) if last else 0
        self.spent[rows] += len(field) * (1 + pulled)
        self.calls += len(field)
        self.status[rows[found.failed]] = 1
        return found

    def _accept(self, rows: Tensor, found: Sweep, rtol: float, atol: float) -> None:
        """Keep the values of the points that are within their tolerance."""
        assert found.divergence is not None
        nodes = grid(len(found.field) - 1)
        log_dets = torch.einsum("n,nbk->bk", nodes.weights.to(self.x.device), found.divergence)
        value = self.model.prior.log_prob(found.end).double() + log_dets.mean(1) + found.defect
        error = found.defect.abs() + _quadrature_error(found.divergence.mean(2))
        good = (error <= atol + rtol * value.abs()) & ~found.failed
        done = rows[good]
        self.value[done], self.log_dets[done], self.status[done] = value[good], log_dets[good], 0


def _quadrature_error(values: Float[Tensor, "n b"]) -> Float[Tensor, " b"]:
    """The error of the integral over [0, 1] of a function known on a grid, by its Chebyshev coefficients."""
    intervals = len(values) - 1
    sizes = (grid(intervals).coefficients.to(values.device) @ values).abs()
    last, middle = sizes[-3:].amax(0), sizes[max(0, intervals // 2 - 1) : intervals // 2 + 2].amax(0)
    ratio = torch.where(middle > 0, last / middle, 0.0).clamp(max=1.0)
    return last * torch.maximum(ratio, ratio.new_tensor(1 / intervals)).pow(1.5)
