r"""Compare a run with a reference: which numbers differ by more than their error.

Rows of a table are matched by its settings and repeats, and each measured column is compared over the repeats of the
same settings; which column is what, the table's study declares (`studies.shared.columns`). With differences d of n
matched rows, and the errors e and e' that the tables hold, a mean moved if

    |mean d| > 4 √(Σ (e² + e'²)/n² + var(d)/n)

and by more than `FLOOR`. Without errors in the table, n ≥ 2 rows have the error s/√n in each run. A single number
without an error is reported where it changed, and not judged. Costs, and claims about them, are not compared.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from diffusion_density.claims import verdicts
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.shared.columns import Columns
from diffusion_density.studies.shared.intervals import NORMAL

FACTOR = 4.0
FLOOR = 1e-4, 1e-9
"""Relative and absolute: by how much two machines may differ in a number that was computed without random draws."""
REFERENCE = " of the reference"


@dataclass(frozen=True)
class Comparison:
    """The lines to print, and whether something moved."""

    lines: Sequence[str]
    moved: bool


def compare(run: Path, reference: Path) -> Comparison:
    """Compare all tables and claims of ``reference`` with those of ``run``.

    Raises:
        InputError: if there is nothing to compare with, or a table can't be read or has an undeclared column.
    """
    names = sorted(path.relative_to(reference).as_posix() for path in reference.rglob("*.csv"))
    if not names:
        raise InputError(f"{reference}: holds no tables; collect a run there first")
    same, lines = 0, []
    for name in names:
        if not (run / name).is_file():
            lines.append(f"{name}: MOVED: is not in {run}")
        elif (run / name).read_bytes() == (reference / name).read_bytes():
            same += 1
        else:
            ours, theirs = (artifacts.read_csv(folder / name) for folder in (run, reference))
            lines += [f"{name}: {line}" for line in differences(name, ours, theirs)] or [f"{name}: within its errors"]
    moved = any(": MOVED: " in line for line in lines)
    ending = "something MOVED beyond its error" if moved else "nothing moved beyond its error"
    return Comparison([*lines, f"{same} of {len(names)} tables are the same to the byte; {ending}"], moved)


def differences(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[str]:
    """What differs between two versions of a table, one line each; a line about what moved begins with MOVED.

    Args:
        name: its path below ``results/<scale>``.
        ours: the version of the run.
        theirs: the version of the reference.

    Raises:
        InputError: if a column is not declared.
    """
    found, expected = (list(map(str, part)) for part in (ours, theirs))
    if found != expected:
        yield f"MOVED: has the columns {', '.join(found)}, and the reference {', '.join(expected)}"
    elif name == "claims.csv":
        yield from tables(_compared(ours), _compared(theirs), verdicts.COMPARED)
        old = dict(zip(theirs.id, theirs.verdict, strict=True))
        for claim, verdict in zip(ours.id, ours.verdict, strict=True):
            if old.get(claim, verdict) != verdict:
                yield f"{claim} was {old[claim]}, is {verdict}"
    else:
        study = name.partition("/")[0]
        columns = columns_of(study)
        if unknown := [column for column in expected if column not in columns]:
            raise InputError(f"{name}: declare the column {', '.join(unknown)} in studies/{study}/columns.py")
        yield from tables(ours, theirs, columns)


def columns_of(study: str) -> Columns:
    """What the columns of a study's tables hold.

    Raises:
        InputError: if no study of that name declares its columns.
    """
    try:
        columns: Columns = import_module(f"diffusion_density.studies.{study}.columns").COLUMNS
    except ModuleNotFoundError:
        raise InputError(f"{study}: declare the columns of its tables in studies/{study}/columns.py") from None
    return columns


def _compared(claims: pd.DataFrame) -> pd.DataFrame:
    """What is compared of claims: not those that measure a cost."""
    kept = [not _measures_costs(*row) for row in zip(claims.evidence, claims.quantity, strict=True)]
    return claims.loc[kept, list(verdicts.COMPARED)]


def _measures_costs(evidence: object, quantity: object) -> bool:
    if not isinstance(evidence, str):
        return False
    columns = columns_of(evidence.partition("/")[0])
    return any(columns[word].role == "cost" for word in re.findall(r"\w+", str(quantity)) if word in columns)


def tables(ours: pd.DataFrame, theirs: pd.DataFrame, columns: Columns) -> Iterator[str]:
    """What differs between two tables with the same columns, a line each; lines of what moved begin with MOVED."""
    names = list(map(str, theirs))
    settings = [name for name in names if columns[name].role == "setting"]
    keys = [*settings, *(name for name in names if columns[name].role == "repeat")]
    numbered = []
    for part in (ours, theirs):
        rows = part.astype(dict.fromkeys(keys, object))  # so that text meets the numbers of a column that is empty
        numbered.append(rows.assign(_nth=rows.groupby(keys, dropna=False).cumcount() if keys else range(len(rows))))
    both = numbered[0].merge(
        numbered[1], on=[*keys, "_nth"], how="outer", suffixes=("", REFERENCE), indicator=True, validate="1:1"
    )
    for side, which in (("left_only", "not in the reference"), ("right_only", "in the reference only")):
        if number := int((both._merge == side).sum()):
            yield f"{number} rows are {which}"
    both = both[both._merge == "both"]
    where = [", ".join(map("{} {}".format, settings, values)) for values in both[settings].to_numpy(object)]
    places = pd.Series(where, index=both.index, dtype="category")
    for name in names:
        if columns[name].role == "measured":
            errors = [error for error in columns[name].errors if error in names]
            yield from _moved(both, name, errors, places)


def _moved(both: pd.DataFrame, name: str, errors: Sequence[str], places: pd.Series) -> Iterator[str]:
    """Where one measured column moved beyond its error."""
    rows = pd.DataFrame({side: both[name + side].astype(float) for side in ("", REFERENCE)})
    rows["difference"] = rows[""] - rows[REFERENCE]
    if not rows.difference.any():
        return
    rows["size"] = rows[REFERENCE].abs()
    for side in ("", REFERENCE):
        ends = [both[error + side].astype(float) for error in errors]
        error = (ends[1] - ends[0]) / (2 * NORMAL) if len(ends) == 2 else ends[0] if ends else rows[side] * np.nan
        rows[f"square{side}"] = error.where(np.isfinite(error)).pow(2)
    rows = rows[np.isfinite(rows.difference)]
    parts = rows.groupby(places[rows.index], observed=True)
    n, mean = parts.size(), parts.difference.mean()
    squares = parts.difference.var().fillna(0) / n
    for side in ("", REFERENCE):
        stated = parts[f"square{side}"].sum().where(parts[f"square{side}"].count() == n) / n**2
        squares += stated.fillna(parts[side].var() / n)
    found = pd.DataFrame({"mean": mean, "error": np.sqrt(squares), "n": n})
    found = found[mean.abs() > np.maximum(FLOOR[0] * parts["size"].mean(), FLOOR[1])]
    for place, by, error, number in found[found["mean"].abs() > FACTOR * found.error].itertuples(name=None):
        over = f"in the mean of {number}" if number > 1 else "in one row"
        yield f"MOVED: {name} by {by:.3g}, with an error of {error:.2g}, {over}: {place}"
    if unjudged := int(found.error.isna().sum()):
        yield f"{name} changed in {unjudged} places where no error is known"
