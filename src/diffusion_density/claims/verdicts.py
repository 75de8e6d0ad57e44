"""Verdicts: no person sets one.

``replicated`` if the whole 95 % interval is accepted by the claim's test, ``not replicated`` if none of it is,
``inconclusive`` if some of it is, or if there are too few units for an interval. ``not tested at this scale`` where the
scale is too small, or where the run has no such rows: of an image set that is absent, or of a size that was changed.
``reason`` says how each verdict came about.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from diffusion_density.claims.definition import Claim, Claims, Measure, ScaleName, Test, Verdict
from diffusion_density.claims.metrics import NoRows, Tables, measure
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.shared.intervals import Interval

COLUMNS = ["id", "paper", "kind", "statement", "published", "measured", "ci_low", "ci_high", "unit", "verdict", "scale"]
COLUMNS += ["evidence", "quantity", "reason"]
UNTESTED: Verdict = "not tested at this scale"
Row = Mapping[str, str | float | None]


def judge(claims: Claims, results: Path, scale: ScaleName, out: Path) -> None:
    """Write one row a claim.

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
    found, verdict, reason = _judged(claim, tables) if scale in claim.scales else (None, UNTESTED, claim.otherwise)
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
        "quantity": claim.measure.of if claim.measure else None,
        "reason": reason,
    }


def _judged(claim: Claim, tables: Tables) -> tuple[Interval | None, Verdict, str]:
    assert claim.measure is not None
    assert claim.test is not None
    try:
        found = measure(claim.measure, tables)
    except NoRows as error:
        return None, UNTESTED, claim.absent or f"this run has other sizes: {error}"
    except InputError as error:
        raise InputError(f"claim {claim.id}: {error}") from None
    if found.low is None or found.high is None:
        return found, "inconclusive", f"too few numbers ({found.n}) for an interval over {claim.measure.over}"
    verdict = verdict_of(claim.test, found.low, found.high)
    return found, verdict, f"{_how(claim.measure, found.n)}; replicated if {claim.test}"


def _how(metric: Measure, n: int) -> str:
    """What the interval is over."""
    if metric.take in ("largest", "smallest", "average"):
        return f"{metric.take} of {n}, without sampling error: {metric.over}"
    number = "" if metric.take == "stated" else f"{n} "
    return f"95 % interval over {number}{metric.over}"


def verdict_of(test: Test, low: float, high: float) -> Verdict:
    """The verdict for an interval."""
    least, most = test.accepted
    open_below, open_above = test.above is not None, test.below is not None
    if (least < low if open_below else least <= low) and (high < most if open_above else high <= most):
        return "replicated"
    if (high <= least if open_below else high < least) or (most <= low if open_above else most < low):
        return "not replicated"
    return "inconclusive"
