r"""log p of one flow by other libraries, with the same field, points, start, prior and precision.

Each integrates dx/ds = v and d(log det)/ds = div v from s_start to s_max with rtol = atol = ``tolerance`` and an exact
divergence; everything else is its own default. The field is that of our model, called with one time for all points, so
that every library embeds the time once per call. A vector-Jacobian product counts as one more evaluation.
"""

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

import diffusion_density as dd
from diffusion_density.process.model import Model

Answer = tuple[Tensor, int]  # (B,) log p in nats, and network evaluations per point
Solver = Callable[[Model, Tensor, float], Answer]


class _Field:
    """The velocity v(x, s) of a model's flow, with a counter of its calls."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.calls = 0

    def __call__(self, x: Tensor, s: Tensor | float) -> Tensor:
        self.calls += 1
        return self.model.flow_drift(x, s)

    def with_divergence(self, x: Tensor, s: Tensor | float) -> tuple[Tensor, Tensor]:
        """v (B, D) and div v (B,), by a loop of vector-Jacobian products."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = self(x, s)
            last = x.shape[1] - 1
            rows = [torch.autograd.grad(v[:, i].sum(), x, retain_graph=i < last)[0][:, i] for i in range(last + 1)]
        return v.detach(), torch.stack(rows).sum(0)


def ours(model: Model, x: Tensor, tolerance: float) -> Answer:
    """This library's flow, by sweeps."""
    answer = dd.density.flow(model, x, solver="sweeps", rtol=tolerance, atol=tolerance)
    return answer.value, answer.network_evaluations


def torchdiffeq(model: Model, x: Tensor, tolerance: float, method: str = "dopri5") -> Answer:
    """Torchdiffeq itself: the augmented state is a tuple, and its error norm the root mean square over all points."""
    from torchdiffeq import odeint

    field = _Field(model)
    times = torch.tensor([model.schedule.s_start, model.schedule.s_max], dtype=x.dtype)
    state = x, x.new_zeros(len(x))
    with torch.no_grad():
        points, log_det = odeint(
            lambda s, state: field.with_divergence(state[0], s),
            state,
            times,
            rtol=tolerance,
            atol=tolerance,
            method=method,
        )
        return model.prior.log_prob(points[-1]) + log_det[-1], field.calls * (1 + x.shape[1])


def zuko(model: Model, x: Tensor, tolerance: float) -> Answer:
    """The transform of zuko's continuous normalising flows, from the data to the prior."""
    from zuko.transforms import FreeFormJacobianTransform

    field, schedule = _Field(model), model.schedule
    transform = FreeFormJacobianTransform(
        lambda s, x: field(x, s), schedule.s_start, schedule.s_max, atol=tolerance, rtol=tolerance, exact=True
    )
    with torch.no_grad():
        end, log_det = transform.call_and_ladj(x)
        return model.prior.log_prob(end) + log_det, field.calls * (1 + x.shape[1])


def flow_matching(model: Model, x: Tensor, tolerance: float) -> Answer:
    """The solver of flow_matching, whose time runs from 1 at the data to 0, with dopri5 in place of one Euler step."""
    from flow_matching.solver import ODESolver

    field, schedule = _Field(model), model.schedule
    span = schedule.s_max - schedule.s_start

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return -span * field(x, schedule.s_start + span * (1 - t))

    _, value = ODESolver(velocity).compute_likelihood(
        x, model.prior.log_prob, step_size=None, method="dopri5", rtol=tolerance, atol=tolerance, exact_divergence=True
    )
    return value, field.calls * (1 + x.shape[1])


def scipy(model: Model, x: Tensor, tolerance: float) -> Answer:
    """SciPy's RK45 as score_sde calls it: a flat NumPy state, and two passes, for the field and for its divergence."""
    from scipy.integrate import solve_ivp

    field, schedule = _Field(model), model.schedule

    def augmented(s: float, state: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(state[: x.numel()]).to(x).reshape(x.shape)
        parts = field(points, s), field.with_divergence(points, s)[1]
        return np.concatenate([part.numpy().reshape(-1) for part in parts])

    start = np.concatenate([x.numpy().reshape(-1), np.zeros(len(x))])
    with torch.no_grad():
        solution = solve_ivp(augmented, (schedule.s_start, schedule.s_max), start, rtol=tolerance, atol=tolerance)
        end = torch.from_numpy(solution.y[:, -1])
        points, log_det = end[: x.numel()].to(x).reshape(x.shape), end[x.numel() :]
        return model.prior.log_prob(points) + log_det, solution.nfev * (2 + x.shape[1])


SOLVERS: dict[str, Solver] = {
    "ours": ours,
    "torchdiffeq": torchdiffeq,
    "flow_matching": flow_matching,
    "zuko": zuko,
    "scipy": scipy,
}


def absent() -> list[str]:
    """The other libraries that are not installed."""
    return [name for name in SOLVERS if name != "ours" and find_spec(name) is None]


def versions() -> dict[str, str]:
    """The versions of the other libraries that are installed."""
    return {name: version(name) for name in SOLVERS if name != "ours" and find_spec(name) is not None}
