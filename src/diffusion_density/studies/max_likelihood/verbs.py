"""The verbs of the study ``max_likelihood``: one a workflow rule. They read settings, set up torch and record.

Sizes arrive as JSON of the classes in `jobs`. The study's modules, and torch with them, are imported inside the verbs.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffusion_density.machine.errors import InputError
from diffusion_density.machine.provenance import recording
from diffusion_density.machine.validation import parse
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.job import DataDir, Gpus, Out, RunSpec, Setting, Threads, device, job, known
from diffusion_density.studies.max_likelihood.runs import Curve, Evaluation, Run, Samples, Trace, Variance

if TYPE_CHECKING:
    from diffusion_density.data.images import ImageSet

verbs = typer.Typer(
    help='Paper D, "Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs": '
    "what its workflow rules call.",
    no_args_is_help=True,
)

Specs = Annotated[list[str], typer.Option("--spec", help="JSON of a training run; one for each file of networks.")]
Models = Annotated[Path, typer.Option(help="What `train` wrote for the run.")]
ManyModels = Annotated[list[Path], typer.Option("--models", help="What `train` wrote, in the order of the runs.")]
Work = Annotated[Path, typer.Option(help="Folder for what a job that is stopped goes on from.")]

EXAMINATIONS: dict[str, type[Strict]] = {"curves": Curve, "variance": Variance, "trace": Trace}
"""What `examine` measures, each in the module of its name."""


@verbs.command()
def dataset(name: str, data_dir: DataDir, out: Out) -> None:
    """Check and describe the image set NAME."""
    with job([out], {"name": name}):
        from diffusion_density.studies.max_likelihood.experiments.dataset import describe

        describe(name, data_dir, out)


@verbs.command()
def lossless(
    name: str,
    data_dir: DataDir,
    out: Out,
    images: Annotated[int, typer.Option(min=1, help="Test images to code.")],
) -> None:
    """Code test images of the image set NAME without loss."""
    with job([out], {"name": name, "images": images}):
        from diffusion_density.studies.max_likelihood.experiments.lossless import measure

        measure(name, data_dir, images, out)


@verbs.command()
def datasets(
    descriptions: Annotated[list[Path], typer.Argument(help="What `dataset` wrote.")],
    out: Out,
    data_dir: DataDir,
    absent: Annotated[list[str] | None, typer.Option(help="A set that is not there.")] = None,
) -> None:
    """List the image sets that are there, and how to get the others."""
    with job([out], {"descriptions": [file.name for file in descriptions], "absent": list(absent or [])}):
        from diffusion_density.studies.max_likelihood.experiments.dataset import summarise

        summarise(descriptions, list(absent or []), data_dir, out)


@verbs.command()
def train(
    name: str,
    spec: RunSpec,
    out: Out,
    data_dir: DataDir,
    work: Work,
    origin: Annotated[Path | None, typer.Option(help="The networks to go on from.")] = None,
    origin_spec: Annotated[str | None, typer.Option(help="JSON of their run.")] = None,
    precision: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Of convolutions.")] = "float32",
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Images a device takes at once.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    gpus: Gpus = 0,
    devices: Annotated[int, typer.Option(min=1, help="Processes on a machine, one GPU each where there are any.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, where a launcher started the processes.")] = 1,
    threads: Threads = 1,
) -> None:
    """Train the networks of the run NAME, going on from its checkpoints if it was stopped."""
    run = parse(Run, spec, "--spec")
    if (origin is None) != (run.origin is None) or (origin is None) != (origin_spec is None):
        raise InputError("train: --origin and --origin-spec belong to a run that goes on from another")
    start = None if origin is None or origin_spec is None else (origin, parse(Run, origin_spec, "--origin-spec"))
    images = _images(run, data_dir)
    settings: dict[str, Setting] = {"name": name, "run": run, "precision": precision, "images": images.sha256}
    with job([out], settings, run.seeds, max(1, threads // devices)) as spent:
        from diffusion_density.machine.devices import open_available
        from diffusion_density.machine.runtime import use_bfloat16
        from diffusion_density.studies.max_likelihood.experiments.train import train

        opened = open_available(gpus, devices, nodes)
        folder = train(
            name,
            run,
            images,
            out,
            work=work,
            devices=opened,
            bfloat16=use_bfloat16(precision, opened.device),
            micro_batch=micro_batch,
            origin=start,
            checkpoint_every=checkpoint_every,
        )
        if opened.global_rank > 0:  # the first process writes and records
            raise typer.Exit
        spent.append(folder)


@verbs.command()
def examine(
    what: Annotated[str, typer.Argument(help="The measurement: curves, variance or trace.")],
    names: Annotated[list[str], typer.Argument(help="Runs on one image set.")],
    specs: Specs,
    sizes: Annotated[str, typer.Option(help="JSON of the measurement's sizes.")],
    models: ManyModels,
    out: Out,
    data_dir: DataDir,
    gpus: Gpus = 0,
    threads: Threads = 1,
) -> None:
    """Measure WHAT on the runs NAMES: the bound along training, the noise of the loss, or how far traces miss."""
    runs, chosen = _runs(names, specs, models), parse(known(what, EXAMINATIONS), sizes, "--sizes")
    first = next(iter(runs.values()))[0]
    images = _images(first, data_dir)
    settings = {name: run for name, (run, _) in runs.items()}
    with job([out], {**settings, "sizes": chosen, "images": images.sha256}, first.seeds, threads):
        module = import_module(f"diffusion_density.studies.max_likelihood.experiments.{what}")
        module.measure(runs, chosen, images, out, device=device(gpus))


@verbs.command()
def likelihood(
    name: str,
    spec: RunSpec,
    evaluation: Annotated[str, typer.Option(help="JSON of the measurement's sizes.")],
    models: Models,
    out: Out,
    data_dir: DataDir,
    work: Work,
    gpus: Gpus = 0,
    threads: Threads = 1,
) -> None:
    """Measure bits/dim of the run NAME, image by image, by the flow and by the bound."""
    run, sizes = parse(Run, spec, "--spec"), parse(Evaluation, evaluation, "--evaluation")
    images = _images(run, data_dir)
    settings: dict[str, Setting] = {"name": name, "run": run, "evaluation": sizes, "images": images.sha256}
    with job([out], settings, run.seeds, threads) as spent:
        from diffusion_density.studies.max_likelihood.experiments.likelihood import evaluate

        spent.append(evaluate(name, run, sizes, images, models, out, work=work, device=device(gpus)))


@verbs.command()
def samples(
    name: str,
    spec: RunSpec,
    samples: Annotated[str, typer.Option(help="JSON of number and tolerance.")],
    models: Models,
    grid: Annotated[Path, typer.Option(help="The file of images to write.")],
    out: Out,
    data_dir: DataDir,
    gpus: Gpus = 0,
    threads: Threads = 1,
) -> None:
    """Draw samples of the flow of the run NAME, and measure their distance to test images."""
    run, sizes = parse(Run, spec, "--spec"), parse(Samples, samples, "--samples")
    images = _images(run, data_dir)
    settings: dict[str, Setting] = {"name": name, "run": run, "samples": sizes, "images": images.sha256}
    with job([grid, out], settings, run.seeds[:1], threads):
        from diffusion_density.studies.max_likelihood.experiments.samples import draw

        draw(name, run, sizes, images, models, grid, out, device=device(gpus))


@verbs.command()
def gaps(out: Out) -> None:
    """Compute what each dequantization costs a perfect density."""
    with job([out], {}):
        from diffusion_density.studies.max_likelihood.experiments.gaps import write

        write(out)


@verbs.command()
def findings(
    tables: Annotated[Path, typer.Option(help="Folder of the study's tables.")],
    out: Out,
) -> None:
    """Judge the paper's claims: effects with intervals, from the tables."""
    with recording([out], settings={}):
        from diffusion_density.studies.max_likelihood.experiments.findings import write

        write(tables, out)


def _images(run: Run, data_dir: Path) -> "ImageSet":
    from diffusion_density.data.images import load

    return load(run.dataset, data_dir, download=False)


def _runs(names: list[str], specs: list[str], models: list[Path]) -> dict[str, tuple[Run, Path]]:
    if not len(names) == len(specs) == len(models):
        raise InputError(f"{len(names)} runs need as many --spec and --models, not {len(specs)} and {len(models)}")
    return {name: (parse(Run, spec, "--spec"), file) for name, spec, file in zip(names, specs, models, strict=True)}
