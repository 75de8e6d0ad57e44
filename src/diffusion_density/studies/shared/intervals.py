r"""95 % confidence intervals, each in one place.

* mean of n numbers: mean ± t₀.₉₇₅,ₙ₋₁ s/√n;
* share of n trials: Wilson's interval;
* rank correlation ρ of n pairs: tanh(artanh ρ ± 1.96 √((1 + ρ²/2)/(n − 3))), Bonett and Wright (2000).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import binomtest, spearmanr

NORMAL = 1.96
"""Half the width of a normal's 95 % interval, in standard errors."""


class Interval(NamedTuple):
    """A value, both ends of its interval (None where there is none), and of how many numbers it is."""

    value: float
    low: float | None
    high: float | None
    n: int


def mean(values: Sequence[float] | NDArray[np.float64]) -> Interval:
    """The mean of those values that are finite; one value has no interval."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return Interval(float(finite[0]) if len(finite) else math.nan, None, None, len(finite))
    centre = float(finite.mean())
    half = float(stdtrit(len(finite) - 1, 0.975) * finite.std(ddof=1) / math.sqrt(len(finite)))
    return Interval(centre, centre - half, centre + half, len(finite))


def share(value: float, n: int) -> Interval:
    """A share of n trials; one that is no whole number of trials has the interval of the nearest that is."""
    interval = binomtest(round(value * n), n).proportion_ci(method="wilson")
    return Interval(value, float(interval.low), float(interval.high), n)


def rank_correlation(first: pd.Series, second: pd.Series) -> Interval:
    """Spearman's ρ of paired values; no interval for fewer than four pairs, or where all ranks agree."""
    n, rho = len(first), float(spearmanr(first, second).statistic)
    if n < 4 or not abs(rho) < 1:
        return Interval(rho, None, None, n)
    half = NORMAL * math.sqrt((1 + rho**2 / 2) / (n - 3))
    centre = math.atanh(rho)
    return Interval(rho, math.tanh(centre - half), math.tanh(centre + half), n)
