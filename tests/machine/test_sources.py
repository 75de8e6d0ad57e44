"""The hash of a module's sources changes with the files it rests on, and with no others."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from diffusion_density.machine.sources import SOURCE_ROOT, source_files, sources_hash

LAZY_PACKAGE = '''"""A package that only exports."""
from typing import TYPE_CHECKING
from diffusion_density.machine.lazy import export
if TYPE_CHECKING:
    from {package}.flow import flow
    from {package}.formula import formula
__all__ = ["flow", "formula"]
export(__name__, {{"flow": "flow:flow", "formula": "formula:formula"}})
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "pkg/__init__.py": '"""Nothing."""',
        "pkg/base.py": "",
        "pkg/_quiet.py": "",
        "pkg/density/__init__.py": LAZY_PACKAGE.format(package="pkg.density"),
        "pkg/density/flow.py": "from ..base import thing\ndef flow(): ...",
        "pkg/density/formula.py": "def formula(): ...",
        "pkg/eager/__init__.py": "from .part import value",
        "pkg/eager/part.py": "value = 1",
        "pkg/eager/other.py": "",
        "pkg/study.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


FLOW = {"study.py", "density/flow.py", "base.py"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch\nfrom os import path", {"study.py"}),
        ("from pkg.density.flow import flow", FLOW),
        ("import pkg.density.flow", FLOW),
        ("from pkg.density import flow", FLOW),
        ("from pkg.density import flow as solve", FLOW),
        ("from .density import flow", FLOW),
        ("from . import density", FLOW | {"density/formula.py"}),
        ("import pkg.density", FLOW | {"density/formula.py"}),
        ("from pkg import density", FLOW | {"density/formula.py"}),
        ("def late():\n    from pkg.density.flow import flow", FLOW),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.density import flow", {"study.py"}),
        (
            "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    from pkg import base",
            {"study.py", "base.py"},
        ),
        ("from pkg.eager import other", {"study.py", "eager/__init__.py", "eager/part.py", "eager/other.py"}),
        ("from pkg.eager import value", {"study.py", "eager/__init__.py", "eager/part.py"}),
    ],
)
def test_imports_are_followed(tree: Path, source: str, expected: set[str]) -> None:
    (tree / "pkg/study.py").write_text(source)
    assert {path.relative_to(tree / "pkg").as_posix() for path in source_files("pkg.study", tree)} == expected


def test_a_cycle_ends(tree: Path) -> None:
    (tree / "pkg/base.py").write_text("import pkg.study")
    (tree / "pkg/study.py").write_text("import pkg.base")
    assert len(source_files("pkg.study", tree)) == 2


def test_the_hash_follows_what_is_imported_and_nothing_else(tree: Path) -> None:
    (tree / "pkg/study.py").write_text("from pkg.density import flow")

    def changed(name: str) -> bool:
        before, text = sources_hash("pkg.study", tree), (tree / name).read_text()
        (tree / name).write_text(text + "\n# edited")
        after = sources_hash("pkg.study", tree)
        (tree / name).write_text(text)
        assert sources_hash("pkg.study", tree) == before
        return after != before

    assert changed("pkg/study.py")
    assert changed("pkg/density/flow.py")
    assert changed("pkg/base.py")
    assert not changed("pkg/density/formula.py")
    assert not changed("pkg/density/__init__.py")


def test_the_hash_does_not_depend_on_the_place(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    tree.rename(copy)
    before = sources_hash("pkg.density", copy)
    copy.rename(tree)
    assert sources_hash("pkg.density", tree) == before


def test_a_module_that_is_not_there_is_an_error(tree: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pkg\.absent"):
        sources_hash("pkg.absent", tree)


STUDY = "diffusion_density.studies.density_estimators"


@pytest.mark.parametrize(
    ("module", "rests_on"),
    [
        (
            f"{STUDY}.experiments.dataset",
            {
                "process.mixtures": True,
                "density.path_integral.plain": False,
                "density.ode.flow": False,
                "networks.mlp": False,
            },
        ),
        (
            f"{STUDY}.experiments.train",
            {"networks.mlp": True, "density.path_integral.plain": False, "density.ode.flow": False},
        ),
        (
            f"{STUDY}.experiments.evaluate",
            {"networks.mlp": True, "density.path_integral.plain": True, "density.ode.flow": True},
        ),
        (f"{STUDY}.experiments.timing", {"density.path_integral.plain": True, "density.ode.flow": True}),
        (f"{STUDY}.experiments.agreement", {"density.path_integral.plain": True, "density.ode.flow": True}),
    ],
)
def test_the_rules_depend_on_what_they_use(module: str, rests_on: Mapping[str, bool]) -> None:
    found = {path.relative_to(SOURCE_ROOT).with_suffix("").as_posix() for path in source_files(module)}
    for name, expected in rests_on.items():
        assert (f"diffusion_density/{name.replace('.', '/')}" in found) == expected, name
    assert not found & {
        f"diffusion_density/{name}" for name in ("commands/config", "commands/cli", "machine/provenance")
    }
