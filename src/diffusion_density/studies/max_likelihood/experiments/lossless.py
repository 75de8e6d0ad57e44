"""What lossless coders need for the test images of an image set."""

from pathlib import Path

import pandas as pd
from tqdm import tqdm

from diffusion_density.data.coders import CODERS, bits_per_dim
from diffusion_density.data.images import load
from diffusion_density.machine import artifacts


def measure(name: str, data_dir: Path, count: int, out: Path) -> None:
    """Code the first test images, and write one row an image and coder.

    Raises:
        InputError: if the set is not what it should be.
    """
    images = load(name, data_dir, download=False)
    rows = [
        {"dataset": images.name, "coder": coder, "image": i, "bits_per_dim": bits}
        for coder in tqdm(CODERS, desc=images.name, unit="coder")
        for i, bits in enumerate(bits_per_dim(images.test[:count], coder).tolist())
    ]
    artifacts.write_csv(out, pd.DataFrame(rows))
