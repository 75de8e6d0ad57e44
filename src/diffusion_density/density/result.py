"""What every estimator returns: the number, its error, what it promises, and which density it estimates."""

import warnings
from dataclasses import dataclass, field
from math import nan
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from diffusion_density.machine.errors import InputError

Kind = Literal["exact", "unbiased", "lower", "upper"]
Density = Literal["flow", "sde"]

STATUS = {0: "ok", 1: "the field was not finite", 2: "the solver stopped before the end"}


@dataclass(frozen=True)
class LogDensity:
    """Log densities of B points.

    Attributes:
        value: (B,) nats (bits/dim where the function says so); NaN where ``status`` is not 0.
        stderr: (B,) standard error of the random part of each value, or None if nothing is random.
        kind: what the value is in expectation: ``exact`` (up to solver error), ``unbiased``, a ``lower`` or an
            ``upper`` bound.
        density: which density of the model it estimates: that of the probability-flow ODE, or of the reverse SDE.
        network_evaluations: forward-equivalent passes per point; a vector-Jacobian product counts as one more.
        settings: the settings of the estimator.
        status: (B,) 0 for a value, else the reason why there is none, a key of :data:`STATUS`.
    """

    value: Float[Tensor, " b"]
    stderr: Float[Tensor, " b"] | None
    kind: Kind
    density: Density
    network_evaluations: int
    settings: dict[str, Any] = field(default_factory=dict)
    status: Int[Tensor, " b"] | None = None

    @property
    def of(self) -> Density:
        """The old name of ``density``."""
        warnings.warn("LogDensity.of is called LogDensity.density now", DeprecationWarning, stacklevel=2)
        return self.density

    def failures(self) -> str | None:
        """One line with the number of points without a value and the reasons, or None if every point has a value."""
        if self.status is None or not bool(self.status.any()):
            return None
        counts = {text: int((self.status == code).sum()) for code, text in STATUS.items() if code}
        return "; ".join(f"{count} of {len(self.status)} points: {text}" for text, count in counts.items() if count)


def estimated(
    value: Float[Tensor, " b"],
    stderr: Float[Tensor, " b"] | None,
    *,
    kind: Kind,
    density: Density,
    network_evaluations: int,
    settings: dict[str, Any],
) -> LogDensity:
    """A Monte Carlo estimate with its status: values that are not finite become NaN, and so do their errors."""
    failed = ~value.isfinite()
    return LogDensity(
        value=value.masked_fill(failed, nan),
        stderr=None if stderr is None else stderr.masked_fill(failed, nan),
        kind=kind,
        density=density,
        network_evaluations=network_evaluations,
        settings=settings,
        status=failed.long(),
    )


def check_points(x: Tensor) -> None:
    """Check that estimators can use a batch.

    Raises:
        InputError: if x is not a floating-point batch (B, *), is empty, or has numbers that are not finite. The
            message names the first such point.
    """
    if x.ndim < 2 or not x.is_floating_point() or not x.numel():
        raise InputError(f"points: a floating-point batch (B, *) expected, got {x.dtype} of shape {tuple(x.shape)}")
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(f"points: point {int((~finite).nonzero()[0])} has numbers that are not finite")
