"""Estimators of the log density of a diffusion model, each imported at first use."""

from typing import TYPE_CHECKING

from diffusion_density._lazy import export

if TYPE_CHECKING:
    from diffusion_density.density.flow import flow
    from diffusion_density.density.path_integral import path_integral
    from diffusion_density.density.result import LogDensity

__all__ = ["LogDensity", "flow", "path_integral"]

export(
    __name__,
    {
        "LogDensity": "result:LogDensity",
        "flow": "flow:flow",
        "path_integral": "path_integral:path_integral",
    },
)
