"""The workflow resolves at every scale, is clean, and refuses a wrong configuration before any job."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_density.commands import config
from diffusion_density.studies.comparison.figures import FIGURES as COMPARISON_FIGURES
from diffusion_density.studies.comparison.sizes import EXPERIMENTS as COMPARISON_EXPERIMENTS
from diffusion_density.studies.density_estimators.figures import FIGURES
from diffusion_density.studies.density_formula.figures import FIGURES as FORMULA_FIGURES
from diffusion_density.studies.density_formula.sizes import EXPERIMENTS
from diffusion_density.studies.high_density.figures import FIGURES as HIGH_FIGURES
from diffusion_density.studies.high_density.sizes import EXPERIMENTS as HIGH_EXPERIMENTS
from diffusion_density.studies.max_likelihood.costs import cost
from diffusion_density.studies.max_likelihood.figures import FIGURES as IMAGE_FIGURES
from repository import ROOT, Repository, figure_tables

STUDIES = {
    "comparison": COMPARISON_FIGURES,
    "density_estimators": FIGURES,
    "density_formula": FORMULA_FIGURES,
    "high_density": HIGH_FIGURES,
    "max_likelihood": IMAGE_FIGURES,
}

TABLES = {
    "max_likelihood": {"datasets", "findings"},
    "high_density": {"image_findings"},
    "comparison": {"decision"},
}  # in the report
GPU_RULES = {"comparison_pictures", "high_density_images"} | {
    f"max_likelihood_{job}" for job in ("train", "curves", "likelihood", "samples", "variance", "trace")
}


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_every_scale_resolves(repository: Repository, scale: str) -> None:
    planned = repository.planned("--config", f"scale={scale}")
    runs = config.read_scale(scale, ROOT / "workflow" / "scales").density_estimators.runs(config.Config().seeds)
    expected = {f"{rule} {run}" for rule in ("train", "evaluate") for run in runs}
    expected |= {f"table {table}" for table in ("throws", "objectives", "samples", "dimensions")}
    expected |= {"dataset", "timing", "agreement", "all", *(f"figure_{figure}" for figure in FIGURES)}
    others = ("comparison", "density_formula", "high_density", "max_likelihood")
    assert {job for job in planned if not job.startswith(others)} == expected


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_every_scale_resolves_for_papers_b_and_c(repository: Repository, scale: str) -> None:
    jobs = {*EXPERIMENTS, *(f"figure_{figure}" for figure in FORMULA_FIGURES), "train", "measure"}
    planned = repository.planned("density_formula", "--config", f"scale={scale}")
    assert planned == {f"density_formula_{job}" for job in jobs} | {"density_formula"}
    planned = repository.planned("high_density", "--config", f"scale={scale}", "datasets=[]")
    jobs = {*HIGH_EXPERIMENTS, *(f"figure_{figure}" for figure in HIGH_FIGURES), "images_table", "findings"}
    run = config.read_scale(scale, ROOT / "workflow" / "scales").max_likelihood.reference
    expected = {f"high_density_{job}" for job in jobs} | {"high_density", f"high_density_images {run}"}
    assert planned == expected | {"max_likelihood_dataset", f"max_likelihood_train {run}"}


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_every_scale_resolves_for_the_comparison(repository: Repository, scale: str) -> None:
    planned = repository.planned("comparison", "--config", f"scale={scale}", "datasets=[]")
    jobs = {*COMPARISON_EXPERIMENTS, *(f"figure_{figure}" for figure in COMPARISON_FIGURES), "trained", "findings"}
    sizes = config.read_scale(scale, ROOT / "workflow" / "scales")
    run, throws = sizes.max_likelihood.reference, f"throws-{sizes.density_estimators.throws_default}"
    expected = {f"comparison_{job}" for job in {*jobs, "estimators_table", f"pictures {run}"}} | {"comparison"}
    assert planned == expected | {"dataset", f"train {throws}", "max_likelihood_dataset", f"max_likelihood_train {run}"}


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_every_scale_resolves_on_images(repository: Repository, scale: str) -> None:
    planned = repository.planned("max_likelihood", "--config", f"scale={scale}", "datasets=[photos32, cifar10]")
    study = config.read_scale(scale, ROOT / "workflow" / "scales").max_likelihood
    runs = study.runs((0, 1, 2), {"photos32": "photos32"})  # cifar10 is absent here
    evaluated = study.evaluations(runs)
    expected = {f"train {run}" for run in runs} | {f"likelihood {run}" for run in evaluated}
    expected |= {f"samples {run}" for run in evaluated if not run.startswith("finetuning-")}
    expected |= {f"table_{table}" for table in ("curves", "likelihood", "samples", "coders")}
    expected |= {"dataset", "lossless", "datasets", "curves", "variance", "trace", "gaps", "findings"}
    expected |= {f"figure_{figure}" for figure in IMAGE_FIGURES}
    assert planned == {f"max_likelihood_{job}" for job in expected} | {"max_likelihood"}


def test_an_absent_image_set_is_named_and_left_out(repository: Repository) -> None:
    text = repository.snakemake("-n", "max_likelihood", "--config", "scale=smoke", "datasets=[cifar10]")
    assert "image set cifar10 is absent and left out: get cifar-10-binary.tar.gz" in text
    assert "main-cifar10" not in text


def test_training_at_paper_scale_asks_for_the_gpus_of_the_configuration(repository: Repository) -> None:
    text = repository.snakemake(
        "-n", "max_likelihood", "--config", "scale=paper", "datasets=[photos32]", "devices=4", "--resources", "gpu=8"
    )
    jobs = re.findall(r"rule max_likelihood_train:\n((?: {4}.*\n)*)", text)
    gpus = {re.search(r"run=([\w.-]+)", job)[1]: int(re.search(r"gpu=(\d+)", job)[1]) for job in jobs}
    assert gpus["main-photos32"] == gpus["tuned-photos32"] == 4
    assert set(gpus.values()) == {1, 4}
    assert "--gpus 4" in text


def test_a_figure_can_be_asked_for_alone(repository: Repository) -> None:
    target = "results/smoke/density_estimators/figures/timing.svg"
    planned = repository.planned(target, "--config", "scale=smoke")
    assert planned == {"dataset", "train throws-2", "timing", "figure_timing"}
    target = "results/smoke/max_likelihood/figures/samples.svg"
    planned = repository.planned(target, "--config", "scale=smoke", "datasets=[]")
    jobs = {"dataset", "train ablation-velocity-vp-importance", "samples ablation-velocity-vp-importance"}
    assert planned == {f"max_likelihood_{job}" for job in jobs | {"table_samples", "figure_samples"}}


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_the_claims_have_their_tables_and_figures_at_every_scale(repository: Repository, scale: str) -> None:
    """A claim on a table or figure that no rule makes would fail here."""
    text = repository.snakemake("-n", "claims", "--config", f"scale={scale}", "datasets=[]")
    assert {"claims", "claims_judge", "claims_page"} <= set(re.findall(r"rule (\w+):\n", text))


def test_wrong_claims_are_one_line(repository: Repository) -> None:
    path = repository.path / "workflow" / "claims.yaml"
    path.write_text(path.read_text().replace("paper: A", "papers: A", 1))
    lines = repository.snakemake("-n", check=False).splitlines()
    found = [line for line in lines if line.startswith("error: ")]
    assert found == ["error: workflow/claims.yaml: claims.0.paper: is missing; claims.0.papers: unknown key"]


def test_a_study_can_be_asked_for_alone(repository: Repository) -> None:
    assert "all" not in repository.planned("density_estimators", "--config", "scale=smoke")


def test_every_job_says_what_it_needs(repository: Repository) -> None:
    text = repository.snakemake("-n", "--config", "scale=paper", "--workflow-profile", "profiles/slurm")
    jobs = re.findall(r"rule (\w+):\n((?: {4}.*\n)*)", text)
    for rule, details in jobs:
        if rule not in {"all", "claims", *STUDIES}:
            for resource in ("mem_mb", "gpu", "runtime"):
                assert re.search(rf"    resources: .*\b{resource}=\d+", details), (rule, resource)
            assert "    log: logs/paper/" in details, rule
            assert "    benchmark: logs/paper/" in details, rule


def test_a_plan_says_the_gpus_of_each_job_and_the_gpu_hours_of_each_study(repository: Repository) -> None:
    options = ("--config", "scale=paper", "datasets=[photos32]", "devices=4", "gpu_model=h100")
    text = repository.snakemake("-n", *options, "--workflow-profile", "profiles/slurm")
    limits: dict[str, list[float]] = {}
    for rule, details in re.findall(r"rule (\w+):\n((?: {4}.*\n)*)", text):
        found = re.search(r"\bgpu=([1-9]\d*), gpu_model=h100,.*\bruntime=(\d+)", details)
        assert bool(found) == (rule in GPU_RULES), rule
        if found:
            study = next(name for name in STUDIES if rule.startswith(name))
            limits.setdefault(study, []).append(int(found[1]) * int(found[2]) / 60)
    table = dict(re.findall(r"^(\w+|all studies) +(\d+ +[\d,.]+ +[\d,.]+)$", text, re.MULTILINE))
    numbers = {study: [float(number.replace(",", "")) for number in row.split()] for study, row in table.items()}
    totals = numbers.pop("all studies")
    assert numbers.keys() == limits.keys() == {"comparison", "high_density", "max_likelihood"}
    for study, (jobs, estimated, limit) in numbers.items():
        assert jobs == len(limits[study])
        assert limit == pytest.approx(sum(limits[study]), abs=0.06)
        assert 0 < estimated <= limit
    assert totals == pytest.approx([sum(column) for column in zip(*numbers.values(), strict=True)], abs=0.2)

    sizes = config.read_scale("paper", ROOT / "workflow" / "scales").max_likelihood
    runs = sizes.runs((0, 1, 2), {"photos32": "photos32"}).values()
    counted = sum(cost(run, Path("data")).gpu_hours for run in runs)
    others = [
        int(re.search(r"runtime=(\d+)", details)[1]) / 60
        for rule, details in re.findall(r"rule (max_likelihood_\w+):\n((?: {4}.*\n)*)", text)
        if rule in GPU_RULES - {"max_likelihood_train"}
    ]
    assert numbers["max_likelihood"][1] == pytest.approx(counted + sum(others), abs=0.06)


def test_without_gpus_a_plan_asks_for_none_and_says_so(repository: Repository) -> None:
    text = repository.snakemake("-n", "high_density", "--config", "scale=paper", "datasets=[]", "--resources", "gpu=0")
    assert "the planned jobs ask for no GPU" in text
    assert "--gpus 1" not in text
    assert "--gpus 0" in text


def test_the_workflow_knows_every_figure() -> None:
    for study, figures in STUDIES.items():
        assert figure_tables(study).keys() == figures.keys()


def test_every_figure_has_a_caption() -> None:
    for study, figures in STUDIES.items():
        captions = {path.stem for path in (ROOT / "workflow" / "report" / study).glob("*.rst")}
        assert captions == figures.keys() | TABLES.get(study, set())


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
