"""The command line: ``diffusion-density VERB``, or ``python -m diffusion_density VERB``.

The verbs of a study, which its workflow rules call, are in ``studies/<study>/verbs.py``. Heavy packages are imported
inside the verbs, so that a wrong argument is told at once. What a person can mend is one line on stderr, ``error: …``,
with exit status 2.
"""

import fcntl
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from pydantic import ValidationError

from diffusion_density.claims.verbs import collect, compare
from diffusion_density.claims.verbs import verbs as claims
from diffusion_density.commands import config, points
from diffusion_density.data.catalogue import ARCHIVES, check_name, slug
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.machine.provenance import recording
from diffusion_density.machine.validation import explain, read_yaml
from diffusion_density.studies.comparison.verbs import verbs as comparison
from diffusion_density.studies.density_estimators.verbs import verbs as density_estimators
from diffusion_density.studies.density_formula.verbs import verbs as density_formula
from diffusion_density.studies.high_density.verbs import verbs as high_density
from diffusion_density.studies.job import Threads
from diffusion_density.studies.max_likelihood.verbs import verbs as max_likelihood

app = typer.Typer(
    help="Log densities of diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(points.train)
app.command()(points.sample)
app.command()(compare)
app.command()(collect)
app.add_typer(claims, name="claims")
app.add_typer(comparison, name="comparison")
app.add_typer(density_estimators, name="density-estimators")
app.add_typer(density_formula, name="density-formula")
app.add_typer(high_density, name="high-density")
app.add_typer(max_likelihood, name="max-likelihood")


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
def score(
    data: Annotated[
        str, typer.Argument(help="CSV of points with a header, one a row; or npz:PATH of images; or an image set.")
    ],
    out: Annotated[Path, typer.Option(help="The CSV to write.")],
    model: Annotated[
        str | None, typer.Option(help="What `train` wrote; a run of max_likelihood; diffusers:FOLDER, or the folder.")
    ] = None,
    mixture: Annotated[Path | None, typer.Option(help="JSON of a mixture: weights, means, covariances.")] = None,
    estimator: Annotated[
        list[str] | None,
        typer.Option(help="flow, flow_hutchinson, path_integral, reduced, formula, chain, bound (images), or all."),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="A figure to draw (.svg); a .png goes beside it.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Of the flow, relative and absolute; 1e-6, of images 1e-4 a dimension.")
    ] = None,
    throws: Annotated[
        int | None, typer.Option(min=1, help="Network evaluations of the others; 8192 a point, 512 an image.")
    ] = None,
    probes: Annotated[
        int | None, typer.Option(min=1, help="Random probes of flow_hutchinson; 16 a point, 1 a version of an image.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Dequantized versions of an image; an error needs two.")] = 4,
    dequantization: Annotated[
        Literal["truncated_normal", "uniform", "variational"], typer.Option(help="The law of the versions.")
    ] = "truncated_normal",
    key: Annotated[str | None, typer.Option(help="The array of an npz; test, or the only one.")] = None,
    number: Annotated[int | None, typer.Option(min=1, help="Score the first so many; all by default.")] = None,
    network_seed: Annotated[int | None, typer.Option(help="Of a run: which network; the first by default.")] = None,
    step: Annotated[int | None, typer.Option(help="Of a run: which snapshot; the last by default.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Where archives of image sets are.")] = Path("data"),
    device: Annotated[str, typer.Option(help="cpu or cuda, for images.")] = "cpu",
    seed: int = 0,
    threads: Threads = 1,
) -> None:
    """Write log p of points, or bits/dim of images, with errors and intervals and what each number promises."""
    from diffusion_density.commands.score import verb
    from diffusion_density.machine.runtime import configure

    configure(threads)
    settings = {
        "tolerance": tolerance,
        "throws": throws,
        "probes": probes,
        "draws": draws,
        "dequantization": dequantization,
        "seed": seed,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    scored = verb.score(
        data,
        model=model,
        mixture=mixture,
        estimators=estimator or [],
        settings=given,
        key=key,
        number=number,
        network_seed=network_seed,
        step=step,
        data_dir=data_dir,
        device=device,
    )
    outputs = [out, *([figure, figure.with_suffix(".png")] if figure else [])]
    with recording(outputs, settings=scored.settings, seeds=[seed]):
        artifacts.write_csv(out, scored.table)
        if figure:
            from diffusion_density.commands.score import figure as scores
            from diffusion_density.studies.shared import style

            style.save(scores.scores(scored.table), figure)
    for line in scored.lines():
        typer.echo(line)


@app.command()
def figure(
    study: Literal["comparison", "density_estimators", "density_formula", "high_density", "max_likelihood"],
    name: str,
    tables: Annotated[Path, typer.Option(help="Folder of the study's tables.")],
    out: Annotated[Path, typer.Option(help="The .svg to write; a .png goes beside it.")],
) -> None:
    """Draw one figure of a study from its tables."""
    from diffusion_density.studies.shared import style

    figures = import_module(f"diffusion_density.studies.{study}.figures").FIGURES
    if name not in figures:
        raise InputError(f"{study} has no figure {name!r}; it has {', '.join(figures)}")
    with recording([out, out.with_suffix(".png")], settings={"study": study, "figure": name}):
        style.save(figures[name](tables), out)


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
def schema(
    out: Annotated[Path, typer.Option(help="Folder to write the schemas to.")] = Path("workflow/schemas"),
) -> None:
    """Write the JSON schemas of config.yaml, of the scale files and of claims.yaml."""
    for name, text in config.schemas().items():
        artifacts.write_text(out / name, text)


@app.command()
def check_config(
    file: Annotated[Path, typer.Argument(help="The configuration.")] = config.CONFIG_FILE,
    scales: Annotated[Path, typer.Option(help="Folder of the scale files.")] = config.SCALES,
) -> None:
    """Check a configuration and the sizes that it chooses, and say what they amount to."""
    values = config.read_config(read_yaml(file), file=file)
    runs = config.read_scale(values.scale, scales).density_estimators.runs(values.seeds)
    networks = sum(len(run.arms) * run.mixtures * len(run.seeds) for run in runs.values())
    typer.echo(f"{file}: scale {values.scale}, {len(runs)} training runs of {networks} networks in density_estimators")


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
