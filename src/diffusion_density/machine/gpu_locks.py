"""File locks that give each job of a machine GPUs of its own. The kernel removes a lock whenever its process ends.

Snakemake counts GPUs but does not give out their ids, so two jobs on one machine would both use the first GPU. Here a
job locks as many of the visible ids as it needs, in a folder that all jobs of a user share, and hides the others from
CUDA. Under a scheduler the visible ids are those of the job, and several programs in one allocation share them in the
same way.
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
    """Lock GPUs for the rest of this process, and hide all others from CUDA; wait while other jobs hold them.

    Call this before CUDA starts. Processes that a launcher started lock nothing: their job has its GPUs already.

    Args:
        count: number of GPUs needed.
        ids: GPUs to choose from; by default those in ``CUDA_VISIBLE_DEVICES``, or all of this machine.
        folder: of the lock files; by default one per machine and, under a scheduler, per allocation.
        poll: seconds between two attempts to get a lock.

    Returns:
        The ids, in the order of ``ids``; an empty list if there are no GPUs.

    Raises:
        InputError: if there are GPUs, but fewer than ``count``.
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
        # Only the first job in the queue takes locks. Otherwise two jobs could each hold half of what the other needs.
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
        # As in CUDA, the first invalid id ends the list. SLURM writes NoDevFiles for a job without GPUs.
        end = next((i for i, name in enumerate(names) if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", name)), len(names))
        return names[:end]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    # UUIDs, because nvidia-smi and CUDA may number the devices in different orders.
    return re.findall(r"^GPU \d+: .*\(UUID: (GPU-[\w-]+)\)", listed, re.MULTILINE)


def launched() -> bool:
    """Whether a launcher (lightning-fabric, ``torchrun`` or a SLURM step) started this process as one of several."""
    return "LOCAL_RANK" in os.environ or os.environ.get("SLURM_NTASKS", "1") != "1"


def _folder() -> Path:
    allocation = os.environ.get("SLURM_JOB_ID", "machine")
    return Path(tempfile.gettempdir()) / f"diffusion-density-gpus-{os.getuid()}" / allocation


def _collect(found: list[str], count: int, ids: Sequence[str], folder: Path) -> bool:
    """Lock free GPUs and add them to ``found``; return whether these are enough."""
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
    """Try to lock an open file until it is closed; return whether that worked. Child processes do not inherit it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
