r"""The flow density: the exact log density of the probability-flow ODE.

Along dx/ds = v(x, s), from the point at the data end to the prior at s_max,

.. math:: \log p_{flow}(x) = \log p_{prior}(x_{s_{max}}) + \int_{s_{start}}^{s_{max}} \mathrm{div}\, v(x_s, s)\, ds

(paper A, section 3; Chen et al. 2018). The solver is torchdiffeq's dopri5. Its error norm here is that of the *worst*
point, and of its log-determinant where that is worse than x: neither batch mates nor dimensions hide an error. (For
images, whose unit is bits/dim, log-determinants are measured per dimension too.) The solver's time is s, or −λ for a
schedule whose drift jumps along s: jumps would mislead the error estimate.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torchdiffeq import odeint

from diffusion_density.broadcasting import flat
from diffusion_density.density.divergence import rademacher, with_divergence
from diffusion_density.density.result import LogDensity, check_points
from diffusion_density.errors import InputError
from diffusion_density.model import Model


class _Field:
    """The field of the augmented state (x, one log-determinant a probe); counts its calls, freezes failed points."""

    def __init__(
        self, model: Model, shape: torch.Size, probes: Tensor | None, failed: Tensor, end: Tensor, unit: float
    ) -> None:
        self.model = model
        self.unit = unit
        self.end = end
        self.shape = shape
        self.probes = probes
        self.failed = failed
        self.calls = 0
        self.inside = False
        self.dimension = shape[1:].numel()

    def __call__(self, time: Tensor, state: Tensor) -> Tensor:
        self.calls += 1
        self.inside = True
        schedule = self.model.schedule
        time = time.clamp(max=self.end)  # the trial that finds the first step may reach beyond the model's times
        s = time if schedule.smooth else schedule.inverse(-time)
        x = state[:, : self.dimension].reshape(self.shape)
        velocity, divergence = with_divergence(lambda y: self.model.flow_drift(y, s), x, self.probes)
        field = torch.cat([flat(velocity), divergence / self.unit], dim=1)
        if not schedule.smooth:  # ds/d(−λ) = σ²/g²
            field = field * (schedule.sigma(s).square() / schedule.diffusion(s)).to(field)
        self.failed |= ~field.isfinite().all(1)
        self.inside = False
        return field.masked_fill(self.failed[:, None], 0.0)

    def norm(self, state: Tensor) -> Tensor:
        """The worst point's, and of each point the worse of x (root mean square) and of its log-determinants."""
        x, log_dets = state[:, : self.dimension], state[:, self.dimension :]
        return torch.maximum(x.square().mean(1).sqrt().max(), log_dets.abs().max())


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
    max_steps: int = 10_000,
    per_dimension: bool = False,
) -> LogDensity:
    """log p of the probability-flow ODE by one adaptive solve of the whole batch.

    Args:
        model: the score and its schedule.
        x: (B, *) points; their dtype is the precision of the solve.
        rtol: relative tolerance of dopri5; at least 1e-6 in single precision.
        atol: absolute tolerance, likewise.
        divergence: ``exact`` (D vector-Jacobian products a call) or ``hutchinson``.
        probes: K, the Rademacher probes per point, fixed over the solve; or the probes themselves, (B, K, *).
        generator: draws the probes; needed by ``hutchinson`` only, where the probes are not given.
        start: the time of the points, ``schedule.s_start`` by default.
        max_steps: the solver gives up after this many.
        per_dimension: whether the tolerances hold for log p over D, as for images, instead of for log p.

    Returns:
        LogDensity in nats of the flow: ``exact``, or ``unbiased`` with a standard error for K >= 2 probes. Points whose
        field was not finite, and all points if the solver stopped early, are NaN with their status.

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
        return _solve(model, x.clone(), rtol, atol, eta, first, max_steps, per_dimension)


def _solve(
    model: Model,
    x: Tensor,
    rtol: float,
    atol: float,
    eta: Tensor | None,
    start: float,
    max_steps: int,
    per_dimension: bool,
) -> LogDensity:
    """``flow`` with checked settings; no probes mean the exact divergence."""
    probes = 0 if eta is None else eta.shape[1]
    times = torch.tensor([start, model.schedule.s_max], dtype=torch.float64, device=x.device)
    if not model.schedule.smooth:
        times = -model.schedule.log_snr(times)
    failed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    # the state holds log-determinants in this unit, so that the solver's tolerances are in it
    unit = float(x[0].numel()) if per_dimension else 1.0
    field = _Field(model, x.shape, eta, failed, times[1], unit)
    state = torch.cat([flat(x), x.new_zeros(len(x), probes or 1)], dim=1)
    # without step_t the last step would go beyond the end and be interpolated
    options = {"norm": field.norm, "max_num_steps": max_steps, "dtype": torch.float64, "step_t": times[1:]}
    stopped = False
    try:
        end = odeint(field, state, times, rtol=rtol, atol=atol, method="dopri5", options=options)[-1]
    except AssertionError:  # torchdiffeq's way to say: too many steps, or a step too small to matter
        if field.inside:  # the network's own
            raise
        end, stopped = torch.full_like(state, torch.nan), True
    log_dets = (unit * end[:, field.dimension :].double()).masked_fill(failed[:, None], torch.nan)
    value = model.prior.log_prob(end[:, : field.dimension].reshape(x.shape)).double() + log_dets.mean(1)
    status = failed.long() if not stopped else torch.where(failed, 1, 2)
    return LogDensity(
        value=value.masked_fill(status > 0, torch.nan),
        stderr=log_dets.std(1) / probes**0.5 if probes > 1 else None,
        kind="exact" if eta is None else "unbiased",
        of="flow",
        network_evaluations=field.calls * (1 + (probes or field.dimension)),
        settings={
            "estimator": "flow",
            "rtol": rtol,
            "atol": atol,
            "divergence": "hutchinson" if probes else "exact",
            "probes": probes,
            "start": start,
            "per_dimension": per_dimension,
            "solver_calls": field.calls,
        },
        status=status,
    )
