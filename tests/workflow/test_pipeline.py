"""The real pipeline at smoke scale: killed, resumed, quiet when done, and rerun only where something changed."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from diffusion_density.claims.comparison import columns_of
from diffusion_density.claims.definition import VERDICTS, read_claims
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.declaration import studies
from repository import Repository, copy, details

pytestmark = pytest.mark.slow
SMOKE = ("--cores", "2", "--config", "scale=smoke")
STUDY = "results/smoke/density_estimators"
IMAGES = "results/smoke/max_likelihood"
# The job of this table, and not the one before it, runs on a node whose clock lags.
LATE_TABLE = "results/smoke/max_likelihood/tables/coders/digits.csv"
WRITING = "        temporary.replace(path)\n"
LATE = '        if path.name.startswith("digits.csv"):\n            os.utime(path, (1e9, 1e9))\n'
Finished = tuple[Repository, dict[str, int]]


def results(repository: Repository, study: str = STUDY) -> dict[str, Path]:
    """The results of a study by name, without provenance, and without what a killed job was just writing."""
    files = (repository.path / study).rglob("*")
    return {
        path.relative_to(repository.path / study).as_posix(): path
        for path in files
        if path.is_file() and not path.name.endswith(".provenance.json") and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A repository whose run was killed outright when the first networks were trained, and then resumed."""
    repository = copy(tmp_path_factory.mktemp("pipeline") / "repository")
    writer = repository.path / "src/diffusion_density/machine/artifacts.py"
    text = writer.read_text()
    assert text.count(WRITING) == 1
    writer.write_text(text.replace(WRITING, f"{WRITING}{LATE}"))
    run = subprocess.Popen(
        repository.command("density_estimators", *SMOKE),
        cwd=repository.path,
        env=repository.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    models = repository.path / STUDY / "models"
    deadline = time.monotonic() + 120
    while not list(models.glob("[!.]*.safetensors")):
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no network was trained"
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    survivors = {name: path.stat().st_mtime_ns for name, path in results(repository).items()}

    repository.snakemake("--unlock")
    repository.snakemake(*SMOKE)
    return repository, survivors


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """The file with its first ``old`` replaced, put back afterwards."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(text)


def test_a_killed_run_resumes(finished: Finished) -> None:
    repository, survivors = finished
    after = results(repository)
    whole = {name for name in survivors if name in after and after[name].stat().st_mtime_ns == survivors[name]}
    assert any(name.startswith("data/") for name in whole), "nothing was kept"
    assert not [path for path in repository.path.joinpath("results").rglob(".*.tmp*") if path.suffix == ".csv"]


@pytest.mark.parametrize("study", studies())
def test_everything_is_there(finished: Finished, study: str) -> None:
    repository, _ = finished
    found = results(repository, f"results/smoke/{study}")
    declared = studies()[study]
    assert {f"tables/{table}.csv" for table in declared.tables} <= found.keys()
    assert {f"figures/{name}.{kind}" for name in declared.figures for kind in ("svg", "png")} <= found.keys()
    for name, path in found.items():
        assert path.stat().st_size > 0, name
        record = json.loads(path.with_name(path.name + ".provenance.json").read_text())
        assert record["result"] == path.name
        if path.suffix == ".csv":
            assert set(pd.read_csv(path, nrows=0)) <= columns_of(study).keys(), f"{name} has an undeclared column"
    for table in declared.tables:
        assert len(pd.read_csv(found[f"tables/{table}.csv"])) > 0, table


@pytest.mark.parametrize(
    ("study", "figure", "tables"),
    [(name, figure, tables) for name, study in studies().items() for figure, tables in study.figures.items()],
)
def test_a_figure_reads_the_tables_that_it_declares_and_no_others(
    finished: Finished, tmp_path: Path, study: str, figure: str, tables: tuple[str, ...]
) -> None:
    repository, _ = finished
    folder = tmp_path / "tables"
    folder.mkdir()
    pictures = repository.path / "results/smoke" / study / "samples"
    if pictures.exists():
        shutil.copytree(pictures, tmp_path / "samples")
    for table in tables:
        shutil.copy(repository.path / "results/smoke" / study / f"tables/{table}.csv", folder)
    draw = import_module(f"diffusion_density.studies.{study}.figures").FIGURES[figure]
    draw(folder)
    for table in tables:
        hidden = (folder / f"{table}.csv").rename(tmp_path / "hidden")
        with pytest.raises(InputError, match=rf"{table}\.csv: cannot be read"):
            draw(folder)
        hidden.rename(folder / f"{table}.csv")


def test_every_claim_has_a_verdict(finished: Finished) -> None:
    """At this scale only what needs no run of size is judged; the rest says what would test it."""
    repository, _ = finished
    claims = read_claims(repository.path / "workflow/claims.yaml")
    table = pd.read_csv(repository.path / "results/smoke/claims.csv").set_index("id")
    assert list(table.index) == [claim.id for claim in claims.claims]
    assert set(table.verdict) <= set(VERDICTS)
    assert table.reason.str.len().gt(0).all()
    judged = {claim.id for claim in claims.claims if "smoke" in claim.scales}
    assert judged == set(table.index[table.verdict != "not tested at this scale"])
    gaps = pd.read_csv(repository.path / IMAGES / "tables/gaps.csv")
    tight = gaps[(gaps.dequantization == "truncated_normal") & ~gaps.late_start]
    assert table.measured["D11"] == max(tight.gap_bits_per_dim)
    page = (repository.path / "results/smoke/claims.html").read_text()
    assert all(f'id="{name}"' in page for name in table.index)


def test_logs_and_benchmarks_are_there(finished: Finished) -> None:
    repository, _ = finished
    logs = repository.path / "logs/smoke"
    assert {path.stem for path in logs.rglob("*.log")} == {path.stem for path in logs.rglob("*.tsv")}
    assert "objectives-all" in (logs / "density_estimators/train/objectives-all.log").read_text(), "no progress"
    assert "step/s" in (logs / "max_likelihood/train/main-photos32.log").read_text(), "no progress"


RUNS = ("objectives-all", "throws-2", "throws-4-entropy", "throws-4-score", "samples-32", "dimensions-3")
TABLES = {f"table {name}" for name in ("throws", "objectives", "samples", "dimensions")}


@contextmanager
def changed(repository: Repository, *files: str) -> Iterator[None]:
    """Source files with a new comment, put back afterwards."""
    with ExitStack() as stack:
        for file in files:
            path = repository.path / "src/diffusion_density" / file
            stack.enter_context(edited(path, "\n", "\n# edited\n"))
        yield


def test_editing_an_estimator_reruns_what_uses_it(finished: Finished) -> None:
    repository, _ = finished
    with changed(repository, "density/path_integral/plain.py"):
        planned = repository.planned(*SMOKE)
    compared = {job for job in planned if job.startswith("comparison_")}
    assert compared >= {f"comparison_{job}" for job in ("estimators", "variance", "conditional", "trained", "findings")}
    expected = {f"evaluate {run}" for run in RUNS} | TABLES | {"figures", "timing", "agreement", "everything"}
    assert planned - compared == expected


def test_editing_figures_or_one_experiment_reruns_these_alone(finished: Finished) -> None:
    repository, _ = finished
    with changed(repository, "studies/high_density/figures.py", "studies/density_formula/experiments/toy.py"):
        planned = repository.planned(*SMOKE)
    assert planned == {"high_density_figures", "density_formula_toy", "density_formula_figures", "everything"}


def test_editing_another_study_reruns_nothing(finished: Finished) -> None:
    repository, _ = finished
    with changed(repository, "data/images.py", "commands/cli.py"):
        planned = repository.planned(*SMOKE)
    with_images = ("comparison_", "density_formula_", "high_density_", "max_likelihood_")
    assert not {job for job in planned if not job.startswith(with_images)} - {"everything"}
    assert not {"comparison_estimators", "comparison_variance", "comparison_conditional"} & planned


def test_editing_the_bound_trains_no_image_network(finished: Finished) -> None:
    repository, _ = finished
    with changed(repository, "density/images/bound.py"):
        planned = repository.planned(*SMOKE)
    evaluated = ("main-photos32", "ablation-velocity-vp-importance", *(f"finetuning-{w}" for w in ("0", "0.1", "1")))
    expected = {"curves", "findings", "table_curves", "table_likelihood", *(f"likelihood {run}" for run in evaluated)}
    scored = {job for job in planned if job.startswith("high_density_")}
    assert scored >= {"high_density_images main-photos32", "high_density_images_table", "high_density_findings"}
    compared = {job for job in planned if job.startswith("comparison_")}
    assert "comparison_images ablation-velocity-vp-importance" in compared
    rest = {f"max_likelihood_{job}" for job in expected | {"figures"}} | {"everything"}
    assert planned - scored - compared == rest


def test_a_coder_reruns_the_coding_and_claims_follow_the_tables(finished: Finished) -> None:
    repository, _ = finished
    with changed(repository, "data/coders.py", "studies/max_likelihood/experiments/gaps.py"):
        planned = {rule for rule, _ in details(repository.snakemake("-n", *SMOKE))}
    assert {"max_likelihood_lossless", "max_likelihood_gaps", "claims_judge", "claims_page"} <= planned
    assert not {"max_likelihood_train", "max_likelihood_likelihood"} & planned


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        (
            {
                "objectives: {checkpoints: [1, 2]}": "objectives: {checkpoints: [1, 3]}",
                "agreement: {points: 8": "agreement: {points: 9",
            },
            {"train objectives-all", "evaluate objectives-all", "table objectives", "agreement"},
        ),
        (
            {"score_error_throws: 4": "score_error_throws: 5"},
            {f"evaluate {run}" for run in RUNS} | TABLES,
        ),
    ],
)
def test_a_changed_size_reruns_only_its_experiment(finished: Finished, changes: dict[str, str], jobs: set[str]) -> None:
    repository, _ = finished
    with ExitStack() as stack:
        for old, new in changes.items():
            stack.enter_context(edited(repository.path / "workflow/scales/smoke.yaml", old, new))
        assert repository.planned(*SMOKE) == jobs | {"figures", "everything"}


def test_another_run_has_nothing_to_do_with_other_cores_and_after_a_clock_that_lags(finished: Finished) -> None:
    """Results that are older than what they were made of are not made again for that."""
    repository, _ = finished
    beside = repository.path / f"{LATE_TABLE}.provenance.json"
    assert beside.stat().st_mtime == 1e9, "the clock of the job did not lag"
    assert "Nothing to be done" in repository.snakemake("--cores", "1", "--config", "scale=smoke")


def test_tables_and_figures_come_back_byte_for_byte(finished: Finished) -> None:
    repository, _ = finished
    names = ("models/throws-4-score.safetensors", "tables/throws.csv", "tables/identity.csv", "figures/kl_throws.svg")
    before = {name: (repository.path / STUDY / name).read_bytes() for name in names}
    for name in (*names, "tables/runs/throws-4-score.csv"):
        (repository.path / STUDY / name).unlink()
    repository.snakemake(*(f"{STUDY}/{name}" for name in names), *SMOKE)
    for name, content in before.items():
        assert (repository.path / STUDY / name).read_bytes() == content, name


def test_a_report_is_made(finished: Finished) -> None:
    repository, _ = finished
    repository.snakemake("--report", "results/smoke/report.html", "--config", "scale=smoke")
    page = (repository.path / "results/smoke/report.html").read_text()
    for name in [name for study in studies().values() for name in study.figures]:
        assert f"{name}.svg" in page
    assert "claims_brief.html" in page
    shown = repository.path / "results/smoke/claims_brief.html"
    assert shown.stat().st_size < 1_500_000, "browsers show no page above 2 MiB, base64 included, inside of another"
    assert "datasets.csv" in page, "the report has no table of the image sets, present and absent"
    assert "cifar-10-binary.tar.gz" in (repository.path / IMAGES / "tables/datasets.csv").read_text()
    assert "WorkflowError" not in page


def test_a_damaged_file_is_named_by_the_job_that_reads_it(finished: Finished) -> None:
    repository, _ = finished
    models = repository.path / STUDY / "models/throws-2.safetensors"
    backup = shutil.move(models, models.with_suffix(".backup"))
    models.write_bytes(backup.read_bytes()[:100])
    target = f"{STUDY}/tables/agreement.csv"
    text = repository.snakemake(target, *SMOKE, "--rerun-triggers", "input", check=False)
    shutil.move(backup, models)
    assert "error: results/smoke/density_estimators/models/throws-2.safetensors: is truncated" in text
    assert "Traceback" not in text
