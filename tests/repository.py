"""A copy of the repository in which the real workflow runs."""

import ast
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
    """A working copy of what the workflow needs, with its own source tree."""

    path: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.path / "src")}

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run Snakemake and return all it printed; fail if it fails, unless told otherwise."""
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
        """What a dry run would do: rules (of paper A without their prefix), each with its run where it has one.

        The claims are left out: they follow from every table and figure.
        """
        text = self.snakemake("-n", *arguments)
        jobs = re.findall(r"rule (?:density_estimators_)?(\w+):\n((?: {4}.*\n)*)", text)
        runs = ((rule, re.search(r"wildcards: .*\b(?:run|experiment)=([\w.-]+)", details)) for rule, details in jobs)
        return {f"{rule} {run[1]}" if run else rule for rule, run in runs if not rule.startswith("claims")}


def copy(target: Path) -> Repository:
    """Copy to ``target``, which must not exist, what the workflow needs."""
    for name in ("envs", "profiles", "src", "workflow"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "config.yaml", target)
    return Repository(target)


def figure_tables(study: str) -> dict[str, list[str]]:
    """The tables that the workflow gives to each figure of a study."""
    text = (ROOT / "workflow" / "rules" / f"{study}_common.smk").read_text()
    found = re.search(r"^\w*FIGURES = (\{.*?^\})", text, re.MULTILINE | re.DOTALL)
    assert found
    tables: dict[str, list[str]] = ast.literal_eval(found[1])
    return tables
