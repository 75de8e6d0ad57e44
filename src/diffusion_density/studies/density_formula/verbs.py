"""The verbs of the study ``density_formula``, for its workflow rules. They read settings, set up torch and record.

Sizes arrive as JSON of the classes in `sizes`. The study's modules, and torch with them, are imported inside the verbs.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, TypeVar

import typer

from diffusion_density.config import parse
from diffusion_density.errors import InputError
from diffusion_density.studies.density_formula.sizes import EXPERIMENTS, MEASURED, Run
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.job import Out, Threads, job

verbs = typer.Typer(
    help='Paper B, "A Score-Based Density Formula": what its workflow rules call.', no_args_is_help=True
)

Sizes = TypeVar("Sizes", bound=Strict)
Spec = Annotated[str, typer.Option(help="JSON of the job's sizes.")]


@verbs.command()
def experiment(
    name: str,
    spec: Spec,
    out: Annotated[list[Path], typer.Option(help="The tables to write, in the experiment's order.")],
    threads: Threads = 1,
) -> None:
    """Run the experiment NAME, which starts from nothing."""
    sizes = parse(_known(name, EXPERIMENTS), spec, "--spec")
    with job(out, {"experiment": name, "sizes": sizes}, getattr(sizes, "seeds", ()), threads):
        _module(name).measure(sizes, *out)


@verbs.command()
def train(name: str, spec: Spec, out: Out, threads: Threads = 1) -> None:
    """Train the networks NAME: planar or digits."""
    run = parse(_known(name, {"planar": Run, "digits": Run}), spec, "--spec")
    with job([out], {"networks": name, "run": run}, run.seeds, threads):
        _module(f"{name}_networks").train(run, out)


@verbs.command()
def measure(
    name: str,
    run: Annotated[str, typer.Option(help="JSON of the training run.")],
    spec: Spec,
    models: Annotated[Path, typer.Option(help="What `train` wrote.")],
    out: Out,
    threads: Threads = 1,
) -> None:
    """Measure trained networks: the table NAME."""
    trained, sizes = parse(Run, run, "--run"), parse(_known(name, MEASURED), spec, "--spec")
    with job([out], {"measured": name, "run": trained, "sizes": sizes}, trained.seeds, threads):
        _module(name).measure(trained, sizes, models, out)


def _known(name: str, jobs: Mapping[str, type[Sizes]]) -> type[Sizes]:
    if name not in jobs:
        raise InputError(f"density-formula: {name!r} is not one of {', '.join(jobs)}")
    return jobs[name]


def _module(name: str) -> ModuleType:
    return import_module(f"diffusion_density.studies.density_formula.{name}")
