"""Figures of paper B, from its tables alone: each function takes the folder of tables and gives a figure.

Those on closed forms are here, those on trained networks in `density_formula_trained`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.density_formula.figures_trained import classifier, digits, gan, weightings
from diffusion_density.studies.shared.style import COLOURS, GREY, canvas, plain_log_ticks
from diffusion_density.studies.shared.tables import groups

SCHEDULES = {
    "paper": ("the paper's", "#0072B2", "o"),
    "linear": ("linear", "#D55E00", "s"),
    "cosine": ("cosine", "#009E73", "^"),
    "uniform_log_snr": ("uniform log-SNR", "#CC79A7", "D"),
}
METHODS = {
    "uniform_time": "uniform time, raw",
    "log_snr": "stratified log-SNR",
    "formula": "+ control variate,\nantithetic pairs",
}


def exactness(tables: Path) -> Figure:
    """Deviations from the truth in standard errors, by dimension, and the spread of three Monte Carlo estimators."""
    figure, axes = canvas(2, height=2.9)
    table = read_csv(tables / "exactness.csv")
    noisy = table[table.stderr_nats > 0]
    deviation = (noisy.value_nats - noisy.truth_nats) / noisy.stderr_nats
    dimensions = sorted(set(noisy.dimension))
    targets = (("gaussian", "o", COLOURS["path_integral"]), ("mixture", "s", COLOURS["score"]))
    for offset, (target, marker, colour) in zip((-0.15, 0.15), targets, strict=True):
        mine = noisy.target == target
        place = noisy.dimension[mine].map({d: i for i, d in enumerate(dimensions)})
        spread = 0.1 * np.linspace(-1, 1, len(place))
        axes[0].plot(place + offset + spread, deviation[mine], marker, color=colour, ms=2.5, alpha=0.6, label=target)
    axes[0].axhspan(-2, 2, color="0.92", zorder=0)
    axes[0].axhline(0, color=GREY, lw=0.8)
    axes[0].set_xticks(range(len(dimensions)), [f"{d}" for d in dimensions])
    axes[0].set(xlabel="dimension $D$", ylabel="(estimate − truth) / standard error")
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    variance = read_csv(tables / "variance.csv")
    for index, method in enumerate(METHODS):
        part = variance[variance.method == method]
        errors = [group.value_nats.std() for _, group in groups(part, "x")]
        few = len(part) / len(errors)
        axes[1].errorbar(
            np.full(len(errors), index) + np.linspace(-0.15, 0.15, len(errors)),
            errors,
            yerr=np.array(errors) / (2 * few) ** 0.5,
            fmt="o",
            color=COLOURS["flow"] if method == "uniform_time" else COLOURS["path_integral"],
        )
    axes[1].set_xticks(range(len(METHODS)), list(METHODS.values()))
    axes[1].set(yscale="log", xlim=(-0.5, 2.5), ylabel="standard deviation (nats)")
    axes[1].set_title("one estimate of equal cost, at three points")
    return figure


def discretisation(tables: Path) -> Figure:
    """Errors of the DDPM sum and of the trapezoid against the number of steps, with the derived prediction."""
    table, slopes = read_csv(tables / "discretisation.csv"), read_csv(tables / "slopes.csv")
    fitted = slopes[~slopes.per_log_squared].set_index(["schedule", "rule", "quantity"]).slope
    figure, axes = canvas(2, height=3.2)
    for schedule, (label, colour, marker) in SCHEDULES.items():
        for rule, axis, column in (("sum", axes[0], "mean_gap_nats"), ("trapezoid", axes[1], "max_error_nats")):
            part = table[(table.schedule == schedule) & (table.rule == rule)]
            name = f"{label} ({fitted[schedule, rule, column.removesuffix('_nats')]:.2f})"
            axis.plot(part.steps, part[column], marker, color=colour, mfc="w", ls="-", lw=0.8, label=name)
        part = table[(table.schedule == schedule) & (table.rule == "sum")]
        axes[0].plot(part.steps, part.predicted_sharp_nats, color=colour, ls="none", marker="x", ms=5)
        axes[0].plot(part.steps, part.predicted_quadratic_nats, color=colour, ls=":", lw=1)
    steps = sorted(set(table.steps))
    axes[0].set(title="DDPM sum", ylabel="mean of log p − formula (nats)")
    axes[1].set(title="trapezoid in log-SNR", ylabel="largest |error| (nats)")
    for axis, slope in zip(axes, (-1, -2), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="steps $T$")
        plain_log_ticks(axis, "x", steps)
        _slope(axis, steps, slope)
    keys = [
        Line2D([], [], color=GREY, marker="x", ms=5, ls="none", label="derived, ½ Σ E(l − log(1 + l))"),
        Line2D([], [], color=GREY, ls=":", lw=1, label="derived, ¼ Σ E l²"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=2)
    axes[0].legend(title="schedule (fitted slope)", title_fontsize=7, fontsize=6, loc="lower left")
    axes[1].legend(title="schedule (fitted slope)", title_fontsize=7, fontsize=6, loc="lower left")
    return figure


def _slope(axis: Axes, steps: list[int], slope: int) -> None:
    """A triangle's hypotenuse: what this slope looks like."""
    low, high = axis.get_ylim()
    x = np.array([steps[-2], steps[-1]])
    y = high * 0.6 * (x / x[0]) ** slope
    axis.plot(x, y, color=GREY, lw=0.8)
    axis.annotate(f"$T^{{{slope}}}$", (x[0], y[0]), fontsize=7, color=GREY, ha="right", va="center")
    axis.set_ylim(low, high)


def score_error(tables: Path) -> Figure:
    """What an error of the score costs: log densities along x, and the gap against its prediction."""
    table = read_csv(tables / "score_error.csv")
    figure, axes = canvas(2, height=2.9)
    shown = sorted(set(table["size"]))[-2]
    part = table[table["size"] == shown]
    for column, label, colour, line in (
        ("log_prob_data_nats", "data", "black", ":"),
        ("log_prob_sde_nats", "reverse SDE", COLOURS["score"], "-"),
        ("formula_nats", "formula", COLOURS["path_integral"], "--"),
    ):
        axes[0].plot(part.x, part[column], color=colour, ls=line, label=label)
    axes[0].set(xlabel="$x$", ylabel="log density (nats)", title=f"perturbation $\\epsilon$ = {shown:g}")
    axes[0].legend()
    sizes = [size for size in sorted(set(table["size"])) if size > 0]
    shades = np.linspace(0.35, 1.0, len(sizes))
    for size, shade in zip(sizes, shades, strict=True):
        part = table[table["size"] == size]
        axes[1].plot(
            part.predicted_gap_nats,
            part.gap_nats,
            "o",
            ms=3,
            color=COLOURS["path_integral"],
            alpha=shade,
            label=f"$\\epsilon$ = {size:g}",
        )
    ends = [table.predicted_gap_nats[table["size"] > 0].min(), table.predicted_gap_nats.max()]
    axes[1].plot(ends, ends, color=GREY, lw=0.8)
    axes[1].set(xscale="log", yscale="log", xlabel="predicted gap (nats)", ylabel="log p of the SDE − formula (nats)")
    axes[1].legend()
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "exactness": exactness,
    "discretisation": discretisation,
    "score_error": score_error,
    "weightings": weightings,
    "classifier": classifier,
    "gan": gan,
    "digits": digits,
}
"""Every figure of the study by name."""
