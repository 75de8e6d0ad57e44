r"""What paper C claims of images, as numbers with 95% intervals, from the table of scored images.

* ``rank correlation``: Spearman's ρ of log density (minus bits/dim) and PNG bytes over test images, with the interval
  of Bonett and Wright (2000), tanh(artanh ρ ± 1.96 √((1 + ρ²/2)/(n − 3))).
* ``blurring makes likelier``: the share of test images whose bits/dim fall at every step of blur; Wilson's interval.
* ``denser than ordinary``: the share of pairs (a sample of high density at the lowest threshold, an ordinary sample) in
  which the former is likelier, 1 if all are above all; the interval is Wilson's for as many pairs as there are samples.
* ``likelier than test images``: the same for images that are no photographs, against test images.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest, spearmanr

from diffusion_density import artifacts
from diffusion_density.tables import groups


def measure(images: Path, out: Path) -> None:
    """Write a row for each image set and finding: value, ci_low, ci_high and n.

    Raises:
        InputError: if the table of images lacks a column.
    """
    table = artifacts.read_csv(images, ["dataset", "run", "group", "parameter", "image", "bits_per_dim", "png_bytes"])
    rows = []
    for (dataset, run), part in groups(table, "dataset", "run"):
        for finding, of, value, low, high, n in _findings(part):
            rows.append(
                {"dataset": dataset, "run": run, "finding": finding, "of": of, "value": value}
                | {"ci_low": low, "ci_high": high, "n": n}
            )
    artifacts.write_csv(out, pd.DataFrame(rows))


Finding = tuple[str, str, float, float, float, int]


def _findings(table: pd.DataFrame) -> list[Finding]:
    test = table[table.group == "test"].set_index("image")
    blurred = table[table.group == "blurred"].pivot_table(index="image", columns="parameter", values="bits_per_dim")
    steps = pd.concat([test.bits_per_dim, blurred], axis=1).diff(axis=1).iloc[:, 1:]
    ordinary = table[table.group.isin(["sde", "flow"])].bits_per_dim
    dense = table[table.group == "high_density"]
    densest = dense[dense.parameter == dense.parameter.min()].bits_per_dim
    found = [
        ("rank correlation", "log density and PNG bytes", *correlation(-test.bits_per_dim, test.png_bytes)),
        ("blurring makes likelier", "test images", *_share((steps < 0).all(axis=1).mean(), len(steps))),
        ("denser than ordinary", "samples", *_share(_above(densest, ordinary), len(densest))),
    ]
    for group in ("grey", "stripes", "shuffled"):
        other = table[table.group == group].bits_per_dim
        found.append(("likelier than test images", group, *_share(_above(other, test.bits_per_dim), len(other))))
    return found


def correlation(first: pd.Series, second: pd.Series) -> tuple[float, float, float, int]:
    """Spearman's ρ with its 95% interval, and n; the interval is NaN for fewer than four."""
    n, rho = len(first), float(spearmanr(first, second).statistic)
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (n - 3)) if n > 3 and abs(rho) < 1 else math.nan
    centre = math.atanh(rho) if abs(rho) < 1 else math.nan
    return rho, math.tanh(centre - half), math.tanh(centre + half), n


def _above(first: pd.Series, second: pd.Series) -> float:
    """The share of pairs in which the first has fewer bits/dim."""
    return float(np.less.outer(first.to_numpy(), second.to_numpy()).mean())


def _share(value: float, n: int) -> tuple[float, float, float, int]:
    interval = binomtest(round(value * n), n).proportion_ci(method="wilson")
    return value, interval.low, interval.high, n
