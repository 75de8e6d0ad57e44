"""Noise schedules, each imported at first use. Their common interface is in `schedule`."""

from typing import TYPE_CHECKING

from diffusion_density.machine.lazy import export

if TYPE_CHECKING:
    from diffusion_density.process.schedules.discrete import Discrete
    from diffusion_density.process.schedules.log_linear import LogLinear
    from diffusion_density.process.schedules.schedule import Schedule
    from diffusion_density.process.schedules.variance_preserving import VariancePreserving

__all__ = ["Discrete", "LogLinear", "Schedule", "VariancePreserving"]

export(
    __name__,
    {
        "Discrete": "discrete:Discrete",
        "LogLinear": "log_linear:LogLinear",
        "Schedule": "schedule:Schedule",
        "VariancePreserving": "variance_preserving:VariancePreserving",
    },
)
