"""From the arguments of the verb `score` to its table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from diffusion_density.commands.score import models
from diffusion_density.commands.score.estimators import Settings, chosen, score_images, score_points
from diffusion_density.commands.score.inputs import are_images, read_images, read_points
from diffusion_density.commands.score.table import summary
from diffusion_density.machine.errors import InputError

POINTS = Settings()
IMAGES = Settings(tolerance=1e-4, throws=512, probes=1)
PREFIX = "diffusers:"


@dataclass(frozen=True)
class Scored:
    """A table, and what it was made with."""

    table: pd.DataFrame
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """One line an estimator for the terminal: the mean over all points with its interval."""
        what, unit = ("points", "nats") if "point" in self.table else ("images", "bits/dim")
        promise = {"exact": "exact", "unbiased": "unbiased", "lower": "a lower bound", "upper": "an upper bound"}
        for row in summary(self.table).to_dict("records"):
            interval = f" [{row['ci_low']:.4f}, {row['ci_high']:.4f}]" if row["n"] > 1 else ""
            of = "the flow" if row["of"] == "flow" else "the reverse SDE"
            yield (
                f"{row['estimator']}: mean {row['mean']:.4f}{interval} {unit} over {row['n']} {what};"
                f" of {of}, {promise[row['kind']]}"
            )


def score(
    data: str,
    *,
    model: str | None,
    mixture: Path | None,
    estimators: Sequence[str],
    settings: Mapping[str, Any],
    key: str | None,
    number: int | None,
    network_seed: int | None,
    step: int | None,
    data_dir: Path,
    device: str,
) -> Scored:
    """Score what ``data`` names: a CSV of points in double precision, or images.

    Args:
        data: CSV, ``npz:PATH``, PATH.npz or the name of an image set.
        model: a file, a folder, or ``diffusers:`` and a folder.
        mixture: a mixture's JSON instead, for points.
        estimators: names, or ``all``; empty for the flow.
        settings: those of `estimators.Settings` that are not to be the defaults of points, or of images.
        key: of the images in an npz.
        number: score the first so many.
        network_seed: of a run's networks.
        step: of a run's snapshots.
        data_dir: where archives of image sets are.
        device: of images.

    Raises:
        InputError: for anything that can't be read, does not fit, or is refused by an estimator.
    """
    images = are_images(data)
    used = Settings(**(asdict(IMAGES if images else POINTS) | dict(settings)))
    path = None if model is None else Path(model.removeprefix(PREFIX))
    if model is not None and model.startswith(PREFIX) and path is not None and not path.is_dir():
        raise InputError(f"{path}: is no folder")
    recorded = {"data": data, "model": str(model or mixture)} | asdict(used)
    if not images:
        if key or network_seed is not None or step is not None:
            raise InputError("score: --key, --network-seed and --step are for images; these are points")
        x = read_points(Path(data))[:number]
        names = chosen(estimators, False, x.shape[1])
        table = score_points(models.of_points(path, mixture, x.shape[1]), x, names, used)
        return Scored(table, recorded | {"estimators": names})
    if path is None or mixture is not None:
        raise InputError("score: images need --model, and no --mixture")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("score: --device cuda: torch finds no GPU")
    pictures = read_images(data, data_dir, key, number)
    names = chosen(estimators, True, pictures.test[0].numel())
    read = models.of_images(path, pictures, seed=network_seed, step=step, device=device)
    table = score_images(read, pictures.test.to(device), pictures.levels, names, used)
    of = {"estimators": names, "sha256": dict(pictures.sha256), "network": [network_seed, step]}
    return Scored(table, recorded | of)
