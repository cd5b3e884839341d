"""Where do images come from?

In reading order: dataset.py, `Dataset` and `DatasetInfo`; source.py, what a built-in data set has
to say; digits.py, fashion_mnist.py, cifar10.py, one file each; npz.py, anybody's images;
reading.py, finding and verifying files; usual.py, the usual threat model of a data set. Add a
data set as docs/add-a-data-source.md shows: a file, and a line in `SOURCES`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparring.data import npz
from sparring.data.cifar10 import Cifar10
from sparring.data.dataset import SMALLEST, Dataset, DatasetInfo
from sparring.data.digits import Digits
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
    "accepted",
    "cache_folder",
    "files",
    "load",
    "nearest_existing",
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
        "sparring.Dataset, or arrays ((x_train, y_train), (x_test, y_test)) with images uint8 "
        f"[N, H, W, C] and integer labels [N]; got {kind.__module__}.{kind.__qualname__}. Bring "
        "other forms to such arrays first."
    )


def _is_pair(value: Any) -> bool:
    return type(value) in (tuple, list) and len(value) == 2


def load(name: str | Path | Dataset, data_dir: str | Path | None = None) -> Dataset:
    """Read a data set by its name, or from the path of an .npz file.

    Args:
        name: one of `NAMES`, or a path ending in .npz of a file with x_train, y_train, x_test and
            y_test (and class_names, if wanted): images uint8 [N, H, W, C] or, for one channel,
            [N, H, W], labels integers [N]; or anything else that `accepted` takes.
        data_dir: folder with the data set's files: of fashion-mnist the IDX files, gzipped or not,
            of cifar10 the binary batches or their tar.gz. Without it they are downloaded once,
            verified, and kept in `cache_folder`.

    Returns:
        The data set; its `key` is the name for one of `NAMES`, None for a file.

    Raises:
        DataError: for files that are missing, damaged or of another kind.
        SettingsError: for an unknown name, and for a folder given beside a file.
    """
    name = accepted(name)
    if isinstance(name, Dataset):
        return name
    if name.endswith(".npz"):
        if data_dir is not None:
            raise SettingsError(
                f"a data folder goes with built-in data sets; {name} is a file by itself"
            )
        path = to_path(name)
        return replace(npz.load(path), path=str(path.absolute()), given=name)
    folder = None if data_dir is None else to_path(data_dir)
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    try:
        dataset = replace(_source(name).load(folder), name=name, key=name)
        if folder is None or not files(name, folder):
            return dataset
    except OSError as error:  # a folder in which one may not look, say
        raise DataError(f"{name}: its files cannot be read: {error}") from error
    return replace(dataset, path=str(folder.absolute()), given=str(data_dir))


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
        raise SettingsError(f"{unknown} Or the path of an .npz file.")
    return SOURCES[name]
