import os
import sys
from pathlib import Path

from diffusion_density.commands.config import read_config, read_scale
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.sources import sources_hash

try:
    CONFIG = read_config(config, workflow.config_settings.overwrite_config)
    SCALE = read_scale(CONFIG.scale, Path(os.path.relpath(workflow.basedir)) / "scales")
except InputError as error:
    sys.exit(f"error: {error}")

# Of the report, one for each study.
CATEGORIES = {
    "density_estimators": "A. Diffusion Density Estimators",
    "density_formula": "B. A Score-Based Density Formula",
    "high_density": "C. Diffusion Models as Cartoonists",
    "max_likelihood": "D. Improved Techniques for Maximum Likelihood",
    "comparison": "E. All estimators compared",
}

# What jobs ask for that use a GPU where there is one: none below paper scale, where they take a minute.
GPU = 1 if CONFIG.scale == "paper" else 0
GPU_MODEL = CONFIG.gpu_model if GPU else None

# Jobs run in the environment that runs Snakemake, also where nobody activated it.
shell.prefix(f"set -euo pipefail; export PATH={Path(sys.executable).parent}:$PATH; ")


wildcard_constraints:
    scale=CONFIG.scale,


def by_scale(smoke, desk, paper):
    """An amount of a resource: one number for each scale, doubled at every retry."""
    amount = {"smoke": smoke, "desk": desk, "paper": paper}[CONFIG.scale]

    def resource(wildcards, attempt):
        return amount * 2 ** (attempt - 1)

    return resource
