"""Archives of official data sets: find or download them, verify them, and read their members.

An archive is identified by its file name, size and SHA-256. It is looked for in a folder of the user. If it is missing
and has a public address, it is downloaded into that folder. An archive with other bytes than the published ones is
refused. A download goes to `NAME.part` and resumes from there (HTTP Range) after an interruption; the finished file
gets its own name in one step. Members are read into memory and never written under a name from the archive, so a
malicious path in an archive does no harm. Nothing here unpickles.
"""

import http.client
import io
import re
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from diffusion_density.data.catalogue import Archive
from diffusion_density.machine.artifacts import sha256_of
from diffusion_density.machine.errors import InputError

DOWNLOAD_CHUNK_BYTES = 1 << 20
LEVELS = "levels"

READ_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, MemoryError)
"""What the standard readers raise if a file is truncated, corrupt, of another format, or holds pickles."""


class UnavailableError(InputError):
    """A data set is missing and could not be downloaded. A run may continue with its other data sets."""


def obtain(
    archive: Archive,
    folder: Path,
    *,
    download: bool = True,
    timeout: float = 10.0,
    attempts: int = 3,
    progress: bool = True,
) -> Path:
    """The path of a verified archive in `folder`; it is downloaded first if that is possible and allowed.

    `timeout` (seconds) limits the connection and every wait for more bytes. Each of the `attempts` resumes the one
    before.

    Raises:
        UnavailableError: if the file is missing and was not, or could not be, downloaded.
        InputError: if the file has another size or checksum than the published one.
    """
    path = folder / archive.file
    if path.is_file():
        verify(archive, path)
        return path
    if not download or archive.url is None or archive.size is None:
        raise UnavailableError(f"{archive.file} is not in {folder}: {archive.how_to_get(folder)}")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{archive.file}.part"
    for attempt in range(attempts):
        try:
            _fetch_rest(archive.url, part, archive.size, timeout=timeout, progress=progress)
            break
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == attempts - 1:
                kept = f"; {part.name} is kept to resume from" if part.exists() else ""
                raise UnavailableError(
                    f"could not download {archive.file} ({error}){kept}: {archive.how_to_get(folder)}"
                ) from error
    try:
        verify(archive, part)
    except InputError:
        part.unlink()
        raise
    part.replace(path)
    return path


def verify(archive: Archive, path: Path) -> None:
    """Compare a file's size, then its SHA-256, with the published ones.

    Raises:
        InputError: if one of them differs; the message says what was found and what to do.
    """
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        raise InputError(
            f"{path} has {size:,} bytes, the published {archive.file} {archive.size:,}:"
            f" truncated or another file; delete it and run again"
        )
    digest = sha256_of(path)
    if digest != archive.sha256:
        raise InputError(
            f"{path} has sha256 {digest}, the published {archive.file} {archive.sha256}:"
            f" tampered with or another version; delete it and run again"
        )


def _fetch_rest(url: str, part: Path, size: int, *, timeout: float, progress: bool) -> None:
    """Append the missing bytes to `part`, up to `size`; start from the first byte if the server has no ranges."""
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310  (addresses are constants)
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException("the server sent another range than was asked for")
        have = have if resumed else 0
        name = part.name.removesuffix(".part")
        bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=name, disable=not progress)
        with part.open("ab" if resumed else "wb") as file, bar:
            while have <= size and (chunk := response.read1(DOWNLOAD_CHUNK_BYTES)):
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    if have < size:
        raise http.client.HTTPException(f"the connection ended after {have:,} of {size:,} bytes")


@contextmanager
def readable(label: Path | str) -> Iterator[None]:
    """Turn the errors of the standard readers on a damaged or unexpected file into one clear line.

    Raises:
        InputError: in place of any of `READ_ERRORS`.
    """
    try:
        yield
    except InputError:
        raise
    except READ_ERRORS as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{label} cannot be read: {reason}") from error


def tar_members(path: Path, names: list[str], *, size: int) -> dict[str, bytes]:
    """The contents of the named regular files of a tar archive, each of exactly `size` bytes.

    Raises:
        InputError: if the archive is damaged, or a named member is missing, a link, or of another size.
    """
    contents: dict[str, bytes] = {}
    with readable(path), tarfile.open(path) as archive:
        for member in archive:
            if member.name in names:
                if member.size != size:
                    raise InputError(f"{path}: {member.name} has {member.size:,} bytes, not {size:,}")
                contents[member.name] = member_bytes(archive, member)
    if missing := [name for name in names if name not in contents]:
        raise InputError(f"{path} lacks {', '.join(missing)}: not the expected archive")
    return contents


def member_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a regular file of a tar archive.

    Raises:
        InputError: if the member is not a regular file.
    """
    file = archive.extractfile(member) if member.isreg() else None
    if file is None:
        raise InputError(f"{archive.name!r}: {member.name} is not a regular file")
    return file.read()


def arrays_of(file: io.BufferedIOBase, label: str, *keys: str) -> dict[str, np.ndarray]:
    """The arrays of an npz under the given keys, and under `levels` if it is there.

    Raises:
        InputError: if the file is damaged, pickled or not an npz, or lacks a key.
    """
    with readable(label):
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{label} is a single array, not an npz")
        with archive:
            missing = [key for key in keys if key not in archive]
            if missing:
                raise InputError(f"{label} lacks the key {' and '.join(missing)}; it has {', '.join(archive)}")
            return {key: archive[key] for key in (*keys, LEVELS) if key in archive}


def levels_of(arrays: Mapping[str, np.ndarray], path: Path) -> int:
    """The number of levels of the images in an npz: the scalar under `levels`, or 256 if there is none.

    Raises:
        InputError: if it is not one integer from 2 to 256.
    """
    levels = arrays.get(LEVELS, np.array(256))
    if levels.shape != () or levels.dtype.kind not in "iu" or not 2 <= levels <= 256:
        raise InputError(f"{path}: levels must be one integer from 2 to 256")
    return int(levels)


def npz_in_zip(path: Path) -> Iterator[UInt8[np.ndarray, "n 3072"]]:
    """The array `data` of every npz inside a zip, in the order of the numbers in their names."""
    with readable(path), zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npz")]
        if not members:
            raise InputError(f"{path} holds no npz: not the expected archive")
        for member in sorted(members, key=lambda name: [int(n) for n in re.findall(r"\d+", Path(name).name)]):
            data = arrays_of(io.BytesIO(archive.read(member)), f"{path}: {member}", "data")["data"]
            if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
                raise InputError(f"{path}: {member} holds {data.dtype} {data.shape}, not uint8 (N, 3072)")
            yield data


def rgb_pixels(file: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image file as RGB."""
    from PIL import Image  # training with images in memory does not need it

    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def png_in_tar(path: Path) -> Iterator[UInt8[np.ndarray, "3 32 32"]]:
    """Every PNG of a tar, in the archive's order."""
    with readable(path), tarfile.open(path) as archive:
        for member in archive:
            if member.isreg() and member.name.endswith(".png"):
                pixels = rgb_pixels(member_bytes(archive, member))
                if pixels.shape != (32, 32, 3):
                    raise InputError(f"{path}: {member.name} is {pixels.shape}, not 32×32 RGB")
                yield pixels.transpose(2, 0, 1)
