"""A run in a form that fits into git: its tables, vector figures and verdicts, and one file of provenance.

Models, samples, data and the parts of tables stay out, and so do single files above `LARGE`, whose numbers other tables
sum up, and `PICTURES` of test images, whose owners may forbid to pass them on; the provenance names them. The claims
page is made anew from the rest by ``diffusion-density claims page``.
"""

import shutil
from pathlib import Path

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.provenance import provenance_path

LARGE, WHOLE = 500_000, 5_000_000
"""Bytes that one file, and the whole, may have."""
PICTURES = ("high_density/figures/pictures.svg", "max_likelihood/figures/samples.svg")
SHARED = ("git_revision", "git_dirty", "versions", "machine", "system", "cpus")
OWN = ("sha256", "settings_sha256", "seeds", "device", "threads", "wall_seconds")


def collect(run: Path, out: Path) -> int:
    """Copy what belongs into a reference to ``out``, which is made anew, and return its bytes.

    Raises:
        InputError: if the run has no verdicts, a result has no provenance, or the whole is too large.
    """
    if not (run / "claims.csv").is_file():
        raise InputError(f"{run}: has no claims.csv; finish the run first")
    if out.exists() and not (out / "provenance.json").is_file():
        raise InputError(f"{out}: is there and is no reference; name another folder")
    found = sorted([run / "claims.csv", *run.glob("*/tables/*.csv"), *run.glob("*/figures/*.svg")])
    sizes = {path.relative_to(run).as_posix(): path.stat().st_size for path in found}
    kept = [name for name, size in sizes.items() if size <= LARGE and name not in PICTURES]
    records = {name: artifacts.read_json(provenance_path(run / name)) for name in kept}
    provenance = {key: records["claims.csv"].get(key) for key in SHARED}
    provenance |= {"results": {name: {key: records[name].get(key) for key in OWN} for name in kept}}
    provenance |= {"left_out": {name: size for name, size in sizes.items() if name not in kept}}
    if (total := sum(sizes[name] for name in kept)) > WHOLE:
        largest = ", ".join(f"{name} {sizes[name]:,}" for name in sorted(kept, key=lambda name: -sizes[name])[:5])
        raise InputError(
            f"{run}: {total:,} bytes are more than the {WHOLE:,} of a reference; the largest are {largest}"
        )
    if out.exists():
        shutil.rmtree(out)
    for name in kept:
        artifacts.write_bytes(out / name, (run / name).read_bytes())
    artifacts.write_json(out / "provenance.json", provenance)
    return total
