"""The image sets of a run: checked, described and listed."""

from pathlib import Path

import pandas as pd

from diffusion_density.data.catalogue import how_to_get, slug
from diffusion_density.data.images import load
from diffusion_density.machine import artifacts


def describe(name: str, data_dir: Path, out: Path) -> None:
    """Read an image set and describe it.

    Raises:
        InputError: if the set is not what it should be.
    """
    images = load(name, data_dir, download=False)
    artifacts.write_json(
        out,
        {
            "dataset": images.name,
            "variant": images.variant,
            "train_images": len(images.train),
            "test_images": len(images.test),
            "channels": images.shape[0],
            "side": images.shape[1],
            "levels": images.levels,
            "origin": images.origin,
            "terms": images.terms,
            "sha256": dict(images.sha256),
        },
    )


def summarise(descriptions: list[Path], absent: list[str], data_dir: Path, out: Path) -> None:
    """Write one row an image set: those that are there, and what to do to have the others."""
    rows = []
    for file in descriptions:
        found = artifacts.read_json(file)
        digest = "; ".join(f"{source} {value}" for source, value in found.pop("sha256").items())
        rows.append({"dataset": found["dataset"], "present": True, "to_have_it": ""} | found | {"sha256": digest})
    rows += [{"dataset": slug(name), "present": False, "to_have_it": how_to_get(name, data_dir)} for name in absent]
    table = pd.DataFrame(rows)
    counts = ["train_images", "test_images", "channels", "side", "levels"]
    artifacts.write_csv(out, table.astype(dict.fromkeys(counts, "Int64")))
