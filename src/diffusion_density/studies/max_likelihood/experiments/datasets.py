"""The list of image sets: those that are there, and how to get the others."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from diffusion_density.machine import artifacts
from diffusion_density.studies.max_likelihood.runs import DatasetsJob

COUNTS = ("train_images", "test_images", "channels", "side", "levels")


def run(sizes: DatasetsJob, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write one row per image set; every input is the description of one that is there."""
    rows = []
    for file in inputs.values():
        found = artifacts.read_json(file)
        digest = "; ".join(f"{source} {value}" for source, value in found.pop("sha256").items())
        rows.append({"dataset": found["dataset"], "present": True, "to_have_it": ""} | found | {"sha256": digest})
    rows += [{"dataset": slug, "present": False, "to_have_it": way} for slug, way in sizes.absent.items()]
    artifacts.write_csv(outputs["datasets"], pd.DataFrame(rows).astype(dict.fromkeys(COUNTS, "Int64")))
