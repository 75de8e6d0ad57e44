"""Figures of conditional densities, from the tables of the study `comparison`: each function takes their folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from diffusion_density.density.estimators import ESTIMATORS
from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.shared import style
from diffusion_density.studies.shared.style import COLOURS, GREY, PALETTE, Look
from diffusion_density.studies.shared.tables import groups

PROBLEMS = {"linear_gaussian": "linear Gaussian", "mixture": "mixture", "two_moons": "two moons"}
LOOKS = {  # label, colour and marker of what the tables compare
    "flow": ("flow", COLOURS["flow"], "D"),
    "plain": (ESTIMATORS["path_integral"].label, PALETTE["vermillion"], "s"),
    "reduced": (ESTIMATORS["reduced"].label, COLOURS["reduced"], "o"),
}
NOISES = {"common": "-", "independent": ":"}
KOLMOGOROV = 1.36  # the band that holds 95 % of empirical distribution functions has the half width 1.36/√N


def conditional(tables: Path) -> Figure:
    """KL divergences with intervals, seed by seed, and the cost per point."""
    table = read_csv(tables / "conditional.csv")
    figure, axes = style.canvas(len(PROBLEMS), height=2.8)
    for axis, (problem, title) in zip(axes, PROBLEMS.items(), strict=True):
        costs = []
        for place, (estimator, (label, colour, marker)) in enumerate(LOOKS.items()):
            mine = table[(table.problem == problem) & (table.estimator == estimator)]
            places = place + np.linspace(-0.2, 0.2, len(mine))
            bars = 1.96 * mine.kl_stderr_nats
            look: Look = {"fmt": marker, "color": colour, "capsize": 1.5, "elinewidth": 0.8, "label": label}
            axis.errorbar(places, mine.kl_nats, yerr=bars, **look)
            milliseconds = 1e3 * mine.seconds_per_point.mean()
            costs.append(f"{mine.network_evaluations.mean():.0f}\n{milliseconds:.2g} ms")
        axis.axhline(0, color=GREY, lw=0.8)
        axis.set_xticks(range(len(LOOKS)), costs, fontsize=6)
        axis.set(title=title, xlim=(-0.5, len(LOOKS) - 0.5), xlabel="evaluations and time per point")
    axes[0].set_ylabel("mean KL from the exact p(x | c) (nats)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LOOKS))
    return figure


def conditional_calibration(tables: Path) -> Figure:
    """Distribution functions of the ranks minus that of uniform ranks, a line for each seed and coordinate."""
    table = read_csv(tables / "conditional_ranks.csv")
    figure, axes = style.canvas(len(PROBLEMS), height=2.6, share_y=True)
    for axis, (problem, title) in zip(axes, PROBLEMS.items(), strict=True):
        part = table[table.problem == problem]
        levels = np.arange(part.draws.iloc[0] + 1)
        uniform = (levels + 1) / len(levels)
        curves = []
        for (coordinate, seed), rows in groups(part, "coordinate", "seed"):
            below = (rows["rank"].to_numpy()[:, None] <= levels).mean(0)
            columns = {"level": uniform, "deviation": below - uniform, "coordinate": coordinate, "seed": seed}
            curves.append(pd.DataFrame(columns))
        names = (PALETTE[name] for name in ("blue", "vermillion", "green"))
        colours = dict(zip(sorted(set(part.coordinate)), names, strict=False))
        look: Look = {"hue": "coordinate", "palette": colours, "drawstyle": "steps-mid", "lw": 0.9}
        by_seed = {"units": "seed", "estimator": None}
        style.plot(sns.lineplot, axis, pd.concat(curves), x="level", y="deviation", **by_seed, **look)
        band = KOLMOGOROV / part.pair.nunique() ** 0.5
        axis.axhspan(-band, band, color="0.92", zorder=0)
        axis.axhline(0, color=GREY, lw=0.8)
        axis.set(title=title, xlabel="rank / number of samples", ylim=(-1.4 * band, 1.4 * band))
        keys = {f"$x_{coordinate + 1}$": {"color": colour} for coordinate, colour in colours.items()}
        style.legend(axis, lines=keys, ncols=3, loc="upper right")
    axes[0].set_ylabel("ECDF of ranks − uniform")
    return figure


def conditional_classes(tables: Path) -> Figure:
    """The error of the posterior of the context against throws, with common or independent noise."""
    table = read_csv(tables / "conditional_classes.csv")
    keys = ["problem", "method", "noise", "throws", "seed"]
    by_seed = table.groupby(keys, dropna=False).posterior_error.mean().reset_index()
    problems = [problem for problem in PROBLEMS if problem in set(table.problem)]
    figure, axes = style.canvas(len(problems), height=2.8)
    looks: dict[str, Look] = {}
    for axis, problem in zip(axes, problems, strict=True):
        part = by_seed[by_seed.problem == problem]
        flow = part[part.method == "flow"].posterior_error
        mean, error = flow.agg(["mean", "sem"]).to_numpy(dtype=float)
        axis.axhspan(mean - error, mean + error, color=COLOURS["flow"], alpha=0.2, lw=0)
        axis.axhline(mean, color=COLOURS["flow"], lw=1)
        for method in ("plain", "reduced"):
            label, colour, marker = LOOKS[method]
            for noise, line in NOISES.items():
                look = {"color": colour, "marker": marker, "ls": line}
                rows = part[(part.method == method) & (part.noise == noise)]
                style.lines(axis, rows, "throws", "posterior_error", **look)
                looks[f"{label.split()[-1]}, {noise} noise"] = look
        axis.set(xlabel="throws per context", title=PROBLEMS[problem])
        style.plain_log_ticks(axis, "x", sorted(set(part.throws[part.throws > 0])))
        style.plain_log_ticks(axis, "y", (0.01, 0.02, 0.05, 0.1, 0.2))
    axes[0].set_ylabel("mean |posterior − exact|")
    style.legend(figure, lines={"flow": {"color": COLOURS["flow"]}} | looks, loc="outside lower center", ncols=3)
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    draw.__name__: draw for draw in (conditional, conditional_calibration, conditional_classes)
}
