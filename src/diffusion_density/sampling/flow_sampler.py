r"""Samples of the probability-flow ODE by an adaptive solver: the map from the prior to the data.

From z ~ N(0, v I), the model's prior at s_max,

.. math:: \frac{dx}{ds} = v(x, s), \qquad x(s_{max}) = z, \qquad \text{sample} = x(s_{start})

(Song et al. 2021, section 4.3). This is the flow whose density ``density.flow`` gives, solved in the other direction by
the same solver, `density.ode.runge_kutta`. Its first trial step is a hundredth of the interval: near the prior the
field is almost zero, and a first step chosen from it can cover most of the interval with an error that the solver does
not notice.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusion_density.density.ode.runge_kutta import integrate
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import flat
from diffusion_density.process.model import Model
from diffusion_density.process.reverse_process import prior_sample

FIRST_STEP = 0.01  # of the interval of times


@dataclass(frozen=True)
class FlowSamples:
    """Samples and their cost.

    Attributes:
        x: (N, *) samples at ``schedule.s_start``; NaN where ``status`` is not 0.
        network_evaluations: (N,) passes of each sample through the network; the samples of a chunk share their steps.
        calls: of the network, over all chunks.
        status: (N,) 0 for a sample, else a key of ``density.result.STATUS``.
    """

    x: Float[Tensor, "n *event"]
    network_evaluations: Int[Tensor, " n"]
    calls: int
    status: Int[Tensor, " n"]


def sample_flow(
    model: Model,
    n: int,
    event: tuple[int, ...],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    generator: torch.Generator,
    chunk: int | None = None,
    dtype: torch.dtype = torch.float32,
    max_steps: int = 10_000,
) -> FlowSamples:
    """Draw n samples of shape ``event`` from the flow of a model with a Gaussian prior.

    Args:
        model: the score and its schedule.
        n: how many.
        event: the shape of one sample.
        rtol: relative tolerance of dopri5; at least 1e-6 in single precision.
        atol: absolute tolerance, likewise.
        generator: draws the sample of the prior, all of it before the first solve, on its own device.
        chunk: samples solved together, all by default. It changes them only within the tolerance.
        dtype: of the samples and of the solver.
        max_steps: the most steps per chunk.

    Returns:
        FlowSamples. Samples where the field was not finite are NaN with their status, and so are all samples of a chunk
        where the solver stopped early.

    Raises:
        InputError: for settings out of range, or a prior that can't be sampled.
    """
    if min(n, max_steps) < 1 or (chunk is not None and chunk < 1):
        raise InputError(f"sample_flow: n, chunk and max_steps must be at least 1, got {n}, {chunk} and {max_steps}")
    if not (rtol > 0 and atol > 0):
        raise InputError(f"sample_flow: tolerances must be positive, got rtol={rtol} and atol={atol}")
    if dtype != torch.float64 and min(rtol, atol) < 1e-6:
        raise InputError("sample_flow: tolerances below 1e-6 need double precision")
    z = prior_sample(model, n, event, generator=generator, dtype=dtype)
    solved = [_solve(part, start, rtol, atol, max_steps) for part, start in model.split(z, chunk or n)]
    return FlowSamples(
        x=torch.cat([part.x for part in solved]),
        network_evaluations=torch.cat([part.network_evaluations for part in solved]),
        calls=sum(part.calls for part in solved),
        status=torch.cat([part.status for part in solved]),
    )


def _solve(model: Model, z: Tensor, rtol: float, atol: float, max_steps: int) -> FlowSamples:
    """One chunk from its sample (B, *) of the prior."""
    span = model.schedule.s_max, model.schedule.s_start

    def field(state: Tensor, s: Tensor) -> Tensor:
        return flat(model.flow_drift(state.reshape(z.shape), s))

    with torch.no_grad():
        end, status, calls = integrate(
            field, model.schedule, flat(z), span, rtol, atol, max_steps, first_step=FIRST_STEP
        )
    return FlowSamples(
        x=end.masked_fill((status > 0)[:, None], torch.nan).reshape(z.shape),
        network_evaluations=torch.full_like(status, calls),
        calls=calls,
        status=status,
    )
