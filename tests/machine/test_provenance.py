"""Every result has a record of where it came from."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from diffusion_density.machine import artifacts, provenance

ROOT = Path(__file__).parents[2]


def test_every_result_has_a_record_next_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    outputs = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with provenance.recording(outputs, settings={"throws": 10}, seeds=(1, 2)):
        for output in outputs:
            output.write_text(output.name)
    for output in outputs:
        record = json.loads((tmp_path / f"{output.name}.provenance.json").read_text())
        assert record["result"] == output.name
        assert record["sha256"] == hashlib.sha256(output.name.encode()).hexdigest()
        assert record["settings"] == {"throws": 10}
        assert record["settings_sha256"] == artifacts.settings_hash({"throws": 10})
        assert record["seeds"] == [1, 2]
        assert record["slurm_job_id"] == "4711"
        assert record["wall_seconds"] >= 0
        assert record["peak_memory_mib"] > 10
        assert {"python", "torch", "numpy", "snakemake", "diffusion-density"} <= record["versions"].keys()


def test_the_versions_are_those_of_the_library_and_the_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy", 'snakemake>=9; extra == "workflow"', 'absent; extra == "workflow"', 'pytest; extra == "dev"']
    monkeypatch.setattr(provenance, "requires", lambda _: lines)
    record = provenance.provenance(settings={}, seeds=(), wall_seconds=0.0)
    assert list(record["versions"]) == ["python", "diffusion-density", "numpy", "snakemake"]


def test_a_failed_job_leaves_no_record(tmp_path: Path) -> None:
    def fail() -> None:
        with provenance.recording([tmp_path / "a.csv"], settings={}):
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_settings_hash_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert artifacts.settings_hash({"a": 1, "b": [1, 2]}) == artifacts.settings_hash({"b": [1, 2], "a": 1})
    assert artifacts.settings_hash({"a": 1, "b": [1, 2]}) != artifacts.settings_hash({"a": 1, "b": [2, 1]})


def test_the_revision_is_that_of_the_source_tree() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    record = provenance.provenance(settings={}, seeds=(), wall_seconds=0.0)
    assert record["git_revision"] == (head.stdout.strip() or None)
    assert isinstance(record["git_dirty"], bool) or record["git_revision"] is None
