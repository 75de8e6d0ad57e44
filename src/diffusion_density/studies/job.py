"""What the verbs of all studies have in common: options, and the frame of a job."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import typer
from pydantic import BaseModel

from diffusion_density.machine.errors import InputError
from diffusion_density.machine.provenance import recording
from diffusion_density.machine.validation import parse
from diffusion_density.studies.fields import Strict

Sizes = TypeVar("Sizes", bound=Strict)
Spec = Annotated[str, typer.Option(help="JSON of the job's sizes.")]
RunSpec = Annotated[str, typer.Option(help="JSON of the training run.")]
Tables = Annotated[list[Path], typer.Option("--out", help="The tables to write, in the experiment's order.")]
DataDir = Annotated[Path, typer.Option(help="Where archives of images are.")]
Out = Annotated[Path, typer.Option(help="The file to write.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs to use; 0 is the processor.")]

Setting: TypeAlias = str | int | list[str] | Mapping[str, str] | BaseModel


@contextmanager
def job(
    outputs: Sequence[Path],
    settings: Mapping[str, Setting],
    seeds: Sequence[int] = (),
    threads: int = 1,
) -> Iterator[list[Path]]:
    """Prepare torch, and record the outputs' provenance.

    Gives a list for folders that are of no use once the outputs and their provenance are written: they go last, so that
    a job that is killed at any moment finds them again.
    """
    from diffusion_density.machine.runtime import configure

    configure(threads)
    plain = {
        key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for key, value in settings.items()
    }
    spent: list[Path] = []
    with recording(outputs, settings=plain, seeds=seeds):
        yield spent
    for folder in spent:
        shutil.rmtree(folder)


def device(gpus: int) -> str:
    """Where a job on one device computes, which its log says: on a GPU of its own, or on the processor.

    Raises:
        InputError: if there are some GPUs, but fewer than it may use.
    """
    from diffusion_density.machine.devices import available

    return "cuda" if available(gpus) else "cpu"


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
        import_module(f"diffusion_density.studies.{study}.experiments.{name}").measure(sizes, *out)
