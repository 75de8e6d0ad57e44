"""Figures of the study of Li and Yan 2024, from its tables alone: each function takes the folder of tables.

Figures of closed forms are here, those of trained networks and classifiers in `figures_trained`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.density_formula.figures_trained import classifier, digits, gan, weightings
from diffusion_density.studies.shared import style
from diffusion_density.studies.shared.style import COLOURS, GREY, PALETTE, Look

SCHEDULES = {  # label, colour, marker
    "paper": ("of Li and Yan", PALETTE["blue"], "o"),
    "linear": ("linear", PALETTE["vermillion"], "s"),
    "cosine": ("cosine", PALETTE["green"], "^"),
    "uniform_log_snr": ("uniform in log-SNR", PALETTE["purple"], "D"),
}
METHODS = {
    "uniform_time": "uniform times",
    "log_snr": "stratified log-SNR",
    "formula": "+ control variate,\nantithetic pairs",
}


def exactness(tables: Path) -> Figure:
    """Deviations from the truth in standard errors, by dimension, and the spread of three Monte Carlo estimators."""
    figure, axes = style.canvas(2, height=2.9)
    table = read_csv(tables / "exactness.csv")
    noisy = table[table.stderr_nats > 0]
    noisy = noisy.assign(deviation=(noisy.value_nats - noisy.truth_nats) / noisy.stderr_nats)
    colours = {"gaussian": PALETTE["blue"], "mixture": PALETTE["vermillion"]}
    look = {"hue": "target", "palette": colours, "dodge": True, "size": 3, "alpha": 0.7}
    style.plot(sns.stripplot, axes[0], noisy, x="dimension", y="deviation", **look)
    axes[0].axhspan(-2, 2, color="0.92", zorder=0)
    axes[0].axhline(0, color=GREY, lw=0.8)
    axes[0].set(xlabel="dimension $D$", ylabel="(estimate − truth) / standard error")
    style.legend(axes[0], colours, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    spread = read_csv(tables / "variance.csv").groupby(["method", "x"]).value_nats.std().reset_index()
    colours = {"uniform_time": PALETTE["purple"], "log_snr": PALETTE["blue"], "formula": PALETTE["blue"]}
    look = {"hue": "method", "palette": colours, "order": list(METHODS), "size": 5}
    style.plot(sns.stripplot, axes[1], spread, x="method", y="value_nats", **look)
    axes[1].set_xticks(range(len(METHODS)), list(METHODS.values()))
    axes[1].set(yscale="log", ylabel="standard deviation (nats)", title="one estimate, at three points, at equal cost")
    return figure


def discretisation(tables: Path) -> Figure:
    """Errors of the DDPM sum and of the trapezoid against the number of steps, with the derived prediction."""
    table, slopes = read_csv(tables / "discretisation.csv"), read_csv(tables / "slopes.csv")
    slopes = slopes[~slopes.per_log_squared]
    sums, trapezoids = table[table.rule == "sum"], table[table.rule == "trapezoid"]
    figure, axes = style.canvas(2, height=3.2)
    drawn = ((axes[0], sums, "mean_gap_nats"), (axes[1], trapezoids, "max_error_nats"))
    for axis, part, column in drawn:
        fits = slopes[(slopes.rule == part.rule.iloc[0]) & (slopes.quantity == column.removesuffix("_nats"))]
        for name, (label, colour, marker) in SCHEDULES.items():
            mine, slope = part[part.schedule == name], fits[fits.schedule == name].slope.iloc[0]
            look: Look = {"color": colour, "marker": marker, "mfc": "w", "lw": 0.8, "label": f"{label} ({slope:.2f})"}
            axis.plot(mine.steps, mine[column], **look)
        axis.legend(title="schedule (fitted slope)", fontsize=6, loc="lower left")
    derived = {"x": ("predicted_sharp_nats", "½ Σ E(l − log(1 + l))"), ":": ("predicted_quadratic_nats", "¼ Σ E l²")}
    for schedule, part in sums.groupby("schedule"):
        for mark, (column, _) in derived.items():
            axes[0].plot(part.steps, part[column], mark, color=SCHEDULES[str(schedule)][1], ms=5, lw=1)
    axes[0].set(title="DDPM sum", ylabel="mean of log p − formula (nats)")
    axes[1].set(title="trapezoid in log-SNR", ylabel="largest |error| (nats)")
    steps = sorted(set(table.steps))
    for axis, slope in zip(axes, (-1, -2), strict=True):
        axis.set(yscale="log", xlabel="steps $T$")
        style.plain_log_ticks(axis, "x", steps)
        _slope(axis, steps, slope)
    looks = ({"marker": "x", "ms": 5, "ls": "none"}, {"ls": ":", "lw": 1})
    keys = {f"derived: {text}": look for (_, text), look in zip(derived.values(), looks, strict=True)}
    style.legend(figure, lines=keys, loc="outside lower center", ncols=2)
    return figure


def _slope(axis: Axes, steps: list[int], slope: int) -> None:
    """A line of this slope, to compare with."""
    low, high = axis.get_ylim()
    x = np.array([steps[-2], steps[-1]])
    y = high * 0.6 * (x / x[0]) ** slope
    axis.plot(x, y, color=GREY, lw=0.8)
    axis.annotate(f"$T^{{{slope}}}$", (x[0], y[0]), fontsize=7, color=GREY, ha="right", va="center")
    axis.set_ylim(low, high)


def score_error(tables: Path) -> Figure:
    """The effect of an error of the score: log densities along x, and the gap against its prediction."""
    table = read_csv(tables / "score_error.csv")
    figure, axes = style.canvas(2, height=2.9)
    sizes = sorted(set(table["size"]))
    part = table[table["size"] == sizes[-2]]
    for column, label, colour, line in (
        ("log_prob_data_nats", "data", "black", ":"),
        ("log_prob_sde_nats", "reverse SDE", PALETTE["vermillion"], "-"),
        ("formula_nats", "formula", COLOURS["formula"], "--"),
    ):
        axes[0].plot(part.x, part[column], color=colour, ls=line, label=label)
    axes[0].set(xlabel="$x$", ylabel="log density (nats)", title=f"error of size $\\epsilon$ = {sizes[-2]:g}")
    axes[0].legend()
    wrong = table[table["size"] > 0]
    shades = dict(zip(sizes[1:], sns.color_palette("crest", len(sizes) - 1).as_hex(), strict=True))
    style.plot(
        sns.scatterplot, axes[1], wrong, x="predicted_gap_nats", y="gap_nats", hue="size", palette=shades, s=12, lw=0
    )
    ends = [wrong.predicted_gap_nats.min(), wrong.predicted_gap_nats.max()]
    axes[1].plot(ends, ends, color=GREY, lw=0.8, zorder=0)
    axes[1].set(xscale="log", yscale="log", xlabel="predicted gap (nats)", ylabel="log p of the SDE − formula (nats)")
    style.legend(axes[1], {f"$\\epsilon$ = {size:g}": shade for size, shade in shades.items()})
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    draw.__name__: draw for draw in (exactness, discretisation, score_error, weightings, classifier, gan, digits)
}
