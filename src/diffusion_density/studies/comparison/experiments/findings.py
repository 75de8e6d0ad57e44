"""What the tables of the comparison show: variance ratios and coverage with 95 % intervals, and the decision table.

* ``variance ratio``: the mean square error of the plain path integral divided by that of the reduced one, both means
  over points, with a bootstrap over points. For several mixtures the median, with a bootstrap over mixtures and points.
* ``coverage`` of the 95 % intervals of each method, over points and runs, with Wilson's interval.

The decision table has a row for each target and estimator: the network evaluations per point at which the root mean
square error falls to 0.1 nats (interpolated between settings on logarithmic scales; empty if no setting reaches it),
the seconds per point there, and the errors at the most expensive setting. 95 % intervals are by bootstrap over points;
an upper end is empty where the most expensive setting may not reach 0.1 nats. For trained networks errors are relative
to the flow of the network, so the error of an estimate of the SDE contains the difference of the two densities.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusion_density.machine import artifacts
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.shared.intervals import share
from diffusion_density.studies.shared.tables import by_cost, groups

ACCURACY = 0.1  # nats of root mean square error that the decision table asks for
DRAWS = 2000  # resamples of the bootstrap
QUANTILES = (0.025, 0.975)  # of a 95 % interval
Squares = NDArray[np.float64]


def run(sizes: Strict, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Read the table ``estimators`` and the other inputs, the parts of the table of variances; write both tables."""
    variance = pd.concat([artifacts.read_csv(path) for name, path in inputs.items() if name != "estimators"])
    rows = [*_ratios(variance), *_coverage(variance)]
    artifacts.write_csv(outputs["findings"], pd.DataFrame(rows))
    table = artifacts.read_csv(inputs["estimators"])
    artifacts.write_csv(outputs["decision"], pd.DataFrame(_decisions(table)))


def _ratios(variance: pd.DataFrame) -> Iterator[dict[str, object]]:
    """The ratio for every mixture or network, and the median over the mixtures in three dimensions."""
    generator = np.random.default_rng(0)
    for throws, part in groups(variance, "throws"):
        draws, values = [], []
        for (target, dimension, index), rows in groups(part, "target", "dimension", "index"):
            plain, reduced = (_squares(rows, method) for method in ("plain", "reduced"))
            picks = generator.integers(len(plain), size=(DRAWS, len(plain)))
            resampled = plain[picks].mean(1) / reduced[picks].mean(1)
            value = plain.mean() / reduced.mean()
            low, high = np.quantile(resampled, QUANTILES)
            yield _row("variance ratio", f"{target} {index}", dimension, throws, value, low, high, len(plain))
            if "mixture" in target and dimension == 3:
                draws.append(resampled)
                values.append(value)
        if draws:
            spread = np.stack(draws)
            which = generator.integers(len(values), size=(DRAWS, len(values)))
            medians = np.median(spread[which, np.arange(DRAWS)[:, None]], axis=1)
            low, high = np.quantile(medians, QUANTILES)
            yield _row("variance ratio", "median mixture", 3, throws, np.median(values), low, high, len(values))


def _squares(rows: pd.DataFrame, method: str) -> Squares:
    return rows[rows.method == method].sort_values("point").square_error_nats2.to_numpy()


def _row(
    finding: str, target: str, dimension: int, throws: int, value: float, low: float | None, high: float | None, n: int
) -> dict[str, object]:
    return {
        "finding": finding,
        "target": target,
        "dimension": dimension,
        "throws": throws,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "n": n,
    }


def _coverage(variance: pd.DataFrame) -> Iterator[dict[str, object]]:
    for (method, target, dimension, throws), rows in groups(variance, "method", "target", "dimension", "throws"):
        covered, n = int(rows.covered.sum()), int(rows.repeats.sum())
        yield _row(f"coverage of {method}", target, dimension, throws, *share(covered / n, n))


def _decisions(table: pd.DataFrame) -> Iterator[dict[str, object]]:
    table = table.assign(error=table.value_nats - table.reference_nats)
    generator = np.random.default_rng(1)
    for (dimension, target, estimator), rows in groups(table, "dimension", "target", "estimator"):
        settings = by_cost(rows)
        errors = np.stack([part.sort_values("point").error.to_numpy() for part in settings])
        rms, costs = _rms(errors), [float(part.network_evaluations.iloc[0]) for part in settings]
        picks = generator.integers(errors.shape[1], size=(DRAWS, errors.shape[1]))
        resampled = _rms(errors[:, picks])
        evaluations = np.nan_to_num([crossing(costs, draw) for draw in resampled.T], nan=np.inf)
        low, high = np.quantile(evaluations, QUANTILES, method="closest_observation")
        rms_low, rms_high = np.quantile(resampled[-1], QUANTILES)
        costliest = settings[-1]
        yield {
            "target": target,
            "dimension": dimension,
            "estimator": estimator,
            "density": rows.density.iloc[0],
            "kind": rows.kind.iloc[0],
            "evaluations": crossing(costs, rms),
            "evaluations_ci_low": low if np.isfinite(low) else math.nan,
            "evaluations_ci_high": high if np.isfinite(high) else math.nan,
            "seconds_per_point": crossing([float(part.seconds_per_point.iloc[0]) for part in settings], rms),
            "max_evaluations": costliest.network_evaluations.iloc[0],
            "rms_error_nats": rms[-1],
            "rms_error_ci_low": rms_low,
            "rms_error_ci_high": rms_high,
            "mean_error_nats": costliest.error.mean(),
            "mean_error_stderr_nats": costliest.error.sem(),
        }


def _rms(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.square(errors).mean(-1))


def crossing(costs: Sequence[float], errors: Sequence[float] | NDArray[np.float64]) -> float:
    """The cost at which the error first falls to the accuracy asked for, interpolated; NaN if it never does."""
    if errors[0] <= ACCURACY:
        return costs[0]
    for i in range(1, len(costs)):
        if errors[i] <= ACCURACY:
            share = math.log(errors[i - 1] / ACCURACY) / math.log(errors[i - 1] / errors[i])
            return math.exp((1 - share) * math.log(costs[i - 1]) + share * math.log(costs[i]))
    return math.nan
