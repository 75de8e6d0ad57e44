"""The table of the verb `score` read again: no torch is needed for that."""

import pandas as pd
from scipy.special import stdtrit


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Of each estimator the mean over the points that have a value, and its 95 % interval as a sample of such points.

    The spread between points holds the estimator's own noise, so the interval covers both. Columns: ``estimator``,
    ``of``, ``kind``, ``mean``, ``ci_low``, ``ci_high``, ``n``.
    """
    value = "log_prob_nats" if "log_prob_nats" in table else "bits_per_dim"
    groups = table.groupby(["estimator", "of", "kind"], sort=False)[value]
    found = groups.agg(["mean", "sem", "count"]).reset_index()
    half = found["sem"] * stdtrit((found["count"] - 1).clip(lower=1), 0.975)
    return pd.DataFrame(
        {
            **found[["estimator", "of", "kind", "mean"]],
            "ci_low": found["mean"] - half,
            "ci_high": found["mean"] + half,
            "n": found["count"],
        }
    )
