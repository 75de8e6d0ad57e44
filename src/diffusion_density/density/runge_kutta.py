r"""log p of a flow by adaptive steps: torchdiffeq's dopri5.

Its error norm here is that of the *worst* point, and of its log-determinant where that is worse than x: neither batch
mates nor dimensions hide an error. (For images, whose unit is bits/dim, log-determinants are measured per dimension
too.) The solver's time is s, or −λ for a schedule whose drift jumps along s: jumps would mislead the error estimate.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchdiffeq import odeint

from diffusion_density.broadcasting import flat
from diffusion_density.density.divergence import with_divergence
from diffusion_density.model import Model


@dataclass(frozen=True)
class Steps:
    """What the solver found for B points.

    Attributes:
        value: (B,) log p in nats.
        log_dets: (B, K) log-determinants by probe, or (B, 1).
        status: (B,) 0, 1 where the field was not finite, 2 where the solver stopped before the end.
        calls: of the field.
    """

    value: Float[Tensor, " b"]
    log_dets: Float[Tensor, "b k"]
    status: Int[Tensor, " b"]
    calls: int


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
    """One adaptive solve of the whole batch; no probes ``eta`` mean the exact divergence. See ``density.flow``."""
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
    return Steps(value.masked_fill(status > 0, torch.nan), log_dets, status, field.calls)
