"""Long measurements in shards: small tables, each of which a job that was stopped need not measure again.

The shards of a measurement lie in a folder named for all that decides their numbers, the code included: after a change
of any of it none of them is used. A shard's file is written whole or not at all, and must draw its random numbers from
a seed of its own. The rows of all shards go to the final table as the text that they are, so that the table has the
same bytes however often the job was stopped.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.sources import sources_hash

_LOG = logging.getLogger(__name__)


class Shards:
    """The shards of one measurement.

    Args:
        work: folder for those of all measurements.
        name: of the measurement, for people.
        module: whose code measures, by its full name.
        settings: all that decides the numbers beside the code, data and weights included by their checksums; as JSON
            holds it.

    Attributes:
        folder: where they lie; to be removed once the final table and its provenance are written.
        reused: how many were found.
    """

    def __init__(self, work: Path, name: str, module: str, settings: Mapping[str, Any]) -> None:
        digest = artifacts.settings_hash({**settings, "code": sources_hash(module)})
        self.folder = work / f"{name}-{digest[:16]}"
        self.reused = 0
        self._files: list[Path] = []

    def add(self, name: str, measure: Callable[[], pd.DataFrame]) -> None:
        """Let a shard's rows follow those before it, measuring them if that was not done yet."""
        file = self.folder / f"{name}.csv"
        if self._whole(file):
            self.reused += 1
        else:
            artifacts.write_csv(file, measure())
        self._files.append(file)

    def write(self, out: Path) -> None:
        """Write the rows of all shards as one table."""
        if self.reused:
            _LOG.warning("%s: %d of %d shards were there already", out, self.reused, len(self._files))
        artifacts.write_text(out, artifacts.joined(self._files))

    @staticmethod
    def _whole(file: Path) -> bool:
        if not file.exists():
            return False
        try:
            artifacts.read_csv(file)
        except InputError as error:
            _LOG.warning("%s; it is measured again", error)
            return False
        return True
