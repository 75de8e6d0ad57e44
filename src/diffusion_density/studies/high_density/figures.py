"""Figures of the study of Karczewski, Heinonen and Garg 2025, from its tables alone: each takes their folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from diffusion_density.machine.artifacts import read_csv, read_safetensors
from diffusion_density.studies.shared import style
from diffusion_density.studies.shared.style import COLOURS, GREY, PALETTE, Look
from diffusion_density.studies.shared.tables import groups

KAPPAS = [PALETTE[name] for name in ("purple", "green", "blue", "vermillion")]
SETS = [PALETTE[name] for name in ("green", "blue", "vermillion", "purple", "black")]  # of images
MARKERS = "os^Dv"
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
BOUNDS: dict[str, tuple[str, Look]] = {
    "upper": ("tracked backward: upper bound", {"color": PALETTE["vermillion"], "marker": "v"}),
    "sde": ("log p of the SDE", {"color": "black", "ls": "--"}),
    "lower": ("paths forward: lower bound", {"color": PALETTE["blue"], "marker": "^"}),
    "flow": ("log p of the flow", {"color": COLOURS["flow"], "ls": "--"}),
}
GUIDANCE: dict[str, tuple[str, Look]] = {
    "deterministic": ("deterministic", {"color": PALETTE["blue"], "marker": "o", "ls": "none"}),
    "stochastic": ("stochastic, exact drift", {"color": PALETTE["green"], "marker": "s", "ls": "none"}),
    "stochastic_published": (
        "stochastic, published drift",
        {"color": PALETTE["vermillion"], "marker": "^", "ls": "none"},
    ),
}
TRACKED: dict[str, tuple[str, Look]] = {
    "flow": ("flow, exact divergence (eq. 1)", {"color": COLOURS["flow"], "marker": "s", "mfc": "w"}),
    "flow_hutchinson": ("flow, one probe", {"color": PALETTE["green"], "marker": "^", "mfc": "w"}),
    "sde": ("SDE, no divergence (eq. 2)", {"color": PALETTE["blue"], "marker": "o", "mfc": "w"}),
}


def tracking(tables: Path) -> Figure:
    """Deviations of the tracked density from the truth against steps, for every stochasticity."""
    table = read_csv(tables / "tracking.csv")
    figure, axes = style.canvas(2, height=2.9)
    for colour, (kappa, part) in zip(KAPPAS, groups(table, "stochasticity"), strict=False):
        label = f"$\\varphi^2/g^2$ = {kappa:g}" + {0: " (flow, eq. 1)", 1: " (SDE, eq. 2)"}.get(kappa, "")
        look: Look = {"color": colour, "marker": "o", "mfc": "w", "capsize": 1.5, "label": label}
        axes[0].errorbar(part.steps, part.deviation_nats, yerr=part.deviation_stderr_nats, **look)
        axes[1].errorbar(part.steps, part.mean_excess_nats, yerr=part.mean_stderr_nats, **look)
    steps = sorted(set(table.steps))
    first = table[table.steps == steps[0]].deviation_nats.max()
    axes[0].plot(steps, 1.6 * first * (np.array(steps) / steps[0]) ** -0.5, color=GREY, lw=0.8, ls="--")
    axes[0].annotate("$N^{-1/2}$", (steps[0], 1.6 * first), (8, 2), textcoords="offset points", color=GREY)
    axes[0].set(yscale="log", ylabel="standard deviation of $r$ − log p (nats)")
    axes[1].axhline(0, color=GREY, lw=0.8)
    axes[1].set(ylabel="mean of $r$ − log p (nats)")
    for axis in axes:
        axis.set_xlabel("steps $N$")
        style.plain_log_ticks(axis, "x", steps)
    axes[1].legend(fontsize=6)
    return figure


def bias(tables: Path) -> Figure:
    """The excess of tracked densities against its prediction, and the bounds of the chain next to both densities."""
    table, bounds = read_csv(tables / "bias.csv"), read_csv(tables / "sandwich.csv")
    figure, axes = style.canvas(2, height=3.1)
    baseline = table[table["size"] == 0].iloc[0]
    wrong = table[table["size"] > 0]
    net = wrong.excess_nats - baseline.excess_nats
    error = np.hypot(wrong.excess_stderr_nats, baseline.excess_stderr_nats)
    look: Look = {"color": PALETTE["vermillion"], "mfc": "w", "capsize": 1.5, "label": "measured"}
    axes[0].errorbar(wrong["size"], net, yerr=error, fmt="o", **look)
    axes[0].plot(wrong["size"], wrong.predicted_nats, color=GREY, lw=1, label="predicted")
    sizes = np.array([wrong["size"].min(), wrong["size"].max()])
    square = 0.6 * wrong.predicted_nats.iloc[0] * (sizes / sizes[0]) ** 2
    axes[0].plot(sizes, square, color=GREY, lw=0.8, ls="--", label="$\\epsilon^2$")
    axes[0].set(yscale="log", xlabel="size $\\epsilon$ of the error of the score")
    axes[0].set_ylabel("E[tracked − log p of the SDE] (nats)")
    style.plain_log_ticks(axes[0], "x", list(wrong["size"]))
    axes[0].legend()
    shown = bounds["size"].max()
    for name, (label, look) in BOUNDS.items():
        part = bounds[(bounds["size"] == shown) & (bounds.estimate == name)]
        axes[1].errorbar(part.steps, part.mean_nats, yerr=part.stderr_nats, capsize=1.5, label=label, **look)
    axes[1].set(xlabel="steps $T$ of the chain", ylabel="mean log density (nats)", title=f"$\\epsilon$ = {shown:g}")
    style.plain_log_ticks(axes[1], "x", sorted(set(bounds.steps)))
    axes[1].legend(fontsize=6)
    return figure


def modes(tables: Path) -> Figure:
    """Errors of the mode with and without H, and log densities of samples by their threshold."""
    curves, densities = read_csv(tables / "modes.csv"), read_csv(tables / "mode_densities.csv")
    figure, axes = style.canvas(2, height=3.0)
    for column, label, marker, colour in (
        ("mode", "with H", "o", "blue"),
        ("mode_without_h", "H = 0", "s", "vermillion"),
    ):
        error = (curves[column] - curves.mode_on_grid).abs()
        axes[0].plot(curves.log_snr, error, marker, color=PALETTE[colour], mfc="w", label=label)
    axes[0].axhline(1e-3, color=GREY, lw=0.8, ls="--")
    axes[0].set(yscale="log", xlabel="log-SNR of the noisy point", ylabel="distance from the mode on a grid")
    axes[0].legend()
    dense = densities.method == "high_density"
    densities["group"] = densities.threshold.map("{:g}".format).where(dense, densities.method)
    thresholds = sorted(set(densities.threshold[dense]), reverse=True)
    order = ["sde", "flow", *(f"{threshold:g}" for threshold in thresholds)]
    colours = {name: GREY if name in ("sde", "flow") else PALETTE["blue"] for name in order}
    look = {"hue": "group", "palette": colours, "order": order, "size": 2.5, "alpha": 0.6, "jitter": 0.2}
    style.plot(sns.stripplot, axes[1], densities, x="group", y="log_prob_nats", **look)
    axes[1].set_xticks(range(len(order)), ["SDE", *order[1:]])
    axes[1].set(xlabel="ordinary samples        threshold log-SNR", ylabel="log p (nats)")
    return figure


def guidance(tables: Path) -> Figure:
    """Reached against chosen log densities, and the mean error of every method by dimension."""
    table = read_csv(tables / "guidance.csv")
    figure, axes = style.canvas(2, height=3.0)
    largest = table[(table.dimension == table.dimension.max()) & (table.method == "deterministic")]
    quantiles = sorted(set(largest["quantile"]))
    shades = dict(zip(quantiles, sns.color_palette("crest", len(quantiles)).as_hex(), strict=True))
    look = {"hue": "quantile", "palette": shades, "s": 10, "lw": 0}
    style.plot(sns.scatterplot, axes[0], largest, x="target_nats", y="log_prob_nats", **look)
    ends = [largest.target_nats.min(), largest.target_nats.max()]
    axes[0].plot(ends, ends, color=GREY, lw=0.8, zorder=0)
    axes[0].set(xlabel="chosen log p (nats)", ylabel="true log p (nats)", title=f"$D$ = {table.dimension.max()}")
    style.legend(axes[0], {f"q = {quantile:g}": shade for quantile, shade in shades.items()}, fontsize=6)
    dimensions = sorted(set(table.dimension))
    away = (table["quantile"] - 0.5).abs()
    middle = table[(away == away.min()) & ~table.out_of_reach]
    for shift, (method, (_, look)) in zip((-0.15, 0, 0.15), GUIDANCE.items(), strict=True):
        part = middle[middle.method == method]
        part = part.assign(
            place=[dimensions.index(dimension) + shift for dimension in part.dimension],
            error=part.log_prob_nats - part.target_nats,
        )
        style.lines(axes[1], part, "place", "error", **look)
    axes[1].axhline(0, color=GREY, lw=0.8)
    axes[1].set_xticks(range(len(dimensions)), [f"{dimension}" for dimension in dimensions])
    axes[1].set(xlabel="dimension $D$", ylabel="mean of true − chosen log p (nats)")
    style.legend(axes[1], lines=dict(GUIDANCE.values()), fontsize=6)
    return figure


def cost(tables: Path) -> Figure:
    """Error of the tracked density against network evaluations."""
    table = read_csv(tables / "cost.csv")
    dimensions = sorted(set(table.dimension))
    figure, axes = style.canvas(len(dimensions), height=2.9, share_y=True)
    for axis, dimension in zip(axes, dimensions, strict=True):
        for method, (_, look) in TRACKED.items():
            part = table[(table.dimension == dimension) & (table.method == method)]
            axis.plot(part.network_evaluations, part.rms_error_nats, **look)
        axis.set(xscale="log", yscale="log", xlabel="network evaluations per sample", title=f"$D$ = {dimension}")
    axes[0].set_ylabel("root mean square error (nats)")
    style.legend(axes[-1], lines=dict(TRACKED.values()), fontsize=6)
    return figure


def images(tables: Path) -> Figure:
    """Bits/dim against PNG size and along blurs, and of ordinary and dense samples, for every image set."""
    table, findings = read_csv(tables / "images.csv"), read_csv(tables / "image_findings.csv")
    correlations = findings[findings.finding == "rank correlation"].set_index("dataset")["value"]
    figure, axes = style.canvas(3, height=3.1)
    sets = sorted(set(table.dataset))
    colours, markers = dict(zip(sets, SETS, strict=False)), dict(zip(sets, MARKERS, strict=False))
    looks: Look = {"hue": "dataset", "palette": colours, "style": "dataset", "markers": markers}
    test = table[table.group == "test"]
    size = test.png_bytes / test.groupby("dataset").png_bytes.transform("mean")
    style.plot(
        sns.scatterplot, axes[0], test.assign(size=size), x="size", y="bits_per_dim", s=10, alpha=0.7, lw=0, **looks
    )
    blurs = table[table.group.isin(["test", "blurred"])].fillna({"parameter": 0})
    style.lines(axes[1], blurs, "parameter", "bits_per_dim", dashes=False, mfc="w", **looks)
    variants = [variant for variant in _variants(table) if variant[0] != "blurred"]
    names = [GROUPS[group].format(level) for group, level, _ in variants]
    others = pd.concat([part.assign(name=name) for name, (_, _, part) in zip(names, variants, strict=True)])
    look = {"hue": "dataset", "palette": colours, "dodge": True, "size": 2.5, "alpha": 0.7}
    style.plot(sns.stripplot, axes[2], others, x="name", y="bits_per_dim", **look)
    axes[0].set(xlabel="size of the PNG file / mean size", ylabel="bits/dim, SDE bound", title="test images")
    axes[1].set(xlabel="blur (pixels)", ylabel="bits/dim, SDE bound", title="blurred")
    axes[2].set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes[2].set(ylabel="bits/dim, SDE bound", title="samples and others")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high + 0.08 * len(sets) * (high - low))  # room for the legend
    keys = {f"{name}: $\\rho$ = {correlations[name]:.2f}": colours[name] for name in sets}
    style.legend(axes[0], keys, fontsize=6)
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
    """What the groups look like: one row per group, for the last image set."""
    table = read_csv(tables / "images.csv")
    mine = table[table.run == max(table.run)]
    kept, settings = read_safetensors(tables.parent / "samples" / f"{mine.run.iloc[0]}.safetensors")
    variants = _variants(mine)
    names = [f"{GROUPS[group].format(level)}: {part.bits_per_dim.mean():.2f}" for group, level, part in variants]
    shown = [kept[f"{group} {part.parameter.iloc[0]:g}"].numpy() for group, _, part in variants]
    count, _, side, _ = shown[0].shape
    figure, (axis,) = style.canvas(1, height=0.42 * len(variants) + 0.3)
    style.mosaic(axis, np.concatenate(shown) / (settings["levels"] - 1), count, gap=2)
    axis.set_yticks([index * (side + 2) + side / 2 for index in range(len(variants))], names)
    axis.set_title(f"{mine.dataset.iloc[0]}: mean bits/dim of each row")
    axis.tick_params(length=0)
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    draw.__name__: draw for draw in (tracking, bias, modes, guidance, cost, images, pictures)
}
