"""Submission: a file of adversarial images, or of an attack, that stands in place of an attack.

Nothing in a file of images is believed: no size, no name, no path. Nothing is unpacked onto the
disk, nothing pickled is loaded, and no memory is taken for what is larger than the images that are
expected.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
import safetensors
import safetensors.numpy

from sparring.data import npz
from sparring.errors import AttackError, DataError, SettingsError, printable, shown
from sparring.runs.records import MOST_IMAGES

LARGEST = 8 << 30
"""Bytes that a file of images may have."""

_KEYS = ("adversarial", "index")
_LARGEST_PICTURE = 16 << 20  # bytes of one PNG; one that is not compressed has as many as values
_LARGEST_TAR = 1 << 30  # bytes of one that was packed
_EXPECTED = (
    "expected a safetensors file or an .npz with images float [N, H, W, C] in [0, 1] as "
    "'adversarial' and, if they are not the first N test images, their indices as 'index'; or a "
    "folder or a .tar of PNG files named by the index of the test image, as 17.png"
)


@dataclass(frozen=True, repr=False)
class Submission:
    """What is judged in place of an attack that runs here; it is named as an attack is.

    Attributes:
        path: of the file.
        sha256: of its contents.
        options: of the attack, where it is the file of one.
    """

    path: Path
    sha256: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, options: Mapping[str, Any]) -> Submission:
        """Name the file of an attack, without running it.

        Raises:
            AttackError: it cannot be read.
        """
        try:
            contents = path.read_bytes()
        except OSError as error:
            found = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise AttackError(
                f"{path}: {found}; expected a Python file that defines attack"
            ) from error
        return cls(path, hashlib.sha256(contents).hexdigest(), options)

    @property
    def name(self) -> str:
        """Its short name: the file's, without what it ends in."""
        return printable(self.path.stem)

    def __repr__(self) -> str:
        """Name the file and the options, as attack.py(steps=10)."""
        given = ", ".join(f"{name}={shown(value)}" for name, value in self.options.items())
        return printable(self.path.name) + (given and f"({given})")

    def __call__(self, defense: Any, x: Any, y: Any, threat: Any) -> NoReturn:
        """Refuse: what is judged here is what others made of it."""
        raise AttackError(f"{self.path}: is judged, and does not run here")


@dataclass(frozen=True)
class Pictures:
    """Adversarial images by the index of their test image.

    Attributes:
        images: float32 [M, H, W, C].
        index: of which test images they are, int64 [M].
        unreadable: why there is none of a test image, by its index.
    """

    images: np.ndarray
    index: np.ndarray
    unreadable: Mapping[int, str]

    def aligned(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Put them in the order of test images.

        Args:
            index: of the test images, int [N], each once.

        Returns:
            The images float32 [N, H, W, C], zeros where there is none; and why there is none,
            objects [N], "" where there is one.
        """
        reasons = np.full(len(index), "missing: the file has no image for this one", object)
        images = np.zeros((len(index), *self.images.shape[1:]), np.float32)
        _, own, theirs = np.intersect1d(index, self.index, return_indices=True)
        images[own], reasons[own] = self.images[theirs], ""
        values, counts = np.unique(self.index, return_counts=True)
        reasons[np.isin(index, values[counts > 1])] = "the file has several images for this one"
        for row in np.flatnonzero(np.isin(index, list(self.unreadable))):
            reasons[row] = self.unreadable[int(index[row])]
        return images, reasons

    def extra(self, index: np.ndarray) -> list[int]:
        """List the indices that there are images or unreadable ones of, but not in `index`."""
        return sorted({*self.index.tolist(), *self.unreadable} - {*index.tolist()})


@dataclass(frozen=True)
class Contents:
    """What a file of adversarial images holds, read but not looked at.

    Attributes:
        path: of the file or folder.
        files: its bytes; or those of each file of a folder, by name.
        sha256: of all of it.
    """

    path: Path
    files: bytes | dict[str, bytes]
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Contents:
        """Read a safetensors file, an .npz, a .tar (.tar.gz, .tgz) of PNG, or a folder of PNG.

        Raises:
            DataError: it is not there, no file or folder, or larger than images may be.
        """
        with _told(path):
            if not path.is_dir():
                data = _start_of(path, LARGEST)
                return cls(path, data, hashlib.sha256(data).hexdigest())
            digest = hashlib.sha256()
            files = {name: _noted(digest, name, data) for name, data in _numbered(path)}
        return cls(path, files, digest.hexdigest())

    @staticmethod
    def sha256_of(path: Path) -> str:
        """Give the hash that `of` gives, without keeping anything in memory.

        Raises:
            DataError: what `of` raises.
        """
        with _told(path):
            if not path.is_dir():
                _expect_file(path)  # before it is opened: a pipe would keep us waiting
                with path.open("rb") as stream:
                    if os.fstat(stream.fileno()).st_size > LARGEST:
                        raise _too_large()
                    return hashlib.file_digest(stream, "sha256").hexdigest()
            digest = hashlib.sha256()
            for name, data in _numbered(path):
                _noted(digest, name, data)
        return digest.hexdigest()

    def pictures(self, shape: tuple[int, int, int], index: np.ndarray) -> Pictures:
        """Read the adversarial images.

        Args:
            shape: of an image, (H, W, C).
            index: of the test images that are expected, int [N]: where the file has no index, its
                images are those of these, in this order.

        Raises:
            DataError: it is of no known kind, or its images are of another shape.
            SettingsError: it holds PNG, and Pillow is not installed.
        """
        files = self.files
        try:
            if isinstance(files, dict):
                return _of_pictures(files.items(), shape)
            if self.path.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
                return _of_pictures(_of_tar(files), shape)
            arrays = _of_npz(files, shape) if files.startswith(b"PK") else of_safetensors(files)
            return of_arrays(arrays, shape, index)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error
        except SettingsError:
            raise
        except Exception as error:  # damaged bytes make zipfile, tarfile and numpy raise anything
            raise DataError(
                f"{self.path}: {_EXPECTED}; found none ({shown(error, 200)})"
            ) from error


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name what cannot be read, and say what was expected."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {_EXPECTED}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _numbered(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The PNG files of a folder that are named by a number, in order, and their bytes."""
    left = LARGEST
    for file in sorted(folder.iterdir()):
        # Links lead out of the folder, pipes nowhere.
        if is_numbered(file.name) and stat.S_ISREG(file.lstat().st_mode):
            data = _start_of(file, min(left, _LARGEST_PICTURE + 1))
            left -= len(data)
            yield file.name, data


def _noted(digest: hashlib._Hash, name: str, data: bytes) -> bytes:
    """Put a file of a folder into its hash, and give its bytes."""
    digest.update(f"\n{name} {len(data)}\n".encode() + data)
    return data


def _start_of(file: Path, most: int) -> bytes:
    """The bytes of a file that is one; of a larger one as many as tell that it is."""
    _expect_file(file)
    with file.open("rb") as stream:
        data = stream.read(most)
        if most == LARGEST and stream.read(1):
            raise _too_large()
    return data


def _too_large() -> DataError:
    return DataError(f"expected at most {LARGEST:,} bytes, found more")


def _expect_file(file: Path) -> None:
    if not stat.S_ISREG(file.stat().st_mode):
        raise DataError(f"{_EXPECTED}; found a pipe or a device")


# Arrays


def of_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file that are images or their indices.

    Raises:
        DataError: it is none.
    """
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{_EXPECTED}; found none ({shown(error, 200)})") from error


def _of_npz(data: bytes, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """The arrays of an .npz that are images or their indices, by name."""
    arrays = {}
    most = MOST_IMAGES * int(np.prod(shape)) * 8  # of float64
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
        names = [name for name in _KEYS if name in members] or list(members)[:2]
        for name in names:
            form = npz.form(file, members[name])
            if form.nbytes > most:
                raise DataError(f"expected at most {most:,} bytes of images, found {form.nbytes:,}")
            with file.open(members[name]) as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def of_arrays(
    arrays: Mapping[str, np.ndarray], shape: tuple[int, int, int], index: np.ndarray
) -> Pictures:
    """Take arrays of a file for images and their indices.

    Args:
        arrays: "adversarial" and, if there, "index"; or the images alone, by any name.
        shape: of an image, (H, W, C).
        index: the indices where there are none, int [N].

    Raises:
        DataError: there are no images among them, or of another shape or type.
    """
    name = _KEYS[0] if _KEYS[0] in arrays else next(iter(arrays), None)
    if name is None or (name != _KEYS[0] and len(arrays) > 1):
        raise DataError(f"{_EXPECTED}; found arrays {shown(sorted(arrays))}")
    images = arrays[name]
    found = f"found {images.dtype} {list(images.shape)} as {shown(name)}"
    if images.shape[1:] != shape or not (images.dtype.kind == "f" or images.dtype == np.uint8):
        expected = f"[N, {', '.join(map(str, shape))}]"
        raise DataError(f"expected images float {expected} in [0, 1], or uint8; {found}")
    if len(images) > MOST_IMAGES:
        raise DataError(f"expected at most {MOST_IMAGES:,} images, {found}")
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 255
    given = arrays.get(_KEYS[1])
    if given is None:
        # Who has one for each of the first M test images may be asked about any of them.
        given = np.arange(len(images)) if len(images) > len(index) else index[: len(images)]
    if given.shape != images.shape[:1] or given.dtype.kind not in "iu":
        raise DataError(
            f"expected integers [{len(images)}] as 'index', found {given.dtype} {list(given.shape)}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return Pictures(images.astype(np.float32), given.astype(np.int64), {})


# Folders and archives of PNG


def is_numbered(name: str) -> bool:
    """Tell whether a name is a number and .png, as that of an image by its index."""
    path = PurePosixPath(name)
    return path.suffix.lower() == ".png" and bool(re.fullmatch("[0-9]{1,9}", path.stem, re.ASCII))


def _of_tar(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The pictures in an archive: names, and the bytes of each."""
    if data.startswith(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(wbits=31)  # of gzip
        data = unpacker.decompress(data, _LARGEST_TAR)
        if not unpacker.eof:
            raise DataError(f"expected a whole gzip stream of at most {_LARGEST_TAR:,} bytes")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            # A sparse one may be larger than the archive.
            if member.isreg() and not member.issparse() and is_numbered(member.name):
                stream = archive.extractfile(member)
                assert stream is not None
                yield member.name, stream.read(_LARGEST_PICTURE + 1)


def _of_pictures(files: Iterable[tuple[str, bytes]], shape: tuple[int, int, int]) -> Pictures:
    """Read PNG files, by names that say the index of their test image."""
    images: list[np.ndarray] = []
    index: list[int] = []
    unreadable: dict[int, str] = {}
    for name, data in files:
        number = int(PurePosixPath(name).stem)
        try:
            images.append(_picture(data, shape))
            index.append(number)
        except DataError as error:
            unreadable[number] = f"unreadable: {error}"
        if len(index) + len(unreadable) > MOST_IMAGES:
            raise DataError(f"expected at most {MOST_IMAGES:,} pictures")
    if not (images or unreadable):
        raise DataError(f"{_EXPECTED}; found no such file")
    stacked = np.stack(images) if images else np.zeros((0, *shape), np.float32)
    return Pictures(stacked, np.array(index, np.int64), unreadable)


def _picture(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Read one PNG as float32 [H, W, C]; DataError where it is none of that shape."""
    try:
        from PIL import Image
    except ImportError as error:
        raise SettingsError(
            f"images as PNG need Pillow: pip install 'sparring[images]' ({error})"
        ) from error
    height, width, channels = shape
    mode = {1: "L", 3: "RGB"}.get(channels)
    if len(data) > _LARGEST_PICTURE:
        raise DataError(f"expected at most {_LARGEST_PICTURE:,} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            # The header alone is read until here, and the values only where they are as many.
            if (picture.size, picture.mode) != ((width, height), mode):
                raise DataError(
                    f"expected a PNG {width}x{height} {mode}, found {picture.size[0]}x"
                    f"{picture.size[1]} {picture.mode}"
                )
            values = np.array(picture, np.float32) / 255
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly everything for damaged files
        raise DataError(f"expected a PNG ({shown(error, 80)})") from error
    return values.reshape(shape)
