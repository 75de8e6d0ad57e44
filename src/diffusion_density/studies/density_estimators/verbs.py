"""The verbs of the study ``density_estimators``: one a workflow rule. They read settings, set up torch and record.

Sizes arrive as JSON of the classes in `sizes`. The study's modules, and torch with them, are imported inside the verbs.
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from diffusion_density.machine.validation import parse
from diffusion_density.studies.density_estimators.sizes import Agreement, Dataset, Evaluation, Timing, TrainingRun
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.job import Out, RunSpec, Tables, Threads, job, known

verbs = typer.Typer(help='Paper A, "Diffusion Density Estimators": what its workflow rules call.', no_args_is_help=True)

DatasetFile = Annotated[Path, typer.Option(help="What `dataset` wrote.")]
ModelsFile = Annotated[Path, typer.Option(help="What `train` wrote.")]

EXAMINATIONS: dict[str, type[Strict]] = {"timing": Timing, "agreement": Agreement}
"""What `examine` measures, each in the module of its name."""


@verbs.command()
def dataset(spec: Annotated[str, typer.Option(help="JSON of the data set.")], out: Out, threads: Threads = 1) -> None:
    """Draw the random mixtures of one dimension and their training points."""
    settings = parse(Dataset, spec, "--spec")
    with job([out], {"dataset": settings}, threads=threads):
        from diffusion_density.studies.density_estimators.experiments.dataset import prepare

        prepare(settings, out)


@verbs.command()
def train(spec: RunSpec, dataset: DatasetFile, out: Out, threads: Threads = 1) -> None:
    """Train the networks of one run."""
    run = parse(TrainingRun, spec, "--spec")
    with job([out], {"run": run}, run.seeds, threads):
        from diffusion_density.studies.density_estimators.experiments.train import train

        train(run, dataset, out)


@verbs.command()
def evaluate(
    name: str,
    spec: RunSpec,
    evaluation: Annotated[str, typer.Option(help="JSON of the evaluation's sizes.")],
    dataset: DatasetFile,
    models: ModelsFile,
    out: Out,
    threads: Threads = 1,
) -> None:
    """Measure KL, entropy and score errors of the networks of the run NAME."""
    run, sizes = parse(TrainingRun, spec, "--spec"), parse(Evaluation, evaluation, "--evaluation")
    with job([out], {"name": name, "run": run, "evaluation": sizes}, run.seeds, threads):
        from diffusion_density.studies.density_estimators.experiments.evaluate import evaluate

        evaluate(name, run, sizes, dataset, models, out)


@verbs.command()
def examine(
    what: Annotated[str, typer.Argument(help="The measurement: timing or agreement.")],
    spec: RunSpec,
    sizes: Annotated[str, typer.Option(help="JSON of the measurement's sizes.")],
    dataset: DatasetFile,
    models: ModelsFile,
    out: Tables,
    threads: Threads = 1,
) -> None:
    """Measure WHAT on the networks of one run: seconds and errors of both estimators, or where they should agree."""
    run, chosen = parse(TrainingRun, spec, "--spec"), parse(known(what, EXAMINATIONS), sizes, "--sizes")
    with job(out, {"run": run, what: chosen}, run.seeds, threads):
        module = import_module(f"diffusion_density.studies.density_estimators.experiments.{what}")
        module.measure(chosen, run, dataset, models, *out)
