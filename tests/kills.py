"""Kill a smoke run at random, again and again, and see that its tables never change: ``python tests/kills.py [KILLS]``.

The run is one network of digits, trained and evaluated by the real workflow in a copy of this repository, and a table
of the estimators on mixtures; the training is lengthened, so that there is something to hit. Each kill starts from
nothing, waits for a moment of its kind (training, a checkpoint or a table being written, estimation), signals the whole
run with SIGTERM or SIGKILL, and runs the same command again. The tables must then have the bytes of an undisturbed run,
but for columns of measured seconds, which are named. Linux only: it looks into ``/proc``.
"""

import argparse
import csv
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from diffusion_density.claims.comparison import columns_of
from repository import Repository, copy

RESULTS = "results/smoke"
LIKELIHOODS = "max_likelihood/tables/likelihood"
MIXTURES = "comparison/tables/estimators"
TARGETS = (
    f"{RESULTS}/{LIKELIHOODS}/ablation-velocity-vp-importance.csv",
    f"{RESULTS}/{MIXTURES}/mixtures.csv",
)
CHECKPOINTS = "max_likelihood/checkpoints"
SHARDS = "max_likelihood/shards"
MOMENTS = {  # files that are seen then, and the most seconds to wait on; those with a dot are being written
    "training": ((f"{CHECKPOINTS}/*/seed-*/step-*",), 0.5),
    "checkpointing": ((f"{CHECKPOINTS}/*/seed-*/.step-*",), 0.0),
    "estimation of likelihoods": ((f"{SHARDS}/*/[!.]*",), 0.5),
    "estimation on mixtures": ((MIXTURES,), 3.0),
    "writing of likelihoods": ((f"{LIKELIHOODS}/.*", f"{LIKELIHOODS}/*.csv"), 0.0),
    "writing of mixtures": ((f"{MIXTURES}/.*", f"{MIXTURES}/*.csv"), 0.0),
}
ARGUMENTS = (*TARGETS, "--cores", "1", "--config", "scale=smoke", "datasets=[]")
PATIENCE = 300.0  # seconds


def lengthened(folder: Path) -> Repository:
    """A copy whose smoke scale trains for 60 steps."""
    repository = copy(folder)
    scale = folder / "workflow" / "scales" / "smoke.yaml"
    text = scale.read_text()
    assert text.count("    snapshots: [2, 4]\n") == 1
    scale.write_text(text.replace("    snapshots: [2, 4]\n", "    snapshots: [20, 60]\n"))
    return repository


def start(repository: Repository) -> subprocess.Popen[bytes]:
    """The run, in a session of its own."""
    subprocess.run(repository.command("--unlock"), cwd=repository.path, env=repository.environment, capture_output=True)
    return subprocess.Popen(
        repository.command(*ARGUMENTS),
        cwd=repository.path,
        env=repository.environment,
        start_new_session=True,
        stdout=(repository.path / "run.log").open("ab"),
        stderr=subprocess.STDOUT,
    )


def members(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = entry.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(int(entry.parent.name))
    return found


def newest(results: Path) -> int:
    """The step of the newest checkpoint, 0 before the first."""
    return max((int(path.stem[5:]) for path in results.glob(f"{CHECKPOINTS}/*/seed-*/step-*")), default=0)


def strike(run: subprocess.Popen[bytes], number: signal.Signals, known: list[int]) -> None:
    """Send a signal to all of a run, those known first, at once; wait until the last process is gone."""
    for process in (*known, *sorted({*members(run.pid)} - {*known})):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + PATIENCE
    while members(run.pid):
        run.poll()
        assert time.monotonic() < deadline, f"the run survived {number.name}"
        time.sleep(0.01)
    run.wait()


def measured(repository: Repository) -> dict[str, list[str]]:
    """The columns of each table that hold measured seconds."""
    headers = {target: (repository.path / target).read_text().partition("\n")[0].split(",") for target in TARGETS}
    roles = {target: columns_of(target.split("/")[2]) for target in TARGETS}
    return {t: [name for name in names if roles[t][name].role == "cost"] for t, names in headers.items()}


def tables(repository: Repository) -> dict[str, bytes]:
    """The bytes of each table, without its measured columns."""
    found = {}
    for target, columns in measured(repository).items():
        content = (repository.path / target).read_bytes()
        if columns:
            header, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
            kept = [i for i, name in enumerate(header) if name not in columns]
            content = "".join(f"{','.join(row[i] for i in kept)}\n" for row in (header, *rows)).encode()
        found[target] = content
    return found


def clean(repository: Repository) -> None:
    for name in ("results", "logs", ".snakemake"):
        shutil.rmtree(repository.path / name, ignore_errors=True)


def whole(repository: Repository) -> float:
    """Let the run end, and give its seconds."""
    began = time.monotonic()
    code = start(repository).wait()
    assert code == 0, (repository.path / "run.log").read_text()[-5000:]
    return time.monotonic() - began


def hit(repository: Repository, moment: str, number: signal.Signals, chance: random.Random) -> str | None:
    """Start the run, kill it at the moment and say where that was; None if it ended before."""
    results = repository.path / RESULTS
    patterns, longest = MOMENTS[moment]
    run = start(repository)
    if moment == "checkpointing":  # one of the thirty
        least = chance.randrange(0, 50, 2)
        while newest(results) < least and run.poll() is None:
            time.sleep(0.01)
    known, looked = members(run.pid), time.monotonic()
    while not any(path for pattern in patterns for path in results.glob(pattern)):
        if run.poll() is not None:
            return None
        if time.monotonic() - looked > 0.1:
            known, looked = members(run.pid), time.monotonic()
    time.sleep(chance.uniform(0, longest))
    if run.poll() is not None:
        return None
    strike(run, number, known)
    left = [path for path in results.rglob(".*") if path.is_file()]
    return (
        f"checkpoint of step {newest(results)}, "
        f"{len(list(results.glob(f'{SHARDS}/*/[!.]*.csv')))} shards, {len(left)} files half written, "
        f"{sum((repository.path / target).exists() for target in TARGETS)} tables"
    )


def kill(repository: Repository, kills: int, seed: int, say: Callable[[str], None] = print) -> None:
    """Kill the run so many times, each moment and each signal in turn.

    Raises:
        AssertionError: if a run does not complete on restart, or its tables differ.
    """
    chance = random.Random(seed)  # noqa: S311 (no secret)
    clean(repository)
    say(f"undisturbed: {whole(repository):.1f} s")
    expected = tables(repository)
    for target, columns in measured(repository).items():
        say(f"compared: {target}{f', without {columns}' if columns else ''}")
    began, done, missed = time.monotonic(), 0, 0
    plan = [(moment, number) for number in (signal.SIGTERM, signal.SIGKILL) for moment in MOMENTS]
    while done < kills:
        moment, number = plan[done % len(plan)]
        clean(repository)
        where = hit(repository, moment, number, chance)
        if where is None:
            missed += 1
            assert missed <= kills, f"the run ends before it can be killed in {moment}"
            continue
        seconds = whole(repository)
        assert tables(repository) == expected, f"{number.name} in {moment} ({where}) changed a table"
        left = [path for name in (CHECKPOINTS, SHARDS) for path in (repository.path / RESULTS / name).glob("*")]
        assert not left, f"{left} stayed"
        done += 1
        say(f"kill {done}: {number.name} in {moment}: {where}; complete after {seconds:.1f} s, the same tables")
    say(f"{done} kills, {missed} missed, in {time.monotonic() - began:.0f} s: every table the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kills", nargs="?", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = lengthened(Path(folder) / "repository")
        try:
            kill(repository, given.kills, given.seed, lambda text: print(text, flush=True))
        except AssertionError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
