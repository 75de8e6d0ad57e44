"""The workflow resolves at every scale, is clean, and refuses a wrong configuration before any job."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_density import config
from diffusion_density.figures.density_estimators import FIGURES
from repository import ROOT, Repository, figure_tables


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_every_scale_resolves(repository: Repository, scale: str) -> None:
    planned = repository.planned("--config", f"scale={scale}")
    runs = config.runs(config.Config(), config.read_scale(scale, ROOT / "workflow" / "scales"))
    expected = {f"{rule} {run}" for rule in ("train", "evaluate") for run in runs}
    expected |= {f"table {table}" for table in ("throws", "objectives", "samples", "dimensions")}
    expected |= {"dataset", "timing", "agreement", "all", *(f"figure_{figure}" for figure in FIGURES)}
    assert planned == expected


def test_a_figure_can_be_asked_for_alone(repository: Repository) -> None:
    target = "results/smoke/density_estimators/figures/timing.svg"
    planned = repository.planned(target, "--config", "scale=smoke")
    assert planned == {"dataset", "train throws-2", "timing", "figure_timing"}


def test_a_study_can_be_asked_for_alone(repository: Repository) -> None:
    assert "all" not in repository.planned("density_estimators", "--config", "scale=smoke")


def test_every_job_says_what_it_needs(repository: Repository) -> None:
    text = repository.snakemake("-n", "--config", "scale=paper", "--workflow-profile", "workflow/profiles/slurm")
    jobs = re.findall(r"rule (\w+):\n((?: {4}.*\n)*)", text)
    for rule, details in jobs:
        if rule not in {"all", "density_estimators"}:
            assert re.search(r"resources: .*\bmem_mb=\d+.*\bgpu=\d+.*\bruntime=\d+", details), rule
            assert "    log: logs/paper/" in details, rule
            assert "    benchmark: logs/paper/" in details, rule


def test_the_workflow_knows_every_figure() -> None:
    assert figure_tables().keys() == FIGURES.keys()


def test_every_figure_has_a_caption() -> None:
    captions = {path.stem for path in (ROOT / "workflow" / "report" / "density_estimators").glob("*.rst")}
    assert captions == FIGURES.keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sedes=1", "error: --config: sedes: unknown key"),
        ("scale=huge", "error: --config: scale: input should be 'smoke', 'desk' or 'paper' (got 'huge')"),
    ],
)
def test_a_wrong_override_is_one_line(repository: Repository, override: str, message: str) -> None:
    lines = repository.snakemake("--config", override, check=False).splitlines()
    assert [line for line in lines if not line.startswith(("Using ", "Config file "))] == [message]
    assert not (repository.path / "results").exists()


def test_a_wrong_size_is_one_line(repository: Repository) -> None:
    path = repository.path / "workflow" / "scales" / "desk.yaml"
    path.write_text(path.read_text().replace("throws_default: 10", "throws_default: -10"))
    lines = repository.snakemake(check=False).splitlines()
    assert lines[1:] == [
        "error: workflow/scales/desk.yaml: density_estimators.throws_default: input should be greater than 0 (got -10)"
    ]


def test_the_workflow_is_clean() -> None:
    for arguments in (["snakefmt", "--check", "workflow"], ["snakemake", "--lint"]):
        done = subprocess.run(
            [Path(sys.executable).with_name(arguments[0]), *arguments[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
