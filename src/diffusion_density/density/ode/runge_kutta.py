r"""Flows by the adaptive steps of torchdiffeq's dopri5, and log p along them.

The error norm is that of the *worst* point, or of its log-determinant if that is worse than the one of x: an error is
not averaged over other points or dimensions. (For images, whose unit is bits/dim, log-determinants are divided by the
dimension too.) The solver's time is s, or −λ for a schedule whose drift jumps along s, since jumps disturb the error
estimate. Towards the data it is −s or λ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchdiffeq import odeint

from diffusion_density.density.ode.divergence import with_divergence
from diffusion_density.process.batches import flat
from diffusion_density.process.model import Model
from diffusion_density.process.schedules import Schedule

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Steps:
    """The results of the solver for B points.

    Attributes:
        value: (B,) log p in nats.
        log_dets: (B, K) log-determinants, one per probe, or (B, 1).
        status: (B,) 0, 1 where the field was not finite, 2 where the solver stopped before the end.
        calls: of the field.
    """

    value: Float[Tensor, " b"]
    log_dets: Float[Tensor, "b k"]
    status: Int[Tensor, " b"]
    calls: int


def solve(
    model: Model,
    x: Float[Tensor, "b *event"],
    rtol: float,
    atol: float,
    eta: Float[Tensor, "b k *event"] | None,
    start: float,
    max_steps: int,
    per_dimension: bool,
) -> Steps:
    """One adaptive solve of the whole batch, with the exact divergence if ``eta`` is None. See ``density.flow``."""
    dimension, probes = x[0].numel(), 0 if eta is None else eta.shape[1]
    # the state holds x and its log-determinants in this unit, so that the solver's tolerances are in it
    unit = float(dimension) if per_dimension else 1.0

    def field(state: Tensor, s: Tensor) -> Tensor:
        points = state[:, :dimension].reshape(x.shape)
        velocity, divergence = with_divergence(lambda y: model.flow_drift(y, s), points, eta)
        return torch.cat([flat(velocity), divergence / unit], dim=1)

    def norm(state: Tensor) -> Tensor:
        return torch.maximum(_worst(state[:, :dimension]), state[:, dimension:].abs().max())

    state = torch.cat([flat(x), x.new_zeros(len(x), probes or 1)], dim=1)
    span = start, model.schedule.s_max
    end, status, calls = integrate(field, model.schedule, state, span, rtol, atol, max_steps, norm=norm)
    failed = status > 0
    log_dets = (unit * end[:, dimension:].double()).masked_fill(failed[:, None], torch.nan)
    value = model.prior.log_prob(end[:, :dimension].reshape(x.shape)).double() + log_dets.mean(1)
    return Steps(value.masked_fill(failed, torch.nan), log_dets, status, calls)


def _worst(state: Float[Tensor, "b n"]) -> Float[Tensor, ""]:
    """The root mean square of the worst row."""
    return state.square().mean(1).sqrt().max()


def integrate(
    field: Field,
    schedule: Schedule,
    state: Float[Tensor, "b n"],
    span: tuple[float, float],
    rtol: float,
    atol: float,
    max_steps: int,
    *,
    norm: Callable[[Tensor], Tensor] = _worst,
    first_step: float | None = None,
) -> tuple[Float[Tensor, "b n"], Int[Tensor, " b"], int]:
    """Solve d state/ds = field(state, s) from the first time of ``span`` to the second, in either direction.

    Args:
        field: (B, N) for a state (B, N) and a time of shape (), in double precision.
        schedule: of the times.
        state: (B, N) at the first time.
        span: both times.
        rtol: relative tolerance of ``norm``.
        atol: absolute tolerance, likewise.
        max_steps: the most steps.
        norm: of an error (B, N); by default that of the worst row.
        first_step: the first trial step, as a share of the whole interval; by default chosen from the field.

    Returns:
        The last state, NaN if the solver stopped early; the status (B,) as in `Steps`; the calls of the field.
    """
    along = _Along(field, schedule, state, span)
    times = along.times
    options = {
        "norm": norm,
        "max_num_steps": max_steps,
        "dtype": torch.float64,
        "first_step": None if first_step is None else first_step * (times[1] - times[0]),
        "step_t": times[1:],  # without it the last step would go beyond the end, with an interpolated result
    }
    try:
        reached = odeint(along, state, times, rtol=rtol, atol=atol, method="dopri5", options=options)[-1]
    except AssertionError:  # of torchdiffeq: too many steps, or a step that is too small
        if along.inside:  # of the network
            raise
        return torch.full_like(state, torch.nan), torch.where(along.failed, 1, 2), along.calls
    return reached, along.failed.long(), along.calls


class _Along:
    """A field in the solver's time, which increases; it counts its calls and stops the rows that failed."""

    def __init__(self, field: Field, schedule: Schedule, state: Tensor, span: tuple[float, float]) -> None:
        self.field = field
        self.schedule = schedule
        self.sign = 1 if span[0] < span[1] else -1
        times = torch.tensor(span, dtype=torch.float64, device=state.device)
        self.times = self.sign * (times if schedule.smooth else -schedule.log_snr(times))
        self.failed = torch.zeros(len(state), dtype=torch.bool, device=state.device)
        self.calls = 0
        self.inside = False

    def __call__(self, time: Tensor, state: Tensor) -> Tensor:
        self.calls += 1
        self.inside = True
        schedule = self.schedule
        # the trial for the first step, and rounding, may go beyond the model's times
        time = self.sign * time.clamp(max=self.times[1])
        s = time if schedule.smooth else schedule.inverse(-time)
        slope = self.sign * self.field(state, s)
        if not schedule.smooth:  # ds/d(−λ) = σ²/g²
            slope = slope * (schedule.sigma(s).square() / schedule.diffusion(s)).to(slope)
        self.failed |= ~slope.isfinite().all(1)
        self.inside = False
        return slope.masked_fill(self.failed[:, None], 0.0)
