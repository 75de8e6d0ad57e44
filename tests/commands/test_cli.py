"""The verbs that the rules call, and errors that a person can act on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_density.commands import cli
from diffusion_density.machine.errors import NumericalError

ROOT = Path(__file__).parents[2]


DATASET = {"dimension": 2, "mixtures": 1, "samples": 10, "components": 2}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command line in this process and give its exit status."""
    monkeypatch.setattr(sys, "argv", ["diffusion-density", *map(str, arguments)])
    previous = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, previous)
    return int(caught.value.code or 0)


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    line, *rest = capsys.readouterr().err.splitlines()
    assert rest == []
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_tables_are_joined_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in {"a": "1,0.1\n2,0.2\n", "b": "3,1e-300\n", "c": ""}.items():
        (tmp_path / f"{name}.csv").write_text("seed,kl_nats\n" + rows)
    out = tmp_path / "all.csv"
    assert call(monkeypatch, "concat", *(tmp_path / f"{name}.csv" for name in "bac"), "--out", out) == 0
    assert out.read_text() == "seed,kl_nats\n3,1e-300\n1,0.1\n2,0.2\n"
    assert json.loads((tmp_path / "all.csv.provenance.json").read_text())["settings"] == {
        "parts": ["b.csv", "a.csv", "c.csv"]
    }


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("seed,kl\n2,3\n", "b.csv: has the columns seed,kl, but"),
        ("seed,kl_nats\n2,3", "b.csv: ends in the middle of a line"),
        ("", "b.csv: ends in the middle of a line"),
        (None, "b.csv: cannot be read"),
    ],
)
def test_tables_that_do_not_fit_are_named_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    second: str | None,
    message: str,
) -> None:
    (tmp_path / "a.csv").write_text("seed,kl_nats\n1,2\n")
    if second is not None:
        (tmp_path / "b.csv").write_text(second)
    out = tmp_path / "all.csv"
    assert call(monkeypatch, "concat", tmp_path / "a.csv", tmp_path / "b.csv", "--out", out) == 2
    assert message in error(capsys)
    assert not out.exists()


def test_a_wrong_specification_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = json.dumps(DATASET | {"mixtures": -1, "colour": "red"})
    arguments = ("job", "density_estimators", "dataset", "--sizes", sizes, "--output", f"dataset={tmp_path / 'x'}")
    assert call(monkeypatch, *arguments) == 2
    assert error(capsys) == "--sizes: mixtures: input should be greater than 0 (got -1); colour: unknown key"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "dataset"), "'nothing' is not a study; the studies are comparison, density_estimators, "),
        (("density_estimators", "dance"), "density_estimators has no experiment 'dance'; it has dataset, train, "),
        (("density_estimators", "dataset"), "--output: expected dataset, got x"),
        (("density_estimators", "dataset", "--output", "y"), "--output: NAME=PATH is expected, with a different name "),
        (("density_estimators", "dataset", "--input", "models=m"), "--input: expected none, got models"),
        (("density_estimators", "train", "--sizes", "{}"), "--sizes: experiment: is missing; dimension: is missing; "),
    ],
)
def test_wrong_arguments_of_a_job_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    sizes = () if "--sizes" in arguments else ("--sizes", json.dumps(DATASET))
    assert call(monkeypatch, "job", *arguments, *sizes, "--output", "x=y") == 2
    assert error(capsys).startswith(message)


def test_a_job_writes_its_outputs_and_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.safetensors"
    arguments = ("density_estimators", "dataset", "--sizes", json.dumps(DATASET), "--output", f"dataset={out}")
    assert call(monkeypatch, "job", *arguments) == 0
    record = json.loads((tmp_path / "x.safetensors.provenance.json").read_text())
    assert record["settings"] == {"study": "density_estimators", "experiment": "dataset", "sizes": DATASET}
    assert out.exists()


def test_a_run_that_diverges_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusion_density.studies.density_estimators.experiments import dataset

    def run(*_: object) -> None:
        raise NumericalError("the loss is nan\nat step 3")

    monkeypatch.setattr(dataset, "run", run)
    arguments = ("density_estimators", "dataset", "--sizes", json.dumps(DATASET))
    assert call(monkeypatch, "job", *arguments, "--output", f"dataset={tmp_path / 'x'}") == 2
    assert error(capsys) == "the loss is nan at step 3"


def test_an_unknown_figure_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("figures", "density_estimators", "--only", "absent", "--tables", tmp_path, "--out", tmp_path)
    assert call(monkeypatch, *arguments) == 2
    assert error(capsys).startswith("density_estimators has no figure absent; it has kl_throws, ")


def test_figures_have_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    from diffusion_density.studies.density_estimators import figures

    def draw(_: Path) -> Figure:
        drawn = Figure()
        drawn.subplots().fill_between([0, 1], [0, 1], [1, 2], label="an area is clipped by a path with an id")
        return drawn

    monkeypatch.setitem(figures.FIGURES, "timing", draw)
    options = ("--only", "timing", "--tables", tmp_path, "--out")
    for name in ("one", "two"):
        assert call(monkeypatch, "figures", "density_estimators", *options, tmp_path / name) == 0
    assert len(list((tmp_path / "one").iterdir())) == 4, "the figure twice, with its provenance"
    for suffix in ("svg", "png"):
        one, two = (tmp_path / name / f"timing.{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_check_config_names_the_scale_and_the_studies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert call(monkeypatch, "check-config") == 0
    assert capsys.readouterr().out.startswith("config.yaml: scale desk, with sizes for density_estimators, ")


def test_check_config_names_a_wrong_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("scale: desk\nsedes: [1]\n")
    assert call(monkeypatch, "check-config", tmp_path / "mine.yaml") == 2
    assert error(capsys) == f"{tmp_path}/mine.yaml: sedes: unknown key"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "diffusion_density", *arguments]


def test_a_verb_that_is_not_there_exits_with_2() -> None:
    failed = subprocess.run(command("fly"), capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "fly" in failed.stderr
    assert "Traceback" not in failed.stderr


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def test_only_one_run_at_a_time_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    lock, started = tmp_path / "lock", tmp_path / "started"
    first = subprocess.Popen(command("alone", str(lock), f"touch {started}; exec sleep 60"))
    try:
        wait_for(started)
        second = subprocess.run(command("alone", str(lock), "true"), capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert second.stderr.startswith("error: another run is under way")
    finally:
        first.kill()
        first.wait()
    assert subprocess.run(command("alone", str(lock), "exit 7"), check=False).returncode == 7


def test_a_terminated_job_removes_its_temporary_file(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from diffusion_density.commands import cli\n"
        "from diffusion_density.machine import artifacts\n"
        "@cli.app.command()\n"
        "def hang(out: Path) -> None:\n"
        "    with artifacts.replacing(out) as temporary:\n"
        "        temporary.write_text('half')\n"
        "        time.sleep(60)\n"
        f"sys.argv = ['x', 'hang', {str(tmp_path / 'out')!r}]\n"
        "cli.main()\n"
    )
    job = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while not list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGTERM)
    assert job.wait(20) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_fetch_says_how_to_get_what_has_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is downloaded for sets inside packages, and an absent one is no failure."""
    file = tmp_path / "config.yaml"
    file.write_text(f"datasets: [photos32, imagenet32]\ndata_dir: {tmp_path / 'data'}\n")
    assert call(monkeypatch, "fetch", "--file", file) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("imagenet32: absent: ") and "image-net.org" in line for line in lines)
    assert call(monkeypatch, "fetch", "mnist", "--file", file) == 2
    assert "no image set 'mnist'" in error(capsys)


def test_the_plan_counts_every_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert call(monkeypatch, "plan", "--scale", "paper") == 0
    lines = capsys.readouterr().out.splitlines()
    (main,) = (line.split() for line in lines if line.startswith("main-cifar10 "))
    assert main[1] == "30,577,667"
    operations, hours = float(main[3]) * 1e18, float(main[4])
    assert operations == pytest.approx(6e6 * 128 * 3 * 2 * 26.7e9, rel=0.01)
    assert hours == pytest.approx(operations / (0.3 * 312e12) / 3600, rel=0.01)
    assert lines[-1].endswith("evaluation comes on top")
