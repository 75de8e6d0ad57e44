"""The workflow resolves at every scale and from everywhere, is clean, and refuses a wrong configuration at once."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import fake_conda
from diffusion_density.commands import config
from diffusion_density.studies.declaration import caption, studies
from diffusion_density.studies.max_likelihood.plan import Plan
from repository import ROOT, Repository, copy, details, jobs_of

SCALES = ("smoke", "desk", "paper")
# At paper scale with several GPUs of one model; cifar10 is absent here.
OPTIONS = {"paper": ("devices=4", "gpu_model=h100", "--resources", "gpu=8", "--workflow-profile", "profiles/slurm")}
GPU_RULES = {"comparison_images", "high_density_images"} | {
    f"max_likelihood_{job}" for job in ("train", "curves", "likelihood", "samples", "variance", "trace")
}
REPORTED = {"max_likelihood": {"datasets", "findings"}, "high_density": {"image_findings"}, "comparison": {"decision"}}
WITHOUT_CODE = {"all", "everything", "claims", *studies()}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A copy that no test changes."""
    return copy(tmp_path_factory.mktemp("definition") / "repository")


@cache
def plan(repository: Repository, scale: str) -> str:
    """The dry run of everything."""
    return repository.snakemake("-n", "--config", f"scale={scale}", *OPTIONS.get(scale, ()))


def sizes(scale: str) -> object:
    return config.read_scale(scale, ROOT / "workflow" / "scales")


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_resolves(untouched: Repository, scale: str) -> None:
    """The jobs are those of the runs that the sizes imply, and no others."""
    chosen, values = sizes(scale), config.Config()
    runs = chosen.density_estimators.runs(values.seeds)
    expected = {f"{rule} {run}" for rule in ("train", "evaluate") for run in runs}
    expected |= {f"table {table}" for table in ("throws", "objectives", "samples", "dimensions")}
    expected |= {"dataset", "timing", "agreement", "figures", "everything"}

    formula = {"exactness", "discretisation", "score_error", "toy", "classifier", "gan", "train_planar", "train_digits"}
    formula |= {"weightings", "digit_estimates", "digit_classes", "figures"}
    expected |= {f"density_formula_{job}" for job in formula}

    plan_of = Plan(chosen.max_likelihood, values.seeds, ("photos32",), Path("data"))
    images = {f"train {run}" for run in plan_of.runs} | {f"likelihood {run}" for run in plan_of.evaluations}
    images |= {f"samples {run}" for run in plan_of.sampled}
    images |= {f"table_{table}" for table in ("curves", "likelihood", "samples", "coders")}
    images |= {"dataset", "lossless", "datasets", "curves", "variance", "trace", "gaps", "findings", "figures"}
    expected |= {f"max_likelihood_{job}" for job in images}

    reference = plan_of.sizes.reference
    high = {"tracking", "bias", "modes", "guidance", "cost", "images_table", "findings", "figures"}
    high |= {f"images {run}" for run in (reference, "main-photos32")}
    expected |= {f"high_density_{job}" for job in high}

    compared = {"estimators", "variance", "conditional", "trained", "estimators_table", "findings", "figures"}
    compared |= {f"images {run}" for run in ([reference, "main-photos32"] if scale == "paper" else [reference])}
    expected |= {f"comparison_{job}" for job in compared}
    assert jobs_of(plan(untouched, scale)) == expected | {"claims_judge", "claims_page"}


def test_an_absent_image_set_is_named_and_left_out(untouched: Repository) -> None:
    text = plan(untouched, "smoke")
    assert "image set cifar10 is absent and left out: get cifar-10-binary.tar.gz" in text
    assert "main-cifar10" not in text


def test_every_job_has_its_resources_a_log_and_a_benchmark(untouched: Repository) -> None:
    for rule, lines in details(plan(untouched, "paper")):
        if rule not in WITHOUT_CODE:
            for resource in ("mem_mb", "gpu", "runtime"):
                assert re.search(rf"    resources: .*\b{resource}=\d+", lines), (rule, resource)
            assert "    log: logs/paper/" in lines, rule
            assert "    benchmark: logs/paper/" in lines, rule


def test_training_at_paper_scale_asks_for_the_gpus_of_the_configuration(untouched: Repository) -> None:
    text = plan(untouched, "paper")
    jobs = [lines for rule, lines in details(text) if rule == "max_likelihood_train"]
    gpus = {re.search(r"run=([\w.-]+)", job)[1]: int(re.search(r"gpu=(\d+)", job)[1]) for job in jobs}
    assert gpus["main-photos32"] == gpus["tuned-photos32"] == 4
    assert set(gpus.values()) == {1, 4}
    assert "--gpus 4" in text


def test_a_plan_says_the_gpus_of_each_job_and_the_gpu_hours_of_each_study(untouched: Repository) -> None:
    text = plan(untouched, "paper")
    limits: dict[str, list[float]] = {}
    for rule, lines in details(text):
        gpus = int(found[1]) if (found := re.search(r"\bgpu=(\d+)", lines)) else 0
        assert bool(gpus) == ("gpu_model=h100" in lines) == (rule in GPU_RULES), rule
        if gpus:
            study = next(name for name in studies() if rule.startswith(name))
            minutes = int(re.search(r"\bruntime=(\d+)", lines)[1])
            limits.setdefault(study, []).append(gpus * minutes / 60)
    table = dict(re.findall(r"^(\w+|all studies) +(\d+ +[\d,.]+ +[\d,.]+)$", text, re.MULTILINE))
    numbers = {study: [float(number.replace(",", "")) for number in row.split()] for study, row in table.items()}
    totals = numbers.pop("all studies")
    assert numbers.keys() == limits.keys() == {"comparison", "high_density", "max_likelihood"}
    for study, (jobs, estimated, limit) in numbers.items():
        assert jobs == len(limits[study])
        assert limit == pytest.approx(sum(limits[study]), abs=0.06)
        assert 0 < estimated <= limit
    assert totals == pytest.approx([sum(column) for column in zip(*numbers.values(), strict=True)], abs=0.2)

    plan_of = Plan(sizes("paper").max_likelihood, (0, 1, 2), ("photos32",), Path("data"))
    counted = sum(map(plan_of.gpu_hours, plan_of.runs))
    others = [
        int(re.search(r"runtime=(\d+)", lines)[1]) / 60
        for rule, lines in details(text)
        if rule in GPU_RULES - {"max_likelihood_train"} and rule.startswith("max_likelihood")
    ]
    assert numbers["max_likelihood"][1] == pytest.approx(counted + sum(others), abs=0.06)


def test_a_study_can_be_asked_for_alone_and_needs_no_gpu(untouched: Repository) -> None:
    options = ("--config", "scale=paper", "datasets=[]", "--resources", "gpu=0", "--printshellcmds")
    text = untouched.snakemake("-n", "high_density", *options)
    reference = sizes("paper").max_likelihood.reference
    jobs = {"tracking", "bias", "modes", "guidance", "cost", f"images {reference}", "images_table", "findings"}
    needed = {"max_likelihood_dataset", f"max_likelihood_train {reference}"}
    assert jobs_of(text) == {f"high_density_{job}" for job in jobs | {"figures"}} | needed | {"high_density"}
    assert "the planned jobs ask for no GPU" in text
    assert "--gpus 1" not in text
    assert "--gpus 0" in text


def test_it_is_a_module_of_a_workflow_elsewhere_and_runs_from_its_own_snakefile(
    untouched: Repository, tmp_path: Path
) -> None:
    """The same jobs from the Snakefile at the top, from that of the workflow, and from another folder."""
    assert "profiles/default" in plan(untouched, "smoke"), "the default profile is not used"
    expected = jobs_of(plan(untouched, "smoke")) - {"everything"} | {"all"}
    text = untouched.snakemake("-s", "workflow/Snakefile", "-n", "--config", "scale=smoke")
    assert "profiles/default" in text
    assert jobs_of(text) == expected
    (tmp_path / "Snakefile").write_text(
        "module diffusion_density:\n"
        f'    snakefile: "{untouched.path}/workflow/Snakefile"\n'
        '    config: {"scale": "smoke", "datasets": ["photos32", "cifar10"]}\n'
        "use rule * from diffusion_density\n"
    )
    elsewhere = Repository(tmp_path, untouched.path / "src")
    assert jobs_of(elsewhere.snakemake("-n", "--cores", "1")) == expected


def test_every_rule_that_runs_code_has_an_environment(
    untouched: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no conda here: a program answers in its place. Snakemake's linter looks at every rule, see below."""
    monkeypatch.setenv("PATH", str(fake_conda.install(tmp_path / "conda")), prepend=os.pathsep)
    text = untouched.snakemake("-n", "--software-deployment-method", "conda", "--config", "scale=smoke")
    assert "Conda environment envs/environment.yaml will be created." in text
    assert jobs_of(text) == jobs_of(plan(untouched, "smoke"))


def test_wrong_claims_are_one_line(repository: Repository) -> None:
    path = repository.path / "workflow" / "claims.yaml"
    path.write_text(path.read_text().replace("paper: A", "papers: A", 1))
    lines = repository.snakemake("-n", check=False).splitlines()
    found = [line for line in lines if line.startswith("error: ")]
    assert found == ["error: workflow/claims.yaml: claims.0.paper: is missing; claims.0.papers: unknown key"]


def test_every_figure_is_drawn_and_has_a_caption() -> None:
    from importlib import import_module

    for slug, study in studies().items():
        drawings = import_module(f"diffusion_density.studies.{slug}.figures").FIGURES
        assert drawings.keys() == study.figures.keys()
        captions = {path.stem for path in caption(slug, "any").parent.glob("*.rst")}
        assert captions == study.figures.keys() | REPORTED.get(slug, set())


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
    for arguments in (["snakefmt", "--check", "workflow", "Snakefile"], ["snakemake", "--lint"]):
        done = subprocess.run(
            [Path(sys.executable).with_name(arguments[0]), *arguments[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
