"""Figures of the study of Zheng et al. 2023, from its tables alone: each function takes the folder of tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from diffusion_density.machine.artifacts import read_csv, read_safetensors
from diffusion_density.studies.shared import style
from diffusion_density.studies.shared.style import COLOURS, GREY, PALETTE, Dot
from diffusion_density.studies.shared.tables import groups, records

PATHS = {"vp": "variance preserving (vp)", "straight": "straight path"}
SCHEMES = {"uniform": "uniform", "truncated_normal": "truncated normal", "variational": "variational"}
ESTIMATORS = {
    "flow": "flow",
    "bound": "SDE bound",
    "webp": "WebP, lossless",
    "png": "PNG",
    "paper": "Zheng et al., all images",
}
TIMES = {"importance": "-", "uniform": ":"}


def bits_per_dim(tables: Path) -> Figure:
    """Bits/dim of every image set by both estimators, next to lossless coders and published values."""
    found = read_csv(tables / "findings.csv")
    values = found[found.finding == "bits/dim"]
    named = dict.fromkeys(str(name).rpartition(" ")[0] for name in values.subject)  # in the table's order
    runs = sorted(named, key=lambda run: run.startswith("ablation"))
    coders = read_csv(tables / "coders.csv")
    figure, axes = style.canvas(len(runs), height=2.1, columns=3 if len(runs) < 4 else 2)
    for axis, run in zip(axes, runs, strict=True):
        part = values[values.subject.str.rpartition(" ")[0] == run]
        dataset = part.dataset.iloc[0]
        names = [row.subject.rpartition(" ")[2] for row in records(part)]
        rows = [_dot(ESTIMATORS[name], row, COLOURS[name]) for name, row in zip(names, records(part), strict=True)]
        for coder in ("webp", "png"):
            coded = coders[(coders.dataset == dataset) & (coders.coder == coder)].bits_per_dim
            mean, half = float(coded.mean()), 1.96 * float(coded.sem())
            rows.append(Dot(ESTIMATORS[coder], mean, mean - half, mean + half))
        published = found[(found.finding == "published bits/dim") & (found.dataset == dataset)]
        rows += [Dot(ESTIMATORS["paper"], row.value, row.value, row.value) for row in records(published)]
        style.dots(axis, [row for row in rows if row.value < 8], "{:.2f}")
        axis.set(title=f"{_set(run, dataset)}, {part.pairs.min():.0f} images", xlabel="bits/dim")
    return figure


def convergence(tables: Path) -> Figure:
    """Bits/dim against steps for prediction, path and times, and how much sooner each gets there."""
    curves, found = read_csv(tables / "curves.csv"), read_csv(tables / "findings.csv")
    curves = curves[curves.run.str.startswith("ablation-") & curves.prediction.isin(["velocity", "noise"])]
    figure, axes = style.canvas(3, height=2.9)
    low, late = curves.bits_per_dim.min(), curves[curves.step > curves.step.min()].bits_per_dim
    for axis, (path, title) in zip(axes[:2], PATHS.items(), strict=True):
        for times, line in TIMES.items():
            part = curves[(curves.path == path) & (curves.times == times)]
            style.lines(
                axis, part, "step", "bits_per_dim", hue="prediction", palette=COLOURS, ls=line, marker="o", ms=2.5
            )
        axis.set(title=title, xlabel="steps", ylim=(low - 0.1, late.quantile(0.9) + 0.2))
        style.plain_log_ticks(axis, "x", sorted(set(curves.step))[::2])
    axes[0].set_ylabel("SDE bound on digits (bits/dim)")
    axes[1].sharey(axes[0])
    ratios = found[(found.finding == "steps to the same bits/dim") & (found.against == "noise vp uniform")]
    rows = []
    for row in records(ratios.sort_values("subject", ascending=False)):
        prediction, path, times = str(row.subject).split()
        if prediction in ("velocity", "noise"):
            rows.append(_dot(f"{prediction}, {path},\n{times}", row, COLOURS[prediction]))
    style.dots(axes[2], rows, "{:.1f}×")
    axes[2].axvline(1, color=GREY, lw=0.8)
    axes[2].set(title="speed-up in steps", xlabel="against noise, vp, uniform")
    style.plain_log_ticks(axes[2], "x", [0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5])
    colours = {f"{name} prediction": COLOURS[name] for name in ("velocity", "noise")}
    keys = {f"{times} times": {"ls": line} for times, line in TIMES.items()}
    style.legend(figure, colours, keys, loc="outside upper center", ncols=4)
    return figure


def predictions(tables: Path) -> Figure:
    """Bits/dim against steps for the four predictions, on digits and on one set of larger images."""
    curves = read_csv(tables / "curves.csv")
    curves = curves[(curves.path == "vp") & (curves.times == "importance")]
    figure, axes = style.canvas(2, height=2.8)
    names = ("velocity", "noise", "entropy", "score")
    for axis, prefix in zip(axes, ("ablation-", "predictions-"), strict=True):
        part = curves[curves.run.str.startswith(prefix) & curves.prediction.isin(names)]
        style.lines(axis, part, "step", "bits_per_dim", hue="prediction", palette=COLOURS, marker="o")
        seeds = part.seed.nunique()
        axis.set(title=f"{part.dataset.iloc[0]}, {seeds} seed{'s' if seeds > 1 else ''}", xlabel="steps")
        style.plain_log_ticks(axis, "x", sorted(set(part.step))[:: 2 if prefix == "ablation-" else 1])
        ticks = [2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100]
        low, high = part.bits_per_dim.min(), part.bits_per_dim.max()
        style.plain_log_ticks(axis, "y", [tick for tick in ticks if 0.8 * low < tick < 1.2 * high])
    axes[0].set_ylabel("SDE bound (bits/dim)")
    keys = {name: {"color": COLOURS[name], "marker": "o"} for name in names}
    style.legend(figure, lines=keys, loc="outside upper center", ncols=4, title="the network predicts")
    return figure


def noise(tables: Path) -> Figure:
    """Relative variance of the loss, and the gradient's variance over that under plain uniform times."""
    found = read_csv(tables / "findings.csv")
    figure, axes = style.canvas(2, height=2.5)
    findings = ("relative variance of the loss", "variance of the gradient, over plain")
    names = sorted(set(found[found.finding == findings[0]].subject), reverse=True)
    for axis, finding in zip(axes, findings, strict=True):
        part = found[found.finding == finding].set_index("subject")
        plain = (1.0, np.nan, np.nan)
        rows = []
        for name in names:
            value, low, high = part.loc[name, ["value", "ci_low", "ci_high"]] if name in part.index else plain
            colour = PALETTE["purple" if "importance" in name else "blue"]
            rows.append(Dot(name.replace(" ", ", "), value, low, high, colour))
        style.dots(axis, rows, "{:.2g}")
    axes[0].set(title="loss of an example", xlabel="variance / mean²")
    axes[1].set(title="gradient of a batch", xlabel="variance, uniform independent times = 1")
    axes[1].axvline(1, color=GREY, lw=0.8)
    style.plain_log_ticks(axes[0], "x", [0.03, 0.1, 0.3, 1])
    style.plain_log_ticks(axes[1], "x", [0.1, 0.2, 0.5, 1, 2])
    axes[1].set_yticklabels([])
    return figure


def dequantization(tables: Path) -> Figure:
    """What dequantization costs a perfect density, and what it costs trained networks against truncated normal."""
    gaps, found = read_csv(tables / "gaps.csv"), read_csv(tables / "findings.csv")
    found = found[found.finding == "dequantization"]
    datasets = sorted(set(found.dataset))
    figure, axes = style.canvas(1 + len(datasets), height=2.8, columns=3)
    widths = sorted(set(gaps.width_levels))
    gaps = gaps.assign(place=gaps.width_levels.map(widths.index), gap=gaps.gap_bits_per_dim.clip(lower=1e-4))
    for late, line in ((False, "-"), (True, ":")):
        part = gaps[gaps.late_start == late]
        look = {"hue": "dequantization", "palette": COLOURS, "ls": line, "marker": "o", "ms": 3, "mec": "auto"}
        style.plot(sns.lineplot, axes[0], part, x="place", y="gap", **look)
    labels = ["0" if width == 0 else "flat" if np.isinf(width) else f"{width:g}" for width in widths]
    axes[0].set_xticks(range(len(widths)), labels)
    axes[0].set(title="a perfect density", yscale="log", xlabel="spread of a pixel (levels)", ylabel="gap (bits/dim)")
    for axis, dataset in zip(axes[1:], datasets, strict=True):
        part = found[found.dataset == dataset].sort_values("value", ascending=False)
        rows = [_dot(_scheme(row.subject), row, COLOURS[row.subject.split()[0]]) for row in records(part)]
        style.dots(axis, rows, "{:+.3f}")
        axis.axvline(0, color=GREY, lw=0.8)
        axis.set_title(dataset, loc="right", fontsize=7)
        axis.set_xlabel("bits/dim, difference\nfrom truncated normal")
    colours = {label: COLOURS[name] for name, label in SCHEMES.items()}
    keys = {"γ₀ = −13.3": {"ls": "-"}, "later start, −11.8": {"ls": ":"}}
    style.legend(figure, colours, keys, loc="outside upper center", ncols=5)
    return figure


def finetuning(tables: Path) -> Figure:
    """What second-order training changes, against the same cost without it, and what becomes of the trace."""
    found, trace = read_csv(tables / "findings.csv"), read_csv(tables / "trace.csv")
    found = found[found.finding.str.startswith("fine-tuning: ") & (found.against == "λ = 0, equal cost")]
    figure, axes = style.canvas(3, height=2.6)
    changes = {"flow": "flow", "bound": "SDE bound", "bound minus flow": "bound − flow"}
    rows = []
    for weight, part in groups(found, "subject"):
        for name, label in changes.items():
            row = part[part.finding == f"fine-tuning: {name}"].iloc[0]
            rows.append(_dot(f"{label}, {weight}", row, COLOURS.get(name, GREY)))
    style.dots(axes[0], rows[::-1], "{:+.3f}")
    axes[0].set(title="change", xlabel="bits/dim, against equal cost")
    evaluations = found[found.finding == "fine-tuning: network evaluations of the flow"]
    style.dots(axes[1], [_dot(row.subject, row) for row in records(evaluations)], "{:+.0f}")
    axes[1].set(title="cost of the flow", xlabel="change in network evaluations")
    for axis in axes[:2]:
        axis.axvline(0, color=GREY, lw=0.8)
        axis.locator_params(axis="x", nbins=4)
    tuned = trace[trace.run.str.startswith("finetuning-")]
    tuned = tuned[tuned.step == tuned.groupby("run").step.transform("max")]
    weights = sorted(set(tuned.trace_weight))
    shades = dict(zip(weights, [PALETTE[name] for name in ("green", "orange", "vermillion")], strict=False))
    style.lines(axes[2], tuned, "gamma", "miss_per_dim", hue="trace_weight", palette=shades, marker="o", ms=3)
    axes[2].axhline(0, color=GREY, lw=0.8)
    axes[2].set(title="trace", xlabel="γ (noise →)", ylabel="mean error per dimension")
    style.legend(
        axes[2], lines={f"λ = {weight:g}": {"color": shade, "marker": "o"} for weight, shade in shades.items()}
    )
    return figure


def samples(tables: Path) -> Figure:
    """Samples of the flow next to test images, with the cost and the distance of the samples."""
    table = read_csv(tables / "samples.csv")
    runs = list(dict.fromkeys(table.run))
    columns = 2 * min(len(runs), 2)
    side = 4 if len(runs) > 1 else 8
    figure, axes = style.canvas(2 * len(runs), height=0.6 + 7 / columns, columns=columns)
    for index, run in enumerate(runs):
        images, header = read_safetensors(tables.parent / "samples" / f"{run}.safetensors", ["samples", "test"])
        part = table[table.run == run]
        drawn = part[part.images == "samples"]
        for axis, (name, title) in zip(
            axes[2 * index : 2 * index + 2], (("samples", "samples"), ("test", "test images")), strict=True
        ):
            style.mosaic(axis, images[name].numpy()[: side**2] / (header["levels"] - 1), side)
            axis.set_title(title)
        own, best = (part[part.images == which].sliced_wasserstein.mean() for which in ("samples", "training images"))
        text = f"{part.dataset.iloc[0]}: {drawn.network_evaluations.iloc[0]:.0f} evaluations\n"
        axes[2 * index].set_xlabel(f"{text}distance {own:.2f} (training images {best:.2f})", loc="left")
    return figure


def _dot(label: str, row: Any, colour: str = GREY) -> Dot:  # noqa: ANN401 (a row of a table)
    return Dot(label, row.value, row.ci_low, row.ci_high, colour)


def _set(run: str, dataset: str) -> str:
    return dataset if run.startswith(("main-", "ablation-")) else f"{dataset}, second order"


def _scheme(name: str) -> str:
    scheme, *more = name.split(" ", 1)
    return SCHEMES[scheme] + (
        "" if not more else "\n" + more[0].replace("late", "later start").replace("of ", "K = ").replace(" draws", "")
    )


FIGURES: dict[str, Callable[[Path], Figure]] = {
    draw.__name__: draw for draw in (bits_per_dim, convergence, predictions, noise, dequantization, finetuning, samples)
}
