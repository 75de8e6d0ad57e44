"""The figure of `score`, from its table: each point or image by each estimator, and the means over all."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusion_density.commands.score.summary import columns, summary
from diffusion_density.density.estimators import ESTIMATORS
from diffusion_density.studies.shared.style import ESTIMATOR_LOOKS, GREY, canvas
from diffusion_density.studies.shared.tables import records

SPREAD = 0.6  # width of the estimators' markers around a rank
DENSITIES = {"flow": "flow", "sde": "SDE"}


def scores(table: pd.DataFrame) -> Figure:
    """Values with 95 % intervals, ranked by the first estimator, and means with theirs; one colour per estimator."""
    number, value, unit = columns("image" in table)
    label = "log p (nats)" if number == "point" else "bits/dim"
    means = summary(table)
    names = list(means.estimator)
    figure, (every, mean) = canvas(2, height=2.2 + 0.12 * len(names))
    first = table[table.estimator == names[0]][value].reset_index(drop=True)
    rank = first.rank(method="first", na_option="bottom").to_numpy()
    for place, row in enumerate(records(means)):
        estimator = ESTIMATORS[row.estimator]
        look = ESTIMATOR_LOOKS[estimator.name] | {"ls": "none"}
        rows = table[table.estimator == estimator.name]
        y, low, high = rows[[value, f"ci_low_{unit}", f"ci_high_{unit}"]].to_numpy(dtype=float).T
        ends = np.nan_to_num(np.abs([y - low, high - y]))
        shift = SPREAD * ((place + 0.5) / len(names) - 0.5)
        every.errorbar(rank + shift, y, yerr=ends, elinewidth=0.7, **look)
        height = len(names) - 1 - place
        bars = [[row.mean - row.ci_low], [row.ci_high - row.mean]]
        mean.errorbar(row.mean, height, xerr=bars, capsize=2, elinewidth=1, **look)
        text = f"{estimator.label}: {DENSITIES[row.density]}, {row.kind}"
        mean.annotate(text, (row.mean, height), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=6.5,
                      color=look["color"])  # fmt: skip
    every.set(xlabel=f"{number}, by rank", ylabel=label)
    every.annotate("bars: 95 % intervals", (0.02, 0.98), xycoords="axes fraction", va="top", fontsize=6.5, color=GREY)
    mean.set(xlabel=f"mean {label}, {means.n.max()} {number}s", yticks=[], ylim=(-0.6, len(names) - 0.2))
    mean.margins(x=0.5)
    mean.spines["left"].set_visible(False)
    return figure
