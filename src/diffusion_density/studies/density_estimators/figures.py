"""Figures of paper A, from its tables alone: each function takes the folder of tables and gives a figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.shared.style import COLOURS, GREY, canvas, curve, plain_log_ticks, summarise

ESTIMATORS: dict[str, tuple[str, Any, Any]] = {  # label, line, marker: how each estimator of KL is drawn everywhere
    "score_error": ("SDE bound, from the known score", "-", None),
    "path_integral": ("SDE bound, path integral", "none", "o"),
    "flow": ("flow, ODE solver", ":", "s"),
}
ARMS = {"entropy": "entropy matching", "score": "score matching"}


def kl_throws(tables: Path) -> Figure:
    """KL against throws at equal epochs and at equal network evaluations, by both methods and all estimators."""
    table = read_csv(tables / "throws.csv")
    figure, axes = canvas(2, height=3.1, share_y=True)
    whole = table.groupby("throws").epochs.apply(set)
    equal_epochs = max(set.intersection(*whole))
    budgets = table.assign(budget=(table.throws * table.epochs).round(6)).groupby("throws").budget.apply(set)
    equal_budget = max(set.intersection(*budgets))
    chosen = (
        (table[table.epochs == equal_epochs], f"equal epochs ({equal_epochs:g})"),
        (
            table[(table.throws * table.epochs - equal_budget).abs() < 1e-6],
            f"equal evaluations ({equal_budget:g} a sample)",
        ),
    )
    for axis, (rows, title) in zip(axes, chosen, strict=True):
        for arm in ARMS:
            for mixture in sorted(set(rows.mixture)):
                part = rows[(rows.prediction == arm) & (rows.mixture == mixture)]
                if mixture == 0:
                    for name, (_, line, marker) in ESTIMATORS.items():
                        means = summarise(part[part.estimator == name], ["throws"], "kl_nats")
                        curve(axis, means["throws"], means, color=COLOURS[arm], linestyle=line, marker=marker, mfc="w")
                else:
                    means = summarise(part[part.estimator == "score_error"], ["throws"], "kl_nats")
                    axis.plot(means["throws"], means["mean"], color=COLOURS[arm], lw=0.6, alpha=0.5)
        axis.set(title=title, xscale="log", yscale="log", xlabel="throws $n_t$ per sample and step")
        plain_log_ticks(axis, "x", sorted(set(table.throws)))
        plain_log_ticks(axis, "y", [0.01, 0.03, 0.1, 0.3, 1, 3])
    axes[0].set_ylim(bottom=0.008)  # of both: the axis is shared
    axes[0].set_ylabel("KL divergence (nats)")
    others = [Line2D([], [], color=GREY, lw=0.6, label="other mixtures, SDE bound")] if table.mixture.max() else []
    _legend(figure, others)
    return figure


def kl_sweeps(tables: Path) -> Figure:
    """KL against epochs, samples and dimension."""
    figure, axes = canvas(3, height=3.0)
    samples, dimensions = read_csv(tables / "samples.csv"), read_csv(tables / "dimensions.csv")
    usual = _usual(tables, samples)
    at_end = usual[usual.epochs.isin(samples.epochs) & usual.mixture.isin(samples.mixture)]
    sweeps = (
        (usual, "epochs", "epochs $n_{ep}$"),
        (pd.concat([samples, at_end]), "samples", "training samples $N$"),
        (pd.concat([dimensions, at_end]), "dimension", "dimension $D$"),
    )
    for axis, (table, column, label) in zip(axes, sweeps, strict=True):
        for arm in ARMS:
            for name, (_, line, marker) in ESTIMATORS.items():
                part = table[(table.prediction == arm) & (table.estimator == name)]
                means = summarise(part, [column], "kl_nats")
                curve(axis, means[column], means, color=COLOURS[arm], linestyle=line, marker=marker, mfc="w")
        untrained = table.groupby(column).untrained_kl_nats.mean()
        axis.plot(untrained.index, untrained, color=GREY, lw=0.8, ls="--")
        axis.set(xscale="log", yscale="log", xlabel=label)
        plain_log_ticks(axis, "x", sorted(set(table[column])))
    axes[0].set_ylabel("KL divergence (nats)")
    _legend(figure, [Line2D([], [], color=GREY, lw=0.8, ls="--", label="KL(data ‖ N(0, I)), untrained")])
    return figure


def entropy_score(tables: Path) -> Figure:
    """KL against epochs for every prediction, with the control: score matching with the fixed output −y."""
    objectives = read_csv(tables / "objectives.csv")
    usual = _usual(tables, objectives)
    table = pd.concat([objectives, usual[usual.epochs.isin(objectives.epochs)]])
    table = table[table.estimator == "score_error"]
    figure, axes = canvas(2, height=3.1, share_y=True)
    arms = {
        ("entropy", False): ("entropy", "entropy matching", "-", None),
        ("score", True): ("skip", "score matching + fixed output −y", "none", "x"),
        ("score", False): ("score", "score matching", "-", "s"),
        ("noise", False): ("noise", "noise prediction", "--", "^"),
    }
    for axis, weighting in zip(axes, ("unit", "likelihood"), strict=True):
        part = table[table.weighting == weighting]
        for (prediction, skip), (colour, label, line, marker) in arms.items():
            means = summarise(part[(part.prediction == prediction) & (part.skip == skip)], ["epochs"], "kl_nats")
            if len(means):
                curve(axis, means["epochs"], means, color=COLOURS[colour], linestyle=line, marker=marker, label=label)
        axis.set(title=f"{weighting} weighting", xscale="log", yscale="log", xlabel="epochs $n_{ep}$")
        plain_log_ticks(axis, "x", sorted(set(table.epochs)))
        plain_log_ticks(axis, "y", [0.03, 0.1, 0.3, 1, 3])
    axes[0].set_ylabel("KL bound of the SDE (nats)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def compute_grid(tables: Path) -> Figure:
    """KL against the total training cost, one curve for each number of throws."""
    table = read_csv(tables / "throws.csv")
    table = table[(table.estimator == "score_error") & (table.mixture == 0)]
    figure, axes = canvas(2, height=3.0, share_y=True)
    throws = sorted(set(table.throws))
    for axis, (arm, title) in zip(axes, ARMS.items(), strict=True):
        for index, count in enumerate(throws):
            part = table[(table.throws == count) & (table.prediction == arm)]
            means = summarise(part, ["training_evaluations"], "kl_nats")
            shade = colormaps["viridis"](0.92 * index / max(1, len(throws) - 1))
            curve(axis, means["training_evaluations"], means, color=shade, marker="o", label=f"{count}")
        axis.set(title=title, xscale="log", yscale="log", xlabel="training cost $N n_t n_{ep}$ (network evaluations)")
        plain_log_ticks(axis, "y", [0.03, 0.1, 0.3, 1])
    axes[0].set_ylabel("KL bound of the SDE (nats)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", title="throws $n_t$")
    return figure


def timing(tables: Path) -> Figure:
    """What a sample costs by each estimator, and the accuracy that it buys."""
    seconds, tradeoff = read_csv(tables / "timing.csv"), read_csv(tables / "tradeoff.csv")
    figure, axes = canvas(3, height=2.9)
    names = {"flow": "flow", "path_integral": "path integral"}
    for name in names:
        part = seconds[seconds.estimator == name]
        single = part[part["mode"] == "single"].seconds_per_point.sort_values()
        axes[0].step(single, [(i + 1) / len(single) for i in range(len(single))], where="post", color=COLOURS[name])
        axes[0].axvline(part[part["mode"] == "batch"].seconds_per_point.median(), color=COLOURS[name], ls="--")
        for axis, field in zip(axes[1:], ("exact", "trained"), strict=True):
            points = tradeoff[(tradeoff.estimator == name) & (tradeoff.field == field)].sort_values("seconds_per_point")
            bars = 1.96 * points.rms_error_stderr_nats
            axis.errorbar(
                points.seconds_per_point, points.rms_error_nats, yerr=bars, color=COLOURS[name], marker="o", mfc="w",
                capsize=1.5,
            )  # fmt: skip
    axes[0].set(xscale="log", xlabel="seconds a sample", ylabel="fraction of samples")
    for axis, title in zip(axes[1:], ("exact score", "trained network"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="seconds a sample, in a batch", title=title)
    axes[1].set_ylabel("RMS error to the truth (nats)")
    axes[2].set_ylabel("RMS error to own limit (nats)")
    evaluations = seconds.groupby("estimator").network_evaluations.median()
    colours = [Patch(color=COLOURS[name], label=f"{label} (a: {evaluations[name]:.0f} evaluations)")
               for name, label in names.items()]  # fmt: skip
    modes = [Line2D([], [], color=GREY, ls=line, label=label)
             for line, label in (("-", "one sample at a time"), ("--", "in a batch (a)"))]  # fmt: skip
    figure.legend(handles=[*colours, *modes], loc="outside upper center", ncols=4)
    return figure


def agreement(tables: Path) -> Figure:
    """Both estimators of one network point by point, and the three sides of the KL identity."""
    points, identity = read_csv(tables / "agreement.csv"), read_csv(tables / "identity.csv")
    figure, axes = canvas(3, height=2.9)
    for axis, (column, label) in zip(
        axes[:2], (("flow_nats", "flow"), ("path_integral_nats", "path integral")), strict=True
    ):
        for arm, part in points.groupby("prediction"):
            error = part[column] - part.log_prob_nats
            axis.plot(part.log_prob_nats, error, ".", ms=2, alpha=0.4, color=COLOURS[str(arm)])
        axis.axhline(0, color=GREY, lw=0.8)
        axis.set(xlabel="true log p (nats)", ylabel="log p error (nats)", title=label)
    errors = points[["flow_nats", "path_integral_nats"]].sub(points.log_prob_nats, axis=0)
    low, high = errors.min().min(), errors.max().max()
    bottom = max(low, 3 * errors.quantile(0.001).min())
    for axis, (_, error) in zip(axes[:2], errors.items(), strict=True):
        axis.set_ylim(1.1 * bottom, 1.1 * high)
        if beyond := int((error < 1.1 * bottom).sum()):
            text = f"{beyond} of {len(error)} points lower,\ndown to {error.min():.0f} nats"
            axis.text(0.03, 0.03, text, transform=axis.transAxes, color=GREY)
    keys = ["prediction", "mixture", "seed"]
    sides = identity.pivot_table(index=keys, columns="side", values=["kl_nats", "kl_stderr_nats"]).reset_index()
    _identity(axes[2], sides)
    figure.legend(handles=[Patch(color=COLOURS[arm], label=label) for arm, label in ARMS.items()],
                  loc="outside upper center", ncols=2)  # fmt: skip
    return figure


def _identity(axis: Axes, sides: pd.DataFrame) -> None:
    for side, marker in (("path_integral", "o"), ("loss_difference", "x")):
        for arm in ARMS:
            part = sides[sides.prediction == arm]
            axis.errorbar(
                part["kl_nats", "score_error"], part["kl_nats", side], yerr=1.96 * part["kl_stderr_nats", side],
                fmt=marker, color=COLOURS[arm], mfc="w", elinewidth=0.6, capsize=0,
            )  # fmt: skip
    line = [sides["kl_nats", "score_error"].min(), sides["kl_nats", "score_error"].max()]
    axis.plot(line, line, color=GREY, lw=0.8)
    axis.set(xlabel="score-error side (nats)", ylabel="other sides (nats)", title="the KL identity")
    handles = [Line2D([], [], color=GREY, marker=m, ls="none", mfc="w", label=text)
               for m, text in (("o", "path integral"), ("x", "loss − minimum"))]  # fmt: skip
    axis.legend(handles=handles, loc="upper left")


def _usual(tables: Path, other: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``throws.csv`` trained with the throws of another experiment: its default arms and sizes."""
    throws = read_csv(tables / "throws.csv")
    return throws[throws.throws == other.throws.iloc[0]]


def _legend(figure: Figure, more: list[Line2D]) -> None:
    """Colours are methods, lines and markers are estimators."""
    arms: list[Line2D | Patch] = [Patch(color=COLOURS[arm], label=label) for arm, label in ARMS.items()]
    lines = [Line2D([], [], color=GREY, linestyle=line, marker=marker, mfc="w", label=label)
             for label, line, marker in ESTIMATORS.values()]  # fmt: skip
    figure.legend(handles=[*arms, *lines, *more], loc="outside upper center", ncols=3)


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "kl_throws": kl_throws,
    "kl_sweeps": kl_sweeps,
    "entropy_score": entropy_score,
    "compute_grid": compute_grid,
    "timing": timing,
    "agreement": agreement,
}
