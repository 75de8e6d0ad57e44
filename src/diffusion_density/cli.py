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

from diffusion_density import artifacts, config
from diffusion_density.errors import InputError, NumericalError
from diffusion_density.provenance import recording
from diffusion_density.studies.density_estimators.verbs import verbs as density_estimators

PNG_DPI = 200

app = typer.Typer(
    help="Log densities of diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(density_estimators, name="density-estimators")


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files are removed
    try:
        app()
    except (InputError, NumericalError) as error:
        _fail(str(error))
    except ValidationError as error:
        _fail(config.explain(error))


@app.command()
def figure(
    study: Literal["density_estimators"],
    name: str,
    tables: Annotated[Path, typer.Option(help="Folder of the study's tables.")],
    out: Annotated[Path, typer.Option(help="The .svg to write; a .png goes beside it.")],
) -> None:
    """Draw one figure of a study from its tables."""
    import matplotlib as mpl

    mpl.use("Agg")
    figures = import_module(f"diffusion_density.figures.{study}").FIGURES
    if name not in figures:
        raise InputError(f"{study} has no figure {name!r}; it has {', '.join(figures)}")
    png = out.with_suffix(".png")
    with recording([out, png], settings={"study": study, "figure": name}):
        # Without these two, an SVG holds the date and random ids.
        with mpl.rc_context({"svg.hashsalt": f"{study}/{name}"}), artifacts.replacing(out) as temporary:
            drawn = figures[name](tables)
            drawn.savefig(temporary, metadata={"Date": None})
        with artifacts.replacing(png) as temporary:
            drawn.savefig(temporary, dpi=PNG_DPI)


@app.command()
def concat(
    parts: Annotated[list[Path], typer.Argument(help="Tables with the same columns.")],
    out: Annotated[Path, typer.Option(help="The table to write.")],
) -> None:
    """Put the rows of several tables, in the order given, into one."""
    header = ""
    rows: list[str] = []
    for part in parts:
        columns, newline, body = artifacts.read_text(part).partition("\n")
        if not newline or (body and not body.endswith("\n")):
            raise InputError(f"{part}: ends in the middle of a line; make it anew")
        if rows and columns != header:
            raise InputError(f"{part}: has the columns {columns}, but {parts[0]} has {header}")
        header = columns
        rows.append(body)
    with recording([out], settings={"parts": [part.name for part in parts]}):
        artifacts.write_text(out, f"{header}\n{''.join(rows)}")


@app.command()
def schema(
    out: Annotated[Path, typer.Option(help="Folder to write the schemas to.")] = Path("workflow/schemas"),
) -> None:
    """Write the JSON schemas of config.yaml and of the scale files."""
    for name, text in config.schemas().items():
        artifacts.write_text(out / name, text)


@app.command()
def check_config(
    file: Annotated[Path, typer.Argument(help="The configuration.")] = config.CONFIG_FILE,
    scales: Annotated[Path, typer.Option(help="Folder of the scale files.")] = config.SCALES,
) -> None:
    """Check a configuration and the sizes that it chooses, and say what they amount to."""
    values = config.read_config(config.read_yaml(file), file=file)
    runs = config.runs(values, config.read_scale(values.scale, scales))
    networks = sum(len(run.arms) * run.mixtures * len(run.seeds) for run in runs.values())
    typer.echo(f"{file}: scale {values.scale}, {len(runs)} training runs of {networks} networks in all")


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
