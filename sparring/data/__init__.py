"""Where do images come from?

In reading order: dataset.py, `Dataset` and `DatasetInfo`; source.py, what a built-in data set has
to say; digits.py, fashion_mnist.py, cifar10.py, one file each; npz.py, folder.py, parquet.py,
anybody's images, one form each; encoded.py and decoded.py, decoding image files, and only once;
reading.py, finding and verifying files; usual.py, the usual threat model of a data set. Add a data
set as docs/add-a-data-source.md shows: a file, and a line in `SOURCES`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparring.data import folder, npz, parquet
from sparring.data.cifar10 import Cifar10
from sparring.data.dataset import SMALLEST, Dataset, DatasetInfo
from sparring.data.digits import Digits
from sparring.data.encoded import Tell, checked_resize, silent
from sparring.data.fashion_mnist import FashionMnist
from sparring.data.reading import cache_folder, nearest_existing, to_path
from sparring.data.source import Source
from sparring.errors import DataError, SettingsError, unknown_name

__all__ = [
    "NAMES",
    "SMALLEST",
    "SOURCES",
    "Dataset",
    "DatasetInfo",
    "Source",
    "Tell",
    "accepted",
    "cache_folder",
    "checked_resize",
    "file_of",
    "files",
    "load",
    "name_of",
    "nearest_existing",
    "silent",
    "sized",
    "to_path",
]

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Digits(),
        FashionMnist(),
        Cifar10(),
    )
}
"""The built-in data sets by name."""

NAMES = tuple(SOURCES)
"""Their names."""


def accepted(data: Any) -> str | Dataset:
    """Check the kind of what is given as a data set, without reading or going through it.

    Args:
        data: a name, a path, a Dataset, or arrays ((x_train, y_train), (x_test, y_test)) as
            `Dataset` has them, which numpy can take without copying.

    Returns:
        A Dataset as it is, one called "arrays" of arrays, and a name or path as text.

    Raises:
        SettingsError: for anything else.
        DataError: for arrays that are no images and labels.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return str(data)
    parts = data if _is_pair(data) and all(map(_is_pair, data)) else ()
    arrays = [array for part in parts for array in part]
    if arrays and all(hasattr(array, "__array__") for array in arrays):
        try:
            arrays = [np.asanyarray(array) for array in arrays]  # masks are refused, not lost
        except Exception as error:  # whatever another library's array raises
            raise DataError(f"data: no numpy array can be made of it: {error}") from error
        return npz.of_arrays("arrays", dict(zip(npz.NEEDED, arrays, strict=True)))
    kind = type(data)
    raise SettingsError(
        f"data: expected the name of a data set ({', '.join(NAMES)}), the path of an .npz file, a "
        "parquet file or a folder of images, a sparring.Dataset, or arrays ((x_train, y_train), "
        "(x_test, y_test)) with images uint8 [N, H, W, C] and integer labels [N]; got "
        f"{kind.__module__}.{kind.__qualname__}. Bring other forms to such arrays first."
    )


def _is_pair(value: Any) -> bool:
    return type(value) in (tuple, list) and len(value) == 2


def load(
    name: str | Path | Dataset,
    data_dir: str | Path | None = None,
    resize: int | None = None,
    tell: Tell = silent,
) -> Dataset:
    """Read a data set by its name, or from a path.

    Args:
        name: one of `NAMES`; or the path of an .npz file with training and test images, as
            `npz.load` takes it, of a folder with images, as `folder.load`, or of a parquet file or
            a folder with some, as `parquet.load`; or anything else that `accepted` takes.
        data_dir: folder with the data set's files: of fashion-mnist the IDX files, gzipped or not,
            of cifar10 the binary batches or their tar.gz. Without it they are downloaded once,
            verified, and kept in `cache_folder`.
        resize: side, in pixels, of the square that images of a folder or a parquet file are brought
            to: the shorter side by resampling, then the middle of the longer. None needs images of
            one size.
        tell: told what is being done, where that takes long.

    Returns:
        The data set; its `key` is the name for one of `NAMES`, None for a user's own. Its `notes`
        say what was understood and converted.

    Raises:
        DataError: for files that are missing, damaged or of another kind.
        SettingsError: for an unknown name, for a folder given beside a path, and for `resize` where
            there is nothing to decode.
    """
    name = accepted(name)
    checked_resize(resize)
    if resize is not None and (isinstance(name, Dataset) or not sized(name)):
        raise SettingsError(
            "resize: expected it with a folder of images or a parquet file, whose images are "
            f"decoded, got it with {name!r:.80}"
        )
    if isinstance(name, Dataset):
        return name
    if (path := file_of(name)) is not None:
        if data_dir is not None:
            raise SettingsError(
                f"a data folder goes with built-in data sets; {name} is a file by itself"
            )
        if name.endswith(".npz"):
            dataset = npz.load(path)
        else:
            read = parquet if _has_parquet(path) else folder
            dataset = read.load(path, resize, tell)
        return replace(dataset, path=str(path.absolute()), given=name)
    place = None if data_dir is None else to_path(data_dir)
    if place is not None and not place.is_dir():
        raise DataError(f"{place}: no such folder")
    try:
        dataset = replace(_source(name).load(place), name=name, key=name)
        if place is None or not files(name, place):
            return dataset
    except OSError as error:  # a folder in which one may not look, say
        raise DataError(f"{name}: its files cannot be read: {error}") from error
    return replace(dataset, path=str(place.absolute()), given=str(data_dir))


def file_of(name: str) -> Path | None:
    """Give the path of a user's own data set, None for the name of a built-in one.

    Args:
        name: one of `NAMES`, or a path, of which no more is known than that it ends in .npz or
            .parquet or is a folder.

    Raises:
        SettingsError: for a name that is neither.
        DataError: for a path that cannot be one.
    """
    if name in SOURCES:
        return None
    path = to_path(name)
    if not name.endswith((".npz", ".parquet")) and not path.is_dir():
        if path.name != name:
            raise DataError(f"{path}: no such folder, and no file that ends in .npz or .parquet")
        _source(name)  # which refuses it
    return path


def name_of(name: str) -> str:
    """Give the name that a data set will have, without reading it.

    Args:
        name: as for `file_of`, which says what is raised.
    """
    path = file_of(name)
    if path is None:
        return name
    return folder.name_of(path) if path.is_dir() else path.stem


def sized(name: str) -> bool:
    """Say whether the images of a data set are decoded, so that they can be resized.

    Args:
        name: as for `file_of`, which says what is raised.
    """
    return file_of(name) is not None and not name.endswith(".npz")


def _has_parquet(path: Path) -> bool:
    """Whether a path is a parquet file or a folder with some."""
    return parquet.has_files(path) if path.is_dir() else True


def files(name: str, data_dir: str | Path | None = None) -> list[Path]:
    """List the files that `load` reads for a built-in data set, none for an embedded one.

    Args:
        name: one of `NAMES`.
        data_dir: folder with the files; without it, those kept from a download.

    Returns:
        Their paths; they are not read.

    Raises:
        DataError: when one is missing; names it.
        SettingsError: for an unknown name.
    """
    return _source(name).files(None if data_dir is None else to_path(data_dir))


def _source(name: str) -> Source:
    if name not in SOURCES:
        unknown = unknown_name("data set", name[:100], NAMES)
        raise SettingsError(
            f"{unknown} Or the path of an .npz or a .parquet file, or of a folder of images."
        )
    return SOURCES[name]
