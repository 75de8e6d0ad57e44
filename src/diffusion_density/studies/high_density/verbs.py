"""The verbs of the study ``high_density``, for its workflow rules. They read settings, set up torch and record.

Sizes arrive as JSON of the classes in `sizes`. The study's modules, and torch with them, are imported inside the verbs.
"""

import typer

from diffusion_density.studies import job as jobs
from diffusion_density.studies.high_density.sizes import EXPERIMENTS
from diffusion_density.studies.job import Spec, Tables, Threads

verbs = typer.Typer(
    help='Paper C, "Diffusion Models as Cartoonists": what its workflow rules call.', no_args_is_help=True
)


@verbs.callback()
def study() -> None:
    """So that the only verb has a name."""


@verbs.command()
def experiment(name: str, spec: Spec, out: Tables, threads: Threads = 1) -> None:
    """Run the experiment NAME, which starts from nothing."""
    jobs.experiment("high_density", EXPERIMENTS, name, spec, out, threads)
