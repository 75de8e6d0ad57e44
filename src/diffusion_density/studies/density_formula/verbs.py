"""The verbs of the study ``density_formula``, for its workflow rules. They read settings, set up torch and record.

Sizes arrive as JSON of the classes in `sizes`. The study's modules, and torch with them, are imported inside the verbs.
"""

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from diffusion_density.config import parse
from diffusion_density.studies.density_formula.sizes import EXPERIMENTS, MEASURED, NETWORKS, Run
from diffusion_density.studies.job import Out, Threads, job

verbs = typer.Typer(
    help='Paper B, "A Score-Based Density Formula": what its workflow rules call.', no_args_is_help=True
)

Spec = Annotated[str, typer.Option(help="JSON of the job's sizes.")]
Experiment = StrEnum("Experiment", [(name, name) for name in EXPERIMENTS])
Measured = StrEnum("Measured", [(name, name) for name in MEASURED])
Networks = StrEnum("Networks", [(name, name) for name in NETWORKS])


@verbs.command()
def experiment(
    name: Experiment,
    spec: Spec,
    out: Annotated[list[Path], typer.Option(help="The tables to write, in the experiment's order.")],
    threads: Threads = 1,
) -> None:
    """Run an experiment that starts from nothing."""
    sizes = parse(EXPERIMENTS[name.value], spec, "--spec")
    with job(out, {"experiment": name.value, "sizes": sizes}, getattr(sizes, "seeds", ()), threads):
        _module(name.value).measure(sizes, *out)


@verbs.command()
def train(name: Networks, spec: Spec, out: Out, threads: Threads = 1) -> None:
    """Train the networks NAME."""
    run = parse(Run, spec, "--spec")
    with job([out], {"networks": name.value, "run": run}, run.seeds, threads):
        _module(f"{name.value}_networks").train(run, out)


@verbs.command()
def measure(
    name: Measured,
    run: Annotated[str, typer.Option(help="JSON of the training run.")],
    spec: Spec,
    models: Annotated[Path, typer.Option(help="What `train` wrote.")],
    out: Out,
    threads: Threads = 1,
) -> None:
    """Measure trained networks."""
    trained, sizes = parse(Run, run, "--run"), parse(MEASURED[name.value], spec, "--spec")
    with job([out], {"measured": name.value, "run": trained, "sizes": sizes}, trained.seeds, threads):
        _module(name.value).measure(trained, sizes, models, out)


def _module(name: str):  # noqa: ANN202
    return import_module(f"diffusion_density.studies.density_formula.{name}")
