r"""The claims of Zheng et al. 2023 in numbers: one effect per row, with a 95 % confidence interval.

Effects are differences or ratios of *paired* measurements: the same images and random numbers, or the same seed. With
n pairs the interval is that of a mean (see `intervals`); ratios are averaged as logarithms. Pairs are seeds where
training is compared, and images where estimators or dequantizations of given networks are.

The *step ratio* of two arms is how many times sooner the better one reaches where the other ends: with values b(n)
after n steps, interpolated in log n between snapshots, N/n* where b(n*) is the worse arm's value at the end N; below 1
if the arm is the worse one.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffusion_density.machine import artifacts
from diffusion_density.studies.max_likelihood.runs import FindingsJob, Kind
from diffusion_density.studies.shared import intervals
from diffusion_density.studies.shared.tables import groups

PUBLISHED = {"cifar10": 2.56, "imagenet32": 3.43, "imagenet32-old": 3.69}
"""Bits/dim of the whole test sets, as the authors' repository states them (truncated normal, second order included)."""

BASELINE = ("noise", "vp", "uniform")
COLUMNS = ["finding", "dataset", "subject", "against", "unit", "value", "ci_low", "ci_high", "pairs", "over"]
Row = dict[str, str | float | int | None]


def run(sizes: FindingsJob, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Read the tables ``curves``, ``likelihood``, ``variance`` and ``coders``, and write the findings."""
    curves, likelihood, variance, coders = (
        artifacts.read_csv(inputs[name]) for name in ("curves", "likelihood", "variance", "coders")
    )
    tuned = likelihood.run.map(sizes.kinds) == "finetuning"
    rows = [
        *_ablations(curves[curves.run.map(sizes.kinds) == "ablation"]),
        *_noise(variance),
        *_dequantizations(likelihood[~tuned]),
        *_fine_tuning(likelihood[tuned]),
        *_estimators(likelihood[~tuned], coders, sizes.kinds),
    ]
    artifacts.write_csv(outputs["findings"], pd.DataFrame(rows, columns=COLUMNS))


def step_ratio(steps: Sequence[int], ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times sooner we reach their last value; below 1 if they reach ours sooner."""
    if ours[-1] > theirs[-1]:
        return 1 / step_ratio(steps, theirs, ours)
    best = np.minimum.accumulate(np.asarray(ours))
    after = int(np.argmax(best <= theirs[-1]))
    if after == 0:
        return steps[-1] / steps[0]  # at least: there before the first snapshot
    share = (best[after - 1] - theirs[-1]) / (best[after - 1] - best[after])
    reached = math.log(steps[after - 1]) + share * math.log(steps[after] / steps[after - 1])
    return steps[-1] / math.exp(reached)


def _row(finding: str, dataset: str, subject: str, against: str, unit: str, values: Sequence[float], over: str) -> Row:
    """A difference or a value."""
    mean, low, high, pairs = intervals.mean(values)
    return dict(zip(COLUMNS, (finding, dataset, subject, against, unit, mean, low, high, pairs, over), strict=True))


def _ratio(finding: str, dataset: str, subject: str, against: str, values: Sequence[float], over: str) -> Row:
    row = _row(finding, dataset, subject, against, "ratio", [math.log(value) for value in values if value > 0], over)
    return row | {
        key: None if row[key] is None else math.exp(float(row[key] or 0)) for key in ("value", "ci_low", "ci_high")
    }


def _ablations(curves: pd.DataFrame) -> Iterator[Row]:
    """Each arm against the baseline, and against the arm that differs in one choice alone."""
    arms = dict(groups(curves, "prediction", "path", "times"))
    plain = {"velocity": "noise", "straight": "vp", "importance": "uniform"}
    pairs = {(arm, BASELINE) for arm in arms if arm != BASELINE}
    for arm in arms:
        for i, choice in enumerate(arm):
            other = (*arm[:i], plain.get(choice, choice), *arm[i + 1 :])
            if other in arms and other != arm:
                pairs.add((arm, other))
        if arm[0] in ("entropy", "score"):
            pairs.add((arm, ("velocity", *arm[1:])))
    dataset = curves.dataset.iloc[0]
    for arm, other in sorted(pairs):
        ours, theirs = (
            arms[key].pivot_table(index="seed", columns="step", values="bits_per_dim") for key in (arm, other)
        )
        steps = [int(step) for step in ours]
        names = " ".join(arm), " ".join(other)
        ratios = [step_ratio(steps, ours.loc[seed].tolist(), theirs.loc[seed].tolist()) for seed in ours.index]
        differences = (ours[steps[-1]] - theirs[steps[-1]]).tolist()
        yield _ratio("steps to the same bits/dim", dataset, *names, ratios, "seeds")
        yield _row("bits/dim at the end", dataset, *names, "bits/dim", differences, "seeds")


def _noise(variance: pd.DataFrame) -> Iterator[Row]:
    """The noise of loss and gradient under every kind of times, and over that of independent uniform times."""
    dataset, batch = variance.dataset.iloc[0], int(variance.batch_size.iloc[0])
    for path, rows in groups(variance, "path"):
        found: dict[str, dict[str, list[float]]] = {}
        for (times, stratified), part in groups(rows, "times", "stratified"):
            per_seed = [noise_of(batches, batch) for _, batches in groups(part, "seed")]
            how = f"{path} {times} {'low-discrepancy' if stratified else 'independent'}"
            found[how] = {"loss": [loss for loss, _ in per_seed], "gradient": [gradient for _, gradient in per_seed]}
        plain = f"{path} uniform independent"
        for how, values in found.items():
            yield _row("relative variance of the loss", dataset, how, "", "", values["loss"], "seeds")
            if how != plain:
                for what, numbers in values.items():
                    ratios = [ours / theirs for ours, theirs in zip(numbers, found[plain][what], strict=True)]
                    yield _ratio(f"variance of the {what}, over plain", dataset, how, plain, ratios, "seeds")


def noise_of(rows: pd.DataFrame, batch: int) -> tuple[float, float]:
    """B Var L/(E L)², and the variance of the gradient E‖g‖² − E[g·g′], in nats² per unit of the weights."""
    loss = batch * rows.loss_nats.var() / rows.loss_nats.mean() ** 2
    return float(loss), float(rows.gradient_norm2.mean() - rows.gradient_next.mean())


def _dequantizations(likelihood: pd.DataFrame) -> Iterator[Row]:
    """Every dequantization against the truncated normal with one draw, on the same images."""
    flow = likelihood[likelihood.estimator == "flow"].assign(
        how=lambda rows: (
            rows.dequantization
            + np.where(rows.late_start, " late", "")
            + np.where(rows.draws > 1, " of " + rows.draws.astype(str) + " draws", "")
        )
    )
    for dataset, part in groups(flow, "dataset"):
        table = part.pivot_table(index="image", columns="how", values="bits_per_dim")
        for how in table.columns.drop("truncated_normal"):
            paired = (table[how] - table["truncated_normal"]).dropna()
            yield _row("dequantization", dataset, how, "truncated_normal", "bits/dim", paired.tolist(), "images")


def _fine_tuning(likelihood: pd.DataFrame) -> Iterator[Row]:
    """Second-order training against the control of equal cost (its last step) and of equal steps (its first)."""
    control = likelihood[likelihood.trace_weight == 0]
    tuned = likelihood[likelihood.trace_weight > 0]
    ends = {"equal cost": control.step.max(), "equal steps": control.step.min()}
    for weight, part in groups(tuned, "trace_weight"):
        for label, step in ends.items():
            ours, theirs = _per_seed(part), _per_seed(control[control.step == step])
            for what, unit in (("flow", "bits/dim"), ("bound", "bits/dim"), ("gap", "bits/dim"), ("evaluations", "")):
                finding = {"gap": "bound minus flow", "evaluations": "network evaluations of the flow"}.get(what, what)
                names = f"λ = {weight:g}", f"λ = 0, {label}"
                values = (ours[what] - theirs[what]).tolist()
                yield _row(f"fine-tuning: {finding}", part.dataset.iloc[0], *names, unit, values, "seeds")


def _per_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over images by seed: flow, bound, their gap, and the flow's evaluations."""
    table = rows.pivot_table(index="seed", columns="estimator", values=["bits_per_dim", "network_evaluations"])
    flow, bound = table["bits_per_dim", "flow"], table["bits_per_dim", "bound"]
    evaluations = table["network_evaluations", "flow"]
    return pd.DataFrame({"flow": flow, "bound": bound, "gap": bound - flow, "evaluations": evaluations})


def _estimators(likelihood: pd.DataFrame, coders: pd.DataFrame, kinds: Mapping[str, Kind]) -> Iterator[Row]:
    """Bits/dim of every image set, the bound against the flow, and both against lossless coders."""
    plain = (likelihood.draws == 1) & ~likelihood.late_start
    usual = likelihood[plain & (likelihood.dequantization == "truncated_normal")]
    bounds = likelihood[likelihood.estimator == "bound"]
    for run, part in groups(pd.concat([usual, bounds]), "run"):
        dataset = part.dataset.iloc[0]
        table = part.pivot_table(index="image", columns="estimator", values="bits_per_dim")
        coded = coders[coders.dataset == dataset].pivot_table(index="image", columns="coder", values="bits_per_dim")
        for name in ("flow", "bound"):
            yield _row("bits/dim", dataset, f"{run} {name}", "", "bits/dim", table[name].tolist(), "images")
            for coder in coded:
                paired = (table[name] - coded[coder]).dropna().tolist()
                yield _row("against a lossless coder", dataset, f"{run} {name}", coder, "bits/dim", paired, "images")
        gap = (table["bound"] - table["flow"]).dropna().tolist()
        if dataset in PUBLISHED and kinds[run] == "main":
            published = [PUBLISHED[dataset]]
            yield _row("published bits/dim", dataset, "Zheng et al. 2023", "", "bits/dim", published, "all test images")
        yield _row("bound minus flow", dataset, f"{run} bound", f"{run} flow", "bits/dim", gap, "images")
