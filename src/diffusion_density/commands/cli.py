"""The command line: ``diffusion-density VERB``, or ``python -m diffusion_density VERB``.

Heavy packages are imported inside the commands, so that a wrong argument is reported at once. An error that a person
can correct is one line on stderr, ``error: …``, with exit status 2.
"""

import fcntl
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from diffusion_density.claims.verbs import collect, compare
from diffusion_density.claims.verbs import verbs as claims
from diffusion_density.commands import config, points
from diffusion_density.commands.score.command import estimators, score
from diffusion_density.data.catalogue import ARCHIVES, check_name, slug
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.machine.provenance import recording
from diffusion_density.machine.validation import explain, read_yaml
from diffusion_density.studies.declaration import study_of
from diffusion_density.studies.job import job

app = typer.Typer(
    help="Log densities of diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(points.train)
app.command()(points.sample)
app.command()(job)
app.command()(compare)
app.command()(collect)
app.command()(score)
app.command()(estimators)
app.add_typer(claims, name="claims")


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files are removed
    try:
        app()
    except (InputError, NumericalError) as error:
        _fail(str(error))
    except ValidationError as error:
        _fail(explain(error))


@app.command()
def figures(
    study: Annotated[str, typer.Argument(help="The study, such as density_formula.")],
    tables: Annotated[Path, typer.Option(help="Folder of the study's tables.")],
    out: Annotated[Path, typer.Option(help="Folder of the figures: each is written as .svg and .png.")],
    only: Annotated[list[str] | None, typer.Option(help="Draw this figure; may be repeated. Default: all.")] = None,
) -> None:
    """Draw the figures of a study from its tables."""
    declared = study_of(study).figures
    if unknown := set(only or []) - declared.keys():
        raise InputError(f"{study} has no figure {', '.join(sorted(unknown))}; it has {', '.join(declared)}")
    from diffusion_density.studies.shared import style

    drawings = import_module(f"diffusion_density.studies.{study}.figures").FIGURES
    for name in only or declared:
        file = out / f"{name}.svg"
        with recording([file, file.with_suffix(".png")], settings={"study": study, "figure": name}):
            style.save(drawings[name](tables), file)


@app.command()
def concat(
    parts: Annotated[list[Path], typer.Argument(help="Tables with the same columns.")],
    out: Annotated[Path, typer.Option(help="The table to write.")],
) -> None:
    """Put the rows of several tables, in the order given, into one."""
    text = artifacts.joined(parts)
    with recording([out], settings={"parts": [part.name for part in parts]}):
        artifacts.write_text(out, text)


@app.command()
def check_config(
    file: Annotated[Path, typer.Argument(help="The configuration.")] = config.CONFIG_FILE,
    scales: Annotated[Path, typer.Option(help="Folder of the scale files.")] = config.SCALES,
) -> None:
    """Check a configuration and the sizes that it chooses."""
    values = config.read_config(read_yaml(file), file=file)
    sizes = config.read_scale(values.scale, scales)
    typer.echo(f"{file}: scale {values.scale}, with sizes for {', '.join(name for name, _ in sizes)}")


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="The configuration.")] = config.CONFIG_FILE,
    scale: Annotated[config.ScaleName | None, typer.Option(help="Instead of the configuration's.")] = None,
    scales: Annotated[Path, typer.Option(help="Folder of the scale files.")] = config.SCALES,
) -> None:
    """Print what training on images will cost: parameters, operations and hours of a GPU, from counted operations."""
    values = config.read_config(read_yaml(file), file=file)
    sizes = config.read_scale(scale or values.scale, scales).max_likelihood
    from diffusion_density.studies.max_likelihood.costs import GPU_FLOPS, cost

    typer.echo(f"{'run':36} {'parameters':>12} {'MFLOP/image':>12} {'EFLOP':>10} {'GPU-hours':>10}")
    total = 0.0
    for name, run in sizes.runs(values.seeds, {slug(name): name for name in values.datasets}).items():
        found = cost(run, values.data_dir)
        total += found.gpu_hours
        numbers = f"{found.parameters:12,} {found.image_flops / 1e6:12,.1f} {found.total_flops / 1e18:10.4f}"
        typer.echo(f"{name:36} {numbers} {found.gpu_hours:10.2f}")
    typer.echo(f"{total:,.1f} GPU-hours in all, at {GPU_FLOPS / 1e12:.0f} TFLOP/s a GPU; evaluation comes on top")


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Image sets; those of the configuration by default.")
    ] = None,
    file: Annotated[Path, typer.Option(help="The configuration.")] = config.CONFIG_FILE,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds without a byte before giving up.")] = 10.0,
) -> None:
    """Download the archives of image sets that have a public address; say how to get the others."""
    from diffusion_density.data.archives import UnavailableError, obtain

    values = config.read_config(read_yaml(file), file=file)
    for name in names or values.datasets:
        for archive in ARCHIVES.get(check_name(name), ()):
            try:
                found = obtain(archive, values.data_dir, timeout=timeout, attempts=1)
            except UnavailableError as error:
                typer.echo(f"{name}: absent: {error}", err=True)
            else:
                typer.echo(f"{name}: {found}")


@app.command(hidden=True)
def alone(lock: Path, command: str) -> NoReturn:
    """Become the shell command, holding a lock that dies with it, or fail if another process holds that."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another run is under way in {Path.cwd()}; wait for it, or stop it") from None
    os.set_inheritable(handle, True)
    os.execvp("bash", ["bash", "-c", command])  # noqa: S606 (the command names its own shell)


def _fail(message: str) -> NoReturn:
    print("error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)
