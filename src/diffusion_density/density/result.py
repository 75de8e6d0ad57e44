"""What every estimator returns: the number, its error, what it promises, and of which density it speaks."""

from dataclasses import dataclass, field
from math import nan
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from diffusion_density.machine.errors import InputError

Kind = Literal["exact", "unbiased", "lower", "upper"]
Of = Literal["flow", "sde"]

STATUS = {0: "ok", 1: "the field was not finite", 2: "the solver stopped before the end"}


@dataclass(frozen=True)
class LogDensity:
    """Log densities of B points.

    Attributes:
        value: (B,) nats (bits/dim where the function says so); NaN where ``status`` is not 0.
        stderr: (B,) standard error of the Monte Carlo part of each value, or None where nothing is random.
        kind: what it promises in expectation: ``exact`` (up to solver error), ``unbiased``, ``lower``, ``upper``.
        of: the density it speaks of: that of the probability-flow ODE or that of the reverse SDE.
        network_evaluations: forward-equivalent passes a point; a vector-Jacobian product counts as one more.
        settings: what the estimator was run with.
        status: (B,) 0 where all went well, else a key of :data:`STATUS`.
    """

    value: Float[Tensor, " b"]
    stderr: Float[Tensor, " b"] | None
    kind: Kind
    of: Of
    network_evaluations: int
    settings: dict[str, Any] = field(default_factory=dict)
    status: Int[Tensor, " b"] | None = None

    def failures(self) -> str | None:
        """One line that counts the points without a value and says why, or None if every point has one."""
        if self.status is None or not bool(self.status.any()):
            return None
        counts = {text: int((self.status == code).sum()) for code, text in STATUS.items() if code}
        return "; ".join(f"{count} of {len(self.status)} points: {text}" for text, count in counts.items() if count)


def estimated(
    value: Float[Tensor, " b"],
    stderr: Float[Tensor, " b"] | None,
    *,
    kind: Kind,
    of: Of,
    network_evaluations: int,
    settings: dict[str, Any],
) -> LogDensity:
    """A Monte Carlo estimate with its status: points whose value is not finite become NaN, and so do their errors."""
    failed = ~value.isfinite()
    return LogDensity(
        value=value.masked_fill(failed, nan),
        stderr=None if stderr is None else stderr.masked_fill(failed, nan),
        kind=kind,
        of=of,
        network_evaluations=network_evaluations,
        settings=settings,
        status=failed.long(),
    )


def check_points(x: Tensor) -> None:
    """Refuse a batch that no estimator can use.

    Raises:
        InputError: if x is not a floating-point batch (B, *), is empty, or holds numbers that are not finite; the
            first such point is named.
    """
    if x.ndim < 2 or not x.is_floating_point() or not x.numel():
        raise InputError(f"points: a floating-point batch (B, *) expected, got {x.dtype} of shape {tuple(x.shape)}")
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(f"points: point {int((~finite).nonzero()[0])} holds numbers that are not finite")
