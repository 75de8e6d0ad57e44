"""Figures of the comparison, from its tables alone: each function takes the folder of tables and gives a figure."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusion_density.density.estimators import ESTIMATORS
from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.comparison import figures_conditional
from diffusion_density.studies.shared import style
from diffusion_density.studies.shared.style import COLOURS, ESTIMATOR_LOOKS, GREY, PALETTE, Dot, Look


def accuracy(tables: Path) -> Figure:
    """Root-mean-square error against network evaluations, for mixtures in few and many dimensions and a network."""
    table = read_csv(tables / "estimators.csv")
    table["square"] = (table.value_nats - table.reference_nats) ** 2
    mixtures = table[table.target == "mixture"]
    dimensions = sorted(set(mixtures.dimension))
    shown = [dimensions[len(dimensions) // 3], dimensions[-1]]
    targets = {f"mixture, $D$ = {d}": mixtures[mixtures.dimension == d] for d in shown}
    targets["trained network"] = table[table.target == "trained network"]
    figure, axes = style.canvas(len(targets), height=3.6)
    for axis, (title, part) in zip(axes, targets.items(), strict=True):
        squares = part.groupby(["estimator", "setting", "network_evaluations"]).square.agg(["mean", "sem"])
        squares = squares.reset_index().sort_values("network_evaluations", kind="stable")
        for name, look in ESTIMATOR_LOOKS.items():
            mine = squares[squares.estimator == name]
            error = mine["mean"] ** 0.5
            if len(mine):
                axis.errorbar(
                    mine.network_evaluations, error, yerr=mine["sem"] / (2 * error), lw=1, elinewidth=0.7, **look
                )
        axis.set(xscale="log", yscale="log", xlabel="network evaluations per point", title=title)
    axes[0].set_ylabel("root mean square error (nats)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=6.5)
    return figure


def bias(tables: Path) -> Figure:
    """The mean difference of every estimator, at its most expensive setting, from the log density of the flow."""
    table = read_csv(tables / "decision.csv")
    targets = [target for target in dict.fromkeys(table.target) if target != "mixture"]
    figure, axes = style.canvas(len(targets), height=2.8)
    for axis, target in zip(axes, targets, strict=True):
        part = table[table.target == target].set_index("estimator")
        rows = []
        for name, one in ESTIMATORS.items():
            if name in part.index:
                mean, stderr = part.loc[name, ["mean_error_nats", "mean_error_stderr_nats"]] / part.dimension[name]
                interval = (mean - 1.96 * stderr, mean + 1.96 * stderr)
                rows.append(Dot(one.label, mean, *interval, COLOURS[name], one.marker))
        style.dots(axis, rows)
        axis.axvline(0, color=GREY, lw=0.8)
        axis.set(title=f"{target}, $D$ = {part.dimension.iloc[0]}")
        axis.set_xlabel("mean difference from the flow\n(nats per dimension)")
    return figure


def variance(tables: Path) -> Figure:
    """Variance of the plain over that of the reduced path integral, and coverage of their 95 % intervals."""
    table = read_csv(tables / "findings.csv")
    keys = ["target", "dimension", "throws"]
    ratios = table[(table.finding == "variance ratio") & (table.target != "median mixture")]
    ratios = ratios.assign(target=ratios.target.str.rsplit(" ", n=1).str[0])  # without the number of the mixture
    cases = dict(iter(ratios.groupby(keys, sort=False)))
    figure, axes = style.canvas(2, height=3.0)
    for place, part in enumerate(cases.values()):
        shifts = place + np.linspace(-0.25, 0.25, len(part)) if len(part) > 1 else [place]
        spans = [part.value - part.ci_low, part.ci_high - part.value]
        axes[0].errorbar(part.value, shifts, xerr=spans, fmt="o", ms=3, color=PALETTE["blue"], elinewidth=0.7)
    axes[0].axvline(1, color=GREY, lw=0.8)
    axes[0].set(xscale="log", xlabel="variance, plain / reduced")
    axes[0].set_yticks(range(len(cases)), [f"{name}\n$D$ = {d}, {n} throws" for name, d, n in cases], fontsize=6)
    for method, colour, shift in (("plain", "vermillion", 0.12), ("reduced", "blue", -0.12)):
        part = table[table.finding == f"coverage of {method}"].set_index(keys)
        rows = 100 * part.reindex(pd.MultiIndex.from_tuples(list(cases)))[["value", "ci_low", "ci_high"]]
        spans = [rows.value - rows.ci_low, rows.ci_high - rows.value]
        look: Look = {"fmt": "o", "ms": 3, "color": PALETTE[colour], "elinewidth": 0.7, "label": method}
        axes[1].errorbar(rows.value, np.arange(len(cases)) + shift, xerr=spans, **look)
    axes[1].axvline(95, color=GREY, lw=0.8)
    axes[1].set(xlabel="coverage of 95 % intervals (%)", yticks=range(len(cases)), yticklabels=[])
    axes[1].legend(loc="upper left")
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "accuracy": accuracy,
    "bias": bias,
    "variance": variance,
    **figures_conditional.FIGURES,
}
