"""README and docs: short enough, with links that lead somewhere, examples that run, and options that exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from diffusion_density.commands.cli import app
from diffusion_density.density import estimators
from pages import FENCE, commands
from repository import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, kind: str) -> list[str]:
    return [block for found, _, block in FENCE.findall(page.read_text()) if found == kind]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
    for derivation in (ROOT / "docs" / "derivations").glob("*.md"):
        assert len(derivation.read_text().splitlines()) <= 120, derivation.name


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", FENCE.sub("", page.read_text())):
        assert "://" in link or (page.parent / link).exists(), link


def test_every_page_is_linked() -> None:
    linked = {
        (page.parent / link).resolve() for page in PAGES for link in re.findall(r"\]\(([^)#:]+\.md)", page.read_text())
    }
    assert linked >= {page for page in PAGES if page.name != "README.md"}


def test_the_examples_of_the_estimators_run() -> None:
    """That of the README runs in `test_packaging`, without the packages of the workflow."""
    for code in blocks(ROOT / "docs" / "estimators.md", "python"):
        exec(compile(code, "docs/estimators.md", "exec"), {})  # noqa: S102 (an example of this repository)


def test_the_table_of_estimators_is_that_of_the_registry() -> None:
    text = (ROOT / "docs" / "estimators.md").read_text()
    found = re.search(r"<!-- estimators -->\n(.*?)\n<!-- end of estimators -->", text, re.DOTALL)
    assert found, "docs/estimators.md has no table between <!-- estimators --> and <!-- end of estimators -->"
    assert found[1] == estimators.page(), "run diffusion-density estimators"


def test_commands_have_options_that_exist() -> None:
    lines = [line for page in PAGES for block in blocks(page, "console") for line in commands(block)]
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines:
        program, *words = line.split()
        if program == "make":
            assert words[0] in targets, line
        elif program == "diffusion-density":
            command = get_command(app)
            while hasattr(command, "commands"):
                command = command.commands[words.pop(0)]
            options = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, line
        elif "--workflow-profile" in words:
            assert (ROOT / words[words.index("--workflow-profile") + 1] / "config.yaml").is_file(), line
