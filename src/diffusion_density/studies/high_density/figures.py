"""Figures of paper C, from its tables alone: each function takes the folder of tables and gives a figure."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusion_density.machine.artifacts import read_csv, read_safetensors
from diffusion_density.studies.shared.style import COLOURS, GREY, canvas, plain_log_ticks
from diffusion_density.studies.shared.tables import groups

UPPER, LOWER, SDE, FLOW = "#D55E00", "#0072B2", "#000000", COLOURS["flow"]
KAPPAS = ("#CC79A7", "#009E73", "#0072B2", "#D55E00")


GROUPS = {  # what each group of images is called, with its parameter
    "test": "test",
    "blurred": "blur {:g}",
    "sde": "SDE",
    "flow": "flow",
    "high_density": "λ = {:g}",
    "guided": "q = {:g}",
    "shuffled": "shuffled",
    "grey": "grey",
    "stripes": "stripes",
}


def tracking(tables: Path) -> Figure:
    """Deviations of the tracked density from the truth against steps, for every stochasticity."""
    table = read_csv(tables / "tracking.csv")
    figure, axes = canvas(2, height=2.9)
    for colour, (kappa, part) in zip(KAPPAS, groups(table, "stochasticity"), strict=False):
        label = f"$\\varphi^2/g^2$ = {kappa:g}" + {0: " (flow, eq. 1)", 1: " (SDE, eq. 2)"}.get(kappa, "")
        style: dict[str, Any] = {"color": colour, "marker": "o", "mfc": "w", "capsize": 1.5}
        axes[0].errorbar(part.steps, part.deviation_nats, yerr=part.deviation_stderr_nats, label=label, **style)
        axes[1].errorbar(part.steps, part.mean_excess_nats, yerr=part.mean_stderr_nats, **style)
    steps = sorted(set(table.steps))
    most = table[table.stochasticity == table.stochasticity.max()].sort_values("steps")
    guide = 1.6 * most.deviation_nats.iloc[0] * (np.array(steps) / steps[0]) ** -0.5
    axes[0].plot(steps, guide, color=GREY, lw=0.8, ls="--", label="$N^{-1/2}$")
    axes[0].set(yscale="log", ylabel="standard deviation of $r$ − log p (nats)")
    axes[1].axhline(0, color=GREY, lw=0.8)
    axes[1].set(ylabel="mean of $r$ − log p (nats)")
    for axis in axes:
        axis.set(xscale="log", xlabel="steps $N$")
        plain_log_ticks(axis, "x", steps)
    axes[1].legend(handles=axes[0].get_legend_handles_labels()[0], fontsize=6)
    return figure


def bias(tables: Path) -> Figure:
    """The excess of tracked densities against its prediction, and the sandwich of the chain with the flow beside it."""
    table, bounds = read_csv(tables / "bias.csv"), read_csv(tables / "sandwich.csv")
    figure, axes = canvas(2, height=3.1)
    baseline = table[table["size"] == 0].iloc[0]
    wrong = table[table["size"] > 0]
    net = wrong.excess_nats - baseline.excess_nats
    error = np.hypot(wrong.excess_stderr_nats, baseline.excess_stderr_nats)
    axes[0].errorbar(wrong["size"], net, yerr=error, fmt="o", color=UPPER, mfc="w", capsize=1.5, label="measured")
    axes[0].plot(wrong["size"], wrong.predicted_nats, color=GREY, lw=1, label="predicted")
    sizes = np.array([wrong["size"].min(), wrong["size"].max()])
    square = 0.6 * wrong.predicted_nats.iloc[0] * (sizes / sizes[0]) ** 2
    axes[0].plot(sizes, square, color=GREY, lw=0.8, ls="--", label="$\\epsilon^2$")
    axes[0].set(xscale="log", yscale="log", xlabel="size $\\epsilon$ of the score's error")
    axes[0].set_ylabel("E[tracked − log p of the SDE] (nats)")
    plain_log_ticks(axes[0], "x", list(wrong["size"]))
    axes[0].legend()
    shown = bounds["size"].max()
    styles = {
        "upper": ("tracked backward: upper bound", UPPER, "v"),
        "sde": ("log p of the SDE", SDE, None),
        "lower": ("paths forward: lower bound", LOWER, "^"),
        "flow": ("log p of the flow", FLOW, None),
    }
    for name, (label, colour, marker) in styles.items():
        part = bounds[(bounds["size"] == shown) & (bounds.estimate == name)]
        line = "-" if marker else "--"
        axes[1].errorbar(
            part.steps,
            part.mean_nats,
            yerr=part.stderr_nats,
            color=colour,
            marker=marker,
            ls=line,
            capsize=1.5,
            label=label,
        )
    axes[1].set(xscale="log", xlabel="steps $T$ of the chain", ylabel="mean log density (nats)")
    axes[1].set_title(f"$\\epsilon$ = {shown:g}")
    plain_log_ticks(axes[1], "x", sorted(set(bounds.steps)))
    axes[1].legend(fontsize=6)
    return figure


def modes(tables: Path) -> Figure:
    """Errors of the mode with and without H, and log densities of samples by their threshold."""
    curves, densities = read_csv(tables / "modes.csv"), read_csv(tables / "mode_densities.csv")
    figure, axes = canvas(2, height=3.0)
    for column, label, colour, marker in (
        ("mode", "with H", LOWER, "o"),
        ("mode_without_h", "H = 0", UPPER, "s"),
    ):
        error = (curves[column] - curves.mode_on_grid).abs()
        axes[0].plot(curves.log_snr, error, marker, color=colour, mfc="w", label=label)
    axes[0].axhline(1e-3, color=GREY, lw=0.8, ls="--")
    axes[0].set(yscale="log", xlabel="log-SNR of the noisy point", ylabel="distance from the mode on a grid")
    axes[0].legend()
    dense = densities[densities.method == "high_density"]
    thresholds = sorted(set(dense.threshold), reverse=True)
    values = [dense[dense.threshold == t].log_prob_nats for t in thresholds]
    ordinary = [densities[densities.method == m].log_prob_nats for m in ("sde", "flow")]
    labels = ["SDE", "flow", *(f"{t:g}" for t in thresholds)]
    boxes = axes[1].boxplot([*ordinary, *values], tick_labels=labels, whis=(0, 100), patch_artist=True)
    for index, box in enumerate(boxes["boxes"]):
        box.set_facecolor("0.85" if index < 2 else "#56B4E9")
    axes[1].set(xlabel="ordinary samples        threshold log-SNR", ylabel="log p (nats)")
    return figure


def guidance(tables: Path) -> Figure:
    """Realised against wanted log densities, and the mean error of every method by dimension."""
    table = read_csv(tables / "guidance.csv")
    figure, axes = canvas(2, height=3.0)
    largest = table[(table.dimension == table.dimension.max()) & (table.method == "deterministic")]
    quantiles = sorted(set(largest["quantile"]))
    for shade, quantile in zip(np.linspace(0.35, 1, len(quantiles)), quantiles, strict=True):
        part = largest[largest["quantile"] == quantile]
        axes[0].plot(
            part.target_nats, part.log_prob_nats, "o", ms=2.5, color=LOWER, alpha=shade, label=f"q = {quantile:g}"
        )
    ends = [largest.target_nats.min(), largest.target_nats.max()]
    axes[0].plot(ends, ends, color=GREY, lw=0.8)
    axes[0].set(xlabel="wanted log p (nats)", ylabel="true log p (nats)", title=f"$D$ = {table.dimension.max()}")
    axes[0].legend(fontsize=6)
    styles = {
        "deterministic": ("deterministic", LOWER, "o"),
        "stochastic": ("stochastic, exact drift", "#009E73", "s"),
        "stochastic_published": ("stochastic, published drift", UPPER, "^"),
    }
    dimensions = sorted(set(table.dimension))
    middle = table[(table["quantile"] - 0.5).abs() == (table["quantile"] - 0.5).abs().min()]
    for offset, (method, (label, colour, marker)) in zip((-0.15, 0, 0.15), styles.items(), strict=True):
        part = middle[(middle.method == method) & ~middle.out_of_reach]
        error = (part.log_prob_nats - part.target_nats).groupby(part.dimension).agg(["mean", "sem"]).reindex(dimensions)
        place = np.arange(len(dimensions)) + offset
        axes[1].errorbar(place, error["mean"], yerr=error["sem"], fmt=marker, color=colour, capsize=1.5, label=label)
    axes[1].axhline(0, color=GREY, lw=0.8)
    axes[1].set_xticks(range(len(dimensions)), [f"{d}" for d in dimensions])
    axes[1].set(xlabel="dimension $D$", ylabel="mean of true − wanted log p (nats)")
    axes[1].legend(fontsize=6)
    return figure


def cost(tables: Path) -> Figure:
    """Error of the tracked density against network evaluations."""
    table = read_csv(tables / "cost.csv")
    dimensions = sorted(set(table.dimension))
    figure, axes = canvas(len(dimensions), height=2.9, share_y=True)
    styles = {
        "flow_exact": ("flow, exact divergence (eq. 1)", FLOW, "s"),
        "flow_hutchinson": ("flow, one probe", "#009E73", "^"),
        "sde": ("SDE, no divergence (eq. 2)", LOWER, "o"),
    }
    for axis, dimension in zip(axes, dimensions, strict=True):
        for method, (label, colour, marker) in styles.items():
            part = table[(table.dimension == dimension) & (table.method == method)]
            axis.plot(part.network_evaluations, part.rms_error_nats, marker, color=colour, mfc="w", ls="-", label=label)
        axis.set(xscale="log", yscale="log", xlabel="network evaluations a sample", title=f"$D$ = {dimension}")
    axes[0].set_ylabel("root mean square error (nats)")
    axes[-1].legend(fontsize=6)
    return figure


def images(tables: Path) -> Figure:
    """Bits/dim against PNG size and along blurs, and of ordinary and dense samples, for every image set."""
    table, findings = read_csv(tables / "images.csv"), read_csv(tables / "image_findings.csv")
    correlations = findings[findings.finding == "rank correlation"].set_index("dataset")["value"]
    figure, axes = canvas(3, height=3.1)
    sets = sorted(set(table.dataset))
    for colour, marker, dataset in zip(cycle((*KAPPAS[1:], KAPPAS[0], GREY)), cycle("os^Dv"), sets):
        mine = table[table.dataset == dataset]
        test = mine[mine.group == "test"]
        size = test.png_bytes / test.png_bytes.mean()
        label = f"{dataset}: $\\rho$ = {correlations[dataset]:.2f}"
        axes[0].plot(size, test.bits_per_dim, marker, ms=2.5, color=colour, alpha=0.7, label=label)
        blurs = mine[mine.group == "blurred"]
        widths = [0.0, *sorted(set(blurs.parameter))]
        values = [test.bits_per_dim, *(blurs[blurs.parameter == w].bits_per_dim for w in widths[1:])]
        means, errors = [v.mean() for v in values], [v.sem() for v in values]
        axes[1].errorbar(widths, means, yerr=errors, color=colour, marker=marker, mfc="w", capsize=1.5, label=dataset)
        parts = [part for group, _, part in _variants(mine) if group != "blurred"]
        for place, part in enumerate(parts):
            axes[2].plot(np.full(len(part), place), part.bits_per_dim, marker, ms=2.5, color=colour, alpha=0.7)
    names = [GROUPS[group].format(level) for group, level, _ in _variants(table) if group != "blurred"]
    axes[0].set(xlabel="PNG bytes, over their mean", ylabel="bits/dim, SDE bound", title="test images")
    axes[1].set(xlabel="blur (pixels)", ylabel="bits/dim, SDE bound", title="blurred")
    axes[2].set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes[2].set(ylabel="bits/dim, SDE bound", title="samples and others")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high + 0.08 * len(sets) * (high - low))  # room for the legend
    axes[0].legend(fontsize=6)
    axes[1].legend(fontsize=6)
    return figure


def _variants(table: pd.DataFrame) -> list[tuple[str, float, pd.DataFrame]]:
    """Each group with each of its parameters (0 where it has none), and its rows."""
    parameters = table.parameter.fillna(0)
    return [
        (group, level, table[(table.group == group) & (parameters == level)])
        for group in GROUPS
        for level in sorted(set(parameters[table.group == group]))
    ]


def pictures(tables: Path) -> Figure:
    """What the groups look like: a row a group, for the last image set."""
    table = read_csv(tables / "images.csv")
    run = max(table.run)
    kept, settings = read_safetensors(tables.parent / "samples" / f"{run}.safetensors")
    mine = table[table.run == run]
    variants = _variants(mine)
    figure, (axis,) = canvas(1, height=0.42 * len(variants) + 0.3)
    count, _, side, _ = kept["test nan"].shape
    pitch = side + 2
    sheet = np.ones((len(variants) * pitch, count * pitch, 3))
    labels = []
    for index, (group, level, part) in enumerate(variants):
        images = kept[f"{group} {part.parameter.iloc[0]:g}"].numpy() / (settings["levels"] - 1)
        for place, image in enumerate(images):
            top, left = index * pitch, place * pitch
            sheet[top : top + side, left : left + side] = np.broadcast_to(image.transpose(1, 2, 0), (side, side, 3))
        labels.append(f"{GROUPS[group].format(level)}: {part.bits_per_dim.mean():.2f}")
    axis.imshow(sheet, interpolation="nearest")
    axis.set_yticks([index * pitch + side / 2 for index in range(len(variants))], labels)
    axis.set(title=f"{mine.dataset.iloc[0]}: mean bits/dim of each row", xticks=[])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "tracking": tracking,
    "bias": bias,
    "modes": modes,
    "guidance": guidance,
    "cost": cost,
    "images": images,
    "pictures": pictures,
}
"""Every figure of the study by name."""
