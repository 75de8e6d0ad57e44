r"""Score alignment: how does scaling the latent of the flow change the density of its sample?

Let x_0(x_T) be the map of the probability-flow ODE dx/ds = v. A step of the latent along ∇log p_T changes log p_0 by

.. math:: SA = \Big\langle \nabla\log p_0(x_0),\ \frac{\partial x_0}{\partial x_T} \nabla\log p_T(x_T) \Big\rangle

per unit (Karczewski, Heinonen and Garg 2025b). If SA > 0 on the whole way, a shorter latent gives a sample of higher
density, since the score of the Gaussian prior p_T is radial. The product of the Jacobian with the score is the solution
w_0 of

.. math:: \frac{dw}{ds} = J_v(x_s)\, w, \qquad w_T = \nabla\log p_T(x_T),

with one Jacobian-vector product, by two backward passes, for each call of the flow. For Gaussian data
SA = ‖∇log p_T(x_T)‖², since the map keeps standardised coordinates. SA is negative, for example, for a sample between
two modes: the score moves its latent towards the centre, and the sample itself away from it.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp

from diffusion_density.density.result import check_points
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS_PER_CALL, flat
from diffusion_density.process.model import Model
from diffusion_density.sampling.mode_tracking import log_snr_nodes, rates, runge_kutta


def score_alignment(model: Model, x: Float[Tensor, "b *event"], *, steps: int = 100) -> Float[Tensor, " b"]:
    """SA of latents: the derivative of log p at s_start along the latent's own score.

    Args:
        model: the score and its schedule.
        x: (B, *) latents at s_max; their dtype is the precision of the solver.
        steps: of the Runge–Kutta method of fourth order, equal in log-SNR. A step costs twelve network evaluations;
            eight of them are backward passes.

    Returns:
        (B,) SA, in nats per unit of length times the score's norm; positive where the latent is aligned.

    Raises:
        InputError: for latents that are not finite, or no steps.
    """
    check_points(x)
    if steps < 1:
        raise InputError(f"score_alignment: steps must be at least 1, got {steps}")
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([_alignment(part, latents, steps) for part, latents in model.split(x.clone(), ROWS_PER_CALL)])


def _alignment(model: Model, x: Tensor, steps: int) -> Float[Tensor, " b"]:
    schedule = model.schedule

    def field(state: Tensor, log_snr: Tensor) -> Tensor:
        s, factor, variance = rates(schedule, log_snr)
        score, pull, *_ = vjp(lambda y: model.score(y, s), state[0])
        _, push, *_ = vjp(lambda row: pull(row)[0], torch.zeros_like(score))  # J w, from the linear map row ↦ Jᵀ row
        return factor * state + 0.5 * variance * torch.stack([score, push(state[1])[0]])

    start = torch.stack([x, model.score(x, schedule.s_max)])
    sample, tangent = runge_kutta(field, start, log_snr_nodes(schedule, schedule.s_max, steps, x.device))
    return (flat(model.score(sample, schedule.s_start)) * flat(tangent)).sum(1)
