"""What is installed, with which versions, and what an installation without extras can do."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WORKFLOW_PACKAGES = [
    *("jinja2", "lightning_fabric", "matplotlib", "pandas", "PIL", "pydantic", "seaborn", "skimage", "sklearn"),
    *("snakemake", "typer", "yaml"),
]


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
    for needed in (project["dependencies"], extras["workflow"], extras["dev"]):
        assert names(needed) <= lock.keys()
    assert not names(extras["benchmarks"]) & lock.keys(), "the libraries of the benchmarks are optional"


def test_conda_users_get_the_same_versions(project: dict[str, object], lock: dict[str, str]) -> None:
    environment = yaml.safe_load((ROOT / "envs" / "environment.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    conda = pins(pip)
    assert conda.keys() == names(project["dependencies"]) | names(project["optional-dependencies"]["workflow"])
    assert conda == {name: lock[name] for name in conda}


def test_the_images_are_built_from_the_lock_and_from_files_that_exist() -> None:
    """No image can be built here. Both recipes copy the same files and run the same installation."""
    docker, apptainer = ((ROOT / "envs" / name).read_text() for name in ("Dockerfile", "apptainer.def"))
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", docker, re.MULTILINE) for name in line.split()}
    files = apptainer.split("%files\n")[1].split("\n\n")[0].splitlines()
    assert copied == {line.split()[0] for line in files}
    assert {"requirements.lock", "pyproject.toml", "src"} <= copied
    assert all((ROOT / name).exists() for name in copied)
    kept = (ROOT / "envs" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= set(kept)
    [install] = re.findall(r"pip install .*(?=')", docker)
    assert "-c /opt/diffusion-density/requirements.lock" in install
    assert install in apptainer
    [base] = re.findall(r"^FROM (.*)$", docker, re.MULTILINE)
    assert f"From: {base}\n" in apptainer


def test_the_catalogue_finds_what_it_asks_for() -> None:
    """The rules of the Snakemake workflow catalogue for standardised usage."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert {"desc", "flags"} <= usage["mandatory-flags"].keys()
    assert {"conda", "apptainer", "report"} <= usage["software-stack-deployment"].keys()
    assert (ROOT / "workflow" / "Snakefile").is_file()
    table = (ROOT / "config" / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(
        yaml.safe_load((ROOT / "config.yaml").read_text())
    )


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


WITHOUT_EXTRAS = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {WORKFLOW_PACKAGES}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_no_torch() -> None:
    run("import sys\nfrom diffusion_density.commands import cli, config\nassert 'torch' not in sys.modules")


def test_the_library_works_without_the_packages_of_the_workflow() -> None:
    """The library's example in the README, every public name, and training; `pip install .` gives no more packages."""
    [example] = re.findall(r"^```python\n(import torch\nimport diffusion_density as dd\n.*?)^```$", README, re.M | re.S)
    run(
        f"{WITHOUT_EXTRAS}\n{example}\n"
        "import inspect\n"
        "for name in dd.__all__: getattr(dd, name)\n"
        "for name in dd.density.__all__: getattr(dd.density, name)\n"
        "assert set(dd.__all__) <= set(dir(dd))\n"
        "assert inspect.isclass(dd.GaussianMixture) and inspect.isclass(dd.DiffusionModel)\n"
        "assert inspect.ismodule(dd.schedules) and inspect.ismodule(dd.density)\n"
        "try: dd.absent\n"
        "except AttributeError as error: assert 'absent' in str(error)\n"
        "else: raise AssertionError\n"
        "import diffusion_density.training.stack, diffusion_density.training.loop, diffusion_density.networks.unet\n"
        "import diffusion_density.sampling.samplers, diffusion_density.sampling.guidance\n"
    )


def test_a_command_without_its_packages_says_how_to_install_them() -> None:
    code = f"{WITHOUT_EXTRAS}\nfrom diffusion_density.__main__ import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: this command needs typer: pip install 'diffusion-density[workflow]'\n"


def test_an_estimator_is_not_hidden_by_its_module() -> None:
    """Whatever is imported first: the module `density.formula` and the package `density.path_integral` exist too."""
    orders = [
        "import diffusion_density.density.formula, diffusion_density.density.path_integral.plain",
        "from diffusion_density.density.formula import formula",
        "from diffusion_density.density import path_integral, formula",
        "import importlib; importlib.import_module('diffusion_density.density.path_integral.plain')",
    ]
    run(
        "import inspect, sys\n"
        f"for first in {orders}:\n"
        "    for name in [name for name in sys.modules if 'diffusion_density' in name]: del sys.modules[name]\n"
        "    exec(first)\n"
        "    import diffusion_density as dd\n"
        "    assert inspect.isfunction(dd.density.formula) and inspect.isfunction(dd.density.path_integral), first\n"
        "    from diffusion_density.density.formula import formula\n"
        "    assert formula is dd.density.formula, first\n"
        "    assert inspect.ismodule(sys.modules['diffusion_density.density.formula']), first\n"
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
