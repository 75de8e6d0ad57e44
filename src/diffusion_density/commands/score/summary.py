"""Means over the table of `score`. No torch is needed for them."""

import pandas as pd
from scipy.special import stdtrit


def columns(images: bool) -> tuple[str, str, str]:
    """The column of the point's or image's number, the column of its value, and the unit in the names of the others."""
    return ("image", "bits_per_dim", "bits_per_dim") if images else ("point", "log_prob_nats", "nats")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The mean of each estimator over the points or images that have a value, and its 95 % interval.

    The interval treats the points as a sample of all such points (Student's t). The spread between points contains the
    noise of the estimator, so the interval covers both. Columns: ``estimator``, ``density``, ``kind``, ``mean``,
    ``ci_low``, ``ci_high``, ``n``.
    """
    _, value, _ = columns("image" in table)
    groups = table.groupby(["estimator", "density", "kind"], sort=False)[value]
    found = groups.agg(["mean", "sem", "count"]).reset_index()
    half = found.pop("sem") * stdtrit((found["count"] - 1).clip(lower=1), 0.975)
    found["ci_low"], found["ci_high"] = found["mean"] - half, found["mean"] + half
    return found.rename(columns={"count": "n"})
