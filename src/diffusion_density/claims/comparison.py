r"""Holding a run against a reference: what moved beyond its error.

Tables with the same bytes are said to be so. In others, rows are matched by *settings* (text, whole numbers, truth
values and the numbers of `SETTINGS`) and *repeats* (seeds, points, images, …), and each measured column is compared
over the repeats of the same settings. With differences d of n matched rows, and errors e and e' that the tables hold
beside the numbers, a mean moved if

    |mean d| > 4 √(Σ (e² + e'²)/n² + var(d)/n)

and by more than `FLOOR`. Without errors of their own, n ≥ 2 rows have that of their spread, s/√n in each run; a single
number without an error is told where it changed, and not judged. Columns with `TIMES` in their name depend on the
machine and are left out, and so are claims about them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.shared.intervals import NORMAL

TIMES = "seconds"
REPEATS = ("seed", "point", "image", "sample", "index", "pair", "repeat", "batch", "coordinate", "x")
COUNTS = ("network_evaluations", "max_evaluations", "failed_points", "covered", "rank", "png_bytes", "n")
"""Whole numbers that are measured."""
SETTINGS = (
    "epochs", "size", "parameter", "gamma", "weight", "quantile", "threshold", "width_levels", "log_snr", "place", "m",
    "stochasticity", "setting", "trace_weight", "tolerance", "bin_left", "bin_right",
)  # fmt: skip
"""Numbers with a fraction that are set and not measured."""
FACTOR = 4.0
FLOOR = 1e-4, 1e-9
"""Relative and absolute: what two machines may differ by in a number that was computed without random draws."""
REFERENCE = " of the reference"
VERDICT = ("id", "verdict", "quantity")
"""Columns of a table of claims."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What there is to say, and whether something moved."""

    lines: Sequence[str]
    moved: bool


def compare(run: Path, reference: Path) -> Comparison:
    """Compare all tables and claims of ``reference`` with those of ``run``.

    Raises:
        InputError: if there is nothing to compare with, or a table can't be read.
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
            told = [*tables(ours, theirs), *verdicts(ours, theirs)]
            lines += [f"{name}: {line}" for line in told] or [f"{name}: within its errors"]
    moved = any(": MOVED: " in line for line in lines)
    ending = "something MOVED beyond its error" if moved else "nothing moved beyond its error"
    return Comparison([*lines, f"{same} of {len(names)} tables are the same to the byte; {ending}"], moved)


def verdicts(ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[str]:
    """Verdicts of claims that differ; whether their numbers moved is said by `tables`."""
    if all(set(VERDICT) <= set(part) for part in (ours, theirs)):
        old = dict(zip(theirs.id, theirs.verdict, strict=True))
        for name, verdict in zip(ours.id, ours.verdict, strict=True):
            if name in old and old[name] != verdict:
                yield f"{name} was {old[name]}, is {verdict}"


def tables(ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[str]:
    """What differs between two tables, a line each; lines of what moved begin with MOVED."""
    columns = list(map(str, theirs))
    if list(ours) != columns:
        yield f"MOVED: has the columns {', '.join(map(str, ours))}, and the reference {', '.join(columns)}"
        return
    if set(VERDICT) <= set(columns):
        columns = ["id", "measured", "ci_low", "ci_high"]
        ours, theirs = (part[~part.quantity.fillna("").str.contains(TIMES)][columns] for part in (ours, theirs))
    keys = [name for name in columns if _is_key(name, theirs[name])]
    of = {name: errors_of(name, columns) for name in columns if name not in keys and TIMES not in name}
    errors = {error for found in of.values() for error in found}
    numbered = [part.assign(_nth=part.groupby(keys, dropna=False).cumcount() if keys else 0) for part in (ours, theirs)]
    both = numbered[0].merge(
        numbered[1], on=[*keys, "_nth"], how="outer", suffixes=("", REFERENCE), indicator=True, validate="1:1"
    )
    for side, where in (("left_only", "not in the reference"), ("right_only", "in the reference only")):
        if number := int((both._merge == side).sum()):
            yield f"{number} rows are {where}"
    both = both[both._merge == "both"]
    settings = [name for name in keys if name not in REPEATS]
    parts: list[tuple[tuple[object, ...], pd.DataFrame]] = [((), both)]
    if settings:
        parts = list(both.groupby(settings, dropna=False))
    for name, found in of.items():
        if name not in errors:
            yield from _column(name, found, settings, parts)


def _is_key(name: str, column: pd.Series) -> bool:
    if name in SETTINGS or name in REPEATS:
        return True
    return name not in COUNTS and not pd.api.types.is_float_dtype(column)


def errors_of(name: str, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that hold the error of a column: both ends of an interval, a standard error, or nothing."""
    if name in ("value", "measured") and {"ci_low", "ci_high"} <= set(columns):
        return "ci_low", "ci_high"
    if "stderr" in name:
        return ()
    stem, _, unit = name.rpartition("_")
    first = stem.partition("_")[0]
    tried = [f"{stem}_stderr_{unit}", f"stderr_{name}", f"stderr_{unit}", f"{name}_stderr", f"{first}_stderr_{unit}"]
    return tuple(found for found in [*tried, "stderr"] if found in columns)[:1]


def _column(
    name: str, errors: tuple[str, ...], settings: list[str], parts: Sequence[tuple[tuple[object, ...], pd.DataFrame]]
) -> Iterator[str]:
    unjudged = 0
    for values, part in parts:
        ours, theirs = _numbers(part, name)
        finite = np.isfinite(ours) & np.isfinite(theirs)
        differences = (ours - theirs)[finite]
        mean = float(differences.mean()) if len(differences) else 0.0
        if not mean or abs(mean) <= max(FLOOR[0] * float(np.abs(theirs[finite]).mean()), FLOOR[1]):
            continue
        error = _error(part[finite], name, errors)
        if error is None:
            unjudged += 1
        elif abs(mean) > FACTOR * (whole := math.hypot(error, _sem(differences))):
            where = ", ".join(f"{setting} {value}" for setting, value in zip(settings, values, strict=True))
            mean_of = f"in the mean of {len(differences)}" if len(differences) > 1 else "in one row"
            yield f"MOVED: {name} by {mean:.3g}, with an error of {whole:.2g}, {mean_of}: {where}"
    if unjudged:
        yield f"{name} changed in {unjudged} places that have no error to hold it against"


def _numbers(part: pd.DataFrame, name: str) -> tuple[Numbers, Numbers]:
    """A column of both runs."""
    return part[name].to_numpy(dtype=float), part[f"{name}{REFERENCE}"].to_numpy(dtype=float)


def _error(part: pd.DataFrame, name: str, errors: tuple[str, ...]) -> float | None:
    """The error of the difference of both means; None if nothing tells it."""
    squares = 0.0
    ends = [_numbers(part, error) for error in errors]
    for which in range(2):
        own = np.full(len(part), np.nan)
        if len(ends) == 2:
            own = (ends[1][which] - ends[0][which]) / (2 * NORMAL)
        elif ends:
            own = ends[0][which]
        if np.isfinite(own).all():
            squares += float(np.square(own).sum()) / len(part) ** 2
        elif len(part) > 1:
            squares += _sem(_numbers(part, name)[which]) ** 2
        else:
            return None
    return math.sqrt(squares)


def _sem(values: Numbers) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
