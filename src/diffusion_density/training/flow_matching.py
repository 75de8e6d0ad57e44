r"""Maximum likelihood on log-linear schedules: first- and second-order flow matching (Zheng, Lu, Chen and Zhu 2023).

At y = α x + σ ε, γ = log(σ²/α²), the network's output Z_θ(y, s) is compared with the target Z of its prediction. For
each prediction the error of the noise is a factor times the error of the output, ε − ε̂ = c (Z − Ẑ), so that

.. math:: J = \tfrac12 \int_{\gamma_0}^{\gamma_1} E\|\varepsilon - \hat\varepsilon\|^2\, d\gamma
          = \tfrac12 \int_{\gamma_0}^{\gamma_1} c^2(\gamma)\, E\|Z - \hat Z\|^2\, d\gamma, \qquad
          c = 1 \text{ (noise)},\ \sigma \text{ (score, entropy)},\ \alpha \text{ or } \sqrt2\,\alpha \text{ (velocity)}

(α on the variance-preserving path, √2 α on the straight path; up to the sign). J is the diffusion term of the bound on
−log p in nats, for every prediction and every density p(γ) of the times. One throw (a random draw of time and noise)
estimates J by w ‖Z − Ẑ‖² with w = c²/(2 p). For velocities and times drawn from p ∝ α² the weight is constant: Z_vp/2 =
6.6466 or Z_straight = 11.2991.

The second-order objective (for the velocity F) also fits the trace of the Jacobian, that is, the divergence in the
likelihood of the flow. At the optimum F*, in N dimensions,

.. math:: \sigma\, \mathrm{tr} \frac{\partial F^*}{\partial y}
          = \alpha\,(N - E\|F - F^*\|^2) \text{ (vp)}, \qquad
          = N/\sqrt2 - \sqrt2\, \alpha\, E\|F - F^*\|^2 \text{ (straight)},

The objective adds the term (λ/N) w (σ vᵀ(∂F̂/∂y)v − right-hand side)², with one Rademacher probe v and with the
network's own residual ‖F − F̂‖², held constant, in place of the expectation. Because there is only one v, the term also
penalises the off-diagonal part of the Jacobian.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import flat, per_row
from diffusion_density.process.predictions import Prediction, checked, training_target
from diffusion_density.process.proposals import Proposal, Uniform
from diffusion_density.process.schedules import LogLinear

TimeDensity = Literal["uniform", "importance"]


class FlowMatching:
    """The objective with one throw (time, noise) per example.

    Args:
        schedule: the path.
        prediction: what the network outputs.
        times: density of the times: "uniform" in γ, or "importance", proportional to α².
        trace_weight: λ of the second-order term; 0 leaves it out.

    Raises:
        InputError: for an unknown prediction or density, a negative λ, or λ > 0 with another prediction than velocity.
    """

    def __init__(
        self,
        schedule: LogLinear,
        prediction: Prediction = "velocity",
        times: TimeDensity = "importance",
        trace_weight: float = 0.0,
    ) -> None:
        if times not in ("uniform", "importance"):
            raise InputError(f"objective: times are 'uniform' or 'importance', not {times!r}")
        if not 0 <= trace_weight < float("inf"):
            raise InputError(f"objective: the weight of the trace term must be at least 0, got {trace_weight}")
        if trace_weight and prediction != "velocity":
            raise InputError(f"objective: the trace term is for predictions of velocity, not of {prediction}")
        self.schedule = schedule
        self.prediction = checked(prediction)
        self.times = times
        self.trace_weight = trace_weight
        self._alpha_squared = schedule.alpha_squared(schedule.gamma_min, schedule.gamma_max)
        self._proposal: Proposal = self._alpha_squared if times == "importance" else Uniform(0.0, 1.0)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of this objective, as JSON values."""
        schedule = self.schedule
        return {
            "path": schedule.path,
            "gamma_min": schedule.gamma_min,
            "gamma_max": schedule.gamma_max,
            "prediction": self.prediction,
            "times": self.times,
            "trace_weight": self.trace_weight,
        }

    def throw(self, u: Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Times s and weights w of ‖Z − Ẑ‖² (in nats) for uniform random numbers u ∈ [0, 1) in double precision."""
        s = self._proposal.times(u)
        schedule = self.schedule
        per_gamma = torch.full_like(s, 0.5)
        if self.prediction == "velocity":
            per_gamma = self._alpha_squared.weight(-schedule.log_snr(s))
        elif self.prediction in ("score", "entropy"):
            per_gamma = per_gamma * schedule.sigma(s).square()
        return s, per_gamma * (schedule.gamma_max - schedule.gamma_min) / self._proposal.density(s)

    def probe(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """Random signs ±1, shape (B, *) like x, if the objective needs them."""
        if not self.trace_weight:
            return None
        signs = torch.randint(0, 2, x.shape, generator=generator, device=x.device, dtype=torch.int8)
        return (2 * signs - 1).to(x.dtype)

    def __call__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        u: Float[Tensor, " b"],
        noise: Tensor,
        probe: Tensor | None = None,
    ) -> Float[Tensor, " b"]:
        """The loss of each example, summed over dimensions, in nats; divide by N log 2 to get bits/dim.

        Args:
            network: called as ``network(y, s)``, y of shape (B, *) and s of shape (B,), giving (B, *).
            x: (B, *) the data.
            u: (B,) uniform random numbers for the times, double precision.
            noise: (B, *) ε.
            probe: (B, *) from `probe`, for the second-order objective.

        Raises:
            InputError: if the second-order objective gets no probe.
        """
        s, weight = (values.to(x.dtype) for values in self.throw(u))
        alpha, sigma = self.schedule.alpha(s), self.schedule.sigma(s)
        y = per_row(alpha, x) * x + per_row(sigma, x) * noise
        if self.trace_weight:
            if probe is None:
                raise InputError("objective: the trace term needs a probe")
            y.requires_grad_()
        output = network(y, s)
        error = flat(training_target(self.prediction, x, noise, self.schedule, s) - output).square().sum(1)
        if probe is None or not self.trace_weight:
            return weight * error
        pulled = torch.autograd.grad((output * probe).sum(), y, create_graph=True)[0]
        trace = flat(pulled * probe).sum(1)
        dims = x[0].numel()
        miss = sigma * trace - self.expected_trace(s, error.detach(), dims)
        return weight * (error + self.trace_weight / dims * miss.square())

    def expected_trace(self, s: Tensor, error: Tensor, dims: int) -> Tensor:
        """σ tr ∂F*/∂y at times s in ``dims`` dimensions, where E‖F − F*‖² is ``error``; all of one shape."""
        alpha, (b, _, norm) = self.schedule.alpha(s), self.schedule.velocity(s)
        return alpha * (b / (norm * alpha) * dims - norm * error)
