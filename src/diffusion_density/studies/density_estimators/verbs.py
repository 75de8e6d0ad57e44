"""The verbs of the study ``density_estimators``: one a workflow rule. They read settings, set up torch and record.

Sizes arrive as JSON of the classes in `sizes`. The study's modules, and torch with them, are imported inside the verbs.
"""

from pathlib import Path
from typing import Annotated

import typer

from diffusion_density.studies.density_estimators.sizes import Agreement, Dataset, Evaluation, Timing, TrainingRun
from diffusion_density.studies.job import Out, RunSpec, Threads, job
from diffusion_density.validation import parse

verbs = typer.Typer(help='Paper A, "Diffusion Density Estimators": what its workflow rules call.', no_args_is_help=True)

DatasetFile = Annotated[Path, typer.Option(help="What `dataset` wrote.")]
ModelsFile = Annotated[Path, typer.Option(help="What `train` wrote.")]


@verbs.command()
def dataset(spec: Annotated[str, typer.Option(help="JSON of the data set.")], out: Out, threads: Threads = 1) -> None:
    """Draw the random mixtures of one dimension and their training points."""
    settings = parse(Dataset, spec, "--spec")
    with job([out], {"dataset": settings}, threads=threads):
        from diffusion_density.studies.density_estimators.dataset import prepare

        prepare(settings, out)


@verbs.command()
def train(spec: RunSpec, dataset: DatasetFile, out: Out, threads: Threads = 1) -> None:
    """Train the networks of one run."""
    run = parse(TrainingRun, spec, "--spec")
    with job([out], {"run": run}, run.seeds, threads):
        from diffusion_density.studies.density_estimators.train import train

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
        from diffusion_density.studies.density_estimators.evaluate import evaluate

        evaluate(name, run, sizes, dataset, models, out)


@verbs.command()
def timing(
    spec: RunSpec,
    timing: Annotated[str, typer.Option(help="JSON of the timing's sizes.")],
    dataset: DatasetFile,
    models: ModelsFile,
    seconds: Annotated[Path, typer.Option(help="The table of seconds a sample to write.")],
    tradeoff: Annotated[Path, typer.Option(help="The table of error against seconds to write.")],
    threads: Threads = 1,
) -> None:
    """Time both estimators, sample by sample and batched, on the networks of one run."""
    run, sizes = parse(TrainingRun, spec, "--spec"), parse(Timing, timing, "--timing")
    with job([seconds, tradeoff], {"run": run, "timing": sizes}, run.seeds, threads):
        from diffusion_density.studies.density_estimators.timing import measure

        measure(sizes, run, dataset, models, seconds, tradeoff)


@verbs.command()
def agreement(
    spec: RunSpec,
    agreement: Annotated[str, typer.Option(help="JSON of the agreement's sizes.")],
    dataset: DatasetFile,
    models: ModelsFile,
    points: Annotated[Path, typer.Option(help="The table of both estimates at every point to write.")],
    identity: Annotated[Path, typer.Option(help="The table of the identity's three sides to write.")],
    threads: Threads = 1,
) -> None:
    """Compare both estimators with each other and with the truth, and the three sides of the KL identity."""
    run, sizes = parse(TrainingRun, spec, "--spec"), parse(Agreement, agreement, "--agreement")
    with job([points, identity], {"run": run, "agreement": sizes}, run.seeds, threads):
        from diffusion_density.studies.density_estimators.agreement import measure

        measure(sizes, run, dataset, models, points, identity)
