"""From the data, the model and the estimators that a user chose to the table of scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from diffusion_density.commands.score.estimators import chosen, score_table
from diffusion_density.commands.score.inputs import Data
from diffusion_density.commands.score.models import ModelChoice
from diffusion_density.commands.score.settings import FOR_IMAGES, FOR_POINTS
from diffusion_density.commands.score.summary import summary
from diffusion_density.machine.errors import InputError

KINDS = {"exact": "exact", "unbiased": "unbiased", "lower": "a lower bound", "upper": "an upper bound"}
DENSITIES = {"flow": "the flow", "sde": "the reverse SDE"}


@dataclass(frozen=True)
class Scored:
    """A table, and the settings that it was made with, for its provenance."""

    table: pd.DataFrame
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """One line per estimator for the terminal: the mean over all points or images with its 95 % interval."""
        what, unit = ("points", "nats") if "point" in self.table else ("images", "bits/dim")
        for row in summary(self.table).to_dict("records"):
            interval = f" [{row['ci_low']:.4f}, {row['ci_high']:.4f}]" if row["n"] > 1 else ""
            yield (
                f"{row['estimator']}: mean {row['mean']:.4f}{interval} {unit} over {row['n']} {what};"
                f" density of {DENSITIES[row['density']]}, {KINDS[row['kind']]}"
            )


def score(data: Data, model: ModelChoice, estimators: Sequence[str], settings: Mapping[str, Any]) -> Scored:
    """Score points in double precision, or images.

    Args:
        data: what to score.
        model: the model to score with.
        estimators: names, or ``all``; empty for the flow.
        settings: those fields of :class:`Settings` that differ from the defaults for points, or for images.

    Raises:
        InputError: for anything that can't be read, does not fit, or is refused by an estimator.
    """
    used = replace(FOR_IMAGES if data.are_images else FOR_POINTS, **settings)
    recorded = {"data": data.source, "model": str(model.model or model.mixture)} | asdict(used)
    if not data.are_images:
        if data.key or model.network_seed is not None or model.step is not None:
            raise InputError("score: --key, --network-seed and --step are for images; these are points")
        x = data.points()
        names = chosen(estimators, False, x.shape[1])
        table = score_table(model.for_points(x.shape[1]), x, names, used)
        return Scored(table, recorded | {"estimators": names})
    images = data.images()
    names = chosen(estimators, True, images.test[0].numel())
    table = score_table(model.for_images(images), images.test.to(model.device), names, used, images.levels)
    network = {"sha256": dict(images.sha256), "network": [model.network_seed, model.step]}
    return Scored(table, recorded | {"estimators": names} | network)
