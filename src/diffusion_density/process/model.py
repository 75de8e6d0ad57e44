r"""A diffusion model: a score, its forward process, and the distribution that generation starts from.

One score defines two generative models with different densities at the data end: the *flow density* of the
probability-flow ODE, and the *SDE density* of the reverse SDE (Song et al. 2021). Forward in s their drifts are

.. math:: v = f x - \tfrac12 g^2 \nabla\log p_s \ \text{(flow)}, \qquad u = f x - g^2 \nabla\log p_s \ \text{(SDE)}.

Both start at s_max from ``prior``. Estimators take any :class:`Model`.

A model of p(x | c) holds the contexts c of a batch. The points of the batch belong to the contexts in order, the same
number to each, and so do the rows that an estimator makes from the points. Code that splits a batch uses
``Model.split``, which splits the contexts too.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import distinct_time, expand_time, flat, per_row
from diffusion_density.process.predictions import Prediction, checked, from_score, to_score
from diffusion_density.process.schedules import Schedule


@runtime_checkable
class Prior(Protocol):
    """The distribution at s_max."""

    def log_prob(self, x: Tensor) -> Float[Tensor, " b"]:
        """(B,) log density in nats at x of shape (B, *)."""


@runtime_checkable
class ByPlace(Protocol):
    """A network whose output for a row depends on the place of the row in the batch."""

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        """(B, *) for x of shape (B, *) and s of shape (B,)."""

    def at_rows(self, rows: slice | Int[Tensor, " r"], points: int) -> "ByPlace":
        """The network for some rows, in this order, of a batch of that many points."""


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
        """The prior if it is Gaussian, else N(0, σ²(s_max) I), the reference of closed forms."""
        if isinstance(self.prior, GaussianPrior):
            return self.prior
        return GaussianPrior(self.schedule.at(self.schedule.s_max)[1] ** 2)

    @abstractmethod
    def score(self, x: Tensor, s: Tensor | float) -> Tensor:
        """∇log p_s(x), shape (B, *) like x, at one time or at times of shape (B,)."""

    def at_rows(self, rows: slice | Int[Tensor, " r"], points: int) -> "Model":  # noqa: ARG002
        """The model for some rows of a batch of B points: itself, unless its output depends on the place of a row."""
        return self

    def split(self, x: Tensor, size: int) -> Iterator[tuple["Model", Tensor]]:
        """A batch (B, *) in parts of at most ``size`` points, each with its model."""
        for first in range(0, len(x), size):
            rows = slice(first, first + size)
            yield self.at_rows(rows, len(x)), x[rows]

    def _as(self, prediction: Prediction, x: Tensor, s: Tensor | float) -> Tensor:
        return from_score(prediction, self.score(x, s), self.schedule, x, expand_time(s, x))

    def noise(self, x: Tensor, s: Tensor | float) -> Tensor:
        """E[ε | x] = −σ ∇log p_s(x), shape (B, *)."""
        return self._as("noise", x, s)

    def entropy(self, x: Tensor, s: Tensor | float) -> Tensor:
        """∇log p_s(x) − ∇log p_eq(x), shape (B, *): the score minus that of the equilibrium (Premkumar 2024)."""
        return self._as("entropy", x, s)

    def velocity(self, x: Tensor, s: Tensor | float) -> Tensor:
        """E[(b ε − c x₀)/n | x], the normalised velocity of the path, shape (B, *): see `schedules.schedule`."""
        return self._as("velocity", x, s)

    def flow_drift(self, x: Tensor, s: Tensor | float) -> Tensor:
        """dx/ds of the probability-flow ODE, f x − ½ g² ∇log p_s(x), shape (B, *)."""
        time = distinct_time(expand_time(s, x))
        drift, diffusion = self.schedule.drift(time), self.schedule.diffusion(time)
        return per_row(drift, x) * x - per_row(0.5 * diffusion, x) * self.score(x, s)


class DiffusionModel(Model):
    """A network whose output is converted to a score.

    Args:
        network: any module called as ``network(x, s)``, x of shape (B, *) and s of shape (B,), that returns (B, *). A
            network of p(x | c) is called as ``network(x, s, context)``, see :meth:`given`.
        schedule: the forward process that it was trained on.
        prediction: what the network outputs: noise, score, entropy or velocity.
        prior: the distribution at s_max; N(0, σ²(s_max) I) by default.

    Raises:
        InputError: if there is no prediction of that name, or the schedule has no noise at s_start or no signal at
            s_max.
    """

    def __init__(
        self,
        network: nn.Module | Callable[..., Tensor],
        schedule: Schedule,
        prediction: Prediction = "noise",
        prior: Prior | None = None,
    ) -> None:
        self.network = network
        self.schedule = schedule
        self.prediction = checked(prediction)
        sigma = schedule.noise_end()[1]
        self.prior = GaussianPrior(sigma**2) if prior is None else prior
        self.context: Tensor | None = None

    def given(self, context: Float[Tensor, "b *c"]) -> "DiffusionModel":
        """The model of p(x | context), for any estimator or sampler.

        Args:
            context: (B, *) one context per point of the next batch, or per group of consecutive points, all groups of
                the same size; (1, *) is one context for all points.
        """
        model = copy.copy(self)
        model.context = context
        return model

    def at_rows(self, rows: slice | Int[Tensor, " r"], points: int) -> Model:
        model = self if self.context is None else self.given(_shared(self.context, points)[rows])
        if isinstance(self.network, ByPlace):
            model = copy.copy(model)
            model.network = self.network.at_rows(rows, points)
        return model

    def score(self, x: Tensor, s: Tensor | float) -> Tensor:
        time = expand_time(s, x)
        return to_score(self.prediction, self._output(x, time), self.schedule, x, time)

    def _output(self, x: Tensor, time: Tensor) -> Tensor:
        if self.context is None:
            return self.network(x, time)
        return self.network(x, time, _shared(self.context, len(x)))

    def _as(self, prediction: Prediction, x: Tensor, s: Tensor | float) -> Tensor:
        if prediction == self.prediction:
            return self._output(x, expand_time(s, x))
        return super()._as(prediction, x, s)

    def flow_drift(self, x: Tensor, s: Tensor | float) -> Tensor:
        if self.prediction != "entropy":
            return super().flow_drift(x, s)
        time = expand_time(s, x)  # f x − ½g²(e + 2f x/g²) = −½g² e: the drift cancels exactly
        return per_row(-0.5 * self.schedule.diffusion(time), x) * self._output(x, time)


def _shared(context: Tensor, rows: int) -> Tensor:
    """The context of each row: consecutive rows, the same number for each context."""
    each, left = divmod(rows, len(context))
    if left:
        raise InputError(f"model: {rows} points can't be shared equally among {len(context)} contexts")
    return context.repeat_interleave(each, dim=0)
