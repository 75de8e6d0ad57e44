"""Estimators of the log density of a diffusion model, each imported at its first use."""

from typing import TYPE_CHECKING

from diffusion_density.machine.lazy import export

if TYPE_CHECKING:
    from diffusion_density.density.chain import chain, reverse_chain
    from diffusion_density.density.class_posterior import class_log_posterior
    from diffusion_density.density.formula import formula
    from diffusion_density.density.images.bits import bits_per_dim
    from diffusion_density.density.images.bound import BoundTerms, bound_terms
    from diffusion_density.density.ode.flow import flow
    from diffusion_density.density.path_integral.plain import path_integral
    from diffusion_density.density.result import LogDensity
    from diffusion_density.density.tracking import track

__all__ = [
    "BoundTerms",
    "LogDensity",
    "bits_per_dim",
    "bound_terms",
    "chain",
    "class_log_posterior",
    "flow",
    "formula",
    "path_integral",
    "reverse_chain",
    "track",
]

export(
    __name__,
    {
        "BoundTerms": "images.bound:BoundTerms",
        "LogDensity": "result:LogDensity",
        "bits_per_dim": "images.bits:bits_per_dim",
        "bound_terms": "images.bound:bound_terms",
        "chain": "chain:chain",
        "class_log_posterior": "class_posterior:class_log_posterior",
        "flow": "ode.flow:flow",
        "formula": "formula:formula",
        "path_integral": "path_integral.plain:path_integral",
        "reverse_chain": "chain:reverse_chain",
        "track": "tracking:track",
    },
)
