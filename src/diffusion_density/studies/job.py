"""What the verbs of all studies have in common: options, and the frame of a job."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from diffusion_density.provenance import recording

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
