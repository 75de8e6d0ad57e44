"""Measures equal independent computations, verdicts follow the numbers, and errors name claim, table and column."""

import math
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import stats

from diffusion_density.claims import verdicts
from diffusion_density.claims.definition import VERDICTS, Claim, Claims, Measure, Sentence, Test, read_claims
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.declaration import caption

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
CLAIMS = read_claims(ROOT / "workflow" / "claims.yaml")


def claim(test: dict[str, Any] | None = None, **metric: Any) -> Claim:  # noqa: ANN401 (any field)
    default = {"table": "study/table", "take": "mean", "value": "value", "unit": ["mixture"], "over": "mixtures"}
    given = {key: value for key, value in (default | metric).items() if value is not None}
    fields = {"id": "A1", "paper": "A", "kind": "key result", "statement": "It holds.", "source": "abstract"}
    fields |= {"scales": ["desk"], "needs": "a larger run", "figure": "study/figure", "code": "model.py"}
    return Claim.model_validate(fields | {"measure": given, "unit": "nats", "test": test or {"above": 0}})


@pytest.fixture
def table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    keys = pd.MultiIndex.from_product(
        [["a", "b"], range(4), range(3), [1, 10, 100]], names=["arm", "mixture", "seed", "n"]
    )
    values = np.exp(generator.normal(size=len(keys))) * keys.get_level_values("n") ** -0.5
    return keys.to_frame(index=False).assign(value=values, stderr=0.1, low=values - 1, high=values + 2)


def judged(wanted: Claim, table: pd.DataFrame, scale: str = "desk") -> Any:  # noqa: ANN401 (a row)
    return verdicts.row(wanted, {"study/table": table}, scale)  # type: ignore[arg-type]


def student(values: list[float]) -> tuple[float, float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(np.mean(values)), float(low), float(high)


def of(table: pd.DataFrame, arm: str, mixture: int, n: int | None = None) -> float:
    rows = [r.value for r in table.itertuples() if r.arm == arm and r.mixture == mixture and n in (None, r.n)]
    return sum(rows) / len(rows)


def test_means_differences_and_ratios_are_over_units(table: pd.DataFrame) -> None:
    found = judged(claim(rows="arm == 'a'"), table)
    expected = student([of(table, "a", mixture) for mixture in range(4)])
    assert (found["measured"], found["ci_low"], found["ci_high"]) == pytest.approx(expected)
    against = {"rows": "arm == 'b'", "value": "value"}
    found = judged(claim(take="difference", rows="arm == 'a'", against=against), table)
    expected = student([of(table, "a", mixture) - of(table, "b", mixture) for mixture in range(4)])
    assert (found["measured"], found["ci_low"], found["ci_high"]) == pytest.approx(expected)
    found = judged(claim(take="ratio", rows="arm == 'a'", against=against), table)
    logs = student([math.log(of(table, "a", mixture) / of(table, "b", mixture)) for mixture in range(4)])
    assert (found["measured"], found["ci_low"], found["ci_high"]) == pytest.approx(tuple(map(math.exp, logs)))


def test_slopes_are_exponents(table: pd.DataFrame) -> None:
    exact = table.assign(value=3 * table.n**-0.5 * (1 + table.mixture))
    assert judged(claim(take="slope", x="n"), exact)["measured"] == pytest.approx(-0.5)
    against = {"rows": "arm == 'b'", "value": "value"}
    other = exact.assign(value=exact.value * np.where(exact.arm == "a", exact.n**0.25, 1))
    found = judged(claim(take="slope", x="n", rows="arm == 'a'", against=against), other)
    assert (found["measured"], found["ci_low"]) == pytest.approx((0.25, 0.25))


def test_shares_count_units_that_hold_throughout(table: pd.DataFrame) -> None:
    low = table.assign(value=np.where((table.mixture == 0) & (table.seed == 0) & (table.n == 1), -1.0, 1.0))
    found = judged(claim(take="share", value="value > 0"), low)
    wilson = stats.binomtest(3, 4).proportion_ci(method="wilson")
    assert (found["measured"], found["ci_low"], found["ci_high"]) == pytest.approx((0.75, wilson.low, wilson.high))


def test_a_row_may_state_its_interval(table: pd.DataFrame) -> None:
    one, other = (
        "arm == 'a' and mixture == 1 and seed == 0 and n == 1",
        "arm == 'b' and mixture == 1 and seed == 0 and n == 1",
    )
    a, b = (float(table.query(rows).value.iloc[0]) for rows in (one, other))
    found = judged(claim(take="stated", rows=one, unit=None, low="low", high="high"), table)
    assert (found["measured"], found["ci_low"], found["ci_high"]) == pytest.approx((a, a - 1, a + 2))
    found = judged(claim(take="stated", rows=one, unit=None, stderr="stderr", minus=other), table)
    half = 1.96 * math.sqrt(0.02)
    assert (found["measured"], found["ci_low"], found["ci_high"]) == pytest.approx((a - b, a - b - half, a - b + half))
    with pytest.raises(InputError, match="claim A1: table study/table has 12 rows"):
        judged(claim(take="stated", rows="arm == 'a' and n == 1", unit=None, stderr="stderr"), table)


def test_numbers_without_draws_are_their_own_interval(table: pd.DataFrame) -> None:
    found = judged(claim(take="largest", unit=None, minus="arm == 'b'", rows="arm == 'a'"), table)
    value = max(table.value[table.arm == "a"]) - max(table.value[table.arm == "b"])
    assert (found["measured"], found["ci_low"], found["ci_high"]) == (value, value, value)
    assert "without random error" in found["reason"]


@pytest.mark.parametrize(
    ("test", "low", "high", "verdict"),
    [
        ({"above": 1}, 1.1, 2, "replicated"),
        ({"above": 1}, 0.5, 2, "inconclusive"),
        ({"above": 1}, 0.5, 1, "not replicated"),
        ({"above": 0}, 0, 0, "not replicated"),
        ({"below": 1}, 0.5, 0.9, "replicated"),
        ({"below": 1}, 1, 2, "not replicated"),
        ({"below": 1}, 0, 1, "inconclusive"),
        ({"within": [0.9, 1]}, 0.9, 1, "replicated"),
        ({"within": [0.9, 1]}, 0.5, 0.8, "not replicated"),
        ({"equal_to": 2, "tolerance": 0.5}, 1.6, 2.4, "replicated"),
        ({"equal_to": 2, "tolerance": 0.5}, 1.4, 2.4, "inconclusive"),
        ({"equal_to": 2, "tolerance": 0.5}, 2.6, 2.7, "not replicated"),
    ],
)
def test_the_rule(test: dict[str, Any], low: float, high: float, verdict: str) -> None:
    assert Test.model_validate(test).judge(low, high) == verdict


def test_a_changed_number_changes_the_verdict(table: pd.DataFrame) -> None:
    wanted = claim({"below": 2}, rows="arm == 'a' and n == 100")
    assert judged(wanted, table)["verdict"] == "replicated"
    moved = table.assign(value=np.where((table.arm == "a") & (table.n == 100), table.value + 10, table.value))
    assert judged(wanted, moved)["verdict"] == "not replicated"
    one = table.assign(value=np.where((table.arm == "a") & (table.n == 100) & (table.mixture == 2), 10, table.value))
    assert judged(wanted, one)["verdict"] == "inconclusive"


def test_a_single_unit_decides_nothing(table: pd.DataFrame) -> None:
    found = judged(claim(rows="mixture == 0"), table)
    assert (found["verdict"], found["ci_low"]) == ("inconclusive", None)
    assert found["reason"] == "too few numbers (1) for an interval over mixtures"


def test_small_scales_and_absent_rows_say_what_would_test(table: pd.DataFrame) -> None:
    found = judged(claim(), table, "smoke")
    assert (found["verdict"], found["reason"], found["measured"]) == (
        "not tested at this scale",
        "needs a larger run",
        None,
    )
    wanted = claim(rows="arm == 'c'")
    found = judged(wanted, table)
    assert found["verdict"] == "not tested at this scale"
    assert found["reason"] == "this run has other sizes: table study/table has no rows where arm == 'c'"
    found = judged(wanted.model_copy(update={"needs_data": "arm c"}), table)
    assert (found["verdict"], found["reason"]) == ("not tested at this scale", "needs arm c")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            {"value": "worth"},
            r"claim A1: table study/table: 'worth' cannot be evaluated .*worth.*the columns are arm, mixture",
        ),
        ({"rows": "arms == 'a'"}, r"claim A1: table study/table: .*arms.* cannot be evaluated .*the columns are arm"),
        ({"rows": "arm == "}, r"claim A1: table study/table: 'arm == ' cannot be evaluated"),
        ({"unit": ["target"]}, r"claim A1: table study/table: lacks the column target of a unit; the columns are arm"),
        ({"value": "log(value - value)"}, r"claim A1: table study/table: .* has no finite value in 72 of 72 rows"),
        (
            {"take": "ratio", "against": {"rows": "mixture > 0", "value": "value"}},
            r"claim A1: table study/table: the 4 units \(mixture\) .* are not the 3 of table study/table where mix",
        ),
        (
            {"take": "ratio", "value": "-value", "against": {"value": "value"}},
            r"claim A1: .* -value is not positive throughout",
        ),
    ],
)
def test_what_a_table_lacks_is_named(table: pd.DataFrame, metric: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message), np.errstate(divide="ignore"):
        judged(claim(**metric), table)


@pytest.mark.parametrize(
    ("metric", "test", "message"),
    [
        ({"take": "stated", "unit": None}, {"above": 0}, "needs either low and high, or stderr"),
        ({"take": "guess"}, {"above": 0}, "take"),
        ({}, {"above": 0, "below": 1}, "needs one of"),
        ({}, {"equal_to": 1}, "needs one of"),
        ({}, {"within": [1, 0]}, "accepts nothing"),
    ],
)
def test_wrong_definitions_are_refused(metric: dict[str, Any], test: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        claim(test, **metric)


def test_sentences_show_only_numbers_that_are_there() -> None:
    with pytest.raises(ValidationError, match="shows the number of A2"):
        Sentence(when={"A1": "replicated"}, text="{A1} and {A2}")
    with pytest.raises(ValidationError, match="summaries name A2, which is no claim"):
        Claims(claims=(claim(),), summaries={"A": (Sentence(when={"A2": "replicated"}, text="So."),)})
    with pytest.raises(ValidationError, match="A1 is there twice"):
        Claims(claims=(claim(), claim()), summaries={})


def test_the_claims_of_the_repository_are_whole() -> None:
    assert {wanted.paper for wanted in CLAIMS.claims} == set("ABCD")
    for wanted in CLAIMS.claims:
        if wanted.code:
            assert (ROOT / "src/diffusion_density" / wanted.code).is_file(), wanted.id
        if wanted.figure:
            assert caption(*wanted.figure.split("/")).is_file(), wanted.id
    published = {wanted.id: wanted.published.value for wanted in CLAIMS.claims if wanted.published}
    assert published == {"D1": 2.56, "D2": 3.43, "D3": 3.69, "D4": 2.42}, "only what was verified"


# The reference run


@cache
def reference(name: str) -> pd.DataFrame:
    """A table of the reference run, read once; tests change copies."""
    return artifacts.read_csv(REFERENCE / verdicts.evidence(name))


def recompute(measure: Measure) -> float:
    """The measured number by loops over rows, without the code under test."""

    def units(name: str, query: str | None, value: str, keys: list[str]) -> dict[tuple[Any, ...], float]:
        rows = reference(name) if query is None else reference(name).query(query, engine="python")
        found = defaultdict(list)
        columns = [rows[key].tolist() for key in keys]
        for position, number in enumerate(rows.eval(value, engine="python")):
            found[tuple(column[position] for column in columns)].append(float(number))
        return {key: sum(values) / len(values) for key, values in found.items()}

    keys = [*getattr(measure, "unit", ()), *([measure.x] if measure.take == "slope" else [])]
    ours = units(measure.table, measure.rows, measure.value, keys)
    against = getattr(measure, "against", None)
    if against is not None:
        query = measure.rows if against.table is None and against.rows is None else against.rows
        theirs = units(against.table or measure.table, query, against.value, keys)
    match measure.take:
        case "mean" | "share" | "average":
            value = sum(ours.values()) / len(ours)
        case "difference":
            value = sum(ours[key] - theirs[key] for key in ours) / len(ours)
        case "ratio":
            value = math.prod(ours[key] / theirs[key] for key in ours) ** (1 / len(ours))
        case "slope":
            lines = defaultdict(list)
            for key, number in ours.items():
                lines[key[:-1]].append((math.log(key[-1]), math.log(number / (theirs[key] if against else 1))))
            value = float(np.mean([np.polyfit(*zip(*line, strict=True), 1)[0] for line in lines.values()]))
        case "stated":
            value = ours[()]
        case "largest" | "smallest":
            each = units(measure.table, measure.rows, measure.value, list(reference(measure.table))).values()
            value = max(each) if measure.take == "largest" else min(each)
        case take:
            raise AssertionError(take)
    if getattr(measure, "minus", None):
        value -= units(measure.table, measure.minus, measure.value, [])[()]
    return value


def test_every_number_of_the_reference_is_that_of_its_table(tmp_path: Path) -> None:
    verdicts.judge(CLAIMS, REFERENCE, "desk", tmp_path / "claims.csv")
    kept, again = (artifacts.read_csv(folder / "claims.csv").set_index("id") for folder in (REFERENCE, tmp_path))
    pd.testing.assert_frame_equal(again, kept)
    for wanted in CLAIMS.claims:
        row = kept.loc[wanted.id]
        assert row.verdict in VERDICTS
        assert row.reason
        if not math.isnan(row.measured):
            assert wanted.measure is not None
            assert row.measured == pytest.approx(recompute(wanted.measure), rel=1e-9, abs=1e-12), wanted.id
            assert not math.isnan(row.ci_low) or row.verdict == "inconclusive", wanted.id


TRANSFORMS: list[Callable[[pd.Series], pd.Series]] = [
    lambda c: c + 1000,
    lambda c: c - 1000,
    lambda c: c * 1000,
    lambda c: c / 1000,
    lambda c: c * np.linspace(0.01, 100, len(c)),
]
MEASURED = {wanted.id: wanted for wanted in CLAIMS.claims if wanted.measure}


@pytest.mark.parametrize("name", MEASURED)
def test_other_numbers_in_the_table_give_another_verdict(name: str) -> None:
    wanted = MEASURED[name]
    assert wanted.measure is not None
    tables = {key: reference(key) for key in wanted.tables}
    verdict = verdicts.row(wanted, tables, "desk")["verdict"]
    if verdict == "not tested at this scale":
        assert "desk" not in wanted.scales or wanted.needs_data
        return
    table = tables[wanted.measure.table]
    rows = table.index if wanted.measure.rows is None else table.query(wanted.measure.rows, engine="python").index
    first, *others = re.findall(r"[a-z_]\w*", wanted.measure.value.removeprefix("abs"))
    ends = [end for end in (getattr(wanted.measure, name, None) for name in ("low", "high")) if end]
    changed = [
        {column: transform(table.loc[rows, column].astype(float)) for column in (first, *ends)}
        for transform in TRANSFORMS
    ]
    changed += [{first: table.loc[rows, other]} for other in table if other in others and other != first]
    found = set()
    for columns in changed:
        other = table.astype(dict.fromkeys(columns, float))
        for column, values in columns.items():
            other.loc[rows, column] = values
        with suppress(InputError):  # a ratio of what is negative now
            found.add(verdicts.row(wanted, tables | {wanted.measure.table: other}, "desk")["verdict"])
        if found - {verdict}:
            return
    pytest.fail(f"{name} is {verdict} whatever its table says")
