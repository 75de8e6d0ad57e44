"""The command `score`. Torch is imported inside, so that a wrong argument is reported at once."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusion_density.commands.score.settings import FOR_IMAGES, FOR_POINTS, Dequantization
from diffusion_density.density.estimators import ESTIMATORS, page
from diffusion_density.machine import artifacts
from diffusion_density.machine.provenance import recording
from diffusion_density.studies.job import Threads

_data = partial(typer.Option, rich_help_panel="What to score")
_model = partial(typer.Option, rich_help_panel="Model")
_how = partial(typer.Option, rich_help_panel="Estimators")
NAMES = ", ".join(name + ("" if one.points else " (images only)") for name, one in ESTIMATORS.items() if one.images)


def score(
    data: Annotated[
        str, typer.Argument(help="A CSV of points (a header, one point per row); npz:PATH of images; or an image set.")
    ],
    out: Annotated[Path, typer.Option(help="The CSV to write.")],
    figure: Annotated[Path | None, typer.Option(help="A figure to draw (.svg); a .png is written next to it.")] = None,
    number: Annotated[int | None, _data(min=1, help="Score only the first so many.")] = None,
    key: Annotated[str | None, _data(help="The array of an npz file. Default: test, or the only array.")] = None,
    data_dir: Annotated[Path, _data(help="Folder of the archives of image sets.")] = Path("data"),
    model: Annotated[
        str | None,
        _model(help="A file that `train` wrote; a run of max_likelihood; a folder of diffusers, or diffusers:FOLDER."),
    ] = None,
    mixture: Annotated[
        Path | None,
        _model(help="JSON of a Gaussian mixture: weights, means, covariances."),
    ] = None,
    network_seed: Annotated[int | None, _model(help="Which network of a run. Default: its first.")] = None,
    step: Annotated[int | None, _model(help="Which snapshot of a run. Default: its last.")] = None,
    device: Annotated[str, _model(help="cpu or cuda, for models of images.")] = "cpu",
    estimator: Annotated[
        list[str] | None,
        _how(help=f"{NAMES}; or all. May be repeated. Default: flow for points, flow_hutchinson for images."),
    ] = None,
    tolerance: Annotated[
        float | None,
        _how(
            help="Relative and absolute tolerance of the flow solver. Default: 1e-6 for points, 1e-4 per dimension for"
            " images."
        ),
    ] = None,
    throws: Annotated[
        int | None,
        _how(
            min=1,
            help="Network evaluations of every other estimator."
            f" Default: {FOR_POINTS.throws} per point, {FOR_IMAGES.throws} per image.",
        ),
    ] = None,
    probes: Annotated[
        int | None,
        _how(
            min=1,
            help="Random probes of flow_hutchinson."
            f" Default: {FOR_POINTS.probes} per point, {FOR_IMAGES.probes} per dequantized image.",
        ),
    ] = None,
    draws: Annotated[
        int, _how(min=1, help="Dequantized versions per image. A standard error needs at least two.")
    ] = FOR_IMAGES.draws,
    dequantization: Annotated[
        Dequantization, _how(help="The distribution of these versions.")
    ] = FOR_IMAGES.dequantization,
    seed: Annotated[int, _how(help="Seed of all random numbers.")] = 0,
    threads: Threads = 1,
) -> None:
    """Estimate log p of points in nats, or bits/dim of images, and say how accurate each estimate is.

    Each row has one estimator's value for one point, with standard error, 95 % interval, density and promise.
    """
    from diffusion_density.commands.score.inputs import Data
    from diffusion_density.commands.score.models import ModelChoice
    from diffusion_density.commands.score.scoring import score
    from diffusion_density.machine.runtime import configure

    configure(threads)
    given: dict[str, Any] = {"tolerance": tolerance, "throws": throws, "probes": probes}
    settings = {name: value for name, value in given.items() if value is not None}
    settings |= {"draws": draws, "dequantization": dequantization, "seed": seed}
    choice = ModelChoice(model, mixture, network_seed, step, device)
    scored = score(Data(data, key, number, data_dir), choice, estimator or [], settings)
    outputs = [out, *([figure, figure.with_suffix(".png")] if figure else [])]
    with recording(outputs, settings=scored.settings, seeds=[seed]):
        artifacts.write_csv(out, scored.table)
        if figure:
            from diffusion_density.commands.score.figure import scores
            from diffusion_density.studies.shared import style

            style.save(scores(scored.table), figure)
    for line in scored.lines():
        typer.echo(line)


def estimators() -> None:
    """Print a table of all estimators: what each estimates, what it promises and what it costs."""
    typer.echo(page())
