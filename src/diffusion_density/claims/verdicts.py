"""Verdicts, all by rule.

``replicated`` if the claim's test accepts the whole 95 % interval, ``not replicated`` if it accepts none of it, and
``inconclusive`` if it accepts a part, or if there are too few units for an interval. ``not tested at this scale`` where
the scale is too small, or where the run has no such rows, because an image set is absent or a size was changed.
``reason`` says how each verdict came about.
"""

from pathlib import Path

import pandas as pd

from diffusion_density.claims.definition import UNTESTED, Claim, Claims, Measure, ScaleName, Verdict
from diffusion_density.claims.measurement import NoRows, Tables, measured
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.shared.columns import declare
from diffusion_density.studies.shared.intervals import Interval

COLUMNS = ["id", "paper", "kind", "statement", "published", "measured", "ci_low", "ci_high", "unit", "verdict", "scale"]
COLUMNS += ["evidence", "quantity", "reason"]
COMPARED = declare(settings="id", errors={"measured": "ci_low ci_high"})
"""What `compare` reads of two tables of verdicts."""
Row = dict[str, str | float | None]


def judge(claims: Claims, results: Path, scale: ScaleName, out: Path) -> None:
    """Write one row for each claim.

    Args:
        claims: what to judge.
        results: the folder ``results/<scale>`` of a run.
        scale: the run's scale.
        out: the table to write.

    Raises:
        InputError: if a table is missing, or lacks what a claim reads in it; the message names the claim.
    """
    tables = {name: artifacts.read_csv(results / evidence(name)) for name in claims.tables}
    rows = [row(claim, tables, scale) for claim in claims.claims]
    artifacts.write_csv(out, pd.DataFrame(rows, columns=COLUMNS))


def evidence(table: str) -> str:
    """The path of a table, ``study/table``, below ``results/<scale>``."""
    study, _, name = table.partition("/")
    return f"{study}/tables/{name}.csv"


def row(claim: Claim, tables: Tables, scale: ScaleName) -> Row:
    """The row of one claim.

    Raises:
        InputError: if the table lacks what the claim reads in it.
    """
    untested = None, UNTESTED, f"needs {claim.needs}"
    found, verdict, reason = _judged(claim, tables) if scale in claim.scales else untested
    return {
        "id": claim.id,
        "paper": claim.paper,
        "kind": claim.kind,
        "statement": claim.statement,
        "published": claim.published.value if claim.published else None,
        "measured": found.value if found else None,
        "ci_low": found.low if found else None,
        "ci_high": found.high if found else None,
        "unit": claim.unit,
        "verdict": verdict,
        "scale": scale,
        "evidence": evidence(claim.measure.table) if claim.measure else None,
        "quantity": claim.measure.value if claim.measure else None,
        "reason": reason,
    }


def _judged(claim: Claim, tables: Tables) -> tuple[Interval | None, Verdict, str]:
    assert claim.measure is not None
    assert claim.test is not None
    try:
        found = measured(claim.measure, tables)
    except NoRows as error:
        return None, UNTESTED, f"needs {claim.needs_data}" if claim.needs_data else f"this run has other sizes: {error}"
    except InputError as error:
        raise InputError(f"claim {claim.id}: {error}") from None
    if found.low is None or found.high is None:
        return found, "inconclusive", f"too few numbers ({found.n}) for an interval over {claim.measure.over}"
    how = f"{_how(claim.measure, found.n)}; replicated if {claim.test}"
    return found, claim.test.judge(found.low, found.high), how


def _how(measure: Measure, n: int) -> str:
    """What the interval is over."""
    if measure.take in ("largest", "smallest", "average"):
        return f"{measure.take} of {n}, without random error ({measure.over})"
    number = "" if measure.take == "stated" else f"{n} "
    return f"95 % interval over {number}{measure.over}"
