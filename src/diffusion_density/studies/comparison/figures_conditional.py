"""Figures of conditional densities, from the tables of the study ``comparison``: each takes their folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.shared.style import COLOURS, GREY, canvas, curve, plain_log_ticks, summarise
from diffusion_density.studies.shared.tables import groups, records

PROBLEMS = {"linear_gaussian": "linear Gaussian", "mixture": "mixture", "two_moons": "two moons"}
ESTIMATORS = {
    "flow": ("flow", COLOURS["flow"], "D"),
    "plain": ("path integral, plain", "#D55E00", "s"),
    "reduced": ("path integral, reduced", COLOURS["path_integral"], "o"),
}
KOLMOGOROV = 1.36  # the band that holds 95% of empirical distribution functions has the half width 1.36/√N


def conditional(tables: Path) -> Figure:
    """KL divergences with intervals, seed by seed, and what a point costs."""
    table = read_csv(tables / "conditional.csv")
    figure, axes = canvas(len(PROBLEMS), height=2.8)
    for axis, (problem, title) in zip(axes, PROBLEMS.items(), strict=True):
        part = table[table.problem == problem]
        for place, (estimator, (label, colour, marker)) in enumerate(ESTIMATORS.items()):
            mine = part[part.estimator == estimator]
            axis.errorbar(
                place + np.linspace(-0.2, 0.2, len(mine)),
                mine.kl_nats,
                yerr=1.96 * mine.kl_stderr_nats,
                fmt=marker,
                color=colour,
                capsize=1.5,
                elinewidth=0.8,
                label=label,
            )
        axis.axhline(0, color=GREY, lw=0.8)
        costs = [_cost(part[part.estimator == estimator]) for estimator in ESTIMATORS]
        axis.set_xticks(range(len(ESTIMATORS)), costs, fontsize=6)
        axis.set(title=title, xlim=(-0.5, len(ESTIMATORS) - 0.5), xlabel="evaluations and time a point")
    axes[0].set_ylabel("mean KL from the exact p(x | c) (nats)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ESTIMATORS))
    return figure


def _cost(rows: pd.DataFrame) -> str:
    return f"{rows.network_evaluations.mean():.0f}\n{1e3 * rows.seconds_per_point.mean():.2g} ms"


def conditional_calibration(tables: Path) -> Figure:
    """Distribution functions of the ranks less that of uniform ones, a line a seed and coordinate."""
    table = read_csv(tables / "conditional_ranks.csv")
    figure, axes = canvas(len(PROBLEMS), height=2.6, share_y=True)
    for axis, (problem, title) in zip(axes, PROBLEMS.items(), strict=True):
        part = table[table.problem == problem]
        draws, pairs = part.draws.iloc[0], part.pair.nunique()
        levels = np.arange(draws + 1)
        uniform = (levels + 1) / (draws + 1)
        colours = dict(zip(sorted(set(part.coordinate)), ("#0072B2", "#D55E00", "#009E73"), strict=False))
        for (coordinate, _seed), rows in groups(part, "coordinate", "seed"):
            below = (rows["rank"].to_numpy()[:, None] <= levels).mean(0)
            axis.plot(uniform, below - uniform, drawstyle="steps-mid", lw=0.9, color=colours[coordinate])
        band = KOLMOGOROV / pairs**0.5
        axis.axhspan(-band, band, color="0.92", zorder=0)
        axis.axhline(0, color=GREY, lw=0.8)
        axis.set(title=title, xlabel="rank / number of samples", ylim=(-1.4 * band, 1.4 * band))
        names = {f"$x_{coordinate + 1}$": colour for coordinate, colour in colours.items()}
        axis.legend(handles=[Line2D([], [], color=c, label=n) for n, c in names.items()], ncols=3, loc="upper right")
    axes[0].set_ylabel("ECDF of ranks − uniform")
    return figure


def conditional_classes(tables: Path) -> Figure:
    """The error of the posterior of the context against throws, with noise in common or not."""
    table = read_csv(tables / "conditional_classes.csv")
    problems = [problem for problem in PROBLEMS if problem in set(table.problem)]
    figure, axes = canvas(len(problems), height=2.8)
    for axis, problem in zip(axes, problems, strict=True):
        part = table[table.problem == problem]
        for method in ("plain", "reduced"):
            label, colour, marker = ESTIMATORS[method]
            for noise, line in (("common", "-"), ("independent", ":")):
                means = _means(part[(part.method == method) & (part.noise == noise)])
                style = {"color": colour, "marker": marker, "ls": line, "label": f"{label.split()[-1]}, {noise}"}
                curve(axis, means.throws, means, **style)
        _level(axis, part[part.method == "flow"])
        axis.set(xscale="log", yscale="log", xlabel="throws a context", title=PROBLEMS[problem])
        plain_log_ticks(axis, "x", sorted(set(part.throws[part.throws > 0])))
        plain_log_ticks(axis, "y", (0.01, 0.02, 0.05, 0.1, 0.2))
    axes[0].set_ylabel("mean |posterior − exact|")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _means(table: pd.DataFrame) -> pd.DataFrame:
    """Means over repeats for each seed, and of these the mean and standard error."""
    by_seed = table.groupby(["throws", "seed"]).posterior_error.mean().reset_index()
    return summarise(by_seed, ["throws"], "posterior_error")


def _level(axis: Axes, flow: pd.DataFrame) -> None:
    """The error that the networks make without any noise."""
    for row in records(_means(flow)):
        axis.axhspan(row.mean - row.sem, row.mean + row.sem, color=COLOURS["flow"], alpha=0.2, lw=0)
        axis.axhline(row.mean, color=COLOURS["flow"], lw=1, label="flow")


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "conditional": conditional,
    "conditional_calibration": conditional_calibration,
    "conditional_classes": conditional_classes,
}
"""The study's figures of conditional densities by name."""
