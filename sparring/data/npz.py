"""Anybody's images, from an .npz file, whose sizes are checked before memory is taken."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sparring.data.dataset import Dataset, check_images, check_labels
from sparring.data.reading import machine_memory, read
from sparring.errors import DataError

NEEDED = ("x_train", "y_train", "x_test", "y_test")
"""Names of the arrays that a file has to have; class_names may be there too."""

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
_KINDS = dict.fromkeys(("x", "image", "images", "img", "imgs", "data"), "x") | dict.fromkeys(
    ("y", "label", "labels", "target", "targets"), "y"
)
"""What the words of other names stand for, as train_images or labels_test, in any case."""

_WHITE = 128
"""Images in 0..255 have a brighter pixel somewhere; without one their range may be another."""

_HEADER = 10_000
"""Bytes that an array's header may have, as for numpy."""
_LARGE, _PACKED = 2**30, 100
"""Arrays of more bytes in all than the one, and the other times those of the file, are no images:
these hardly get a tenth of their size."""


def load(path: Path) -> Dataset:
    """Read a data set from an .npz file, as numpy.savez writes.

    Args:
        path: a file with images and labels, as `of_arrays` takes them, called x_train, x_test,
            y_train and y_test, or by other words for these, as train_images, and, if wanted,
            class_names. Those for validation are the test images where there are no others.

    Returns:
        The data set, named after the file, without a key. Without class_names classes are numbers.

    Raises:
        DataError: for a file that is missing, damaged, of another kind or pickled, for arrays of
            other types and shapes, and when a class has no training image.
    """
    read(path, first_bytes=512)
    try:
        arrays, notes = _arrays(path)
        dataset = of_arrays(path.stem, arrays)
        return replace(dataset, notes=(*notes, *dataset.notes))
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
        arrays: by their names in `NEEDED`, as in a file, with class_names, if wanted. Images are
            [N, H, W, C], [N, C, H, W] or, for one channel, [N, H, W]: uint8, booleans, or other
            numbers in [0, 1] (floating-point ones) or 0..255. Labels are integers [N] or [N, 1], or
            one-hot [N, classes].

    Returns:
        The data set, without a key. Without class_names classes are numbers. Its notes say what was
        taken otherwise than as uint8 [N, H, W, C] and integers [N].

    Raises:
        DataError: for other types and shapes, for images that may be in one range or another, and
            when a class has no training image.
    """
    notes: list[str] = []
    x_train, x_test = _images(arrays["x_train"], arrays["x_test"], notes)
    check_images("x_train", x_train)
    y_train, y_test = (_labels(key, arrays[key], notes) for key in ("y_train", "y_test"))
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
    dataset = Dataset(name, x_train, y_train, x_test, y_test, class_names, notes=tuple(notes))
    absent = np.setdiff1d(np.arange(classes), y_train)
    if len(absent):
        raise DataError(
            f"y_train: expected labels 0 to {classes - 1}, each at least once; "
            f"missing {', '.join(map(str, absent[:10]))}"
        )
    return dataset


def _images(
    x_train: np.ndarray, x_test: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Images as uint8 [N, H, W, C] where that is what they may be; others as they are."""
    taken, whites = [], []
    for name, x in (("x_train", x_train), ("x_test", x_test)):
        shaped = _channels_last(x)
        if shaped.ndim == x.ndim and shaped.shape != x.shape:
            notes.append(f"{name}: {list(x.shape)} is taken as [N, channels, height, width]")
        white = _white(name, shaped)
        if white is not None:
            whites.append(white)
            if x.dtype != np.uint8:
                notes.append(f"{name}: {x.dtype} is taken as images of which white is {white:g}")
                shaped = _in_bytes(shaped, white)
        taken.append(shaped)
    if len(set(whites)) > 1:
        raise DataError(
            f"x_train and x_test: expected one range, found images of which white is {whites[0]:g} "
            f"and others of which it is {whites[1]:g}"
        )
    return taken[0], taken[1]


def _channels_last(x: np.ndarray) -> np.ndarray:
    """Images as [N, H, W, C], of [N, H, W] or [N, C, H, W] too; sides are 8 at least."""
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        return x.transpose(0, 2, 3, 1)
    return x[..., None] if x.ndim == 3 else x


def _white(name: str, x: np.ndarray) -> float | None:
    """The value that stands for white, 1 or 255; None where the values can be no images."""
    if x.dtype == np.uint8 or x.dtype.kind not in "biuf" or not x.size:
        return 255 if x.dtype == np.uint8 else None
    if isinstance(x, np.ma.MaskedArray):
        return None
    if x.dtype.kind == "b":
        return 1
    low, high = x.min(), x.max()
    if not (low >= 0 and high <= 255):  # nor is NaN
        return None
    if x.dtype.kind == "f" and high <= 1:
        return 1
    if high < _WHITE:
        raise DataError(
            f"{name}: found {x.dtype} from {low:g} to {high:g}, which may be images of which white "
            f"is {high:g}, or dark ones of which it is 255. Multiply them by 255 / {high:g}, or "
            'leave them, and convert them with astype("uint8")'
        )
    return 255


def _in_bytes(x: np.ndarray, white: float) -> np.ndarray:
    """Images as uint8, rounded, made in parts: 64 bits a value take eight times the memory."""
    made = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), 1024):
        part = x[start : start + 1024].astype(np.float32)
        made[start : start + 1024] = np.rint(part * np.float32(255 / white))
    return made


def _labels(name: str, y: np.ndarray, notes: list[str]) -> np.ndarray:
    """Labels as [N], of [N, 1] and one-hot [N, classes] too; others as they are."""
    if y.ndim != 2 or y.dtype.kind not in "biuf" or not y.size or isinstance(y, np.ma.MaskedArray):
        return y
    if y.shape[1] == 1:
        notes.append(f"{name}: {list(y.shape)} is taken as one label an image")
        return y[:, 0]
    if ((y == 0) | (y == 1)).all() and (np.count_nonzero(y, axis=1) == 1).all():
        notes.append(f"{name}: {list(y.shape)} is taken as one-hot of {y.shape[1]} classes")
        return y.argmax(axis=1)
    raise DataError(
        f"{name}: expected integers [{len(y)}], or one-hot with a single 1 an image, found "
        f"{y.dtype} {list(y.shape)}: several classes an image, or something else"
    )


def _roles(keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Say which array is which of `NEEDED`, and class_names; and what is to be said of that."""
    found: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        first, _, second = key.lower().partition("_")
        for part, kind in ((first, second), (second, first)):
            if part in _PARTS and kind in _KINDS:
                found.setdefault((_KINDS[kind], _PARTS[part]), []).append(key)
    test = "test" if ("x", "test") in found or ("y", "test") in found else "val"
    places = {"x_train": ("x", "train"), "y_train": ("y", "train")}
    places |= {"x_test": ("x", test), "y_test": ("y", test)}
    if missing := [name for name, place in places.items() if place not in found]:
        raise DataError(
            f"expected arrays {', '.join(NEEDED)}, or train_images, train_labels and so on; "
            f"missing {', '.join(missing)}, found {', '.join(keys)[:200] or 'none'}"
        )
    for name, place in places.items():
        if len(found[place]) > 1:
            raise DataError(
                f"expected one array for {name}, found {' and '.join(found[place])}, and either "
                "may be meant: leave one"
            )
    roles = {name: found[place][0] for name, place in places.items()}
    notes = []
    if list(roles.values()) != list(NEEDED):
        notes.append(f"{', '.join(roles.values())} are taken as {', '.join(NEEDED)}")
    if "class_names" in keys:
        roles["class_names"] = "class_names"
    if unused := [key for key in keys if key not in roles.values()]:
        notes.append(f"not used: {', '.join(unused)[:200]}")
    return roles, notes


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays by their names in `NEEDED`, and what is to be said of these."""
    with zipfile.ZipFile(path) as file:
        members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
        roles, notes = _roles(list(members))
        wanted = {name: members[key] for name, key in roles.items()}
        _expect_sensible(
            {name: form(file, member) for name, member in wanted.items()}, path.stat().st_size
        )
        arrays = {}
        for name, member in wanted.items():
            with file.open(member) as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
        return arrays, notes


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
    size, memory = sum(form.nbytes for form in forms.values()), machine_memory()
    if size > memory or (size > _LARGE and size > _PACKED * packed):
        raise DataError(
            f"expected images, found a file of {packed:,} bytes that unpacks to {size:,}; this "
            f"machine has {memory:,.0f}. Images that are nearly empty are taken uncompressed."
        )
    for part in ("train", "test"):
        x, y = _channels_last(forms[f"x_{part}"]), forms[f"y_{part}"]
        # Small arrays of another type are read, for their range in the message.
        if x.dtype == np.uint8 or x.nbytes > _LARGE // 4:
            known = x.dtype.kind in "biuf"
            check_images(f"x_{part}", np.broadcast_to(np.uint8(0), x.shape) if known else x)
        if y.ndim == 2 and y.size and y.dtype.kind in "biuf":  # of one column, or one-hot
            y = np.broadcast_to(0, len(y))
        check_labels(f"y_{part}", y, len(x) if x.ndim else 0)
