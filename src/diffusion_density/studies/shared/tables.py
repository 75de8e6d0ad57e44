"""Walking through tables, for code with types: what pandas gives out is anything."""

from collections.abc import Iterator
from typing import Any

import pandas as pd


def groups(table: pd.DataFrame, *by: str) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Each combination of values in some columns (one value of one column), in order, with its rows."""
    for key, part in table.groupby(list(by), sort=True):
        yield (key[0] if len(by) == 1 else key), part


def by_cost(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each setting of an estimator, the cheapest first. Two settings may cost the same."""
    return sorted((part for _, part in groups(rows, "setting")), key=lambda part: part.network_evaluations.iloc[0])


def records(table: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples."""
    return iter(table.itertuples(index=False))
