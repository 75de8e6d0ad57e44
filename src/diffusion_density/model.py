r"""A diffusion model: a score, its forward process, and the distribution it starts from.

One score defines two generative models with different densities at the data end: the *flow density* of the
probability-flow ODE and the *SDE density* of the reverse SDE (paper C, section 1). Forward in s their drifts are

.. math:: v = f x - \tfrac12 g^2 \nabla\log p_s \ \text{(flow)}, \qquad u = f x - g^2 \nabla\log p_s \ \text{(SDE)}.

Both start at s_max from ``prior``. Estimators take any :class:`Model`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from diffusion_density.broadcasting import distinct_time, expand_time, flat, per_row
from diffusion_density.predictions import Prediction, checked, from_score, to_score
from diffusion_density.schedules import Schedule


@runtime_checkable
class Prior(Protocol):
    """The distribution at s_max."""

    def log_prob(self, x: Tensor) -> Float[Tensor, " b"]:
        """(B,) log density in nats at x of shape (B, *)."""


@runtime_checkable
class ByPlace(Protocol):
    """A network that treats the rows of a batch by their place in it."""

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        """(B, *) for x of shape (B, *) and s of shape (B,)."""

    def at_rows(self, index: Int[Tensor, " n"], batch: int) -> "ByPlace":
        """The network of the rows at these places of a batch of that many, in this order."""


class GaussianPrior:
    """N(0, variance I) over events of any shape."""

    def __init__(self, variance: float) -> None:
        self.variance = variance

    def log_prob(self, x: Tensor) -> Float[Tensor, " b"]:
        """(B,) log density in nats at x of shape (B, *)."""
        return self.expected_log_prob(x, 0.0)

    def expected_log_prob(self, mean: Tensor, std: float) -> Float[Tensor, " b"]:
        """E log N(y; 0, variance I) in nats over y ~ N(mean, std² I), in closed form; mean of shape (B, *)."""
        rows = flat(mean)
        dimension = rows.shape[1]
        second_moment = rows.square().sum(1) + dimension * std**2
        return -0.5 * (dimension * math.log(2 * math.pi * self.variance) + second_moment / self.variance)


class Model(ABC):
    """A score on a schedule, with the distribution that generation starts from.

    Attributes:
        schedule: the forward process.
        prior: the distribution at s_max.
    """

    schedule: Schedule
    prior: Prior

    @property
    def normal_prior(self) -> GaussianPrior:
        """The prior if it is normal, else N(0, σ²(s_max) I), to which closed forms refer."""
        if isinstance(self.prior, GaussianPrior):
            return self.prior
        return GaussianPrior(self.schedule.at(self.schedule.s_max)[1] ** 2)

    @abstractmethod
    def score(self, x: Tensor, s: Tensor | float) -> Tensor:
        """∇log p_s(x), shape (B, *) like x, at one time or at times of shape (B,)."""

    def at_rows(self, index: Int[Tensor, " n"], batch: int) -> "Model":
        """The model of the rows at these places of a batch of that many: another only if its answers depend on them."""
        del index, batch
        return self

    def _as(self, prediction: Prediction, x: Tensor, s: Tensor | float) -> Tensor:
        return from_score(prediction, self.score(x, s), self.schedule, x, expand_time(s, x))

    def noise(self, x: Tensor, s: Tensor | float) -> Tensor:
        """E[ε | x] = −σ ∇log p_s(x), shape (B, *)."""
        return self._as("noise", x, s)

    def entropy(self, x: Tensor, s: Tensor | float) -> Tensor:
        """∇log p_s(x) − ∇log p_eq(x), shape (B, *) (paper A, section 1)."""
        return self._as("entropy", x, s)

    def velocity(self, x: Tensor, s: Tensor | float) -> Tensor:
        """The normalised path velocity, shape (B, *) (paper D, section 1.2)."""
        return self._as("velocity", x, s)

    def flow_drift(self, x: Tensor, s: Tensor | float) -> Tensor:
        """dx/ds of the probability-flow ODE, f x − ½ g² ∇log p_s(x), shape (B, *)."""
        time = distinct_time(expand_time(s, x))
        drift, diffusion = self.schedule.drift(time), self.schedule.diffusion(time)
        return per_row(drift, x) * x - per_row(0.5 * diffusion, x) * self.score(x, s)


class DiffusionModel(Model):
    """A network read as a score.

    Args:
        network: any module called as ``network(x, s)``, x of shape (B, *) and s of shape (B,), giving (B, *).
        schedule: the forward process that it was trained on.
        prediction: what the network outputs: noise, score, entropy or velocity.
        prior: the distribution at s_max; N(0, σ²(s_max) I) by default.

    Raises:
        InputError: if the prediction has no such name.
    """

    def __init__(
        self,
        network: nn.Module | Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        prediction: Prediction = "noise",
        prior: Prior | None = None,
    ) -> None:
        self.network = network
        self.schedule = schedule
        self.prediction = checked(prediction)
        self.prior = GaussianPrior(schedule.at(schedule.s_max)[1] ** 2) if prior is None else prior

    def score(self, x: Tensor, s: Tensor | float) -> Tensor:
        time = expand_time(s, x)
        return to_score(self.prediction, self.network(x, time), self.schedule, x, time)

    def at_rows(self, index: Int[Tensor, " n"], batch: int) -> "DiffusionModel":
        if not isinstance(self.network, ByPlace):
            return self
        return DiffusionModel(self.network.at_rows(index, batch), self.schedule, self.prediction, self.prior)

    def _as(self, prediction: Prediction, x: Tensor, s: Tensor | float) -> Tensor:
        if prediction == self.prediction:
            return self.network(x, expand_time(s, x))
        return super()._as(prediction, x, s)

    def flow_drift(self, x: Tensor, s: Tensor | float) -> Tensor:
        if self.prediction != "entropy":
            return super().flow_drift(x, s)
        time = expand_time(s, x)  # f x − ½g²(e + 2f x/g²) = −½g² e: the drift cancels exactly
        return per_row(-0.5 * self.schedule.diffusion(time), x) * self.network(x, time)
