"""Figures of the study of Premkumar 2024, from its tables alone: each function takes the folder of tables."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.shared import style
from diffusion_density.studies.shared.style import COLOURS, GREY, Look

ESTIMATORS: dict[str, tuple[str, Look]] = {  # label and look of each estimator of KL
    "score_error": ("SDE bound, from the known score", {"ls": "-"}),
    "path_integral": ("SDE bound, path integral", {"ls": "none", "marker": "o", "mfc": "w"}),
    "flow": ("flow, ODE solver", {"ls": ":", "marker": "s", "mfc": "w"}),
}
METHODS = {"entropy": "entropy matching", "score": "score matching"}
OBJECTIVES: dict[tuple[str, bool], tuple[str, Look]] = {  # by prediction and fixed output: label and look
    ("entropy", False): ("entropy matching", {"color": COLOURS["entropy"]}),
    ("score", True): ("score matching + fixed output −y", {"color": "black", "ls": "none", "marker": "x", "ms": 5}),
    ("score", False): ("score matching", {"color": COLOURS["score"], "marker": "s"}),
    ("noise", False): ("noise prediction", {"color": COLOURS["noise"], "ls": "--", "marker": "^"}),
}


def kl_throws(tables: Path) -> Figure:
    """KL against throws at equal epochs and at equal network evaluations, by both methods and all estimators."""
    table = read_csv(tables / "throws.csv")
    table["budget"] = (table.throws * table.epochs).round(6)
    epochs, budget = (max(set.intersection(*table.groupby("throws")[by].apply(set))) for by in ("epochs", "budget"))
    shown = {
        f"equal epochs ({epochs:g})": table[table.epochs == epochs],
        f"equal cost ({budget:g} evaluations per sample)": table[table.budget == budget],
    }
    figure, axes = style.canvas(2, height=3.1, share_y=True)
    for axis, (title, rows) in zip(axes, shown.items(), strict=True):
        _kl(axis, rows[rows.mixture == 0], "throws")
        others = rows[(rows.mixture > 0) & (rows.estimator == "score_error")]
        others = others.groupby(["throws", "prediction", "mixture"]).kl_nats.mean().reset_index()
        look = {"hue": "prediction", "palette": COLOURS, "units": "mixture", "estimator": None, "lw": 0.6, "alpha": 0.6}
        style.plot(sns.lineplot, axis, others, x="throws", y="kl_nats", **look)
        axis.set(title=title, xlabel="throws $n_t$ per sample and step")
        style.plain_log_ticks(axis, "x", sorted(set(table.throws)))
        style.plain_log_ticks(axis, "y", [0.01, 0.03, 0.1, 0.3, 1, 3])
    axes[0].set(ylabel="KL divergence (nats)", ylim=(0.008, None))
    _legend(figure, {"SDE bound, other mixtures": {"lw": 0.6}} if table.mixture.max() else {})
    return figure


def kl_sweeps(tables: Path) -> Figure:
    """KL against epochs, samples and dimension."""
    figure, axes = style.canvas(3, height=3.0)
    samples, dimensions = read_csv(tables / "samples.csv"), read_csv(tables / "dimensions.csv")
    usual = _usual(tables, samples)
    at_end = usual[usual.epochs.isin(samples.epochs) & usual.mixture.isin(samples.mixture)]
    sweeps = (
        (usual, "epochs", "epochs $n_{ep}$"),
        (pd.concat([samples, at_end]), "samples", "training samples $N$"),
        (pd.concat([dimensions, at_end]), "dimension", "dimension $D$"),
    )
    for axis, (table, column, label) in zip(axes, sweeps, strict=True):
        _kl(axis, table, column)
        style.plot(
            sns.lineplot, axis, table, x=column, y="untrained_kl_nats", errorbar=None, color=GREY, lw=0.8, ls="--"
        )
        axis.set(yscale="log", xlabel=label)
        style.plain_log_ticks(axis, "x", sorted(set(table[column])))
    axes[0].set_ylabel("KL divergence (nats)")
    _legend(figure, {"before training: KL(data ‖ N(0, I))": {"lw": 0.8, "ls": "--"}})
    return figure


def entropy_score(tables: Path) -> Figure:
    """KL against epochs for every prediction, with the control: score matching with the fixed output −y."""
    objectives = read_csv(tables / "objectives.csv")
    usual = _usual(tables, objectives)
    table = pd.concat([objectives, usual[usual.epochs.isin(objectives.epochs)]])
    table = table[table.estimator == "score_error"]
    figure, axes = style.canvas(2, height=3.1, share_y=True)
    for axis, weighting in zip(axes, ("unit", "likelihood"), strict=True):
        part = table[table.weighting == weighting]
        for (prediction, skip), (_, look) in OBJECTIVES.items():
            rows = part[(part.prediction == prediction) & (part.skip == skip)]
            style.lines(axis, rows, "epochs", "kl_nats", **look)
        axis.set(title=f"{weighting} weighting", xlabel="epochs $n_{ep}$")
        style.plain_log_ticks(axis, "x", sorted(set(table.epochs)))
        style.plain_log_ticks(axis, "y", [0.03, 0.1, 0.3, 1, 3])
    axes[0].set_ylabel("KL bound of the SDE (nats)")
    style.legend(figure, lines=dict(OBJECTIVES.values()), loc="outside upper center", ncols=4)
    return figure


def compute_grid(tables: Path) -> Figure:
    """KL against the total training cost, one curve for each number of throws."""
    table = read_csv(tables / "throws.csv")
    table = table[(table.estimator == "score_error") & (table.mixture == 0)]
    throws = sorted(set(table.throws))
    shades = dict(zip(throws, sns.color_palette("viridis", len(throws)).as_hex(), strict=True))
    figure, axes = style.canvas(2, height=3.0, share_y=True)
    for axis, (method, title) in zip(axes, METHODS.items(), strict=True):
        part = table[table.prediction == method]
        style.lines(axis, part, "training_evaluations", "kl_nats", hue="throws", palette=shades, marker="o")
        axis.set(title=title, xscale="log", xlabel="training cost $N n_t n_{ep}$ (network evaluations)")
        style.plain_log_ticks(axis, "y", [0.03, 0.1, 0.3, 1, 3])
    axes[0].set_ylabel("KL bound of the SDE (nats)")
    keys = {f"{count}": {"color": shade, "marker": "o"} for count, shade in shades.items()}
    style.legend(figure, lines=keys, loc="outside right center", title="throws $n_t$")
    return figure


def timing(tables: Path) -> Figure:
    """The time per sample by each estimator, and the accuracy for that time."""
    seconds, tradeoff = read_csv(tables / "timing.csv"), read_csv(tables / "tradeoff.csv")
    figure, axes = style.canvas(3, height=2.9)
    names = {"flow": "flow", "path_integral": "path integral"}
    for mode, line in (("single", "-"), ("batch", "--")):
        part = seconds[seconds["mode"] == mode]
        style.plot(sns.ecdfplot, axes[0], part, x="seconds_per_point", hue="estimator", palette=COLOURS, ls=line)
    for name in names:
        look: Look = {"color": COLOURS[name], "marker": "o", "mfc": "w", "capsize": 1.5}
        for axis, field in zip(axes[1:], ("exact", "trained"), strict=True):
            points = tradeoff[(tradeoff.estimator == name) & (tradeoff.field == field)].sort_values("seconds_per_point")
            bars = 1.96 * points.rms_error_stderr_nats
            axis.errorbar(points.seconds_per_point, points.rms_error_nats, yerr=bars, **look)
    axes[0].set(xscale="log", xlabel="seconds per sample", ylabel="fraction of samples")
    for axis, title in zip(axes[1:], ("exact score", "trained network"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="seconds per sample, in a batch", title=title)
    axes[1].set_ylabel("RMS error to the truth (nats)")
    axes[2].set_ylabel("RMS error to own limit (nats)")
    evaluations = seconds.groupby("estimator").network_evaluations.median()
    colours = {f"{label} (a: {evaluations[name]:.0f} evaluations)": COLOURS[name] for name, label in names.items()}
    modes = {"one sample at a time": {"ls": "-"}, "in a batch (a)": {"ls": "--"}}
    style.legend(figure, colours, modes, loc="outside upper center", ncols=4)
    return figure


def agreement(tables: Path) -> Figure:
    """Both estimators of one network point by point, and the three sides of the KL identity."""
    points, identity = read_csv(tables / "agreement.csv"), read_csv(tables / "identity.csv")
    figure, axes = style.canvas(3, height=2.9)
    names = {"flow_nats": "flow", "path_integral_nats": "path integral"}
    errors = points[list(names)].sub(points.log_prob_nats, axis=0)
    bottom = max(errors.min().min(), 3 * errors.quantile(0.001).min())
    for axis, (column, title) in zip(axes[:2], names.items(), strict=True):
        shown = points.assign(error=errors[column])
        look = {"hue": "prediction", "palette": COLOURS, "s": 6, "alpha": 0.5, "lw": 0}
        style.plot(sns.scatterplot, axis, shown, x="log_prob_nats", y="error", **look)
        axis.axhline(0, color=GREY, lw=0.8)
        axis.set(xlabel="true log p (nats)", ylabel="error of log p (nats)", title=title)
        axis.set_ylim(1.1 * bottom, 1.1 * errors.max().max())
        if beyond := int((shown.error < 1.1 * bottom).sum()):
            text = f"{beyond} of {len(shown)} points lower,\ndown to {shown.error.min():.0f} nats"
            axis.text(0.03, 0.03, text, transform=axis.transAxes, color=GREY)
    _identity(axes[2], identity)
    style.legend(figure, {label: COLOURS[name] for name, label in METHODS.items()}, loc="outside upper center", ncols=2)
    return figure


def _identity(axis: Axes, identity: pd.DataFrame) -> None:
    sides = identity.set_index(["prediction", "mixture", "seed"])
    truth = sides[sides.side == "score_error"].kl_nats
    markers = {"path_integral": ("path integral", "o"), "loss_difference": ("loss − minimum", "x")}
    for side, (_, marker) in markers.items():
        for method in METHODS:
            part = sides[sides.side == side].loc[[method]]
            look: Look = {"fmt": marker, "color": COLOURS[method], "mfc": "w", "elinewidth": 0.6}
            axis.errorbar(truth.loc[part.index], part.kl_nats, yerr=1.96 * part.kl_stderr_nats, **look)
    axis.axline((truth.min(), truth.min()), slope=1, color=GREY, lw=0.8)
    axis.set(xlabel="KL from the score error (nats)", ylabel="KL from the other sides (nats)", title="the KL identity")
    looks: dict[str, Look] = {label: {"marker": marker, "ls": "none", "mfc": "w"} for label, marker in markers.values()}
    style.legend(axis, lines=looks, loc="upper left")


def _kl(axis: Axes, table: pd.DataFrame, x: str) -> None:
    """KL against a column: colours are training methods, lines and markers are estimators."""
    for name, (_, look) in ESTIMATORS.items():
        part = table[(table.estimator == name) & table.prediction.isin(METHODS)]
        style.lines(axis, part, x, "kl_nats", hue="prediction", palette=COLOURS, **look)


def _usual(tables: Path, other: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``throws.csv`` trained with the throws of another experiment: its default arms and sizes."""
    throws = read_csv(tables / "throws.csv")
    return throws[throws.throws == other.throws.iloc[0]]


def _legend(figure: Figure, more: dict[str, Look]) -> None:
    colours = {label: COLOURS[name] for name, label in METHODS.items()}
    style.legend(figure, colours, dict(ESTIMATORS.values()) | more, loc="outside upper center", ncols=3)


FIGURES: dict[str, Callable[[Path], Figure]] = {
    draw.__name__: draw for draw in (kl_throws, kl_sweeps, entropy_score, compute_grid, timing, agreement)
}
