"""The verbs of the study ``density_formula``, for its workflow rules. They read settings, set up torch and record.

Sizes arrive as JSON of the classes in `sizes`. The study's modules, and torch with them, are imported inside the verbs.
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from diffusion_density.machine.validation import parse
from diffusion_density.studies import job as jobs
from diffusion_density.studies.density_formula.sizes import EXPERIMENTS, MEASURED, Run
from diffusion_density.studies.job import Out, RunSpec, Spec, Tables, Threads, job, known

STUDY = "density_formula"

verbs = typer.Typer(
    help='Paper B, "A Score-Based Density Formula": what its workflow rules call.', no_args_is_help=True
)


@verbs.command()
def experiment(name: str, spec: Spec, out: Tables, threads: Threads = 1) -> None:
    """Run the experiment NAME, which starts from nothing."""
    jobs.experiment(STUDY, EXPERIMENTS, name, spec, out, threads)


@verbs.command()
def train(name: str, spec: Spec, out: Out, threads: Threads = 1) -> None:
    """Train the networks NAME: planar or digits."""
    run = parse(known(name, {"planar": Run, "digits": Run}), spec, "--spec")
    with job([out], {"networks": name, "run": run}, run.seeds, threads):
        import_module(f"diffusion_density.studies.{STUDY}.experiments.train_{name}").train(run, out)


@verbs.command()
def measure(
    name: str,
    run: RunSpec,
    spec: Spec,
    models: Annotated[Path, typer.Option(help="What `train` wrote.")],
    out: Out,
    threads: Threads = 1,
) -> None:
    """Measure trained networks: the table NAME."""
    trained, sizes = parse(Run, run, "--run"), parse(known(name, MEASURED), spec, "--spec")
    with job([out], {"measured": name, "run": trained, "sizes": sizes}, trained.seeds, threads):
        import_module(f"diffusion_density.studies.{STUDY}.experiments.{name}").measure(trained, sizes, models, out)
