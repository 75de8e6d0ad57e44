"""Checkpoints of a training run: a folder of files, each written whole or not at all, of which the last two stay.

A file holds the tensors of the run and, in its header, the step and the settings that the run must have to go on. A
file that can't be read falls back to the one before it, with a warning; a file of other settings is an error, since
going on from it would mix two runs.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError

_LOG = logging.getLogger(__name__)
KEPT = 2
_PREFIX = "step-"


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: of this run alone; made with the first checkpoint.
        settings: of the run, as JSON holds them.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = settings

    def write(self, step: int, tensors: Mapping[str, Tensor]) -> Path:
        """Write a checkpoint, and remove all but it and the one before it.

        Those of later steps go too: a run that gets here could not read them.

        Raises:
            InputError: if it can't be written; the ones before it stay.
        """
        path = self.folder / f"{_PREFIX}{step:09d}.safetensors"
        artifacts.write_safetensors(path, tensors, {"step": step, "run": dict(self.settings)})
        found = self._newest_first()
        before = found.index(path)
        for other in (*found[:before], *found[before + KEPT :]):
            other.unlink(missing_ok=True)
        return path

    def latest(self) -> tuple[int, dict[str, Tensor]] | None:
        """The step and the tensors of the newest checkpoint that can be read; None if there is none.

        Raises:
            InputError: if it is of other settings, naming the first that differs.
        """
        found = self._newest_first()
        for path in found:
            try:
                tensors, header = artifacts.read_safetensors(path)
            except InputError as error:
                _LOG.warning("%s; going back to the checkpoint before it", error)
                continue
            if difference := next(_differences(header["run"], self.settings), None):
                raise InputError(
                    f"{path}: is of another training run ({difference}); "
                    f"remove {self.folder} to start anew, or give this run a folder of its own"
                )
            return header["step"], tensors
        if found:
            _LOG.warning("%s: holds no checkpoint that can be read; the run starts anew", self.folder)
        return None

    def sweep(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        for path in self.folder.glob(f".{_PREFIX}*.tmp.safetensors"):
            with suppress(OSError):
                path.unlink()

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_PREFIX}*.safetensors"), reverse=True)


def _differences(theirs: object, ours: object, key: str = "") -> Iterator[str]:
    """Each setting that differs, as "key: theirs there, ours here"."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for name in sorted({*theirs, *ours}):
            yield from _differences(theirs.get(name), ours.get(name), f"{key}.{name}" if key else name)
    elif _plain(theirs) != _plain(ours):
        yield f"{key}: {theirs} there, {ours} here"


def _plain(value: object) -> object:
    """Tuples as lists, as JSON has them."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
