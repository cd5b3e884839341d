"""Finding, downloading, reading and verifying files, with errors that name the way out."""

from __future__ import annotations

import hashlib
import math
import os
import stat
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparring.errors import DataError

_GZIP_EXTRA = 2**20
"""Bytes by which a gzip file may be longer than its contents."""


def cache_folder() -> Path:
    """Say where downloads are kept, which Keras decides: below KERAS_HOME, else below ~/.keras."""
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if not os.access(nearest_existing(home), os.W_OK):
        home = Path("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()) / ".keras"
    return home / "datasets"


def nearest_existing(path: Path) -> Path:
    """Give a path or, until it is made, the folder it would be made in."""
    return next(place for place in (path, *path.absolute().parents) if os.access(place, os.F_OK))


def to_path(text: str | Path) -> Path:
    """Give a path with ~ expanded; DataError for what can be none."""
    try:
        path = Path(text).expanduser()
        path.exists()  # raises for names that are too long, say
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{str(text)[:200]!r}: expected a path: {error!s:.200}") from error
    return path


def find(folder: Path, names: Sequence[str]) -> Path:
    """Give the path of the first of several names that a folder has a file of.

    Raises:
        DataError: when it has none of them.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: expected a file {' or '.join(names)}, found none")


def read(path: Path, first_bytes: int = -1) -> bytes:
    """Read a file that exists, is not empty and is no web page.

    Args:
        path: the file.
        first_bytes: how many bytes to read; -1 reads all.

    Raises:
        DataError: when it is missing, no file, unreadable, empty, or a web page in place of data.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
            raise OSError("expected a file, found a folder, a pipe or a device")
        with path.open("rb") as file:
            data = file.read(first_bytes)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: no path at all
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not data:
        raise DataError(f"{path}: expected data, found an empty file")
    if data[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError(
            f"{path}: expected data, found a web page: a download that went wrong? "
            "Fetch the file anew."
        )
    return data


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an IDX file of bytes, gzipped when its name ends in .gz.

    Args:
        path: the file.
        shape: the shape it has to have.

    Returns:
        The array, uint8 of that shape, read-only.

    Raises:
        DataError: when it is missing, truncated, or of another kind or shape.
    """
    # One byte more than there should be tells a longer file, and a bomb, without reading it all.
    most = 4 + 4 * len(shape) + math.prod(shape) + 1
    if path.suffix == ".gz":
        packed, data = read(path, most + _GZIP_EXTRA), b""
        try:
            while True:  # gzip files may be put one behind the other
                unpacker = zlib.decompressobj(wbits=31)  # of gzip
                data += unpacker.decompress(packed, most - len(data))
                packed = unpacker.unused_data
                if not unpacker.eof or not packed.startswith(b"\x1f\x8b") or len(data) >= most:
                    break
        except zlib.error as error:
            raise DataError(f"{path}: expected a gzip file: {error}") from error
        if not unpacker.eof and len(data) < most:
            raise DataError(f"{path}: truncated: the gzip stream ends too soon")
    else:
        data = read(path, most)
    # Two zeros, 8 for unsigned bytes, the number of axes, then the size of each.
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    if data[: len(header)] != header:
        raise DataError(
            f"{path}: expected an IDX file of {' x '.join(map(str, shape))} bytes, which begins "
            f"with {header.hex(' ')}, found {data[: len(header)].hex(' ') or 'nothing'}"
        )
    expect_length(str(path), data, len(header) + math.prod(shape))
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


def expect_length(name: str, data: bytes, expected: int, what: str = "") -> None:
    """Raise DataError, naming the data, unless they have the expected number of bytes."""
    if len(data) != expected:
        short = "truncated: " if len(data) < expected else ""
        raise DataError(f"{name}: {short}expected {expected} bytes{what}, found {len(data)}")


def sha256(data: bytes) -> str:
    """Give the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def download(name: str, file: str, url: str, **options: str) -> Path:
    """Download a file of a data set, unless it was before, by Keras.

    Args:
        name: of the data set.
        file: its name.
        url: where it is.
        options: of keras.utils.get_file.

    Returns:
        Where it is kept.

    Raises:
        DataError: when that fails; says how to do without.
    """
    from sparring.backend import keras

    try:
        return Path(keras.utils.get_file(file, url, **options))
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise DataError(
            f"{name} could not be downloaded: {error}. Without a network, put its files into a "
            "folder and name it with --data-dir."
        ) from error


def machine_memory() -> float:
    """Give the bytes of the machine's memory, infinity where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return math.inf
