"""What `score` is given: points of a CSV, or images of an npz file or of an image set by name."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.data.archives import LEVELS, arrays_of, levels_of, readable
from diffusion_density.data.catalogue import NAMES
from diffusion_density.data.images import ImageSet, load
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError


@dataclass(frozen=True)
class Data:
    """What to score.

    Attributes:
        source: a CSV of points; or ``npz:PATH`` or PATH.npz of images; or the name of an image set.
        key: the array of images in the npz; ``test`` by default, or the only one.
        number: score the first so many; all by default.
        folder: where archives of image sets are.
    """

    source: str
    key: str | None = None
    number: int | None = None
    folder: Path = Path("data")

    @property
    def are_images(self) -> bool:
        """Whether the source names images."""
        return self.source.startswith("npz:") or self.source.endswith(".npz") or self.source in NAMES

    def points(self) -> Float[Tensor, "n d"]:
        """The points of a CSV, as :func:`read_points`."""
        return read_points(Path(self.source))[: self.number]

    def images(self) -> ImageSet:
        """The images, as the training part and the test part of a set alike; of an image set, its test images.

        Raises:
            InputError: for a file that is no npz, is damaged or pickled, or lacks the key; for an array that is not
                uint8 (N, H, W, C) with 1 or 3 channels; for a number below 1.
        """
        if self.number is not None and self.number < 1:
            raise InputError(f"score: the number of images must be at least 1, got {self.number}")
        if self.source in NAMES:
            if self.key is not None:
                raise InputError(f"score: {self.source} has no keys; --key is for an npz")
            found = load(self.source, self.folder, download=False)
            pixels, levels, name, checksums = found.test, found.levels, found.name, dict(found.sha256)
        else:
            path = Path(self.source.removeprefix("npz:"))
            pixels, levels = _npz(path, self.key)
            name, checksums = path.stem, {path.name: artifacts.sha256_of(path)}
        pixels = pixels[: self.number].contiguous()
        return ImageSet(name, pixels, pixels, levels, variant="", origin=self.source, sha256=checksums, terms="")


def read_points(path: Path) -> Float[Tensor, "n d"]:
    """The points of a CSV with a header, one per row, one coordinate per column: (N, D) in double precision.

    Raises:
        InputError: naming the row and column of the first cell that is no finite number.
    """
    table = artifacts.read_csv(path)
    if table.empty:
        raise InputError(f"{path}: holds no points")
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    rows, columns = np.nonzero(~np.isfinite(values))
    if len(rows):
        cell = table.iloc[rows[0], columns[0]]
        column = table.columns[columns[0]]
        raise InputError(f"{path}: row {rows[0] + 1}, column {column!r}: {cell!s} is not a finite number")
    return torch.tensor(values)


def _npz(path: Path, key: str | None) -> tuple[Tensor, int]:
    """The images (N, C, H, W) and the number of their levels."""
    chosen = key or _key(path)
    with readable(path), path.open("rb") as file:
        arrays = arrays_of(file, str(path), chosen)
    levels = levels_of(arrays, path)
    array = arrays[chosen]
    if array.dtype != np.uint8 or array.ndim != 4:
        raise InputError(f"{path}: {chosen} is {array.dtype} {array.shape}; need uint8 images of shape (N, H, W, C)")
    return torch.from_numpy(array).permute(0, 3, 1, 2), levels


def _key(path: Path) -> str:
    """The array that holds the images where no key was given: ``test``, or the only one."""
    with readable(path), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} is a single array, not an npz")
        names = [name for name in archive.files if name != LEVELS]
    if "test" in names:
        return "test"
    if len(names) != 1:
        raise InputError(f"{path}: holds {', '.join(names) or 'no array'}; name the images by --key")
    return names[0]
