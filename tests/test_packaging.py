"""What is installed, by whom and under which name."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def pins(lines: list[str]) -> dict[str, str]:
    """Normalised name to version of every line ``name==version``."""
    found = [line.strip().partition("==") for line in lines if "==" in line and not line.startswith("#")]
    return {normal(name): version for name, _, version in found}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    return pins((ROOT / "requirements.lock").read_text().splitlines())


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def test_the_lock_pins_everything_exactly(lock: dict[str, str]) -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert len(lock) == len(lines)


def test_the_lock_holds_every_dependency(project: dict[str, object], lock: dict[str, str]) -> None:
    extras = project["optional-dependencies"]
    assert names(project["dependencies"]) <= lock.keys()
    assert names(extras["dev"]) <= lock.keys()
    assert not names(extras["benchmarks"]) & lock.keys(), "peers are an optional extra"


def test_conda_users_get_the_same_pins(project: dict[str, object], lock: dict[str, str]) -> None:
    environment = yaml.safe_load((ROOT / "envs" / "environment.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    conda = pins(pip)
    assert conda.keys() == names(project["dependencies"])
    assert conda == {name: lock[name] for name in conda}


def test_what_is_locked_is_what_the_tests_run(lock: dict[str, str]) -> None:
    from importlib.metadata import version

    differing = {name: (pin, version(name)) for name, pin in lock.items() if version(name).split("+")[0] != pin}
    assert not differing, "run make install"


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    entries = [line for line in block.splitlines() if re.match(r'    "', line)]
    assert entries
    assert [line for line in entries if " # " not in line] == []


def test_the_version_is_the_same_everywhere(project: dict[str, object]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_no_torch() -> None:
    run("import sys\nfrom diffusion_density.commands import cli, config\nassert 'torch' not in sys.modules")


def test_the_public_names_are_there() -> None:
    run(
        "import diffusion_density as dd, inspect\n"
        "for name in dd.__all__: getattr(dd, name)\n"
        "for name in dd.density.__all__: getattr(dd.density, name)\n"
        "assert set(dd.__all__) <= set(dir(dd))\n"
        "assert inspect.isclass(dd.GaussianMixture) and inspect.isclass(dd.DiffusionModel)\n"
        "assert inspect.ismodule(dd.schedules) and inspect.ismodule(dd.density)\n"
        "try: dd.absent\n"
        "except AttributeError as error: assert 'absent' in str(error)\n"
        "else: raise AssertionError\n"
    )


@pytest.mark.parametrize(
    "first",
    [
        "import diffusion_density.density.ode.flow, diffusion_density.density.path_integral.plain",
        "from diffusion_density.density.ode.flow import flow",
        "from diffusion_density.density import path_integral, flow",
        "import importlib; importlib.import_module('diffusion_density.density.path_integral.plain')",
    ],
)
def test_an_estimator_is_not_hidden_by_its_module(first: str) -> None:
    run(
        f"{first}\n"
        "import inspect, sys, diffusion_density as dd\n"
        "assert inspect.isfunction(dd.density.flow) and inspect.isfunction(dd.density.path_integral)\n"
        "from diffusion_density.density.ode.flow import flow\n"
        "assert flow is dd.density.flow\n"
        "assert inspect.ismodule(sys.modules['diffusion_density.density.ode.flow'])\n"
    )


@pytest.mark.parametrize(("arguments", "expected"), [(["SCALE=smoke"], "--config scale=smoke"), ([], "--cores all ")])
def test_make_replicate_runs_the_scale_asked_for(arguments: list[str], expected: str) -> None:
    dry = subprocess.run(["make", "-n", "replicate", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    assert expected in dry.stdout
    assert f"results/{'smoke' if arguments else 'desk'}/report.html" in dry.stdout
    assert ("--config" in dry.stdout) == bool(arguments)


def test_no_module_imports_a_higher_floor_and_there_are_no_circles() -> None:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
