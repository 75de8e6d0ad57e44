"""Measuring a claim: rows of a table, an expression of columns, one number a unit, and their interval.

Everything that a definition may get wrong (an unknown column, rows that are not there, empty cells, units that do not
pair) is an `InputError` that names table and expression; a caller adds the claim.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import linregress

from diffusion_density.claims.definition import (
    Cells,
    Exact,
    Mean,
    Measure,
    Paired,
    RankCorrelation,
    Share,
    Slope,
    Stated,
)
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.shared import intervals
from diffusion_density.studies.shared.intervals import NORMAL, Interval


class NoRows(InputError):
    """A query found nothing."""


UNREADABLE = (NameError, SyntaxError, TypeError, ValueError, AttributeError, KeyError)
"""What pandas raises for a query or an expression that is wrong."""
Tables = Mapping[str, pd.DataFrame]
Pairs = tuple["pd.Series[float]", "pd.Series[float]"]


def measure(metric: Measure, tables: Tables) -> Interval:
    """The measured number and its 95 % interval.

    Args:
        metric: what to measure.
        tables: the whole tables that the metric names, by study/table.

    Raises:
        NoRows: if a query finds nothing.
        InputError: if an expression can't be evaluated in this table.
    """
    rows = select(tables[metric.table], metric.rows, metric.table)
    match metric:
        case Mean():
            return intervals.mean(_units(rows, metric.of, metric.table, metric.unit).tolist())
        case Paired():
            return _paired(tables, rows, metric)
        case Share():
            true = evaluate(rows, metric.of, metric.table).astype(bool)
            found = true.groupby(_keys(rows, metric.table, metric.unit)).all()
            return intervals.share(float(found.mean()), len(found))
        case Slope():
            return _slope(tables, rows, metric)
        case RankCorrelation():
            first, second = (evaluate(rows, of, metric.table) for of in (metric.of, metric.against))
            return intervals.rank_correlation(first, second)
        case Stated():
            return _stated(tables[metric.table], rows, metric)
        case Exact():
            return _exact(tables[metric.table], rows, metric)


def select(table: pd.DataFrame, query: str | None, name: str) -> pd.DataFrame:
    """The rows that a query picks; all of them for None.

    Raises:
        NoRows: if there are none.
        InputError: if the query can't be read, or names a column that the table lacks.
    """
    try:
        rows = table if query is None else table.query(query, engine="python")
    except UNREADABLE as error:
        raise InputError(_unreadable(table, query or "", name, error)) from None
    if rows.empty:
        raise NoRows(f"table {name} has no rows where {query}")
    return rows


def evaluate(rows: pd.DataFrame, expression: str, name: str) -> "pd.Series[float]":
    """An expression of columns in every row.

    Raises:
        InputError: if it names an unknown column, or has no finite value in some row.
    """
    try:
        found = rows.eval(expression, engine="python")
        values = pd.Series(found, index=rows.index).astype(float)
    except UNREADABLE as error:
        raise InputError(_unreadable(rows, expression, name, error)) from None
    if wrong := int((~np.isfinite(values)).sum()):
        raise InputError(f"table {name}: {expression} has no finite value in {wrong} of {len(rows)} rows")
    return values


def _unreadable(table: pd.DataFrame, expression: str, name: str, error: Exception) -> str:
    columns = ", ".join(map(str, table))
    return f"table {name}: {expression!r} cannot be evaluated ({error}); the columns are {columns}"


def _keys(rows: pd.DataFrame, name: str, unit: Sequence[str]) -> list[pd.Series]:
    if missing := [key for key in unit if key not in rows]:
        columns = ", ".join(map(str, rows))
        raise InputError(f"table {name}: lacks the column {', '.join(missing)} of a unit; the columns are {columns}")
    return [rows[key] for key in unit]


def _units(rows: pd.DataFrame, expression: str, name: str, unit: Sequence[str]) -> "pd.Series[float]":
    """One number a unit, the mean of its rows, in the units' order."""
    return evaluate(rows, expression, name).groupby(_keys(rows, name, unit)).mean()


def _both(tables: Tables, rows: pd.DataFrame, metric: Paired | Slope, other: Cells, unit: Sequence[str]) -> Pairs:
    """The numbers of both sides, by unit."""
    name = other.table or metric.table
    others = rows if other.table is None and other.rows is None else select(tables[name], other.rows, name)
    ours, theirs = _units(rows, metric.of, metric.table, unit), _units(others, other.of, name, unit)
    if not ours.index.equals(theirs.index):
        raise InputError(
            f"table {metric.table}: the {len(ours)} units ({', '.join(unit)}) where {metric.rows} are not "
            f"the {len(theirs)} of table {name} where {other.rows}"
        )
    return ours, theirs


def _logarithm(values: "pd.Series[float]", metric: Paired | Slope) -> "pd.Series[float]":
    if not (values > 0).all():
        raise InputError(f"table {metric.table}: {metric.of} is not positive throughout, so it has no logarithm")
    return pd.Series(np.log(values), index=values.index)


def _paired(tables: Tables, rows: pd.DataFrame, metric: Paired) -> Interval:
    ours, theirs = _both(tables, rows, metric, metric.against, metric.unit)
    if metric.take == "difference":
        return intervals.mean((ours - theirs).tolist())
    return _exponential(intervals.mean((_logarithm(ours, metric) - _logarithm(theirs, metric)).tolist()))


def _exponential(found: Interval) -> Interval:
    value, low, high = (None if number is None else math.exp(number) for number in found[:3])
    return Interval(value or math.nan, low, high, found.n)


def _slope(tables: Tables, rows: pd.DataFrame, metric: Slope) -> Interval:
    keys = [*metric.unit, metric.x]
    if metric.against is None:
        logs = _logarithm(_units(rows, metric.of, metric.table, keys), metric)
    else:
        ours, theirs = _both(tables, rows, metric, metric.against, keys)
        logs = _logarithm(ours, metric) - _logarithm(theirs, metric)
    slopes = []
    for _, part in logs.groupby(level=list(range(len(metric.unit)))):
        x = part.index.get_level_values(-1).to_numpy(dtype=float)
        if len(x) < 2 or not (x > 0).all():
            raise InputError(f"table {metric.table}: a slope needs two positive values of {metric.x} in every unit")
        slopes.append(float(linregress(np.log(x), part).slope))
    return intervals.mean(slopes)


def _exact(table: pd.DataFrame, rows: pd.DataFrame, metric: Exact) -> Interval:
    def put_together(part: pd.DataFrame) -> float:
        values = evaluate(part, metric.of, metric.table)
        return float({"largest": values.max, "smallest": values.min, "average": values.mean}[metric.take]())

    value = put_together(rows)
    if metric.minus:
        value -= put_together(select(table, metric.minus, metric.table))
    return Interval(value, value, value, len(rows))


def _stated(table: pd.DataFrame, rows: pd.DataFrame, metric: Stated) -> Interval:
    value = _one(rows, metric.of, metric)
    if metric.low and metric.high:
        return Interval(value, _one(rows, metric.low, metric), _one(rows, metric.high, metric), 1)
    error = _one(rows, metric.stderr or "", metric)
    if metric.minus:
        other = select(table, metric.minus, metric.table)
        value -= _one(other, metric.of, metric)
        error = math.hypot(error, _one(other, metric.stderr or "", metric))
    return Interval(value, value - NORMAL * error, value + NORMAL * error, 1)


def _one(rows: pd.DataFrame, expression: str, metric: Stated) -> float:
    if len(rows) != 1:
        raise InputError(f"table {metric.table} has {len(rows)} rows where {metric.rows}, not one")
    return float(evaluate(rows, expression, metric.table).iloc[0])
