"""What the verbs of all studies have in common: options, and the frame of a job."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel

from diffusion_density.errors import InputError
from diffusion_density.provenance import recording
from diffusion_density.studies.fields import Strict
from diffusion_density.validation import parse

Sizes = TypeVar("Sizes", bound=Strict)
Spec = Annotated[str, typer.Option(help="JSON of the job's sizes.")]
Tables = Annotated[list[Path], typer.Option("--out", help="The tables to write, in the experiment's order.")]
Out = Annotated[Path, typer.Option(help="The file to write.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


@contextmanager
def job(
    outputs: Sequence[Path],
    settings: Mapping[str, str | int | list[str] | BaseModel],
    seeds: Sequence[int] = (),
    threads: int = 1,
) -> Iterator[None]:
    """Prepare torch, and record the outputs' provenance."""
    from diffusion_density.runtime import configure

    configure(threads)
    plain = {
        key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for key, value in settings.items()
    }
    with recording(outputs, settings=plain, seeds=seeds):
        yield


def known(name: str, jobs: Mapping[str, type[Sizes]]) -> type[Sizes]:
    """The sizes of the job of that name.

    Raises:
        InputError: if there is none.
    """
    if name not in jobs:
        raise InputError(f"{name!r} is not one of {', '.join(jobs)}")
    return jobs[name]


def experiment(
    study: str, jobs: Mapping[str, type[Strict]], name: str, spec: str, out: list[Path], threads: int
) -> None:
    """Run an experiment that starts from nothing: ``measure`` of the study's module of that name.

    Raises:
        InputError: for an unknown name or wrong sizes.
    """
    sizes = parse(known(name, jobs), spec, "--spec")
    with job(out, {"experiment": name, "sizes": sizes}, getattr(sizes, "seeds", ()), threads):
        import_module(f"diffusion_density.studies.{study}.{name}").measure(sizes, *out)
