"""What lossless coders need for the test images of an image set."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from diffusion_density.data.coders import CODERS, bits_per_dim
from diffusion_density.machine import artifacts
from diffusion_density.studies.max_likelihood.runs import LosslessJob
from diffusion_density.studies.shared.inputs import ImageInputs


def run(sizes: LosslessJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> None:
    """Code the first test images, and write one row per image and coder."""
    images = inputs.images
    rows = [
        {"dataset": images.name, "coder": coder, "image": i, "bits_per_dim": bits}
        for coder in tqdm(CODERS, desc=images.name, unit="coder")
        for i, bits in enumerate(bits_per_dim(images.test[: sizes.count], coder).tolist())
    ]
    artifacts.write_csv(outputs["table"], pd.DataFrame(rows))
