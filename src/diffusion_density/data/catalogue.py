"""The image sets by name: the archives that each needs, and its name in files. No import of torch or NumPy is needed.

| name | slug: the name in file names | needs |
|---|---|---|
| `digits`, `photos32` | the same | nothing |
| `cifar10`, `imagenet32`, `imagenet32-old` | the same | official archives in the data folder |
| `npz:PATH` | the file's name without `.npz` | the file |
"""

import re
from dataclasses import dataclass
from pathlib import Path

from diffusion_density.machine.errors import InputError


@dataclass(frozen=True)
class Archive:
    """A published file: its name, SHA-256 and size (bytes, None if not known), and where it comes from.

    `url` is None if a program cannot download the file (a login, a dead link); `source` then says where a person can
    get it.
    """

    file: str
    sha256: str
    size: int | None = None
    url: str | None = None
    source: str = ""

    def how_to_get(self, folder: Path) -> str:
        """One clause: which file to get, its size and checksum, from where, and into which folder to put it."""
        size = f"{self.size:,} bytes, " if self.size else ""
        origin = self.url or self.source
        return f"get {self.file} ({size}sha256 {self.sha256}) from {origin}; put it into {folder}"


EMBEDDED = ("digits", "photos32")
CIFAR10 = Archive(
    "cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    size=170_052_171,
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
IMAGENET_LOGIN = "https://image-net.org/data/downsample/ (after a login there)"
IMAGENET_OLD = "a copy of your own (the original links are dead)"
IMAGENET32 = {
    "new": (
        Archive(
            "Imagenet32_train_npz.zip",
            sha256="94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
            size=3_580_435_279,
            source=IMAGENET_LOGIN,
        ),
        Archive(
            "Imagenet32_val_npz.zip",
            sha256="013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a",
            size=139_697_668,
            source=IMAGENET_LOGIN,
        ),
    ),
    "old": (
        Archive(
            "train_32x32.tar",
            sha256="244a323d48f8d72f65ad8b54658c01fed68d2d7bdc77ccb43da58c11e94224e5",
            source=IMAGENET_OLD,
        ),
        Archive(
            "valid_32x32.tar",
            sha256="862e559462b24cf736212a19f6b0d47b55c2dc8ebdaa95ccecfe71260124c8f7",
            source=IMAGENET_OLD,
        ),
    ),
}
ARCHIVES = {"cifar10": (CIFAR10,), "imagenet32": IMAGENET32["new"], "imagenet32-old": IMAGENET32["old"]}
NAMES = (*EMBEDDED, *ARCHIVES)


def check_name(name: str) -> str:
    """The same name, if it is the name of an image set.

    Raises:
        InputError: if there is no image set of that name.
    """
    if name.startswith("npz:"):
        if not re.fullmatch(r"[\w.-]+", slug(name)) or slug(name) in NAMES:
            raise InputError(f"image set {name!r}: the file must have a plain name of its own, such as npz:mine.npz")
    elif name not in NAMES:
        raise InputError(f"no image set {name!r}; there are {', '.join(NAMES)} and npz:PATH")
    return name


def slug(name: str) -> str:
    """The name of an image set in file names and tables."""
    return Path(name.removeprefix("npz:")).stem if name.startswith("npz:") else name


def files(name: str, data_dir: Path) -> list[Path]:
    """The files that an image set is read from; none if it is inside a Python package."""
    if name.startswith("npz:"):
        return [Path(name.removeprefix("npz:"))]
    return [data_dir / archive.file for archive in ARCHIVES.get(name, ())]


def how_to_get(name: str, data_dir: Path) -> str:
    """How to get an image set: one clause for each missing file; empty if no file is missing."""
    if name.startswith("npz:"):
        return "" if files(name, data_dir)[0].is_file() else f"put a file at {files(name, data_dir)[0]}"
    absent = [archive for archive in ARCHIVES.get(name, ()) if not (data_dir / archive.file).is_file()]
    return "; ".join(archive.how_to_get(data_dir) for archive in absent)
