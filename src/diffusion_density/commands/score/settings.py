"""What the estimators of `score` are run with. No torch is needed for it, so that the command line can show it."""

from dataclasses import dataclass
from typing import Literal

Dequantization = Literal["truncated_normal", "uniform", "variational"]


@dataclass(frozen=True)
class Settings:
    """Settings of all estimators; each reads those that it has.

    Attributes:
        tolerance: relative and absolute tolerance of the flow solver; per dimension for images.
        throws: network evaluations per point or image of every estimator but the flow.
        probes: random probes of the flow without the exact trace, for each point or dequantized version.
        draws: dequantized versions per image.
        dequantization: distribution of the versions.
        seed: of all random numbers; each estimator starts from it.
    """

    tolerance: float = 1e-6
    throws: int = 8192
    probes: int = 16
    draws: int = 4
    dequantization: Dequantization = "truncated_normal"
    seed: int = 0


FOR_POINTS = Settings()
FOR_IMAGES = Settings(tolerance=1e-4, throws=512, probes=1)
