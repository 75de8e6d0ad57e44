"""Checkpoints of a training run: a folder of files, each written whole or not at all. The last two stay.

A file contains the tensors of the run and, in its header, the step and the settings of the run. If a file cannot be
read, the one before it is used, with a warning. A file with other settings is an error, because continuing from it
would mix two runs.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError

_LOG = logging.getLogger(__name__)
NUMBER_KEPT = 2
_PREFIX = "step-"


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: of this run only; created with the first checkpoint.
        settings: of the run, as JSON values.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))  # lists in place of tuples, as in the files

    def write(self, step: int, tensors: Mapping[str, Tensor]) -> Path:
        """Write a checkpoint, and remove all others except the one before it.

        Checkpoints of later steps are removed too: a run writes this step again only if it could not read them.

        Raises:
            InputError: if the file cannot be written; earlier checkpoints stay.
        """
        path = self.folder / f"{_PREFIX}{step:09d}.safetensors"
        artifacts.write_safetensors(path, tensors, {"step": step, "run": self.settings})
        found = self._newest_first()
        before = found.index(path)
        for other in (*found[:before], *found[before + NUMBER_KEPT :]):
            other.unlink(missing_ok=True)
        return path

    def latest(self) -> tuple[int, dict[str, Tensor]] | None:
        """The step and the tensors of the newest checkpoint that can be read; None if there is none.

        Raises:
            InputError: if it has other settings; the message names the first difference.
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
                    f"remove {self.folder} to start from scratch, or give this run a folder of its own"
                )
            return header["step"], tensors
        if found:
            _LOG.warning("%s: holds no checkpoint that can be read; the run starts from scratch", self.folder)
        return None

    def sweep(self) -> None:
        """Remove the temporary files of processes that were killed while they wrote."""
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
    elif theirs != ours:
        yield f"{key}: {theirs} there, {ours} here"
