"""The figure of the verb `score`, from its table: each point or image by each estimator, and the means over all."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusion_density.commands.score.table import summary
from diffusion_density.studies.comparison.figures import STYLES
from diffusion_density.studies.shared.style import GREY, canvas
from diffusion_density.studies.shared.tables import records

LOOKS = {
    "flow": STYLES["flow_exact"],
    "flow_hutchinson": STYLES["flow_hutchinson"],
    "path_integral": STYLES["path_integral"],
    "reduced": STYLES["reduced"],
    "formula": STYLES["formula"],
    "chain": STYLES["chain"],
    "bound": ("variational bound", "#000000", "-", "P"),
}
SPREAD = 0.6  # of the estimators' markers about a rank
OF = {"flow": "flow", "sde": "SDE"}


def scores(table: pd.DataFrame) -> Figure:
    """Values with 95 % intervals, ranked by the first estimator, and means with theirs; one colour an estimator."""
    points = "point" in table
    unit, label = ("nats", "log p (nats)") if points else ("bits_per_dim", "bits/dim")
    value = "log_prob_nats" if points else "bits_per_dim"
    means = summary(table)
    names = list(means.estimator)
    figure, (every, mean) = canvas(2, height=2.2 + 0.12 * len(names))
    first = table[table.estimator == names[0]]
    index = "point" if points else "image"
    rank = first[value].reset_index(drop=True).rank(method="first", na_option="bottom").to_numpy()
    for place, name in enumerate(names):
        rows = table[table.estimator == name]
        shift = SPREAD * ((place + 0.5) / len(names) - 0.5)
        _, colour, _, marker = LOOKS[name]
        y, low, high = rows[[value, f"ci_low_{unit}", f"ci_high_{unit}"]].to_numpy(dtype=float).T
        ends = np.nan_to_num(np.abs(np.array([y - low, high - y])))
        every.errorbar(
            rank + shift, y, yerr=ends, color=colour, ls="none", marker=marker, mfc="w", ms=3.5, elinewidth=0.7
        )
    every.set(xlabel=f"{index}, by rank", ylabel=label)
    for place, row in enumerate(records(means)):
        text, colour, _, marker = LOOKS[str(row.estimator)]
        height = len(names) - 1 - place
        ends = np.array([[row.mean - row.ci_low], [row.ci_high - row.mean]])
        mean.errorbar(row.mean, height, xerr=ends, color=colour, marker=marker, mfc="w", ms=4, capsize=2, lw=1)
        mean.annotate(
            f"{text}: {OF[str(row.of)]}, {row.kind}",
            (row.mean, height),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            color=colour,
        )
    mean.set(xlabel=f"mean {label}, {means.n.max()} {index}s", yticks=[], ylim=(-0.6, len(names) - 0.2))
    mean.margins(x=0.5)
    mean.spines["left"].set_visible(False)
    every.annotate("bars: 95 % intervals", (0.02, 0.98), xycoords="axes fraction", va="top", fontsize=6.5, color=GREY)
    return figure
