"""Which GPUs of this machine are this job's: a lock on each, which the kernel drops when the process dies, however.

Snakemake counts GPUs but hands out no ids, so that two jobs on one machine would both take the first. A job here locks
as many of the visible ids as it needs, in a folder that all jobs of a user share, and hides the others from CUDA. Under
a scheduler the visible ids are those of the job, and several programs in one allocation share them in the same way.
"""

import fcntl
import logging
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from diffusion_density.machine.errors import InputError

_LOG = logging.getLogger(__name__)
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: dict[Path, int] = {}  # open files of this process; a lock lives as long as its file is open


def reserve(count: int, ids: Sequence[str] | None = None, folder: Path | None = None, poll: float = 0.5) -> list[str]:
    """Lock GPUs for the rest of this process, and make them the only ones that CUDA sees; wait while others hold them.

    To be called before CUDA starts. Processes that a launcher made are of a job that has its ids, and lock none.

    Args:
        count: GPUs needed.
        ids: to choose among; by default those in ``CUDA_VISIBLE_DEVICES``, or else all of this machine.
        folder: of the locks; by default one for this machine and, under a scheduler, this allocation.
        poll: seconds between two looks at locks that others hold.

    Returns:
        The ids, in the order of ``ids``; none if there are none.

    Raises:
        InputError: if there are some, but fewer than ``count``.
    """
    ids = visible() if ids is None else list(ids)
    if launched() or not count or not ids:
        return ids[:count]
    if len(ids) < count:
        raise InputError(f"devices: {count} GPUs are asked for and {len(ids)} are here ({', '.join(ids)})")
    folder = folder or _folder()
    folder.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    waiting = False
    with (folder / "queue").open("a") as queue:
        # Only the first in the queue collects, so that no two jobs wait for each other's half.
        while not _lock(queue.fileno()) or not _collect(found, count, ids, folder):
            if not waiting:
                _LOG.warning("waiting for %d of the GPUs %s, which other jobs hold", count, ", ".join(ids))
                waiting = True
            time.sleep(poll)
    found.sort(key=ids.index)
    os.environ[_VISIBLE] = ",".join(found)
    _LOG.warning("this job has the GPUs %s", os.environ[_VISIBLE])
    return found


def visible() -> list[str]:
    """The ids of the GPUs that this process may use, without starting CUDA."""
    given = os.environ.get(_VISIBLE)
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        # What CUDA does: an id that is none ends the list. SLURM says NoDevFiles where a job has no GPU.
        end = next((i for i, name in enumerate(names) if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", name)), len(names))
        return names[:end]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    # Identifiers, because nvidia-smi and CUDA may number the devices in different orders.
    return re.findall(r"^GPU \d+: .*\(UUID: (GPU-[\w-]+)\)", listed, re.MULTILINE)


def launched() -> bool:
    """Whether this is one of several processes of a launcher: this job's own, ``torchrun``, or a step of SLURM."""
    return "LOCAL_RANK" in os.environ or os.environ.get("SLURM_NTASKS", "1") != "1"


def _folder() -> Path:
    allocation = os.environ.get("SLURM_JOB_ID", "machine")
    return Path(tempfile.gettempdir()) / f"diffusion-density-gpus-{os.getuid()}" / allocation


def _collect(found: list[str], count: int, ids: Sequence[str], folder: Path) -> bool:
    """Add to ``found`` what is free, and say whether that is all."""
    for name in ids:
        path = folder / name.replace("/", "_")
        if len(found) < count and name not in found and (path in _held or _take(path)):
            found.append(name)
    return len(found) == count


def _take(path: Path) -> bool:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if _lock(file):
        _held[path] = file
        return True
    os.close(file)
    return False


def _lock(file: int) -> bool:
    """Whether this process has the lock, until the file is closed; children do not inherit it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
