r"""The divergence of a vector field, exactly or by random probes.

.. math:: \mathrm{div}\, v(x) = \sum_i \partial_i v_i = \sum_i e_i^T J e_i = E[\eta^T J \eta], \quad E[\eta\eta^T] = I.

Both forms need only vector-Jacobian products, one backward pass for each e_i or η; on CPUs a plain loop of them is as
fast as its arithmetic allows. Hutchinson's estimator uses Rademacher probes. They are an argument, since a probe must
stay the same over an ODE solve, or the field is not a function of time.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.networks.mlp import MLP
from diffusion_density.process.batches import flat
from diffusion_density.process.model import DiffusionModel, Model

Field = Callable[[Tensor], Tensor]


def with_divergence(field: Field, x: Tensor, probes: Tensor | None = None) -> tuple[Tensor, Float[Tensor, "b k"]]:
    """A field and its divergence at the same points, from one forward pass.

    Args:
        field: maps (B, *) to (B, *), each row independently.
        x: (B, *).
        probes: (B, K, *) probes η, or None for the exact divergence.

    Returns:
        The field (B, *), and its divergence (B, 1), or one estimate per probe (B, K); in any mode of autograd.
    """
    with torch.inference_mode(False), torch.enable_grad():  # without it the result is 0, without an error
        point = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        value = field(point)
        if probes is None:
            count = flat(value).shape[1]
            rows = (_pull(flat(value)[:, i].sum(), point, i < count - 1).flatten(1)[:, i] for i in range(count))
            divergence = sum(rows, torch.zeros(len(x), dtype=x.dtype, device=x.device))[:, None]
        else:
            count = probes.shape[1]
            pulled = ((_pull((value * p).sum(), point, k < count - 1), p) for k, p in enumerate(probes.unbind(1)))
            divergence = torch.stack([(flat(j) * flat(p)).sum(1) for j, p in pulled], dim=1)
    return value.detach(), divergence.detach()


def flow_with_divergence(model: Model, x: Float[Tensor, "b d"], s: Tensor) -> tuple[Tensor, Float[Tensor, " b"]]:
    """The drift (B, D) of a model's flow at one time and its exact divergence (B,), for vectors.

    Where the divergence is a factor times the trace of the network's Jacobian, a network that computes its own trace is
    used.
    """
    if isinstance(model, DiffusionModel) and model.prediction == "entropy" and model.context is None:
        network = model.network
        if isinstance(network, MLP):
            value, trace = network.with_trace(x, s[None])
            factor = (-0.5 * model.schedule.diffusion(s)).to(x)
            return factor * value, factor * trace
    value, divergence = with_divergence(lambda y: model.flow_drift(y, s), x)
    return value, divergence[:, 0]


def _pull(scalar: Tensor, point: Tensor, retain: bool) -> Tensor:
    """The gradient of a scalar, or zeros if it does not depend on the point."""
    if not scalar.requires_grad:
        return torch.zeros_like(point)
    gradient = torch.autograd.grad(scalar, point, retain_graph=retain, allow_unused=True)[0]
    return torch.zeros_like(point) if gradient is None else gradient


def rademacher(x: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """(B, K, *) probes ±1 for points (B, *); the draws of one point are consecutive in the generator's stream."""
    shape = (x.shape[0], count, *x.shape[1:])
    return torch.randint(0, 2, shape, generator=generator, device=x.device).to(x.dtype) * 2 - 1
