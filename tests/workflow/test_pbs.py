"""The profile for PBS, with commands that stand for the scheduler's: they keep what they are told and run the job."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from repository import Repository

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("snakemake_executor_plugin_cluster_generic") is None,
        reason="snakemake-executor-plugin-cluster-generic is not installed",
    ),
]
PROFILE = ("--workflow-profile", "profiles/pbs", "--seconds-between-status-checks", "1")
QSUB = """#!/bin/sh
for script; do :; done
echo "$@" >> submitted.txt
number=$(wc -l < submitted.txt)
{run} > "$number.out" 2>&1
echo $? > "$number.exit"
echo "$number.server"
"""
QSTAT = r"""#!/bin/sh
[ "$1 $2" = "-x -f" ] || exit 2
printf 'Job Id: %s\n    job_state = F\n    Exit_status = %s\n' "$3" "$(cat "${3%.server}.exit")"
"""


def scheduler(folder: Path, monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    folder.mkdir()
    for name, text in {"qsub": QSUB.replace("{run}", run), "qstat": QSTAT}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_job_is_submitted_with_what_it_needs_and_makes_its_result(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler(tmp_path / "bin", monkeypatch, 'sh "$script"')
    target = "results/smoke/density_estimators/data/dimension-2.safetensors"
    repository.snakemake(target, "--config", "scale=smoke", *PROFILE)
    assert (repository.path / target).stat().st_size > 0
    [submitted] = (repository.path / "submitted.txt").read_text().splitlines()
    assert " -l select=1:ncpus=1:mem=1000mb:ngpus=0 -l walltime=5:00 " in submitted


def test_a_job_that_the_scheduler_killed_is_retried_with_more_memory(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler(tmp_path / "bin", monkeypatch, "(exit 271)")
    target = "results/smoke/density_estimators/data/dimension-2.safetensors"
    repository.snakemake(target, "--config", "scale=smoke", *PROFILE, check=False)
    submitted = (repository.path / "submitted.txt").read_text()
    assert re.findall(r"mem=(\d+)mb", submitted) == ["1000", "2000", "4000"]


def test_a_plan_at_paper_scale_asks_for_gpus(repository: Repository) -> None:
    text = repository.snakemake("-n", "max_likelihood", "--config", "scale=paper", "datasets=[]", *PROFILE)
    assert re.search(r"rule max_likelihood_train:\n(?: {4}.*\n)*? {4}resources: .*\bgpu=1\b", text)
