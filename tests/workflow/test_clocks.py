"""A node whose clock lags: its results look older than what they were made of, and are not made again for that."""

import pytest

from repository import Repository, copy

TABLE = "results/smoke/max_likelihood/tables/coders/digits.csv"
LAGGING = "        temporary.replace(path)\n"
LATE = '        if path.name.startswith("digits.csv"):\n            os.utime(path, (1e9, 1e9))\n'


@pytest.fixture(scope="module")
def lagging(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A copy in which the job of the table, and not the one before it, runs on a node of long ago."""
    repository = copy(tmp_path_factory.mktemp("clocks") / "repository")
    writer = repository.path / "src" / "diffusion_density" / "artifacts.py"
    text = writer.read_text()
    assert text.count(LAGGING) == 1
    writer.write_text(text.replace(LAGGING, f"{LAGGING}{LATE}"))
    return repository


@pytest.mark.slow
def test_results_of_a_node_whose_clock_lags_are_made_once(lagging: Repository) -> None:
    arguments = (TABLE, "--cores", "1", "--config", "scale=smoke", "datasets=[]")
    lagging.snakemake(*arguments)
    beside = lagging.path / f"{TABLE}.provenance.json"
    assert beside.stat().st_mtime == 1e9, "the clock of the job did not lag"
    assert "Nothing to be done" in lagging.snakemake(*arguments)
