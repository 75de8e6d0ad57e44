r"""The claims of Karczewski et al. 2025 about images, as numbers with 95% intervals, from the table of scored images.

* ``rank correlation``: Spearman's ρ of log density (minus bits/dim) and PNG bytes over test images.
* ``blurring makes likelier``: the share of test images whose bits/dim fall at every step of blur; Wilson's interval.
* ``denser than ordinary``: the share of pairs (a sample of high density at the lowest threshold, an ordinary sample) in
  which the former is likelier, 1 if all are above all; the interval is Wilson's for as many pairs as there are samples.
* ``likelier than test images``: the same for images that are no photographs, against test images.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from diffusion_density.machine import artifacts
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.shared.intervals import rank_correlation, share
from diffusion_density.studies.shared.tables import groups


def run(sizes: Strict, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write a row for each image set and finding: value, ci_low, ci_high and n.

    Raises:
        InputError: if the table of images lacks a column.
    """
    columns = ["dataset", "run", "group", "parameter", "image", "bits_per_dim", "png_bytes"]
    table = artifacts.read_csv(inputs["images"], columns)
    rows = []
    for (dataset, run), part in groups(table, "dataset", "run"):
        for finding, subject, value, low, high, n in _findings(part):
            rows.append(
                {"dataset": dataset, "run": run, "finding": finding, "subject": subject, "value": value}
                | {"ci_low": low, "ci_high": high, "n": n}
            )
    artifacts.write_csv(outputs["image_findings"], pd.DataFrame(rows))


Finding = tuple[str, str, float, float | None, float | None, int]


def _findings(table: pd.DataFrame) -> list[Finding]:
    test = table[table.group == "test"].set_index("image")
    blurred = table[table.group == "blurred"].pivot_table(index="image", columns="parameter", values="bits_per_dim")
    steps = pd.concat([test.bits_per_dim, blurred], axis=1).diff(axis=1).iloc[:, 1:]
    ordinary = table[table.group.isin(["sde", "flow"])].bits_per_dim
    dense = table[table.group == "high_density"]
    densest = dense[dense.parameter == dense.parameter.min()].bits_per_dim
    found = [
        ("rank correlation", "log density and PNG bytes", *rank_correlation(-test.bits_per_dim, test.png_bytes)),
        ("blurring makes likelier", "test images", *share((steps < 0).all(axis=1).mean(), len(steps))),
        ("denser than ordinary", "samples", *share(_above(densest, ordinary), len(densest))),
    ]
    for group in ("grey", "stripes", "shuffled"):
        other = table[table.group == group].bits_per_dim
        found.append(("likelier than test images", group, *share(_above(other, test.bits_per_dim), len(other))))
    return found


def _above(first: pd.Series, second: pd.Series) -> float:
    """The share of pairs in which the first has fewer bits/dim."""
    return float(np.less.outer(first.to_numpy(), second.to_numpy()).mean())
