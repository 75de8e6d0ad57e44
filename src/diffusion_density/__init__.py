"""Log densities of diffusion models: schedules, networks, training and estimators, each imported at first use."""

from typing import TYPE_CHECKING

from diffusion_density._lazy import export

if TYPE_CHECKING:
    from diffusion_density import density, schedules
    from diffusion_density.density.result import LogDensity
    from diffusion_density.mixtures import GaussianMixture
    from diffusion_density.model import DiffusionModel

__all__ = ["DiffusionModel", "GaussianMixture", "LogDensity", "density", "schedules"]

export(
    __name__,
    {
        "DiffusionModel": "model:DiffusionModel",
        "GaussianMixture": "mixtures:GaussianMixture",
        "LogDensity": "density.result:LogDensity",
        "density": "density",
        "schedules": "schedules",
    },
)
