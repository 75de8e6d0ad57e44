"""Figures of paper B, from its tables alone: each function takes the folder of tables and gives a figure."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusion_density.artifacts import read_csv
from diffusion_density.figures.style import COLOURS, GREY, canvas, curve, plain_log_ticks, summarise
from diffusion_density.tables import groups

SCHEDULES = {
    "paper": ("the paper's", "#0072B2", "o"),
    "linear": ("linear", "#D55E00", "s"),
    "cosine": ("cosine", "#009E73", "^"),
    "uniform_log_snr": ("uniform log-SNR", "#CC79A7", "D"),
}
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
METHODS = {
    "uniform_time": "uniform time, raw",
    "log_snr": "stratified log-SNR",
    "formula": "+ control variate,\nantithetic pairs",
}


def exactness(tables: Path) -> Figure:
    """Deviations from the truth in standard errors, by dimension, and the spread of three Monte Carlo estimators."""
    figure, axes = canvas(2, height=2.9)
    table = read_csv(tables / "exactness.csv")
    noisy = table[table.stderr_nats > 0]
    deviation = (noisy.value_nats - noisy.truth_nats) / noisy.stderr_nats
    dimensions = sorted(set(noisy.dimension))
    targets = (("gaussian", "o", COLOURS["path_integral"]), ("mixture", "s", COLOURS["score"]))
    for offset, (target, marker, colour) in zip((-0.15, 0.15), targets, strict=True):
        mine = noisy.target == target
        place = noisy.dimension[mine].map({d: i for i, d in enumerate(dimensions)})
        spread = 0.1 * np.linspace(-1, 1, len(place))
        axes[0].plot(place + offset + spread, deviation[mine], marker, color=colour, ms=2.5, alpha=0.6, label=target)
    axes[0].axhspan(-2, 2, color="0.92", zorder=0)
    axes[0].axhline(0, color=GREY, lw=0.8)
    axes[0].set_xticks(range(len(dimensions)), [f"{d}" for d in dimensions])
    axes[0].set(xlabel="dimension $D$", ylabel="(estimate − truth) / standard error")
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    variance = read_csv(tables / "variance.csv")
    for index, method in enumerate(METHODS):
        part = variance[variance.method == method]
        errors = [group.value_nats.std() for _, group in groups(part, "x")]
        few = len(part) / len(errors)
        axes[1].errorbar(
            np.full(len(errors), index) + np.linspace(-0.15, 0.15, len(errors)),
            errors,
            yerr=np.array(errors) / (2 * few) ** 0.5,
            fmt="o",
            color=COLOURS["flow"] if method == "uniform_time" else COLOURS["path_integral"],
        )
    axes[1].set_xticks(range(len(METHODS)), list(METHODS.values()))
    axes[1].set(yscale="log", xlim=(-0.5, 2.5), ylabel="standard deviation (nats)")
    axes[1].set_title("one estimate of equal cost, at three points")
    return figure


def discretisation(tables: Path) -> Figure:
    """Errors of the DDPM sum and of the trapezoid against the number of steps, with the derived prediction."""
    table, slopes = read_csv(tables / "discretisation.csv"), read_csv(tables / "slopes.csv")
    fitted = slopes[~slopes.per_log_squared].set_index(["schedule", "rule", "quantity"]).slope
    figure, axes = canvas(2, height=3.2)
    for schedule, (label, colour, marker) in SCHEDULES.items():
        for rule, axis, column in (("sum", axes[0], "mean_gap_nats"), ("trapezoid", axes[1], "max_error_nats")):
            part = table[(table.schedule == schedule) & (table.rule == rule)]
            name = f"{label} ({fitted[schedule, rule, column.removesuffix('_nats')]:.2f})"
            axis.plot(part.steps, part[column], marker, color=colour, mfc="w", ls="-", lw=0.8, label=name)
        part = table[(table.schedule == schedule) & (table.rule == "sum")]
        axes[0].plot(part.steps, part.predicted_sharp_nats, color=colour, ls="none", marker="x", ms=5)
        axes[0].plot(part.steps, part.predicted_quadratic_nats, color=colour, ls=":", lw=1)
    steps = sorted(set(table.steps))
    axes[0].set(title="DDPM sum", ylabel="mean of log p − formula (nats)")
    axes[1].set(title="trapezoid in log-SNR", ylabel="largest |error| (nats)")
    for axis, slope in zip(axes, (-1, -2), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="steps $T$")
        plain_log_ticks(axis, "x", steps)
        _slope(axis, steps, slope)
    keys = [
        Line2D([], [], color=GREY, marker="x", ms=5, ls="none", label="derived, ½ Σ E(l − log(1 + l))"),
        Line2D([], [], color=GREY, ls=":", lw=1, label="derived, ¼ Σ E l²"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=2)
    axes[0].legend(title="schedule (fitted slope)", title_fontsize=7, fontsize=6, loc="lower left")
    axes[1].legend(title="schedule (fitted slope)", title_fontsize=7, fontsize=6, loc="lower left")
    return figure


def _slope(axis: Axes, steps: list[int], slope: int) -> None:
    """A triangle's hypotenuse: what this slope looks like."""
    low, high = axis.get_ylim()
    x = np.array([steps[-2], steps[-1]])
    y = high * 0.6 * (x / x[0]) ** slope
    axis.plot(x, y, color=GREY, lw=0.8)
    axis.annotate(f"$T^{{{slope}}}$", (x[0], y[0]), fontsize=7, color=GREY, ha="right", va="center")
    axis.set_ylim(low, high)


def score_error(tables: Path) -> Figure:
    """What an error of the score costs: log densities along x, and the gap against its prediction."""
    table = read_csv(tables / "score_error.csv")
    figure, axes = canvas(2, height=2.9)
    shown = sorted(set(table["size"]))[-2]
    part = table[table["size"] == shown]
    for column, label, colour, line in (
        ("log_prob_data_nats", "data", "black", ":"),
        ("log_prob_sde_nats", "reverse SDE", COLOURS["score"], "-"),
        ("formula_nats", "formula", COLOURS["path_integral"], "--"),
    ):
        axes[0].plot(part.x, part[column], color=colour, ls=line, label=label)
    axes[0].set(xlabel="$x$", ylabel="log density (nats)", title=f"perturbation $\\epsilon$ = {shown:g}")
    axes[0].legend()
    sizes = [size for size in sorted(set(table["size"])) if size > 0]
    shades = np.linspace(0.35, 1.0, len(sizes))
    for size, shade in zip(sizes, shades, strict=True):
        part = table[table["size"] == size]
        axes[1].plot(
            part.predicted_gap_nats,
            part.gap_nats,
            "o",
            ms=3,
            color=COLOURS["path_integral"],
            alpha=shade,
            label=f"$\\epsilon$ = {size:g}",
        )
    ends = [table.predicted_gap_nats[table["size"] > 0].min(), table.predicted_gap_nats.max()]
    axes[1].plot(ends, ends, color=GREY, lw=0.8)
    axes[1].set(xscale="log", yscale="log", xlabel="predicted gap (nats)", ylabel="log p of the SDE − formula (nats)")
    axes[1].legend()
    return figure


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
        for offset, (weighting, (label, colour, marker)) in zip((-0.2, 0, 0.2), WEIGHTINGS.items(), strict=True):
            part = table[(table.measure == measure) & (table.weighting == weighting)]
            means = summarise(part, ["law"], "kl").set_index("law").loc[laws].reset_index()
            curve(axis, np.arange(len(laws)) + offset, means, color=colour, marker=marker, ls="none", label=label)
        axis.set_xticks(range(len(laws)), laws)
        axis.set(title=title, ylabel="KL from the data (nats)")
    top = max(axis.get_ylim()[1] for axis in axes[1:])
    for axis in axes[1:]:
        axis.set_ylim(0, 1.15 * top)
    axes[2].legend(loc="upper right", fontsize=6)
    return figure


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
    for offset, (weighting, (label, colour, marker)) in zip((-0.2, 0, 0.2), WEIGHTINGS.items(), strict=True):
        part = table[table.weighting == weighting].groupby(["estimator", "seed"]).log_prob_nats.mean().reset_index()
        means = summarise(part, ["estimator"], "log_prob_nats").set_index("estimator").reindex(names).reset_index()
        curve(axes[1], np.arange(len(names)) + offset, means, color=colour, marker=marker, ls="none", label=label)
    axes[1].set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
    axes[1].set(ylabel="mean log density (nats an image)")
    axes[1].legend(title="training weights", title_fontsize=7)
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "exactness": exactness,
    "discretisation": discretisation,
    "score_error": score_error,
    "weightings": weightings,
    "classifier": classifier,
    "gan": gan,
    "digits": digits,
}
"""Every figure of the study by name."""
