"""Figures of paper D, from its tables alone: each function takes the folder of tables and gives a figure."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from diffusion_density.machine.artifacts import read_csv, read_safetensors
from diffusion_density.studies.shared.style import COLOURS, GREY, PAGE, canvas, curve, plain_log_ticks, summarise
from diffusion_density.studies.shared.tables import groups, records

PATHS = {"vp": "variance preserving", "straight": "straight path"}
SCHEMES = {"uniform": "uniform", "truncated_normal": "truncated normal", "variational": "variational"}
ESTIMATORS = {
    "flow": "flow",
    "bound": "SDE bound",
    "webp": "WebP, lossless",
    "png": "PNG",
    "paper": "paper D, all images",
}
TIMES = {"importance": "-", "uniform": ":"}


def bits_per_dim(tables: Path) -> Figure:
    """Bits/dim of every image set by both estimators, beside lossless coders and published values."""
    found = read_csv(tables / "findings.csv")
    values = found[found.finding == "bits/dim"]
    named = dict.fromkeys(str(name).rpartition(" ")[0] for name in values.of)  # in the table's order
    runs = sorted(named, key=lambda run: run.startswith("ablation"))
    coders = read_csv(tables / "coders.csv")
    figure, axes = canvas(len(runs), height=2.1, columns=3 if len(runs) < 4 else 2)
    for axis, run in zip(axes, runs, strict=True):
        part = values[values.of.str.rpartition(" ")[0] == run]
        dataset = part.dataset.iloc[0]
        rows = [(row.of.rpartition(" ")[2], row.value, row.ci_low, row.ci_high) for row in records(part)]
        for coder in ("webp", "png"):
            coded = coders[(coders.dataset == dataset) & (coders.coder == coder)].bits_per_dim
            mean, half = float(coded.mean()), 1.96 * float(coded.sem())
            rows.append((coder, mean, mean - half, mean + half))
        published = found[(found.finding == "published bits/dim") & (found.dataset == dataset)]
        rows += [("paper", row.value, row.value, row.value) for row in records(published)]
        shown = [row for row in rows if row[1] < 8]
        _dots(axis, [(ESTIMATORS[name], *numbers, COLOURS.get(name, GREY)) for name, *numbers in shown], "{:.2f}")
        axis.set(title=f"{_set(run, dataset)}, {part.pairs.min():.0f} images", xlabel="bits/dim")
    return figure


def convergence(tables: Path) -> Figure:
    """Bits/dim against steps for prediction, path and times, and how much sooner each gets there."""
    curves, found = read_csv(tables / "curves.csv"), read_csv(tables / "findings.csv")
    curves = curves[curves.run.str.startswith("ablation-") & curves.prediction.isin(["velocity", "noise"])]
    figure, axes = canvas(3, height=2.9)
    for axis, (path, title) in zip(axes[:2], PATHS.items(), strict=True):
        for (prediction, times), part in groups(curves[curves.path == path], "prediction", "times"):
            means = summarise(part, ["step"], "bits_per_dim")
            curve(axis, means["step"], means, color=COLOURS[prediction], linestyle=TIMES[times], marker="o", ms=2.5)
        axis.set(title=title, xscale="log", xlabel="steps", ylim=_zoom(curves))
        plain_log_ticks(axis, "x", sorted(set(curves.step))[::2])
    axes[0].set_ylabel("SDE bound on digits (bits/dim)")
    axes[1].sharey(axes[0])
    ratios = found[(found.finding == "steps to the same bits/dim") & (found.against == "noise vp uniform")]
    rows = []
    for row in records(ratios.sort_values("of", ascending=False)):
        prediction, path, times = str(row.of).split()
        if prediction in ("velocity", "noise"):
            rows.append((f"{prediction}, {path},\n{times}", row.value, row.ci_low, row.ci_high, COLOURS[prediction]))
    _dots(axes[2], rows, "{:.1f}×")
    axes[2].axvline(1, color=GREY, lw=0.8)
    axes[2].set(title="step ratio", xscale="log", xlabel="to noise, vp, uniform")
    plain_log_ticks(axes[2], "x", [0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5])
    handles = [Patch(color=COLOURS[name], label=f"{name} prediction") for name in ("velocity", "noise")]
    lines = [Line2D([], [], color=GREY, ls=line, label=f"{times} times") for times, line in TIMES.items()]
    figure.legend(handles=[*handles, *lines], loc="outside upper center", ncols=4)
    return figure


def predictions(tables: Path) -> Figure:
    """Bits/dim against steps for the four predictions, on digits and on one set of larger images."""
    curves = read_csv(tables / "curves.csv")
    curves = curves[(curves.path == "vp") & (curves.times == "importance")]
    figure, axes = canvas(2, height=2.8)
    for axis, prefix in zip(axes, ("ablation-", "predictions-"), strict=True):
        part = curves[curves.run.str.startswith(prefix)]
        for prediction in ("velocity", "noise", "entropy", "score"):
            means = summarise(part[part.prediction == prediction], ["step"], "bits_per_dim")
            curve(
                axis, means["step"], means.fillna({"sem": 0}), color=COLOURS[prediction], marker="o", label=prediction
            )
        seeds = part.seed.nunique()
        title = f"{part.dataset.iloc[0]}, {seeds} seed{'s' if seeds > 1 else ''}"
        axis.set(title=title, xscale="log", yscale="log", xlabel="steps")
        plain_log_ticks(axis, "x", sorted(set(part.step))[::2] if prefix == "ablation-" else sorted(set(part.step)))
        ticks = [2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100]
        low, high = part.bits_per_dim.min(), part.bits_per_dim.max()
        plain_log_ticks(axis, "y", [tick for tick in ticks if 0.8 * low < tick < 1.2 * high])
    axes[0].set_ylabel("SDE bound (bits/dim)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, title="the network predicts"
    )
    return figure


def noise(tables: Path) -> Figure:
    """Relative variance of the loss, and the gradient's variance over that under plain uniform times."""
    found = read_csv(tables / "findings.csv")
    figure, axes = canvas(2, height=2.5)
    findings = ("relative variance of the loss", "variance of the gradient, over plain")
    names = sorted(set(found[found.finding == findings[0]].of), reverse=True)
    for axis, finding in zip(axes, findings, strict=True):
        part = found[found.finding == finding].set_index("of")
        rows: list[tuple[str, float, float, float, str]] = []
        for name in names:
            colour = COLOURS["flow" if "importance" in name else "path_integral"]
            plain = (1.0, np.nan, np.nan)
            value, low, high = part.loc[name, ["value", "ci_low", "ci_high"]] if name in part.index else plain
            rows.append((name.replace(" ", ", "), value, low, high, colour))
        _dots(axis, rows, "{:.2g}")
    axes[0].set(title="loss of an example", xscale="log", xlabel="variance / mean²")
    axes[1].set(title="gradient of a batch", xscale="log", xlabel="variance, uniform independent times = 1")
    axes[1].axvline(1, color=GREY, lw=0.8)
    plain_log_ticks(axes[0], "x", [0.03, 0.1, 0.3, 1])
    plain_log_ticks(axes[1], "x", [0.1, 0.2, 0.5, 1, 2])
    axes[1].set_yticklabels([])
    return figure


def dequantization(tables: Path) -> Figure:
    """What dequantization costs a perfect density, and what it costs trained networks against truncated normal."""
    gaps, found = read_csv(tables / "gaps.csv"), read_csv(tables / "findings.csv")
    found = found[found.finding == "dequantization"]
    datasets = sorted(set(found.dataset))
    figure, axes = canvas(1 + len(datasets), height=2.8, columns=3)
    widths = sorted(set(gaps.width_levels))
    for (scheme, late), part in groups(gaps, "dequantization", "late_start"):
        part = part.sort_values("width_levels")
        line = ":" if late else "-"
        values = part.gap_bits_per_dim.clip(lower=1e-4)
        axes[0].plot(range(len(widths)), values, line, marker="o", ms=3, color=COLOURS[str(scheme)])
    labels = ["0" if width == 0 else "flat" if np.isinf(width) else f"{width:g}" for width in widths]
    axes[0].set_xticks(range(len(widths)), labels)
    axes[0].set(title="a perfect density", yscale="log", xlabel="spread of a pixel (levels)", ylabel="gap (bits/dim)")
    for axis, dataset in zip(axes[1:], datasets, strict=True):
        part = found[found.dataset == dataset].sort_values("value", ascending=False)
        rows = [
            (_scheme(row.of), row.value, row.ci_low, row.ci_high, COLOURS[str(row.of).split()[0]])
            for row in records(part)
        ]
        _dots(axis, rows, "{:+.3f}")
        axis.axvline(0, color=GREY, lw=0.8)
        axis.set_title(dataset, loc="right", fontsize=7)
        axis.set_xlabel("bits/dim against\ntruncated normal")
    handles = [Patch(color=COLOURS[name], label=label) for name, label in SCHEMES.items()]
    lines = [Line2D([], [], color=GREY, ls=line, label=label)
             for line, label in (("-", "γ₀ = −13.3"), (":", "later start, −11.8"))]  # fmt: skip
    figure.legend(handles=[*handles, *lines], loc="outside upper center", ncols=5)
    return figure


def finetuning(tables: Path) -> Figure:
    """What training of second order changes, against the same cost without it, and what becomes of the trace."""
    found, trace = read_csv(tables / "findings.csv"), read_csv(tables / "trace.csv")
    found = found[found.finding.str.startswith("fine-tuning: ") & (found.against == "λ = 0, equal cost")]
    figure, axes = canvas(3, height=2.6)
    changes = {"flow": "flow", "bound": "SDE bound", "bound minus flow": "bound − flow"}
    rows = []
    for weight, part in groups(found, "of"):
        for name, label in changes.items():
            row = part[part.finding == f"fine-tuning: {name}"].iloc[0]
            rows.append((f"{label}, {weight}", row.value, row.ci_low, row.ci_high, COLOURS.get(name, GREY)))
    _dots(axes[0], rows[::-1], "{:+.3f}")
    axes[0].set(title="change", xlabel="bits/dim, against equal cost")
    evaluations = found[found.finding == "fine-tuning: network evaluations of the flow"]
    _dots(axes[1], [(row.of, row.value, row.ci_low, row.ci_high, GREY) for row in records(evaluations)], "{:+.0f}")
    axes[1].set(title="cost of the flow", xlabel="network evaluations")
    for axis in axes[:2]:
        axis.axvline(0, color=GREY, lw=0.8)
    last = trace[trace.step == trace.groupby("run").step.transform("max")]
    runs = [(f"finetuning-{w:g}", f"λ = {w:g}") for w in sorted(set(last.trace_weight))]
    for index, (run, label) in enumerate(runs):
        means = summarise(last[last.run == run], ["gamma"], "miss_per_dim")
        shade = COLOURS[("noise", "velocity", "score")[index % 3]]
        curve(axes[2], means["gamma"], means, color=shade, marker="o", ms=3, label=label)
    axes[2].axhline(0, color=GREY, lw=0.8)
    axes[2].set(title="trace", xlabel="γ (noise →)", ylabel="mean miss per dimension")
    axes[2].legend(loc="best")
    return figure


def samples(tables: Path) -> Figure:
    """Samples of the flow beside test images, with the cost and the distance of the samples."""
    table = read_csv(tables / "samples.csv")
    runs = list(dict.fromkeys(table.run))
    columns = 2 * min(len(runs), 2)
    figure, axes = canvas(2 * len(runs), width=PAGE, height=0.6 + PAGE / columns, columns=columns)
    for index, run in enumerate(runs):
        images, header = read_safetensors(tables.parent / "samples" / f"{run}.safetensors", ["samples", "test"])
        part = table[table.run == run]
        drawn = part[part.images == "samples"]
        for axis, name in zip(axes[2 * index : 2 * index + 2], ("samples", "test"), strict=True):
            shown = images[name].numpy().astype(float) / (header["levels"] - 1)
            axis.imshow(_tiled(shown, 4 if len(runs) > 1 else 8), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        dataset = part.dataset.iloc[0]
        both = [part[part.images == which].sliced_wasserstein.mean() for which in ("samples", "training images")]
        axes[2 * index].set_title("samples", loc="center")
        axes[2 * index + 1].set_title("test images", loc="center")
        axes[2 * index].set_xlabel(
            f"{dataset}: {drawn.network_evaluations.iloc[0]:.0f} evaluations\n"
            f"distance {both[0]:.2f} (training images {both[1]:.2f})", loc="left",
        )  # fmt: skip
    return figure


def _dots(axis: Axes, rows: list[tuple[str, float, float, float, str]], numbers: str) -> None:
    """Values with intervals (NaN for none), from the top down, each labelled."""
    for place, (_, value, low, high, colour) in enumerate(reversed(rows)):
        bars = None if np.isnan(low) else [[value - low], [high - value]]
        axis.errorbar(value, place, xerr=bars, fmt="o", color=colour, capsize=2, elinewidth=0.9)
        axis.annotate(numbers.format(value), (value, place), (0, 4), textcoords="offset points", ha="center", size=6)
    axis.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
    axis.set_ylim(-0.5, len(rows) - 0.3)
    axis.margins(x=0.2)
    axis.locator_params(axis="x", nbins=5)


def _zoom(curves: pd.DataFrame) -> tuple[float, float]:
    """From the best value to what most arms have after the first snapshots."""
    low = curves.bits_per_dim.min()
    return low - 0.1, float(curves[curves.step > curves.step.min()].bits_per_dim.quantile(0.9)) + 0.2


def _set(run: str, dataset: str) -> str:
    return dataset if run.startswith(("main-", "ablation-")) else f"{dataset}, second order"


def _scheme(name: str) -> str:
    scheme, *more = name.split(" ", 1)
    return SCHEMES[scheme] + (
        "" if not more else "\n" + more[0].replace("late", "later start").replace("of ", "K = ").replace(" draws", "")
    )


def _tiled(
    images: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", side: int
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """The first images, (N, C, H, W), in a square of ``side`` rows with a white line between."""
    _, channels, height, width = images.shape
    sheet = np.ones((side * (height + 1) - 1, side * (width + 1) - 1, channels))
    for i, image in enumerate(images[: side**2]):
        top, left = i // side * (height + 1), i % side * (width + 1)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return sheet.squeeze(2) if channels == 1 else sheet


FIGURES: Mapping[str, Callable[[Path], Figure]] = {
    "bits_per_dim": bits_per_dim,
    "convergence": convergence,
    "predictions": predictions,
    "noise": noise,
    "dequantization": dequantization,
    "finetuning": finetuning,
    "samples": samples,
}
