"""A copy of the repository in which the real workflow runs."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Repository:
    """A working copy of what the workflow needs, with its own source tree or one that is elsewhere."""

    path: Path
    source: Path | None = None

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.source or self.path / "src")}

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run Snakemake and return all that it printed; fail if it fails, unless check is false."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout[-5000:]
        else:
            assert done.returncode != 0, done.stdout[-5000:]
        return done.stdout

    def planned(self, *arguments: str) -> set[str]:
        """What a dry run would do, without the claims, which follow from every table and figure."""
        return {job for job in jobs_of(self.snakemake("-n", *arguments)) if not job.startswith("claims")}


def details(text: str) -> list[tuple[str, str]]:
    """The jobs in Snakemake's output: each one's rule and the lines below it."""
    return re.findall(r"rule (\w+):\n((?: {4}.*\n)*)", text)


def jobs_of(text: str) -> set[str]:
    """The rules in Snakemake's output (of density_estimators without this prefix), each with its run if it has one."""
    found = ((rule.removeprefix("density_estimators_"), lines) for rule, lines in details(text))
    runs = ((rule, re.search(r"wildcards: .*\b(?:run|experiment)=([\w.-]+)", lines)) for rule, lines in found)
    return {f"{rule} {run[1]}" if run else rule for rule, run in runs}


def copy(target: Path) -> Repository:
    """Copy to ``target``, which must not exist, what the workflow needs."""
    for name in ("envs", "profiles", "src", "workflow"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, target)
    return Repository(target)
