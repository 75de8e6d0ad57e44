"""Figures of the study of Li and Yan 2024 on classifiers and trained networks; `figures` lists them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.shared import style
from diffusion_density.studies.shared.style import COLOURS, GREY, PALETTE, Dot, Look
from diffusion_density.studies.shared.tables import records

WEIGHTINGS = {  # label, colour, marker
    "likelihood": ("likelihood (ELBO)", PALETTE["blue"], "o"),
    "unit": ("unit (simple)", PALETTE["vermillion"], "s"),
    "sigmoid": ("sigmoid(2 − λ)", PALETTE["green"], "^"),
}
TOY = {  # label, colour and line of each objective
    "log_prob": ("exact likelihood", "0.75", "-"),
    "trapezoid": ("formula, trapezoid", PALETTE["blue"], "--"),
    "sum": ("formula, DDPM sum", PALETTE["blue"], ":"),
    "uniform": ("unit (simple)", PALETTE["vermillion"], "-"),
    "sigmoid": ("sigmoid(2 − λ)", PALETTE["green"], "-"),
}
NOISES = {
    "common": ("common noise", PALETTE["blue"], "o"),
    "independent": ("independent noise", PALETTE["vermillion"], "s"),
}
ESTIMATES = {  # label, colour, marker
    "sum": ("DDPM sum", COLOURS["ddpm_sum"], "s"),
    "chain": ("the same chain, many paths", COLOURS["chain"], "o"),
    "flow": ("flow, another density", COLOURS["flow"], "^"),
    "rows": ("rows given rows, another model", PALETTE["blue"], "D"),
}


def weightings(tables: Path) -> Figure:
    """The one-parameter toy, and networks trained under three weightings: KL of the SDE bound and of the flow."""
    toy, table = read_csv(tables / "toy.csv"), read_csv(tables / "weightings.csv")
    figure, axes = style.canvas(3, height=3.0)
    for weighting, (label, colour, line) in TOY.items():
        part = toy[toy.weighting == weighting]
        wide = 3 if weighting == "log_prob" else 1.3
        axes[0].plot(part.m, part.objective_nats, label=label, color=colour, ls=line, lw=wide)
        axes[0].plot(part.optimum.iloc[0], 0, "v", color=colour, clip_on=False)
    axes[0].set(xlabel="parameter $m$", ylabel="objective − its minimum (nats)", title="one parameter")
    axes[0].legend(fontsize=6)
    distributions = sorted(set(table.target))
    for axis, measure, title in ((axes[1], "formula", "SDE bound"), (axes[2], "flow", "flow")):
        _by_group(axis, table[table.measure == measure], "target", "kl", distributions, WEIGHTINGS, "weighting")
        axis.set(title=title, ylabel="KL from the data (nats)")
    top = max(axis.get_ylim()[1] for axis in axes[1:])
    for axis in axes[1:]:
        axis.set_ylim(0, 1.15 * top)
    _keys(axes[2], WEIGHTINGS, loc="upper right", fontsize=6)
    return figure


def classifier(tables: Path) -> Figure:
    """Weights of a diffusion classifier, and noise that its classes share or not."""
    names = ("classifier", "classifier_noise", "digit_classes")
    exact, noise, digits = (read_csv(tables / f"{name}.csv") for name in names)
    figure, axes = style.canvas(3, height=2.9)
    rows = []
    for row in records(exact):
        value, half = row.cross_entropy_nats, 1.96 * row.cross_entropy_stderr_nats
        rows.append(Dot(row.weights.replace("_", ", "), value, value - half, value + half, PALETTE["blue"]))
    style.dots(axes[0], rows, "{:.3g}")
    axes[0].set(xscale="log", xlabel="cross-entropy (nats)", title="known posterior", xlim=(0.2, 100))
    for estimator, line in (("plain", "-"), ("controlled", ":")):
        for name, (_, colour, marker) in NOISES.items():
            part = noise[(noise.estimator == estimator) & (noise.noise == name)]
            style.lines(axes[1], part, "throws", "posterior_error", color=colour, marker=marker, ls=line, mfc="w")
    axes[1].set(yscale="log", xlabel="throws per time", ylabel="mean error of the posterior", title="noise")
    style.plain_log_ticks(axes[1], "x", sorted(set(noise.throws)))
    _keys(axes[1], NOISES, more={"with control variate": {"ls": ":"}})
    digits = digits.assign(percent=100 * digits.accuracy)
    _by_group(axes[2], digits, "weights", "percent", sorted(set(digits.weights)), NOISES, "noise")
    axes[2].set(ylabel="accuracy (%)", title="digits", xlabel="weights")
    return figure


def gan(tables: Path) -> Figure:
    """Generators against the closed-form optimum: one histogram, distances along λ, and the collapse."""
    table, histogram = read_csv(tables / "gan.csv"), read_csv(tables / "gan_histogram.csv")
    figure, axes = style.canvas(3, height=3.0)
    part = histogram[histogram.target == "mixture_1d"]
    part = part[part.weight == part.weight.max()].assign(x=0.5 * (histogram.bin_left + histogram.bin_right))
    shown: dict[str, Look] = {
        "data": {"color": "black", "ls": ":"},
        "optimum": {"color": PALETTE["vermillion"]},
        "generated": {"color": PALETTE["blue"], "lw": 0.7},
    }
    for column, look in shown.items():
        style.plot(sns.lineplot, axes[0], part, x="x", y=column, units="seed", estimator=None, **look)
    axes[0].set(xlabel="$x$", ylabel="density", title=f"$\\lambda$ = {part.weight.iloc[0]:g}")
    style.legend(axes[0], lines=shown, fontsize=6, loc="upper left")
    keys: dict[str, Look] = {}
    for target, marker in (("mixture_1d", "o"), ("mixture_2d", "s")):
        for end, colour in (("data", "black"), ("optimum", PALETTE["vermillion"])):
            look = {"color": colour, "marker": marker, "mfc": "w"}
            style.lines(axes[1], table[table.target == target], "weight", f"distance_{end}", **look)
            keys[f"to the {end}, {target[-2]}-D"] = look
    look = {"color": GREY, "ls": "--", "lw": 0.8}
    style.lines(axes[1], table[table.target == "mixture_1d"], "weight", "distance_floor", **look)
    axes[1].set(xlabel="$\\lambda$", ylabel="total variation distance")
    axes[1].set_ylim(0, 1.45 * axes[1].get_ylim()[1])
    style.legend(axes[1], lines=keys | {"floor of sampling, 1-D": look}, fontsize=6, loc="upper left")
    normal = table[table.target.str.startswith("normal")]
    looks: dict[str, Look] = {
        "generated": {"color": PALETTE["blue"], "marker": "o", "ls": "none"},
        "optimum": {"color": PALETTE["vermillion"], "marker": "_", "ls": "--", "lw": 0.8},
    }
    for column, look in zip(("mass_core", "optimum_mass_core"), looks.values(), strict=True):
        style.lines(axes[2], normal, "weight", column, **look)
    axes[2].set(xlabel="$\\lambda$", ylabel="share near the mode", ylim=(0, 1), title="collapse of N(0, I)")
    style.legend(axes[2], lines=looks)
    return figure


def digits(tables: Path) -> Figure:
    """Estimates image by image against the formula, and their means."""
    table = read_csv(tables / "digit_estimates.csv")
    figure, axes = style.canvas(2, height=3.2)
    chosen = table[(table.weighting == "likelihood") & (table.seed == table.seed.min())]
    wide = chosen.pivot_table(index="image", columns="estimator", values="log_prob_nats")
    for name, (label, colour, marker) in ESTIMATES.items():
        axes[0].plot(wide.formula, wide[name] - wide.formula, marker, color=colour, ms=3, mfc="w", label=label)
    axes[0].axhline(0, color=GREY, lw=0.8)
    axes[0].set(xlabel="log p of an image by the formula (nats)", ylabel="difference from the formula (nats)")
    axes[0].legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    of_seeds = table.groupby(["weighting", "estimator", "seed"]).log_prob_nats.mean().reset_index()
    _by_group(axes[1], of_seeds, "estimator", "log_prob_nats", ["formula", *ESTIMATES], WEIGHTINGS, "weighting")
    axes[1].set_ylabel("mean log p (nats per image)")
    _keys(axes[1], WEIGHTINGS, title="training weights")
    return figure


Looks = dict[str, tuple[str, str, str]]


def _by_group(axis: Axes, table: pd.DataFrame, by: str, value: str, places: list[str], looks: Looks, hue: str) -> None:
    """Means over seeds with one standard error at each place, for every level of ``hue`` next to each other."""
    for shift, (name, (_, colour, marker)) in zip(np.linspace(-0.2, 0.2, len(looks)), looks.items(), strict=True):
        part = table[table[hue] == name]
        part = part.assign(place=[places.index(place) + shift for place in part[by]])
        style.lines(axis, part, "place", value, color=colour, marker=marker, ls="none")
    axis.set_xticks(range(len(places)), places)
    axis.set_xlim(-0.5, len(places) - 0.5)


def _keys(axis: Axes, looks: Looks, more: dict[str, Look] | None = None, **options: Any) -> None:  # noqa: ANN401
    keys = {label: {"color": colour, "marker": marker, "ls": "none"} for label, colour, marker in looks.values()}
    style.legend(axis, lines=keys | (more or {}), **options)
