"""Figures of the comparison, from its tables alone: each function takes the folder of tables and gives a figure."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.comparison import figures_conditional as comparison_conditional
from diffusion_density.studies.shared.style import GREY, canvas
from diffusion_density.studies.shared.tables import by_cost, groups, records

STYLES = {  # label, colour, line, marker
    "flow_exact": ("flow, exact trace", "#CC79A7", "-", "o"),
    "flow_hutchinson": ("flow, Hutchinson", "#CC79A7", "--", "o"),
    "path_integral": ("path integral, plain", "#0072B2", "--", "s"),
    "reduced": ("path integral, reduced", "#0072B2", "-", "s"),
    "formula": ("formula, quadrature", "#009E73", "-", "D"),
    "trapezoid": ("formula, trapezoid", "#009E73", "--", "D"),
    "ddpm_sum": ("formula, DDPM sum", "#E69F00", "-", "D"),
    "chain": ("chain, forward", "#D55E00", "-", "^"),
    "reverse_chain": ("chain, backward", "#D55E00", "--", "v"),
    "tracking": ("tracking", "#000000", "-", "x"),
}


def accuracy(tables: Path) -> Figure:
    """Root-mean-square error against network evaluations, for mixtures in few and many dimensions and a network."""
    table = read_csv(tables / "estimators.csv")
    mixtures = table[table.target == "mixture"]
    dimensions = sorted(set(mixtures.dimension))
    shown = [dimensions[len(dimensions) // 3], dimensions[-1]]
    targets = [(f"mixture, $D$ = {d}", mixtures[mixtures.dimension == d]) for d in shown]
    targets.append(("trained network", table[table.target == "trained network"]))
    figure, axes = canvas(len(targets), height=3.6)
    for axis, (title, part) in zip(axes, targets, strict=True):
        found = dict(groups(part.assign(error=part.value_nats - part.reference_nats), "estimator"))
        for name in (name for name in STYLES if name in found):
            _errors(axis, name, found[name])
        axis.set(xscale="log", yscale="log", xlabel="network evaluations a point", title=title)
    axes[0].set_ylabel("root mean square error (nats)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=6.5)
    return figure


def _errors(axis: Axes, name: str, rows: pd.DataFrame) -> None:
    label, colour, line, marker = STYLES[name]
    costs, values, spreads = [], list[float](), list[float]()
    for part in by_cost(rows):
        square = part.error.dropna().to_numpy(dtype=float) ** 2
        costs.append(part.network_evaluations.iloc[0])
        values.append(math.sqrt(square.mean()))
        spreads.append(float(square.std(ddof=1)) / math.sqrt(len(square)) / (2 * values[-1]))
    axis.errorbar(
        costs,
        values,
        yerr=spreads,
        color=colour,
        ls=line,
        marker=marker,
        mfc="w",
        ms=3.5,
        lw=1,
        elinewidth=0.7,
        label=label,
    )


def bias(tables: Path) -> Figure:
    """The mean difference of every dearest setting from the flow's log density, on trained networks."""
    table = read_csv(tables / "decision.csv")
    targets = [target for target in dict.fromkeys(table.target) if target != "mixture"]
    figure, axes = canvas(len(targets), height=2.8)
    for axis, target in zip(axes, targets, strict=True):
        part = table[table.target == target].set_index("estimator")
        names = [name for name in STYLES if name in part.index]
        for place, name in enumerate(reversed(names)):
            row = part.loc[name]
            _, colour, _, marker = STYLES[name]
            scale = 1 / row.dimension
            axis.errorbar(
                row.mean_error_nats * scale,
                place,
                xerr=1.96 * row.mean_error_stderr_nats * scale,
                color=colour,
                marker=marker,
                mfc="w",
                capsize=1.5,
            )
        axis.axvline(0, color=GREY, lw=0.8)
        axis.set(title=f"{target}, $D$ = {part.dimension.iloc[0]}", yticks=range(len(names)))
        axis.set_yticklabels([STYLES[name][0] for name in reversed(names)] if axis is axes[0] else [])
        axis.set_ylim(-0.6, len(STYLES) - 0.4)
        axis.set_xlabel("mean difference from the flow\n(nats a dimension)")
    return figure


def variance(tables: Path) -> Figure:
    """Variance of the plain over that of the reduced path integral, and coverage of their 95 % intervals."""
    table = read_csv(tables / "findings.csv")
    figure, axes = canvas(2, height=3.0)
    ratios = table[(table.finding == "variance ratio") & (table.of != "median mixture")]
    cases = list(dict.fromkeys((_target(row.of), row.dimension, row.throws) for row in records(ratios)))
    for place, (target, dimension, throws) in enumerate(cases):
        part = ratios[(ratios.dimension == dimension) & (ratios.throws == throws)]
        part = part[[_target(of) == target for of in part.of]]
        shifts = place + np.linspace(-0.25, 0.25, len(part)) if len(part) > 1 else [place]
        spans = [part.value - part.ci_low, part.ci_high - part.value]
        axes[0].errorbar(part.value, shifts, xerr=spans, fmt="o", ms=3, color="#0072B2", elinewidth=0.7)
    axes[0].axvline(1, color=GREY, lw=0.8)
    axes[0].set(xscale="log", xlabel="variance, plain over reduced", yticks=range(len(cases)))
    axes[0].set_yticklabels([f"{target}\n$D$ = {d}, {n} throws" for target, d, n in cases], fontsize=6)
    coverage = table[table.finding.str.startswith("coverage")]
    for method, colour, shift in (("plain", "#D55E00", 0.12), ("reduced", "#0072B2", -0.12)):
        part = coverage[coverage.finding == f"coverage of {method}"].set_index(["of", "dimension", "throws"])
        rows = part.reindex(pd.MultiIndex.from_tuples(cases))
        spans = [100 * (rows.value - rows.ci_low), 100 * (rows.ci_high - rows.value)]
        places = np.arange(len(cases)) + shift
        axes[1].errorbar(
            100 * rows.value, places, xerr=spans, fmt="o", ms=3, color=colour, elinewidth=0.7, label=method
        )
    axes[1].axvline(95, color=GREY, lw=0.8)
    axes[1].set(xlabel="coverage of 95 % intervals (%)", yticks=range(len(cases)), yticklabels=[])
    axes[1].legend(loc="upper left")
    return figure


def _target(of: str) -> str:
    """The kind of target of a finding: without the number of the mixture."""
    return of.rsplit(" ", 1)[0]


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "accuracy": accuracy,
    "bias": bias,
    "variance": variance,
    **comparison_conditional.FIGURES,
}
"""The study's figures by name, those of conditional densities included."""
