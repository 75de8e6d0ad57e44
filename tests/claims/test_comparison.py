"""A run against a reference: the same passes, noise passes, a broken estimator does not; and what a reference is."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from diffusion_density.claims import comparison, reference
from diffusion_density.commands.cli import app
from diffusion_density.machine import artifacts
from diffusion_density.machine.artifacts import write_csv
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.provenance import recording

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
ERROR = 0.02


def kl(noise: int = 1, shift: float = 0.0, seconds: float = 1.0) -> pd.DataFrame:
    generator = np.random.default_rng(noise)
    keys = pd.MultiIndex.from_product(
        [["flow", "path_integral"], [5.0, 50.0], range(2), range(3)], names=["estimator", "epochs", "mixture", "seed"]
    )
    table = keys.to_frame(index=False)
    table["kl_nats"] = 0.1 + table.mixture + ERROR * generator.normal(size=len(table))
    table.loc[table.estimator == "path_integral", "kl_nats"] += shift
    return table.assign(kl_stderr_nats=ERROR, seconds_per_point=seconds)


def claims(measured: float, verdict: str, quantity: str = "kl_nats") -> pd.DataFrame:
    row = {"id": "A1", "measured": measured, "ci_low": measured - 0.2, "ci_high": measured + 0.2}
    return pd.DataFrame([row | {"verdict": verdict, "quantity": quantity, "reason": "r", "published": None}])


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("new", "old"):
        write_csv(tmp_path / name / "study/tables/kl.csv", kl())
        write_csv(tmp_path / name / "claims.csv", claims(1.0, "replicated"))
    return tmp_path / "new", tmp_path / "old"


def test_the_same_bytes_are_said_to_be_the_same(runs: tuple[Path, Path]) -> None:
    found = comparison.compare(*runs)
    assert not found.moved
    assert list(found.lines) == ["2 of 2 tables are the same to the byte; nothing moved beyond its error"]
    done = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert (done.exit_code, done.output.strip()) == (0, found.lines[0])


def test_other_noise_and_other_times_pass(runs: tuple[Path, Path]) -> None:
    write_csv(runs[0] / "study/tables/kl.csv", kl(noise=2, seconds=100.0))
    found = comparison.compare(*runs)
    assert not found.moved
    assert found.lines[0] == "study/tables/kl.csv: within its errors"


def test_a_broken_estimator_fails(runs: tuple[Path, Path]) -> None:
    write_csv(runs[0] / "study/tables/kl.csv", kl(shift=5 * ERROR))
    found = comparison.compare(*runs)
    moved = [line for line in found.lines if "MOVED: kl_nats by 0.1, with an error of" in line]
    assert len(moved) == 4  # epochs and mixtures of the one estimator
    assert all("estimator path_integral" in line for line in moved)
    done = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert done.exit_code == 1
    assert "something MOVED beyond its error" in done.output


def test_a_single_row_has_the_error_that_it_states() -> None:
    rows = pd.DataFrame({"rule": ["a", "b"], "slope": [1.0, 2.0], "slope_stderr": [0.1, 0.1]})
    assert not list(comparison.tables(rows.assign(slope=rows.slope + 0.3), rows))
    assert [line.split(":")[0] for line in comparison.tables(rows.assign(slope=rows.slope + 0.7), rows)] == [
        "MOVED"
    ] * 2
    bare = rows.drop(columns="slope_stderr")
    assert list(comparison.tables(bare.assign(slope=bare.slope + 9), bare)) == [
        "slope changed in 2 places that have no error to hold it against"
    ]


def test_claims_move_by_their_intervals_and_verdicts_are_listed(runs: tuple[Path, Path]) -> None:
    write_csv(runs[0] / "claims.csv", claims(1.1, "inconclusive"))
    found = comparison.compare(*runs)
    assert not found.moved
    assert found.lines[0] == "claims.csv: A1 was replicated, is inconclusive"
    write_csv(runs[0] / "claims.csv", claims(3.0, "not replicated"))
    found = comparison.compare(*runs)
    assert found.moved
    assert found.lines[0].startswith("claims.csv: MOVED: measured by 2, ")
    for run, number in zip(runs, (1.0, 3.0), strict=True):
        write_csv(run / "claims.csv", claims(number, "replicated", "seconds_per_point"))
    assert not comparison.compare(*runs).moved, "claims about times depend on the machine"


def test_missing_tables_columns_and_rows_are_told(runs: tuple[Path, Path]) -> None:
    write_csv(runs[0] / "study/tables/kl.csv", kl().drop(columns="kl_stderr_nats"))
    assert comparison.compare(*runs).moved
    write_csv(runs[0] / "study/tables/kl.csv", kl().iloc[1:])
    found = comparison.compare(*runs)
    assert (found.moved, found.lines[0]) == (False, "study/tables/kl.csv: 1 rows are in the reference only")
    (runs[0] / "study/tables/kl.csv").unlink()
    assert comparison.compare(*runs).lines[0].startswith("study/tables/kl.csv: MOVED: is not in ")
    with pytest.raises(InputError, match="holds no tables; collect a run there first"):
        comparison.compare(runs[0], runs[1] / "nothing")


@pytest.mark.parametrize(
    ("column", "columns", "errors"),
    [
        ("kl_nats", ["kl_stderr_nats"], ("kl_stderr_nats",)),
        ("bits_per_dim", ["stderr_bits_per_dim"], ("stderr_bits_per_dim",)),
        ("value_nats", ["stderr_nats"], ("stderr_nats",)),
        ("mean_excess_nats", ["mean_stderr_nats"], ("mean_stderr_nats",)),
        ("loss", ["loss_stderr"], ("loss_stderr",)),
        ("miss_per_dim", ["stderr"], ("stderr",)),
        ("value", ["ci_low", "ci_high"], ("ci_low", "ci_high")),
        ("rms_error_nats", ["mean_error_nats", "mean_error_stderr_nats"], ()),
    ],
)
def test_the_errors_of_a_column(column: str, columns: list[str], errors: tuple[str, ...]) -> None:
    assert comparison.errors_of(column, [column, *columns]) == errors


TABLES = sorted(path.relative_to(REFERENCE).as_posix() for path in REFERENCE.glob("*/tables/*.csv"))


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_compared(name: str) -> None:
    theirs = artifacts.read_csv(REFERENCE / name)
    assert list(comparison.tables(theirs, theirs)) == []
    no_result = {*comparison.SETTINGS, *comparison.REPEATS}
    no_result |= {name for name in theirs for part in (comparison.TIMES, "stderr", "ci_") if part in name}
    measured = [name for name in theirs.select_dtypes("float") if name not in no_result and theirs[name].any()]
    other = theirs.assign(**{name: theirs[name] + 1e6 for name in measured})
    assert list(comparison.tables(other, theirs)) or not measured


# What is kept in git


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    files = {"claims.csv": "id\n1\n", "study/tables/kl.csv": "a\n1\n", "study/figures/kl.svg": "<svg/>"}
    files |= {"study/tables/parts/kl.csv": "a\n1\n", "study/figures/kl.png": "", "study/models/m.safetensors": ""}
    for name, text in files.items():
        with recording([folder / name], settings={}):
            artifacts.write_text(folder / name, text)
    return folder


def test_a_reference_holds_tables_figures_verdicts_and_provenance(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "reference"
    for _ in range(2):  # it is made anew
        reference.collect(run, out)
        kept = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        assert kept == {"claims.csv", "provenance.json", "study/tables/kl.csv", "study/figures/kl.svg"}
    record = json.loads((out / "provenance.json").read_text())
    assert set(record["results"]) == kept - {"provenance.json"}
    assert record["results"]["study/tables/kl.csv"]["sha256"]
    assert record["left_out"] == {}
    assert not comparison.compare(run, out).moved


def test_a_reference_shows_no_test_images(run: Path, tmp_path: Path) -> None:
    name = "max_likelihood/figures/samples.svg"
    with recording([run / name], settings={}):
        artifacts.write_text(run / name, "<svg/>")
    reference.collect(run, tmp_path / "reference")
    assert not (tmp_path / "reference" / name).exists()
    assert json.loads((tmp_path / "reference/provenance.json").read_text())["left_out"] == {name: 6}


def test_a_reference_stays_small(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "LARGE", 5)
    monkeypatch.setattr(reference, "WHOLE", 11)
    reference.collect(run, tmp_path / "reference")
    assert json.loads((tmp_path / "reference/provenance.json").read_text())["left_out"] == {"study/figures/kl.svg": 6}
    monkeypatch.setattr(reference, "WHOLE", 3)
    with pytest.raises(InputError, match=r"9 bytes are more than the 3 of a reference; the largest are claims\.csv 5"):
        reference.collect(run, tmp_path / "reference")


def test_a_reference_replaces_no_other_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="is there and is no reference"):
        reference.collect(run, tmp_path / "mine")
    (run / "claims.csv").unlink()
    with pytest.raises(InputError, match=r"has no claims\.csv"):
        reference.collect(run, tmp_path / "new")
