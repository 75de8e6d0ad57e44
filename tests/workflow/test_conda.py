"""Jobs run in the environments of their rules if the user asks for conda; a stand-in for conda records its calls."""

from pathlib import Path

import pytest

import fake_conda
from repository import Repository

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake_conda.install(tmp_path / "conda")), prepend=":")


def test_a_job_runs_in_the_environment_of_its_rule_with_this_source_tree(repository: Repository) -> None:
    target = "results/smoke/density_estimators/data/dimension-2.safetensors"
    options = (target, "--config", "scale=smoke", "--sdm", "conda")
    planned = repository.snakemake("-n", *options)
    assert "Conda environment envs/environment.yaml will be created." in planned
    repository.snakemake(*options)
    [made] = (repository.path / ".snakemake" / "conda").glob("*_.yaml")
    assert made.read_text() == (repository.path / "envs" / "environment.yaml").read_text()
    assert set((made.with_suffix("") / "used").read_text().split()) == {str(repository.path / "src")}
    assert (repository.path / target).stat().st_size > 0
