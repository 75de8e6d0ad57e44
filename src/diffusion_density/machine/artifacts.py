"""Read and write results: each file is written whole or not at all, and equal numbers give equal bytes.

Every writer writes a temporary file in the target's folder, flushes it to the disk and renames it. So no reader sees
half a file, and a killed job leaves none. Results contain no dates: what belongs to one execution (time, machine,
revision) is in ``<result>.provenance.json``, written by `provenance.recording`. Every reader raises `InputError` that
names the file.
"""

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_density.machine.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

HEADER_KEY = "settings"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path; at the end move the file there to ``path``, or remove it after an error.

    Parent folders are created. Raises `InputError` if the folder cannot be written to, or the disk is full; the file
    that was there before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = f"; make room in {path.parent} and run again, finished results stay" if full else ""
        raise InputError(f"{path}: cannot be written ({error.strerror or error}){hint}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8; line endings stay as they are."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON with its keys in the order given. Infinities and NaN are errors."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write a tidy table without its index; numbers keep every digit."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_safetensors(path: Path, tensors: "Mapping[str, Tensor]", settings: Mapping[str, Any] | None = None) -> None:
    """Write named tensors, and ``settings`` (any JSON value) in the file's header."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # One header key only: safetensors writes several in an arbitrary order.
    header = {HEADER_KEY: json.dumps(settings or {}, allow_nan=False)}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, header)
        except SafetensorError as error:  # the number of the system's error is only in the text
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def read_text(path: Path) -> str:
    """Read UTF-8 text."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text") from error


def read_json(path: Path) -> Any:  # noqa: ANN401 (JSON holds anything)
    """Read a JSON file."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}: is not JSON ({error.msg})") from error


def read_csv(path: Path, columns: Sequence[str] = ()) -> "pd.DataFrame":
    """Read a table that has at least ``columns``; text stays text and numbers come back as they were written."""
    import pandas as pd

    text = read_text(path)
    if not text.endswith("\n"):
        raise InputError(f"{path}: ends in the middle of a line; make it again")
    try:
        table = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: is not a table ({str(error).strip()})") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"{path}: lacks the column {', '.join(missing)}; it has {', '.join(map(str, table))}")
    return table


def joined(parts: Sequence[Path]) -> str:
    """The text of one table with the rows of several, in the order given; the text of each number stays the same.

    Raises `InputError` if their columns differ.
    """
    header = ""
    rows: list[str] = []
    for part in parts:
        columns, newline, body = read_text(part).partition("\n")
        if not newline or (body and not body.endswith("\n")):
            raise InputError(f"{part}: ends in the middle of a line; make it again")
        if rows and columns != header:
            raise InputError(f"{part}: has the columns {columns}, but {parts[0]} has {header}")
        header = columns
        rows.append(body)
    return f"{header}\n{''.join(rows)}"


def read_safetensors(path: Path, names: Sequence[str] = ()) -> "tuple[dict[str, Tensor], Any]":
    """Read the tensors of a file, which must have at least ``names``, and the settings of its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            header = file.metadata() or {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise InputError(f"{path}: is truncated, or is not a safetensors file ({error})") from error
    missing = [name for name in names if name not in tensors]
    if missing:
        raise InputError(f"{path}: lacks the tensor {', '.join(missing)}; it has {', '.join(sorted(tensors))}")
    if HEADER_KEY not in header:
        raise InputError(f"{path}: has no header {HEADER_KEY!r}; it was not written by this package")
    return tensors, json.loads(header[HEADER_KEY])


def settings_hash(settings: object) -> str:
    """SHA-256 of the settings as canonical JSON: the order of keys does not matter."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
