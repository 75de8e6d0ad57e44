"""A run against a reference: the same passes, noise passes, a broken estimator does not; and what a reference is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from diffusion_density.claims import comparison, reference
from diffusion_density.claims.comparison import columns_of
from diffusion_density.commands.cli import app
from diffusion_density.machine import artifacts
from diffusion_density.machine.artifacts import write_csv
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.provenance import recording
from diffusion_density.studies.shared.columns import declare

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
    row |= {"evidence": "density_estimators/tables/kl.csv"}
    return pd.DataFrame([row | {"verdict": verdict, "quantity": quantity, "reason": "r", "published": None}])


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("new", "old"):
        write_csv(tmp_path / name / "density_estimators/tables/kl.csv", kl())
        write_csv(tmp_path / name / "claims.csv", claims(1.0, "replicated"))
    return tmp_path / "new", tmp_path / "old"


def test_the_same_bytes_are_said_to_be_the_same(runs: tuple[Path, Path]) -> None:
    found = comparison.compare(*runs)
    assert not found.moved
    assert list(found.lines) == ["2 of 2 tables are the same to the byte; nothing moved beyond its error"]
    done = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert (done.exit_code, done.output.strip()) == (0, found.lines[0])


def test_other_noise_and_other_times_pass(runs: tuple[Path, Path]) -> None:
    write_csv(runs[0] / "density_estimators/tables/kl.csv", kl(noise=2, seconds=100.0))
    found = comparison.compare(*runs)
    assert not found.moved
    assert found.lines[0] == "density_estimators/tables/kl.csv: within its errors"


def test_a_broken_estimator_fails(runs: tuple[Path, Path]) -> None:
    write_csv(runs[0] / "density_estimators/tables/kl.csv", kl(shift=5 * ERROR))
    found = comparison.compare(*runs)
    moved = [line for line in found.lines if "MOVED: kl_nats by 0.1, with an error of" in line]
    assert len(moved) == 4  # epochs and mixtures of the one estimator
    assert all("estimator path_integral" in line for line in moved)
    done = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert done.exit_code == 1
    assert "something MOVED beyond its error" in done.output


def test_a_single_row_has_the_error_that_it_states() -> None:
    columns = columns_of("density_formula")
    rows = pd.DataFrame({"rule": ["a", "b"], "slope": [1.0, 2.0], "slope_stderr": [0.1, 0.1]})
    assert not list(comparison.tables(rows.assign(slope=rows.slope + 0.3), rows, columns))
    moved = comparison.tables(rows.assign(slope=rows.slope + 0.7), rows, columns)
    assert [line.split(":")[0] for line in moved] == ["MOVED"] * 2
    bare = rows.drop(columns="slope_stderr")
    assert list(comparison.tables(bare.assign(slope=bare.slope + 9), bare, columns)) == [
        "slope changed in 2 places where no error is known"
    ]


def test_a_table_of_results_alone_is_compared_row_by_row() -> None:
    rows = pd.DataFrame({"n": [1, 2, 3]})
    (line,) = comparison.tables(rows + 50, rows, columns_of("comparison"))
    assert line.startswith("MOVED: n by 50, with an error of 0.82, in the mean of 3")


def test_both_ends_of_an_interval_are_an_error() -> None:
    rows = pd.DataFrame({"finding": ["a"], "value": [1.0], "ci_low": [0.5], "ci_high": [1.5], "seconds_per_point": 1.0})
    columns = columns_of("comparison")
    inside = rows.assign(value=1.9, ci_low=1.4, ci_high=2.4, seconds_per_point=9.0)
    assert not list(comparison.tables(inside, rows, columns))
    (line,) = comparison.tables(rows.assign(value=3.0), rows, columns)
    assert line == "MOVED: value by 2, with an error of 0.36, in one row: finding a"


def test_settings_may_be_empty_in_one_run_and_results_may_be_true_or_false() -> None:
    columns = columns_of("high_density")
    rows = pd.DataFrame({"group": [None, None], "sample": [0, 1], "out_of_reach": [True, True]}).astype(
        {"group": float}
    )
    assert not list(comparison.tables(rows, rows, columns))
    (line,) = comparison.tables(rows.assign(out_of_reach=False), rows, columns)
    assert line.startswith("MOVED: out_of_reach by -1, with an error of 0, in the mean of 2: group nan")
    assert list(comparison.tables(rows.assign(group="test"), rows, columns)) == [
        "2 rows are not in the reference",
        "2 rows are in the reference only",
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
    write_csv(runs[0] / "density_estimators/tables/kl.csv", kl().drop(columns="kl_stderr_nats"))
    assert comparison.compare(*runs).moved
    write_csv(runs[0] / "density_estimators/tables/kl.csv", kl().iloc[1:])
    found = comparison.compare(*runs)
    assert (found.moved, found.lines[0]) == (
        False,
        "density_estimators/tables/kl.csv: 1 rows are in the reference only",
    )
    (runs[0] / "density_estimators/tables/kl.csv").unlink()
    assert comparison.compare(*runs).lines[0].startswith("density_estimators/tables/kl.csv: MOVED: is not in ")
    with pytest.raises(InputError, match="holds no tables; collect a run there first"):
        comparison.compare(runs[0], runs[1] / "nothing")


def test_columns_have_the_roles_that_their_study_declares() -> None:
    columns = declare(settings="rule size", repeats="seed", measured="n", errors={"kl": "kl_stderr"}, costs="seconds")
    roles = {name: column.role for name, column in columns.items()}
    assert roles == {"rule": "setting", "size": "setting", "seed": "repeat", "seconds": "cost"} | {
        "kl": "measured",
        "kl_stderr": "error",
        "n": "measured",
    }
    assert (columns["kl"].errors, columns["n"].errors) == (("kl_stderr",), ())
    assert columns_of("density_estimators")["kl_nats"].errors == ("kl_stderr_nats",)
    assert columns_of("density_estimators")["mode"].role == "setting"
    assert columns_of("high_density")["mode"].role == "measured"


def test_an_undeclared_column_is_named(runs: tuple[Path, Path]) -> None:
    for run, number in zip(runs, (1.0, 2.0), strict=True):
        write_csv(run / "density_estimators/tables/kl.csv", kl().assign(speed=number, colour="red"))
    with pytest.raises(InputError) as error:
        comparison.compare(*runs)
    assert str(error.value) == (
        "density_estimators/tables/kl.csv: declare the column speed, colour in studies/density_estimators/columns.py"
    )
    with pytest.raises(InputError, match=r"^tails: declare the columns of its tables in studies/tails/columns\.py$"):
        columns_of("tails")


TABLES = sorted(path.relative_to(REFERENCE).as_posix() for path in REFERENCE.glob("*/tables/*.csv"))


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_compared(name: str) -> None:
    """All of its columns are declared, and a run with any other measured numbers is not the same."""
    theirs = artifacts.read_csv(REFERENCE / name)
    columns = columns_of(name.partition("/")[0])
    assert set(theirs) <= columns.keys()
    assert list(comparison.differences(name, theirs, theirs)) == []
    measured = [column for column in theirs if columns[column].role == "measured" and theirs[column].any()]
    found = list(
        comparison.differences(name, theirs.assign(**{column: theirs[column] + 1e6 for column in measured}), theirs)
    )
    assert {column for column in measured if any(f" {column} " in f" {line} " for line in found)} == set(measured)


# What is kept in git


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    files = {"claims.csv": "id\n1\n", "study/tables/kl.csv": "a\n1\n", "study/figures/kl.svg": "<svg/>"}
    files |= {"study/tables/parts/kl.csv": "a\n1\n", "study/figures/kl.png": "", "study/models/m.safetensors": ""}
    for name, text in files.items():
        with recording([folder / name], settings={}):
            artifacts.write_text(folder / name, text)
    return folder


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def test_a_reference_holds_tables_figures_verdicts_and_provenance(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "reference"
    for _ in range(2):  # it is replaced
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
    monkeypatch.setattr(reference, "MAX_FILE_BYTES", 5)
    monkeypatch.setattr(reference, "MAX_TOTAL_BYTES", 11)
    reference.collect(run, tmp_path / "reference")
    assert json.loads((tmp_path / "reference/provenance.json").read_text())["left_out"] == {"study/figures/kl.svg": 6}
    monkeypatch.setattr(reference, "MAX_TOTAL_BYTES", 3)
    with pytest.raises(InputError, match=r"9 bytes are more than the 3 of a reference; the largest are claims\.csv 5"):
        reference.collect(run, tmp_path / "reference")


def test_a_reference_replaces_no_other_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="is there and is no reference"):
        reference.collect(run, tmp_path / "mine")
    (run / "claims.csv").unlink()
    with pytest.raises(InputError, match=r"has no claims\.csv"):
        reference.collect(run, tmp_path / "new")
