"""Log densities of diffusion models: schedules, networks, training and estimators, each imported at first use."""

from typing import TYPE_CHECKING

from diffusion_density.machine.lazy import export

if TYPE_CHECKING:
    from diffusion_density import density
    from diffusion_density.density.result import LogDensity
    from diffusion_density.process import schedules
    from diffusion_density.process.mixtures import GaussianMixture
    from diffusion_density.process.model import DiffusionModel

__all__ = ["DiffusionModel", "GaussianMixture", "LogDensity", "density", "schedules"]

export(
    __name__,
    {
        "DiffusionModel": "process.model:DiffusionModel",
        "GaussianMixture": "process.mixtures:GaussianMixture",
        "LogDensity": "density.result:LogDensity",
        "density": "density",
        "schedules": "process.schedules",
    },
)
