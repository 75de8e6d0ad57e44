"""Figures of paper B on classifiers and trained networks; `figures.density_formula` lists them."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion_density.machine.artifacts import read_csv
from diffusion_density.studies.shared.style import COLOURS, GREY, canvas, curve, plain_log_ticks, summarise
from diffusion_density.studies.shared.tables import groups

WEIGHTINGS = {
    "likelihood": ("likelihood (ELBO)", "#0072B2", "o"),
    "unit": ("unit (simple)", "#D55E00", "s"),
    "sigmoid": ("sigmoid(2 − λ)", "#009E73", "^"),
}
TOY = {  # label, colour and line of each objective
    "log_prob": ("exact likelihood", "0.75", "-"),
    "trapezoid": ("formula, trapezoid", "#0072B2", "--"),
    "sum": ("formula, DDPM sum", "#0072B2", ":"),
    "uniform": ("unit (simple)", "#D55E00", "-"),
    "sigmoid": ("sigmoid(2 − λ)", "#009E73", "-"),
}


def weightings(tables: Path) -> Figure:
    """The one-parameter toy, and networks trained under three weightings: KL bound, flow KL and simple loss."""
    toy, table = read_csv(tables / "toy.csv"), read_csv(tables / "weightings.csv")
    figure, axes = canvas(3, height=3.0)
    for weighting, (label, colour, style) in TOY.items():
        part = toy[toy.weighting == weighting]
        wide = 3 if weighting == "log_prob" else 1.3
        axes[0].plot(part.m, part.objective_nats, label=label, color=colour, ls=style, lw=wide)
        axes[0].plot(part.optimum.iloc[0], 0, "v", color=colour, clip_on=False)
    axes[0].set(xlabel="parameter $m$", ylabel="objective − its minimum", title="one parameter")
    axes[0].legend(fontsize=6)
    laws = sorted(set(table.law))
    for axis, measure, title in ((axes[1], "formula", "SDE bound"), (axes[2], "flow", "flow")):
        _by_weighting(axis, table[table.measure == measure], "law", "kl", laws)
        axis.set_xticks(range(len(laws)), laws)
        axis.set(title=title, ylabel="KL from the data (nats)")
    top = max(axis.get_ylim()[1] for axis in axes[1:])
    for axis in axes[1:]:
        axis.set_ylim(0, 1.15 * top)
    axes[2].legend(loc="upper right", fontsize=6)
    return figure


def _by_weighting(axis: Axes, table: pd.DataFrame, by: str, value: str, places: list[str]) -> None:
    """Means over seeds at each place, for every weighting side by side."""
    for offset, (weighting, (label, colour, marker)) in zip((-0.2, 0, 0.2), WEIGHTINGS.items(), strict=True):
        means = summarise(table[table.weighting == weighting], [by], value).set_index(by).reindex(places).reset_index()
        curve(axis, np.arange(len(places)) + offset, means, color=colour, marker=marker, ls="none", label=label)


def classifier(tables: Path) -> Figure:
    """Weights of a diffusion classifier, and noise that its classes share or not."""
    exact, noise, digits = (
        read_csv(tables / f"{name}.csv") for name in ("classifier", "classifier_noise", "digit_classes")
    )
    figure, axes = canvas(3, height=2.9)
    place = np.arange(len(exact))
    axes[0].errorbar(
        exact.cross_entropy_nats, place, xerr=exact.cross_entropy_stderr_nats, fmt="o", color=COLOURS["path_integral"]
    )
    for y, value in zip(place, exact.cross_entropy_nats, strict=True):
        axes[0].annotate(f"{value:.3g}", (value, y), xytext=(0, 4), textcoords="offset points", fontsize=6, ha="center")
    axes[0].set_yticks(place, [name.replace("_", " ") for name in exact.weights])
    axes[0].set(
        xscale="log",
        xlabel="cross-entropy (nats)",
        title="known posterior",
        xlim=(0.2, 100),
        ylim=(len(exact) - 0.5, -0.5),
    )
    styles = {"common": ("common noise", "#0072B2", "o"), "independent": ("independent noise", "#D55E00", "s")}
    for estimator, line in (("plain", "-"), ("controlled", ":")):
        for kind, (label, colour, marker) in styles.items():
            part = noise[(noise.noise == kind) & (noise.estimator == estimator)]
            means = summarise(part, ["throws"], "posterior_error")
            name = label if estimator == "plain" else None
            curve(axes[1], means["throws"], means, color=colour, marker=marker, ls=line, mfc="w", label=name)
    axes[1].plot([], [], color=GREY, ls=":", label="with control variate")
    axes[1].set(xscale="log", yscale="log", xlabel="throws a time", ylabel="mean error of the posterior", title="noise")
    plain_log_ticks(axes[1], "x", sorted(set(noise.throws)))
    axes[1].legend()
    for kind, (label, colour, marker) in styles.items():
        part = digits[digits.noise == kind]
        means = summarise(part, ["weights"], "accuracy")
        axes[2].errorbar(
            range(len(means)), 100 * means["mean"], yerr=100 * means["sem"], fmt=marker, color=colour, label=label
        )
        axes[2].set_xticks(range(len(means)), list(means["weights"]))
    axes[2].set(xlim=(-0.5, 1.5), ylabel="accuracy (%)", title="digits", xlabel="weights")
    return figure


def gan(tables: Path) -> Figure:
    """Generators against the closed-form optimum: one histogram, distances along λ, and the collapse."""
    table, histogram = read_csv(tables / "gan.csv"), read_csv(tables / "gan_histogram.csv")
    figure, axes = canvas(3, height=3.0)
    line = histogram[histogram.target == "mixture_1d"]
    weight = sorted(set(line.weight))[-1]
    part = line[line.weight == weight]
    middle = 0.5 * (part.bin_left + part.bin_right)
    first = part.seed == part.seed.min()
    axes[0].plot(middle[first], part.data[first], color="black", ls=":", label="data")
    axes[0].plot(middle[first], part.optimum[first], color=COLOURS["score"], label="optimum")
    for seed, mine in groups(part, "seed"):
        axes[0].plot(
            middle[mine.index],
            mine.generated,
            color=COLOURS["path_integral"],
            lw=0.7,
            alpha=0.8,
            label="generated" if seed == part.seed.min() else None,
        )
    axes[0].set(xlabel="$x$", ylabel="density", title=f"$\\lambda$ = {weight:g}")
    axes[0].legend()
    for target, marker in (("mixture_1d", "o"), ("mixture_2d", "s")):
        mine = table[table.target == target]
        for column, colour, label in (
            ("distance_data", "black", "to the data"),
            ("distance_optimum", COLOURS["score"], "to the optimum"),
        ):
            means = summarise(mine, ["weight"], column)
            name = f"{label}, {target[-2]}-D"
            curve(axes[1], means["weight"], means, color=colour, marker=marker, mfc="w", label=name)
    floor = summarise(table[table.target == "mixture_1d"], ["weight"], "distance_floor")
    axes[1].plot(floor["weight"], floor["mean"], color=GREY, ls="--", lw=0.8, label="floor of sampling, 1-D")
    axes[1].set(xlabel="$\\lambda$", ylabel="total variation distance")
    axes[1].set_ylim(0, 1.45 * axes[1].get_ylim()[1])
    axes[1].legend(fontsize=6, loc="upper left")
    normal = table[table.target.str.startswith("normal")]
    means = summarise(normal, ["weight"], "mass_core")
    curve(axes[2], means["weight"], means, color=COLOURS["path_integral"], marker="o", ls="none", label="generated")
    optimum = normal.groupby("weight").optimum_mass_core.mean()
    axes[2].plot(optimum.index, optimum, color=COLOURS["score"], marker="_", ls="--", lw=0.8, label="optimum")
    axes[2].set(xlabel="$\\lambda$", ylabel="share near the mode", ylim=(0, 1), title="collapse of N(0, I)")
    axes[2].legend()
    return figure


def digits(tables: Path) -> Figure:
    """Estimates image by image against the formula, and their means."""
    table = read_csv(tables / "digit_estimates.csv")
    figure, axes = canvas(2, height=3.2)
    chosen = table[(table.weighting == "likelihood") & (table.seed == table.seed.min())]
    wide = chosen.pivot_table(index="image", columns="estimator", values="log_prob_nats")
    styles = {
        "sum": ("DDPM sum", "#D55E00", "s"),
        "chain": ("the same chain, many paths", "#0072B2", "o"),
        "flow": ("flow, another density", "#CC79A7", "^"),
        "rows": ("rows given rows, another model", "#009E73", "D"),
    }
    for name, (label, colour, marker) in styles.items():
        axes[0].plot(wide.formula, wide[name] - wide.formula, marker, color=colour, ms=3, mfc="w", label=label)
    axes[0].axhline(0, color=GREY, lw=0.8)
    axes[0].set(xlabel="formula, log density of an image (nats)", ylabel="difference from the formula (nats)")
    axes[0].legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    names = ["formula", *styles]
    of_seeds = table.groupby(["weighting", "estimator", "seed"]).log_prob_nats.mean().reset_index()
    _by_weighting(axes[1], of_seeds, "estimator", "log_prob_nats", names)
    axes[1].set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
    axes[1].set(ylabel="mean log density (nats an image)")
    axes[1].legend(title="training weights", title_fontsize=7)
    return figure
