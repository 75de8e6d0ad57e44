"""Jobs of the smoke pipeline on a real SLURM of this machine, through the profile, with two pretended GPUs.

Networks of digits are trained on a GPU each. A network of photographs is trained by two processes on two GPUs, and its
job is cancelled once it has written a checkpoint. What SLURM says is looked at all the while. Then two nodes train
together.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import slurm
from diffusion_density.commands import config
from diffusion_density.machine import artifacts
from diffusion_density.studies.max_likelihood.plan import Plan
from repository import Repository, copy

pytestmark = pytest.mark.slow
RESULTS = "results/smoke/max_likelihood"
# Three, so that two run side by side wherever in the queue the job stands that needs both GPUs.
SINGLE = tuple(f"ablation-velocity-{arm}" for arm in ("vp-importance", "vp-uniform", "straight-uniform"))
PAIR = "main-photos32"
STEPS = 150  # of the network of photographs: some seconds
GROUPED = [f"results/smoke/density_estimators/data/dimension-{dimension}.safetensors" for dimension in (2, 3)]
TARGETS = [*GROUPED, *(f"{RESULTS}/models/{run}.safetensors" for run in (*SINGLE, PAIR))]
CONFIG = ("--config", "scale=smoke", "datasets=[photos32]", "devices=2", "precision=float32")
OPTIONS = [
    *("--workflow-profile", "profiles/slurm", *CONFIG),
    *("--set-resources", f"max_likelihood_train:gpu=2 if wildcards.run == '{PAIR}' else 1"),
    f"max_likelihood_train:gpu_model='{slurm.GPU_MODEL}'",
    # There is no accounting here to ask, as on a real cluster, and nobody to spare.
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "8", "--latency-wait", "5"),
]


@dataclass(frozen=True)
class Finished:
    """A finished run, and what SLURM said of its jobs time after time."""

    repository: Repository
    output: str
    seen: list[list[slurm.Job]]
    cancelled: str

    def trained(self, run: str) -> list[slurm.Job]:
        """The jobs that trained a run, as last seen running, in order."""
        running = {job.number: job for jobs in self.seen for job in jobs if job.state == "RUNNING"}
        return [job for job in running.values() if job.comment.endswith(run)]

    def provenance(self, result: str) -> dict[str, Any]:
        path = self.repository.path / f"{result}.provenance.json"
        record: dict[str, Any] = json.loads(path.read_text())
        return record


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    repository = copy(tmp_path_factory.mktemp("cluster") / "repository")
    sizes = repository.path / "workflow/scales/smoke.yaml"
    sizes.write_text(sizes.read_text().replace("snapshots: [4]", f"snapshots: [{STEPS}]", 1))
    try:
        slurm.install()
        # Made here, because the executor looks at its jobs ever more seldom: each level of jobs costs much time.
        repository.snakemake(*(f"{RESULTS}/data/{name}.json" for name in ("digits", "photos32")), *CONFIG)
        with slurm.running(tmp_path_factory.mktemp("slurm")):
            yield _run(repository)
    except slurm.UnavailableError as reason:
        if os.environ.get("REQUIRE_SLURM"):
            raise
        pytest.skip(str(reason))


def _run(repository: Repository) -> Finished:
    seen: list[list[slurm.Job]] = []
    cancelled = ""
    log = repository.path / "snakemake.log"
    with log.open("w") as output:
        run = subprocess.Popen(
            repository.command(*TARGETS, *OPTIONS),
            cwd=repository.path,
            env=repository.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 600
        try:
            while run.poll() is None:
                assert time.monotonic() < deadline, log.read_text()[-5000:]
                seen.append(slurm.jobs())
                if not cancelled and list(repository.path.glob(f"{RESULTS}/checkpoints/{PAIR}-*/seed-*/*.safetensors")):
                    [cancelled] = [j.number for j in seen[-1] if j.state == "RUNNING" and j.comment.endswith(PAIR)]
                    subprocess.run(["scancel", cancelled], check=True)
                time.sleep(0.3)
        finally:
            run.terminate()
            run.wait()
    seen.append(slurm.jobs())
    text = log.read_text()
    assert run.returncode == 0, text[-5000:]
    return Finished(repository, text, seen, cancelled)


def test_jobs_with_gpus_are_in_the_gpu_partition_and_others_are_not(finished: Finished) -> None:
    partitions = {(job.comment.split("_wildcards_")[0], job.partition) for job in finished.seen[-1]}
    assert {partition for rule, partition in partitions if rule == "rule_max_likelihood_train"} == {"gpu"}
    assert {partition for rule, partition in partitions if rule != "rule_max_likelihood_train"} == {"cpu"}


def test_jobs_side_by_side_have_different_gpus(finished: Finished) -> None:
    beside = [
        [job.gpus for job in jobs if job.state == "RUNNING" and job.comment.endswith(SINGLE)] for jobs in finished.seen
    ]
    pairs = [gpus for gpus in beside if len(gpus) == 2]
    assert pairs, "never ran at once"
    assert all(first.isdisjoint(second) and len(first) == len(second) == 1 for first, second in pairs)
    assert all(sum(len(job.gpus) for job in jobs if job.state == "RUNNING") <= 2 for jobs in finished.seen)


def test_every_result_names_its_job_and_its_gpus(finished: Finished) -> None:
    for run in (*SINGLE, PAIR):
        job, record = finished.trained(run)[-1], finished.provenance(f"{RESULTS}/models/{run}.safetensors")
        assert record["slurm_job_id"] == job.number, run
        assert set(record["visible_gpus"].split(",")) == job.gpus, run
        assert record["device"] == "cpu", "the GPUs are pretended"
    [grouped] = [job.number for job in finished.seen[-1] if job.partition == "cpu"]
    assert [finished.provenance(result)["slurm_job_id"] for result in GROUPED] == [grouped] * 2, "one job of small ones"


def test_two_processes_train_on_two_gpus_and_say_that_these_are_none(finished: Finished) -> None:
    assert finished.trained(PAIR)[-1].gpus == {"0", "1"}
    text = (finished.repository.path / f"logs/smoke/max_likelihood/train/{PAIR}.log").read_text()
    assert "this job may use 2 GPUs and there are none: it runs on the processor" in text
    assert "All distributed processes registered. Starting with 2 processes" in text


def test_a_cancelled_job_is_retried_and_goes_on_with_more_memory(finished: Finished) -> None:
    first, second = finished.trained(PAIR)
    assert first.number == finished.cancelled
    assert [job.state for job in finished.seen[-1] if job.number == first.number] == ["CANCELLED"]
    assert second.memory == 2 * first.memory
    text = (finished.repository.path / f"logs/smoke/max_likelihood/train/{PAIR}.log").read_text()
    resumed = re.search(rf"\b(\d+)/{STEPS}", text)
    assert resumed, text
    assert 0 < int(resumed[1]) < STEPS


def test_two_machines_train_as_one_process_does(finished: Finished) -> None:
    folder, run = finished.repository.path, SINGLE[0]
    sizes = config.read_scale("smoke", folder / "workflow/scales").max_likelihood
    plan = Plan(sizes, (0, 1, 2), ("photos32",), folder / "data")
    job = plan.training(run, "float32", 200).model_dump_json()
    command = ("job", "max_likelihood", "train", "--sizes", job, "--work", "work")
    options = ("--devices", "1", "--nodes", "2", "--output", "models=two.safetensors")
    done = subprocess.run(
        ["srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, "-m", "diffusion_density", *command, *options],
        cwd=folder,
        env=finished.repository.environment | {"MASTER_ADDR": "127.0.0.1"},  # no name server knows these machines
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "All distributed processes registered. Starting with 2 processes" in done.stdout
    one, two = (
        artifacts.read_safetensors(folder / file)[0]
        for file in (f"{RESULTS}/models/{run}.safetensors", "two.safetensors")
    )
    curves = {name for name in one if name.endswith("/losses")}
    assert len(curves) == 3
    for name in curves:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=0)
