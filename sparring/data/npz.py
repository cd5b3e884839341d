"""Anybody's images, from an .npz file, whose sizes are checked before memory is taken."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sparring.data.dataset import Dataset, check_images, check_labels
from sparring.data.reading import read
from sparring.errors import DataError

NEEDED = ("x_train", "y_train", "x_test", "y_test")
"""Names of the arrays that a file has to have; class_names may be there too."""

_HEADER = 10_000
"""Bytes that an array's header may have, as for numpy."""
_LARGE, _PACKED = 2**30, 100
"""Arrays of more bytes in all than the one, and the other times those of the file, are no images:
these hardly get a tenth of their size."""


def load(path: Path) -> Dataset:
    """Read a data set from an .npz file, as numpy.savez writes.

    Args:
        path: a file with images uint8 [N, H, W, C] or, for one channel, [N, H, W], as x_train and
            x_test, labels, integers [N], as y_train and y_test and, if wanted, class_names.

    Returns:
        The data set, named after the file, without a key. Without class_names classes are numbers.

    Raises:
        DataError: for a file that is missing, damaged, of another kind or pickled, for arrays of
            other types and shapes, and when a class has no training image.
    """
    read(path, first_bytes=512)
    try:
        return of_arrays(path.stem, _arrays(path))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly everything
        raise DataError(
            f"{path}: expected an .npz file of plain numeric arrays, as numpy.savez writes; this "
            "one is damaged, of another kind, or holds pickled objects, which are never loaded "
            f"({error!s:.200})"
        ) from error


def of_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> Dataset:
    """Make a data set of arrays, with as many classes as there are labels.

    Args:
        name: of the data set.
        arrays: by their names in `NEEDED`, as in a file, with class_names, if wanted.

    Returns:
        The data set, without a key. Without class_names classes are numbers.

    Raises:
        DataError: for other types and shapes, and when a class has no training image.
    """
    x_train, y_train, x_test, y_test = (_with_channels(key, arrays[key]) for key in NEEDED)
    check_images("x_train", x_train)
    check_labels("y_train", y_train, len(x_train))
    names = arrays.get("class_names")
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise DataError(
            f"class_names: expected texts [classes], found {names.dtype} {list(names.shape)}"
        )
    classes = int(y_train.max()) + 1 if names is None else len(names)
    if classes > len(y_train):  # before a name is made for each
        raise DataError(
            f"y_train: expected labels 0 to at most {len(y_train) - 1}, each at least once; found "
            f"{len(y_train)} labels of {classes} classes"
        )
    class_names = tuple(map(str, range(classes) if names is None else names))
    dataset = Dataset(name, x_train, y_train, x_test, y_test, class_names)
    absent = np.setdiff1d(np.arange(classes), y_train)
    if len(absent):
        raise DataError(
            f"y_train: expected labels 0 to {classes - 1}, each at least once; "
            f"missing {', '.join(map(str, absent[:10]))}"
        )
    return dataset


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name."""
    with zipfile.ZipFile(path) as file:
        members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
        if missing := [key for key in NEEDED if key not in members]:
            raise DataError(
                f"expected arrays {', '.join(NEEDED)}; missing {', '.join(missing)}, "
                f"found {', '.join(members)[:200] or 'none'}"
            )
        wanted = {key: members[key] for key in (*NEEDED, "class_names") if key in members}
        _expect_sensible(
            {key: form(file, member) for key, member in wanted.items()}, path.stat().st_size
        )
        arrays = {}
        for key, member in wanted.items():
            with file.open(member) as stream:
                arrays[key] = np.lib.format.read_array(stream, allow_pickle=False)
        return arrays


def form(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array without memory of its own, of the dtype and shape of one in the file."""
    compressions = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if member.flag_bits & 1 or member.compress_type not in compressions:
        raise ValueError(f"{member.filename} is encrypted, or compressed in another way")
    with file.open(member) as stream:
        start = io.BytesIO(stream.read(_HEADER))
    version = np.lib.format.read_magic(start)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = header[version](start, max_header_size=_HEADER)
    size = start.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject or not dtype.itemsize or member.file_size != size:
        raise ValueError(f"{member.filename}: {dtype} {list(shape)} in {member.file_size} bytes")
    return np.broadcast_to(np.zeros((), dtype), shape)


def _expect_sensible(forms: dict[str, np.ndarray], packed: int) -> None:
    """Raise DataError unless the arrays are images and labels by their forms, and fit in memory."""
    size, memory = sum(form.nbytes for form in forms.values()), _memory()
    if size > memory or (size > _LARGE and size > _PACKED * packed):
        raise DataError(
            f"expected images, found a file of {packed:,} bytes that unpacks to {size:,}; this "
            f"machine has {memory:,.0f}. Images that are nearly empty are taken uncompressed."
        )
    for part in ("train", "test"):
        x = _with_channels(f"x_{part}", forms[f"x_{part}"])
        # Small arrays of another type are read, for their range in the message.
        if x.dtype == np.uint8 or x.nbytes > _LARGE // 4:
            check_images(f"x_{part}", x)
        check_labels(f"y_{part}", forms[f"y_{part}"], len(x) if x.ndim else 0)


def _with_channels(key: str, array: np.ndarray) -> np.ndarray:
    return array[..., None] if key.startswith("x") and array.ndim == 3 else array


def _memory() -> float:
    """Bytes of the machine's memory, infinity where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return math.inf
