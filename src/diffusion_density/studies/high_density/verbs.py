"""The verbs of the study ``high_density``, for its workflow rules. They read settings, set up torch and record.

Sizes arrive as JSON of the classes in `sizes`. The study's modules, and torch with them, are imported inside the verbs.
"""

from pathlib import Path
from typing import Annotated

import typer

from diffusion_density.machine.provenance import recording
from diffusion_density.machine.validation import parse
from diffusion_density.studies import job as jobs
from diffusion_density.studies.high_density.sizes import EXPERIMENTS, Images
from diffusion_density.studies.job import DataDir, Gpus, Out, RunSpec, Spec, Tables, Threads, device, job
from diffusion_density.studies.max_likelihood.runs import Run

verbs = typer.Typer(
    help='Paper C, "Diffusion Models as Cartoonists": what its workflow rules call.', no_args_is_help=True
)


@verbs.command()
def experiment(name: str, spec: Spec, out: Tables, threads: Threads = 1) -> None:
    """Run the experiment NAME, which starts from nothing."""
    jobs.experiment("high_density", EXPERIMENTS, name, spec, out, threads)


@verbs.command()
def images(
    name: str,
    run: RunSpec,
    spec: Spec,
    models: Annotated[Path, typer.Option(help="What paper D's `train` wrote for the run.")],
    data_dir: DataDir,
    grid: Annotated[Path, typer.Option(help="The images to write.")],
    out: Out,
    gpus: Gpus = 0,
    threads: Threads = 1,
) -> None:
    """Score real images and samples of high density with the network of the run NAME."""
    trained, sizes = parse(Run, run, "--run"), parse(Images, spec, "--spec")
    with job([out, grid], {"name": name, "run": trained, "sizes": sizes}, trained.seeds[:1], threads):
        from diffusion_density.data.images import load
        from diffusion_density.studies.high_density.experiments.images import measure

        found = load(trained.dataset, data_dir, download=False)
        measure(name, trained, sizes, found, models, out, grid, device=device(gpus))


@verbs.command()
def findings(images: Annotated[Path, typer.Argument(help="The table of all scored images.")], out: Out) -> None:
    """Judge paper C's claims of images from their table."""
    with recording([out], settings={"images": str(images)}):
        from diffusion_density.studies.high_density.experiments.findings import measure

        measure(images, out)
