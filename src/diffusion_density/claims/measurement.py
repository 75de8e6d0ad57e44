"""Measure a claim: rows of a table, an expression of columns, one number for each unit, and their interval.

Whatever a definition may get wrong (an unknown column, missing rows, empty cells, units that do not pair) is an
`InputError` that names table and expression; the caller adds the claim.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import linregress

from diffusion_density.claims.definition import Exact, Mean, Measure, Paired, Share, Slope, Stated
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.shared import intervals
from diffusion_density.studies.shared.intervals import NORMAL, Interval


class NoRows(InputError):
    """A query found nothing."""


UNREADABLE = (NameError, SyntaxError, TypeError, ValueError, AttributeError, KeyError)
"""What pandas raises for a query or an expression that is wrong."""
Tables = Mapping[str, pd.DataFrame]
Numbers = pd.Series  # of floats


def measured(measure: Measure, tables: Tables) -> Interval:
    """The measured number and its 95 % interval.

    Args:
        measure: what to measure.
        tables: the whole tables that it names, by study/table.

    Raises:
        NoRows: if a query finds nothing.
        InputError: if an expression can't be evaluated in this table.
    """
    table = Rows(tables[measure.table], measure.table)
    rows = table.where(measure.rows)
    match measure:
        case Mean():
            return intervals.mean(rows.units(measure.value, measure.unit).tolist())
        case Share():
            true = rows.values(measure.value).astype(bool).groupby(rows.keys(measure.unit)).all()
            return intervals.share(float(true.mean()), len(true))
        case Paired(take="difference"):
            return intervals.mean(np.subtract(*_pairs(tables, rows, measure, measure.unit)).tolist())
        case Paired():
            ratio = intervals.mean(_log_ratios(tables, rows, measure, measure.unit).tolist())
            value, low, high = (None if number is None else math.exp(number) for number in ratio[:3])
            return Interval(value or math.nan, low, high, ratio.n)
        case Slope():
            return intervals.mean(_slopes(tables, rows, measure))
        case Stated():
            return _stated(table, rows, measure)
        case Exact():
            value = _combined(rows, measure)
            if measure.minus:
                value -= _combined(table.where(measure.minus), measure)
            return Interval(value, value, value, len(rows.frame))


@dataclass(frozen=True)
class Rows:
    """Rows of a table, by the name that errors give it."""

    frame: pd.DataFrame
    table: str
    query: str | None = None

    def where(self, query: str | None) -> "Rows":
        """The rows that a query picks; all of them for None.

        Raises:
            NoRows: if there are none.
            InputError: if the query can't be read, or names a column that the table lacks.
        """
        try:
            found = self.frame if query is None else self.frame.query(query, engine="python")
        except UNREADABLE as error:
            raise self._unreadable(query, error) from None
        if found.empty:
            raise NoRows(f"table {self.table} has no rows where {query}")
        return Rows(found, self.table, query)

    def values(self, expression: str) -> Numbers:
        """An expression of columns in every row.

        Raises:
            InputError: if it names an unknown column, or has no finite value in some row.
        """
        try:
            found = self.frame.eval(expression, engine="python")
            values = pd.Series(found, index=self.frame.index).astype(float)
        except UNREADABLE as error:
            raise self._unreadable(expression, error) from None
        if wrong := int((~np.isfinite(values)).sum()):
            raise InputError(
                f"table {self.table}: {expression} has no finite value in {wrong} of {len(self.frame)} rows"
            )
        return values

    def keys(self, unit: Sequence[str]) -> list[pd.Series]:
        """The columns that tell units apart."""
        if missing := [key for key in unit if key not in self.frame]:
            raise InputError(f"table {self.table}: lacks the column {', '.join(missing)} of a unit; {self._columns}")
        return [self.frame[key] for key in unit]

    def units(self, expression: str, unit: Sequence[str]) -> Numbers:
        """One number for each unit, the mean of its rows, in the units' order."""
        return self.values(expression).groupby(self.keys(unit)).mean()

    @property
    def _columns(self) -> str:
        return f"the columns are {', '.join(map(str, self.frame))}"

    def _unreadable(self, expression: str | None, error: Exception) -> InputError:
        return InputError(f"table {self.table}: {expression!r} cannot be evaluated ({error}); {self._columns}")


def _pairs(tables: Tables, rows: Rows, measure: Paired | Slope, unit: Sequence[str]) -> tuple[Numbers, Numbers]:
    """The numbers of both sides, by unit."""
    other = measure.against
    assert other is not None
    name = other.table or measure.table
    others = Rows(tables[name], name).where(other.rows) if other.table or other.rows else rows
    ours, theirs = rows.units(measure.value, unit), others.units(other.value, unit)
    if not ours.index.equals(theirs.index):
        raise InputError(
            f"table {rows.table}: the {len(ours)} units ({', '.join(unit)}) where {measure.rows} are not "
            f"the {len(theirs)} of table {name} where {other.rows}"
        )
    return ours, theirs


def _log_ratios(tables: Tables, rows: Rows, measure: Paired | Slope, unit: Sequence[str]) -> Numbers:
    """Logarithms by unit, of the values or of their ratios to the other side."""
    sides = _pairs(tables, rows, measure, unit) if measure.against else (rows.units(measure.value, unit),)
    if not all((side > 0).all() for side in sides):
        raise InputError(f"table {measure.table}: {measure.value} is not positive throughout, so it has no logarithm")
    logs = [pd.Series(np.log(side), index=side.index) for side in sides]
    return logs[0] - logs[1] if measure.against else logs[0]


def _slopes(tables: Tables, rows: Rows, measure: Slope) -> list[float]:
    logs = _log_ratios(tables, rows, measure, [*measure.unit, measure.x])
    slopes = []
    for _, part in logs.groupby(level=list(range(len(measure.unit)))):
        x = part.index.get_level_values(-1).to_numpy(dtype=float)
        if len(x) < 2 or not (x > 0).all():
            raise InputError(f"table {measure.table}: a slope needs two positive values of {measure.x} in every unit")
        slopes.append(float(linregress(np.log(x), part).slope))
    return slopes


def _combined(rows: Rows, measure: Exact) -> float:
    values = rows.values(measure.value)
    return float({"largest": values.max, "smallest": values.min, "average": values.mean}[measure.take]())


def _stated(table: Rows, rows: Rows, measure: Stated) -> Interval:
    value = _only(rows, measure.value)
    if measure.low and measure.high:
        return Interval(value, _only(rows, measure.low), _only(rows, measure.high), 1)
    assert measure.stderr is not None
    error = _only(rows, measure.stderr)
    if measure.minus:
        other = table.where(measure.minus)
        value -= _only(other, measure.value)
        error = math.hypot(error, _only(other, measure.stderr))
    return Interval(value, value - NORMAL * error, value + NORMAL * error, 1)


def _only(rows: Rows, expression: str) -> float:
    """The value in the only row."""
    if len(rows.frame) != 1:
        raise InputError(f"table {rows.table} has {len(rows.frame)} rows where {rows.query}, not one")
    return float(rows.values(expression).iloc[0])
