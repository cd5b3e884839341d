"""Where do images come from?

In reading order: dataset.py, `Dataset` and `DatasetInfo`; source.py, what a built-in data set has
to say; digits.py, fashion_mnist.py, cifar10.py, one file each; npz.py, anybody's images;
reading.py, finding and verifying files; usual.py, the usual threat model of a data set. Add a
data set as docs/add-a-data-source.md shows: a file, and a line in `SOURCES`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sparring.data import npz
from sparring.data.cifar10 import Cifar10
from sparring.data.dataset import SMALLEST, Dataset, DatasetInfo
from sparring.data.digits import Digits
from sparring.data.fashion_mnist import FashionMnist
from sparring.data.reading import cache_folder, nearest_existing
from sparring.data.source import Source
from sparring.errors import DataError, SettingsError, unknown_name

__all__ = [
    "NAMES",
    "SMALLEST",
    "SOURCES",
    "Dataset",
    "DatasetInfo",
    "Source",
    "cache_folder",
    "files",
    "load",
    "nearest_existing",
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


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Read a data set by its name, or from the path of an .npz file.

    Args:
        name: one of `NAMES`, or a path ending in .npz of a file with x_train, y_train, x_test and
            y_test (and class_names, if wanted): images uint8 [N, H, W, C] or, for one channel,
            [N, H, W], labels integers [N].
        data_dir: folder with the data set's files: of fashion-mnist the IDX files, gzipped or not,
            of cifar10 the binary batches or their tar.gz. Without it they are downloaded once,
            verified, and kept in `cache_folder`.

    Returns:
        The data set; its `key` is the name for one of `NAMES`, None for a file.

    Raises:
        DataError: for files that are missing, damaged or of another kind.
        SettingsError: for an unknown name, and for a folder given beside a file.
    """
    if str(name).endswith(".npz"):
        if data_dir is not None:
            raise SettingsError(
                f"a data folder goes with built-in data sets; {name} is a file by itself"
            )
        return npz.load(Path(name))
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if name not in SOURCES:
        raise SettingsError(f"{unknown_name('data set', name, NAMES)} Or the path of an .npz file.")
    return replace(SOURCES[name].load(folder), name=name, key=name)


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
    if name not in SOURCES:
        raise SettingsError(unknown_name("data set", name, NAMES))
    return SOURCES[name].files(None if data_dir is None else Path(data_dir).expanduser())
