"""The verbs of the study ``comparison``, for its workflow rules. They read settings, set up torch and record.

Sizes arrive as JSON of the classes in `sizes`. The study's modules, and torch with them, are imported inside the verbs.
"""

from pathlib import Path
from typing import Annotated

import typer

from diffusion_density.machine.provenance import recording
from diffusion_density.machine.validation import parse
from diffusion_density.studies import job as jobs
from diffusion_density.studies.comparison.sizes import EXPERIMENTS, Pictures, Trained
from diffusion_density.studies.density_estimators.sizes import TrainingRun
from diffusion_density.studies.job import DataDir, Gpus, RunSpec, Spec, Tables, Threads, device, job
from diffusion_density.studies.max_likelihood.runs import Run

verbs = typer.Typer(help="The comparison of all estimators: what its workflow rules call.", no_args_is_help=True)

Models = Annotated[Path, typer.Option(help="What `train` of the run's study wrote.")]
EstimatorsTable = Annotated[Path, typer.Option(help="The table of estimators to write.")]
VarianceTable = Annotated[Path, typer.Option(help="The table of variances to write.")]


@verbs.command()
def experiment(name: str, spec: Spec, out: Tables, threads: Threads = 1) -> None:
    """Run the experiment NAME, which starts from nothing."""
    jobs.experiment("comparison", EXPERIMENTS, name, spec, out, threads)


@verbs.command()
def trained(
    run: RunSpec,
    spec: Spec,
    dataset: Annotated[Path, typer.Option(help="What paper A's `dataset` wrote.")],
    models: Models,
    estimators: EstimatorsTable,
    variance: VarianceTable,
    threads: Threads = 1,
) -> None:
    """Measure the estimators on a network of paper A."""
    of, sizes = parse(TrainingRun, run, "--run"), parse(Trained, spec, "--spec")
    with job([estimators, variance], {"run": of, "sizes": sizes}, of.seeds[:1], threads):
        from diffusion_density.studies.comparison.experiments.trained import measure

        measure(sizes, of, dataset, models, estimators, variance)


@verbs.command()
def pictures(
    run: RunSpec,
    spec: Spec,
    models: Models,
    data_dir: DataDir,
    estimators: EstimatorsTable,
    variance: VarianceTable,
    gpus: Gpus = 0,
    threads: Threads = 1,
) -> None:
    """Measure the estimators on an image network of paper D."""
    of, sizes = parse(Run, run, "--run"), parse(Pictures, spec, "--spec")
    with job([estimators, variance], {"run": of, "sizes": sizes}, of.seeds[:1], threads):
        from diffusion_density.data.images import load
        from diffusion_density.studies.comparison.experiments.pictures import measure

        images = load(of.dataset, data_dir, download=False)
        measure(of, sizes, images, models, estimators, variance, device=device(gpus))


@verbs.command()
def findings(
    estimators: Annotated[list[Path], typer.Option(help="Tables of estimators.")],
    variance: Annotated[list[Path], typer.Option(help="Tables of variances.")],
    findings: Annotated[Path, typer.Option(help="The findings to write.")],
    decision: Annotated[Path, typer.Option(help="The decision table to write.")],
) -> None:
    """Judge the estimators from all tables."""
    with recording([findings, decision], settings={"tables": [str(path) for path in [*estimators, *variance]]}):
        from diffusion_density.studies.comparison.experiments.findings import write

        write(estimators, variance, findings, decision)
