r"""Score alignment: does scaling the latent of the flow change the density of its sample, and in which direction?

Let x_0(x_T) be the map of the probability-flow ODE dx/ds = v. A step of the latent along ∇log p_T moves log p_0 by

.. math:: SA = \Big\langle \nabla\log p_0(x_0),\ \frac{\partial x_0}{\partial x_T} \nabla\log p_T(x_T) \Big\rangle

(paper C's follow-up; sheet, section 5). Where SA > 0 along the way, and p_T is the normal prior whose score is radial,
a shorter latent gives a denser sample. The product of the Jacobian with the score is the solution w_0 of

.. math:: \frac{dw}{ds} = J_v(x_s)\, w, \qquad w_T = \nabla\log p_T(x_T),

one Jacobian-vector product beside each call of the flow, by two passes back. For a normal law SA = ‖∇log p_T(x_T)‖²,
since the map takes the one normal law's standardised coordinates to the other's. It is negative, for example, for a
sample between two modes, whose latent is drawn inwards and which is itself drawn outwards.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp

from diffusion_density.density.result import check_points
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS
from diffusion_density.process.broadcasting import flat
from diffusion_density.process.model import Model
from diffusion_density.sampling.mode_tracking import log_snr_nodes, rates, runge_kutta


def score_alignment(model: Model, x: Float[Tensor, "b *event"], *, steps: int = 100) -> Float[Tensor, " b"]:
    """SA of latents: the derivative of log p at s_start along the latent's own score.

    Args:
        model: the score and its schedule.
        x: (B, *) latents at s_max; their dtype is the precision of the solve.
        steps: of the Runge–Kutta method of fourth order, equal in log-SNR. A step costs twelve network evaluations, of
            which eight are passes back.

    Returns:
        (B,) SA, in nats per unit of length times the score's norm; positive where the latent is aligned.

    Raises:
        InputError: for latents that are not finite, or no steps.
    """
    check_points(x)
    if steps < 1:
        raise InputError(f"score_alignment: steps must be at least 1, got {steps}")
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([_alignment(part, latents, steps) for part, latents in model.split(x.clone(), ROWS)])


def _alignment(model: Model, x: Tensor, steps: int) -> Float[Tensor, " b"]:
    schedule = model.schedule

    def field(state: Tensor, log_snr: Tensor) -> Tensor:
        s, factor, variance = rates(schedule, log_snr)
        score, pull, *_ = vjp(lambda y: model.score(y, s), state[0])
        _, push, *_ = vjp(lambda row: pull(row)[0], torch.zeros_like(score))  # J w: of the linear map row ↦ Jᵀ row
        return factor * state + 0.5 * variance * torch.stack([score, push(state[1])[0]])

    start = torch.stack([x, model.score(x, schedule.s_max)])
    sample, tangent = runge_kutta(field, start, log_snr_nodes(schedule, schedule.s_max, steps, x.device))
    return (flat(model.score(sample, schedule.s_start)) * flat(tangent)).sum(1)
