"""What a study declares, in one place and without torch: ``studies/<slug>/study.py`` holds a `Study` named ``STUDY``.

The command line, the configuration, the workflow's rules, the report and the claims read these declarations. A study is
found by its folder, so that a new one needs no line anywhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

from diffusion_density.machine.errors import InputError
from diffusion_density.studies.fields import Strict

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Experiment:
    """A module ``experiments/<name>.py`` with a function ``run(sizes, inputs, outputs)``.

    Attributes:
        sizes: the class of ``sizes``: everything that the numbers depend on, except the input files.
        outputs: names of the files that it writes, tables unless the name says otherwise.
        inputs: names of the files that it reads; None if it may read any number of files, under names of their own.
        on_images: whether it needs the images of the set ``sizes.dataset``; it then gets `ImageInputs` as ``inputs``.
    """

    sizes: type[Strict]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] | None = ()
    on_images: bool = False


@dataclass(frozen=True)
class Study:
    """One paper's experiments, or a comparison of our own.

    Attributes:
        letter: short name in claims and in the report.
        title: of the paper.
        sizes: the class of the study's section in a scale file.
        experiments: by name.
        figures: by name, with the tables that each figure reads.
        arxiv: numbers of the paper and of the papers that continue it.
        authors: of these.
        needs: slugs of the studies whose results it uses.
    """

    letter: str
    title: str
    sizes: type[Strict]
    experiments: Mapping[str, Experiment]
    figures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arxiv: tuple[str, ...] = ()
    authors: str = ""
    needs: tuple[str, ...] = ()

    @property
    def category(self) -> str:
        """Its heading in the report."""
        return f"{self.letter}. {self.title}"

    @property
    def tables(self) -> list[str]:
        """The tables that its figures read, in alphabetical order."""
        return sorted({table for tables in self.figures.values() for table in tables})


@cache
def studies() -> dict[str, Study]:
    """Every study by its slug; a study comes after those that it needs."""
    found: dict[str, Study] = {
        file.parent.name: import_module(f"{__package__}.{file.parent.name}.study").STUDY
        for file in sorted(FOLDER.glob("*/study.py"))
    }
    order = TopologicalSorter({slug: study.needs for slug, study in found.items()}).static_order()
    return {slug: found[slug] for slug in order}


def study_of(slug: str) -> Study:
    """The study of that slug.

    Raises:
        InputError: if there is none.
    """
    if slug not in studies():
        raise InputError(f"{slug!r} is not a study; the studies are {', '.join(sorted(studies()))}")
    return studies()[slug]


def caption(slug: str, name: str) -> Path:
    """The file with the report's caption of a figure or table."""
    return FOLDER / slug / "captions" / f"{name}.rst"
