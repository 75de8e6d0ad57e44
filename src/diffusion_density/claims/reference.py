"""Collect a run in a form that is small enough for git: tables, vector figures, verdicts and one file of provenance.

Models, samples, data and partial tables stay out. So do files above `MAX_FILE_BYTES`, whose numbers other tables
summarise, and `TEST_IMAGES`, which the owners of the images may not allow us to publish; the provenance lists them. The
claims page can be made from the rest by ``diffusion-density claims page``.
"""

import shutil
from pathlib import Path

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.provenance import provenance_path

MAX_FILE_BYTES, MAX_TOTAL_BYTES = 500_000, 5_000_000
TEST_IMAGES = ("high_density/figures/pictures.svg", "max_likelihood/figures/samples.svg")
OF_RUN = ("git_revision", "git_dirty", "versions", "machine", "system", "cpus")
OF_RESULT = ("sha256", "settings_sha256", "seeds", "device", "threads", "wall_seconds")


def collect(run: Path, out: Path) -> int:
    """Copy what belongs into a reference to ``out``, replacing what is there, and return its size in bytes.

    Raises:
        InputError: if the run has no verdicts, a result has no provenance, or the whole is too large.
    """
    if not (run / "claims.csv").is_file():
        raise InputError(f"{run}: has no claims.csv; finish the run first")
    if out.exists() and not (out / "provenance.json").is_file():
        raise InputError(f"{out}: is there and is no reference; name another folder")
    found = sorted([run / "claims.csv", *run.glob("*/tables/*.csv"), *run.glob("*/figures/*.svg")])
    sizes = {path.relative_to(run).as_posix(): path.stat().st_size for path in found}
    kept = [name for name, size in sizes.items() if size <= MAX_FILE_BYTES and name not in TEST_IMAGES]
    records = {name: artifacts.read_json(provenance_path(run / name)) for name in kept}
    provenance = {key: records["claims.csv"].get(key) for key in OF_RUN}
    provenance |= {"results": {name: {key: records[name].get(key) for key in OF_RESULT} for name in kept}}
    provenance |= {"left_out": {name: size for name, size in sizes.items() if name not in kept}}
    if (total := sum(sizes[name] for name in kept)) > MAX_TOTAL_BYTES:
        largest = ", ".join(f"{name} {sizes[name]:,}" for name in sorted(kept, key=lambda name: -sizes[name])[:5])
        raise InputError(
            f"{run}: {total:,} bytes are more than the {MAX_TOTAL_BYTES:,} of a reference; the largest are {largest}"
        )
    if out.exists():
        shutil.rmtree(out)
    for name in kept:
        artifacts.write_bytes(out / name, (run / name).read_bytes())
    artifacts.write_json(out / "provenance.json", provenance)
    return total
