"""The provenance of a result: code, packages, machine, settings and cost, in a small file next to it."""

import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from diffusion_density.machine.artifacts import settings_hash, sha256_of, write_json

DISTRIBUTION = "diffusion-density"


def provenance_path(result: Path) -> Path:
    """The provenance file of ``result``."""
    return result.with_name(f"{result.name}.provenance.json")


@contextmanager
def recording(outputs: Sequence[Path], *, settings: object, seeds: Sequence[int] = ()) -> Iterator[None]:
    """Time the block and, if it succeeds, write the provenance of ``outputs``.

    Args:
        outputs: the files that the block writes.
        settings: everything that the results depend on besides code and inputs, as a JSON value.
        seeds: the seeds among the settings.
    """
    started = time.perf_counter()
    yield
    record = provenance(settings=settings, seeds=seeds, wall_seconds=time.perf_counter() - started)
    for output in outputs:
        write_json(provenance_path(output), {"result": output.name, "sha256": sha256_of(output)} | record)


def provenance(*, settings: object, seeds: Sequence[int], wall_seconds: float) -> dict[str, Any]:
    """A record of this process.

    Returns:
        A dictionary for JSON: git revision, package versions, device, seeds, settings and their SHA-256, wall seconds,
        peak memory in MiB, SLURM's job id and the GPUs that CUDA may use (each None if not set), the command, and the
        time in UTC.
    """
    return {
        "settings_sha256": settings_hash(settings),
        "settings": settings,
        "seeds": list(seeds),
        **_git(),
        "versions": _versions(),
        **_machine(),
        "wall_seconds": round(wall_seconds, 3),
        "peak_memory_mib": _peak_memory_mib(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git() -> dict[str, str | bool | None]:
    """The revision of the source tree, and whether tracked files differ from it; None outside a repository."""
    # No optional locks: jobs that run at the same time must not lock git's index against each other.
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    try:
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {"git_revision": None, "git_dirty": None}
    return {"git_revision": revision.stdout.strip(), "git_dirty": bool(status.stdout.strip())}


def _versions() -> dict[str, str]:
    """Python, this package, and the packages that it names itself (for the library and the workflow), if installed."""
    found, lines = {"python": platform.python_version()}, [DISTRIBUTION]
    with suppress(PackageNotFoundError):  # a source tree on PYTHONPATH, not installed
        lines += requires(DISTRIBUTION) or []
    for line in lines:
        if "extra ==" not in line or 'extra == "workflow"' in line:
            name = re.split(r"[^\w.-]", line)[0]
            with suppress(PackageNotFoundError):
                found[name] = version(name)
    return found


def _machine() -> dict[str, str | int | None]:
    device: Mapping[str, str | int | None] = {"device": "cpu", "threads": None}
    if "torch" in sys.modules:
        import torch

        used = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
        device = {"device": torch.cuda.get_device_name() if used else "cpu", "threads": torch.get_num_threads()}
    return {**device, "machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()}


def _peak_memory_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
