"""The description of an image set: where it is from, its size and its checksum."""

from collections.abc import Mapping
from pathlib import Path

from diffusion_density.machine import artifacts
from diffusion_density.studies.max_likelihood.runs import DatasetJob
from diffusion_density.studies.shared.inputs import ImageInputs


def run(sizes: DatasetJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> None:
    """Describe the image set, which was checked when it was read."""
    images = inputs.images
    artifacts.write_json(
        outputs["description"],
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
