"""Image sets: `load(name, data_dir)` gives an `ImageSet`, or an error of one line.

| name | images | needs |
|---|---|---|
| `digits` | 8×8 grey, 17 levels, scikit-learn | nothing |
| `photos32` | 32×32 RGB crops of photographs inside the scikit-learn and scikit-image wheels | nothing |
| `cifar10` | 32×32 RGB, 50,000 + 10,000 | the official binary archive, downloaded if it is missing |
| `imagenet32`, `imagenet32-old` | 32×32 RGB, 1.28 million + 50,000 | official archives, downloaded by hand |
| `npz:PATH` | your own uint8 images (N, H, W, C) under the keys `train` and `test` | the file |

Pixels are uint8 with values 0 … levels − 1, and tensors have shape (N, C, H, W). ImageNet-32 has two versions: `new`
(box filter, Chrabaszcz et al. 2017, arXiv 1707.08819) and `old` (van den Oord et al. 2016, arXiv 1601.06759). Their
bits/dim are not comparable, so an `ImageSet` has a `variant`. An archive is accepted only if its checksum is right, and
nothing is unpickled.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from diffusion_density.data.archives import (
    arrays_of,
    levels_of,
    npz_in_zip,
    obtain,
    png_in_tar,
    rgb_pixels,
    tar_members,
)
from diffusion_density.data.catalogue import CIFAR10, IMAGENET32, Archive, check_name, files
from diffusion_density.machine.artifacts import replacing, sha256_of
from diffusion_density.machine.errors import InputError

IMAGENET_TERMS = "non-commercial research; images may not be redistributed (image-net.org terms of access)"

TRAIN_PHOTOS = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("sklearn", "datasets/images/china.jpg"),
)
TEST_PHOTOS = (("skimage", "data/chelsea.png"), ("sklearn", "datasets/images/flower.jpg"))


@dataclass(frozen=True)
class ImageSet:
    """Training and test images, and where they come from.

    `train` (N, C, H, W) and `test` (M, C, H, W) are uint8 with values below `levels` and may be memory-mapped files.
    `variant` is the version of the data set ("new" or "old"; empty if there is only one). `sha256` maps each source to
    its checksum. `terms` are the conditions of use.

    Raises:
        InputError: if there are no images, if they are not square or not of one shape, or if a value is not below
            `levels`.
    """

    name: str
    train: UInt8[Tensor, "n c h w"]
    test: UInt8[Tensor, "m _ _ _"]
    levels: int
    variant: str
    origin: str
    sha256: Mapping[str, str]
    terms: str

    def __post_init__(self) -> None:
        shapes = tuple(self.train.shape), tuple(self.test.shape)
        if shapes[0][1:] != shapes[1][1:]:
            raise InputError(f"{self.name}: train {shapes[0]} and test {shapes[1]} differ in image shape")
        _, channels, height, width = shapes[0]
        if height != width or channels not in (1, 3):
            raise InputError(f"{self.name}: images must be square with 1 or 3 channels, not {shapes[0][1:]} (C, H, W)")
        if 0 in shapes[0] + shapes[1]:
            raise InputError(f"{self.name}: no images in train {shapes[0]} or test {shapes[1]}")
        if self.levels < 256 and max(int(self.train.max()), int(self.test.max())) >= self.levels:
            raise InputError(f"{self.name}: values reach beyond the {self.levels} levels 0 … {self.levels - 1}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width


def load(name: str, data_dir: Path, *, download: bool = True) -> ImageSet:
    """The image set of that name (see the top of this module); archives and memory-mapped copies stay in `data_dir`.

    `download` says whether `cifar10` may be downloaded; no other set is.

    Raises:
        UnavailableError: if an archive is missing and could not be downloaded; the line says how to get it.
        InputError: for an unknown name, or a file that is truncated, changed, or of unexpected content.
    """
    match check_name(name):
        case "digits":
            return _digits()
        case "photos32":
            return _photos32()
        case "cifar10":
            return cifar10(data_dir, download=download)
        case "imagenet32" | "imagenet32-old":
            return imagenet32(data_dir, "old" if name.endswith("-old") else "new")
    return _npz(files(name, data_dir)[0])


def digit_labels() -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """The classes 0 … 9 of the training and the test images of `digits`, in the same order as the images."""
    return _digit_arrays()[1]


def _digit_arrays() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels of the 1,797 digits (UCI test set), split 80/20 by a random permutation.

    The permutation is NumPy's legacy `RandomState`, which gives the same numbers in every version.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    held_out = len(order) // 5
    images = torch.from_numpy(digits.images.astype(np.uint8)[order])[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64)[order])
    return (images[held_out:], images[:held_out]), (labels[held_out:], labels[:held_out])


def _digits() -> ImageSet:
    train, test = _digit_arrays()[0]
    return ImageSet(
        name="digits",
        train=train.contiguous(),
        test=test.contiguous(),
        levels=17,
        variant="",
        origin="scikit-learn load_digits (UCI optical recognition of handwritten digits, test part)",
        sha256={"pixels": _pixels_sha256(test, train)},
        terms="CC BY 4.0 (UCI)",
    )


def _photos32() -> ImageSet:
    """Crops of photographs at half size: training crops overlap (one every 4 pixels), test crops do not.

    Training and test crops come from different photographs. The 2×2 box filter that halves a photograph removes most
    traces of the camera's mosaic and of JPEG blocks, as the box filter of ImageNet-32 does.
    """
    train = torch.cat([_crops(*photo, stride=4) for photo in TRAIN_PHOTOS])
    test = torch.cat([_crops(*photo, stride=32) for photo in TEST_PHOTOS])
    return ImageSet(
        name="photos32",
        train=train,
        test=test,
        levels=256,
        variant="",
        origin="crops of " + ", ".join(f"{package}/{path}" for package, path in TRAIN_PHOTOS + TEST_PHOTOS),
        sha256={"pixels": _pixels_sha256(train, test)},
        terms="public domain or CC0 (astronaut, coffee, chelsea), CC BY 2.0 (china, flower),"
        " Middlebury Stereo 2014 (motorcycle)",
    )


def _crops(package: str, path: str, stride: int) -> UInt8[Tensor, "n 3 32 32"]:
    """All 32×32 windows, `stride` pixels apart, of a photograph halved by a 2×2 box filter."""
    file = package_files(package).joinpath(path)
    if not file.is_file():
        raise InputError(f"photos32: this {package} does not ship {path}; install a version whose wheel does")
    photo = rgb_pixels(file.read_bytes()).astype(np.float64)
    height, width = (side // 2 for side in photo.shape[:2])
    halved = photo[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3))
    pixels = torch.from_numpy(np.floor(halved + 0.5).astype(np.uint8))
    return pixels.unfold(0, 32, stride).unfold(1, 32, stride).flatten(0, 1).contiguous()


def cifar10(data_dir: Path, archive: Archive = CIFAR10, *, per_batch: int = 10_000, download: bool = True) -> ImageSet:
    """CIFAR-10 from the official binary archive: records of one label byte and 3,072 channel-planar pixels.

    Raises:
        UnavailableError, InputError: as `load`.
    """
    path = obtain(archive, data_dir, download=download)
    names = [f"cifar-10-batches-bin/{n}.bin" for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]
    contents = tar_members(path, names, size=per_batch * 3073)
    records = torch.stack([torch.from_numpy(np.frombuffer(contents[n], np.uint8).copy()) for n in names])
    images = records.view(6, per_batch, 3073)[:, :, 1:].reshape(6, per_batch, 3, 32, 32)
    return ImageSet(
        name="cifar10",
        train=images[:5].flatten(0, 1),
        test=images[5],
        levels=256,
        variant="",
        origin=archive.url or archive.file,
        sha256={archive.file: archive.sha256},
        terms="cite Krizhevsky (2009), Learning multiple layers of features from tiny images",
    )


def imagenet32(data_dir: Path, variant: str, archives: tuple[Archive, Archive] | None = None) -> ImageSet:
    """ImageNet-32, `new` (zip of npz) or `old` (tar of PNG), unpacked once into raw files that are memory-mapped.

    Raises:
        UnavailableError, InputError: as `load`.
    """
    train, test = archives or IMAGENET32[variant]
    return ImageSet(
        name="imagenet32",
        train=_memory_mapped(train, data_dir, variant),
        test=_memory_mapped(test, data_dir, variant),
        levels=256,
        variant=variant,
        origin=f"{train.file} and {test.file}, {train.source}",
        sha256={train.file: train.sha256, test.file: test.sha256},
        terms=IMAGENET_TERMS,
    )


def _memory_mapped(archive: Archive, data_dir: Path, variant: str) -> UInt8[Tensor, "n 3 32 32"]:
    """The archive's images, from `<file>.<checksum>.uint8`; if that file is missing, it is written first."""
    raw = data_dir / f"{archive.file}.{archive.sha256[:12]}.uint8"
    if not raw.is_file():
        path = obtain(archive, data_dir)
        with replacing(raw) as partial, partial.open("wb") as file:
            for images in npz_in_zip(path) if variant == "new" else png_in_tar(path):
                file.write(images.tobytes())
    size = raw.stat().st_size
    if size == 0 or size % 3072:
        raise InputError(f"{raw} does not hold whole 32×32 RGB images: delete it and run again")
    return torch.from_file(str(raw), shared=False, size=size, dtype=torch.uint8).view(-1, 3, 32, 32)


def _npz(path: Path) -> ImageSet:
    """Images of the user: `train` and `test`, uint8 (N, H, W, C), and optionally a scalar `levels` (default 256)."""
    if not path.is_file():
        raise InputError(f"npz:{path}: no such file")
    digest = sha256_of(path)
    with path.open("rb") as file:
        arrays = arrays_of(file, str(path), "train", "test")
    if sha256_of(path) != digest:
        raise InputError(f"{path}: changed while it was read; run again")
    for key in ("train", "test"):
        array = arrays[key]
        if array.dtype != np.uint8 or array.ndim != 4:
            raise InputError(f"{path}: {key} is {array.dtype} {array.shape}; need uint8 of shape (N, H, W, C)")
    levels = levels_of(arrays, path)
    train, test = (torch.from_numpy(arrays[key]).permute(0, 3, 1, 2).contiguous() for key in ("train", "test"))
    return ImageSet(
        name=path.stem,
        train=train,
        test=test,
        levels=levels,
        variant="",
        origin=path.name,
        sha256={path.name: digest},
        terms=f"as whoever made {path.name} says",
    )


def _pixels_sha256(*images: Tensor) -> str:
    """SHA-256 over the bytes of all pixels."""
    digest = hashlib.sha256()
    for tensor in images:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
