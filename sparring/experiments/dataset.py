"""The data set of a run, known by its contents: found where it was, or compared with another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sparring import data as datasets
from sparring.data import Dataset, DatasetInfo, Tell, silent
from sparring.errors import DataError, SettingsError


def at_hand(info: DatasetInfo, data_dir: str | Path | None = None) -> Dataset | None:
    """Load the data set of a run where that takes no download.

    Args:
        info: what the run knows of it.
        data_dir: folder with a built-in data set's files.

    Returns:
        The data set; None where it is not there, or has other test images now.

    Raises:
        SettingsError, DataError: what is in `data_dir`, or the folder itself, is not it.
    """
    try:
        remembered = info.path is not None and _seen(info.path, Path.is_dir)
        if info.key in datasets.SOURCES and data_dir is None and not remembered:
            datasets.files(info.key)  # raises where a download would be needed
        return of_run(info, None, data_dir)
    except (SettingsError, DataError):
        if data_dir is not None:
            raise
        return None


def of_run(
    info: DatasetInfo,
    given: str | Path | Dataset | None = None,
    data_dir: str | Path | None = None,
    *,
    who: str = "the run",
    other: bool = False,
    tell: Tell = silent,
) -> Dataset:
    """Load the data set of a run, or take one that is given, and compare its test images.

    Args:
        info: what the run knows of its data set.
        given: what `accepted` takes; None looks where the run's data were.
        data_dir: folder with a built-in data set's files.
        who: what was trained, for messages.
        other: whether the given one may have other test images.
        tell: told what is being done where loading takes long.

    Returns:
        The data set, its images resized to the run's where they can be; it may have more images
        than the run was trained and tested on, or fewer.

    Raises:
        SettingsError: for images of other sizes, classes or, unless `other` is set, contents; and
            when the run's own are not where they were.
        DataError: for files that are missing or damaged.
    """
    was = f"{who} was trained on"
    if given is None:
        if other:
            raise SettingsError("other data: expected them as data (--data), got none")
        dataset = _remembered(info, data_dir, was, tell)
    else:
        given = datasets.accepted(given)
        if not other and given in datasets.SOURCES and not _may_be(info, given, data_dir):
            raise SettingsError(f"{was} {info}; {given} is another data set. {_WAYS}")
        dataset = _load(given, info, data_dir, tell)
    if dataset.shape != info.shape or dataset.classes != info.classes:
        raise SettingsError(
            f"{was} {info.name}, images {list(info.shape)} of {info.classes} classes; "
            f"{dataset.name} has {list(dataset.shape)} of {dataset.classes}"
        )
    if given is not None and not other and dataset.has_test_images_of(info) is False:
        raise SettingsError(f"{was} {info}; {dataset.info} has other test images. {_WAYS}")
    return dataset


_WAYS = (
    "Give the data set it was trained on; or judge it on others on purpose, with --other-data "
    "(other_data=True)."
)


def _may_be(info: DatasetInfo, name: str, data_dir: str | Path | None) -> bool:
    """Whether a built-in data set may be a run's, as far as that is known before a download."""
    if info.key is not None or not info.sha256:
        return info.key in (name, None)
    try:
        datasets.files(name, data_dir)
    except DataError:
        return False
    return True


def _seen(text: str, kind: Callable[[Path], bool]) -> bool:
    """Whether a path that a run remembers, maybe of another machine, is one of a kind here."""
    try:
        return kind(datasets.to_path(text))
    except (DataError, OSError):
        return False


def _load(
    given: str | Dataset, info: DatasetInfo, data_dir: str | Path | None, tell: Tell
) -> Dataset:
    """Load a data set with images of a run's size.

    Those of a run that was trained with `resize` are square, and resizing leaves images alone that
    have the size already: so the run's shape says all that is to be known of it.
    """
    height, width, _ = info.shape
    square = height == width and isinstance(given, str) and datasets.sized(given)
    return datasets.load(given, data_dir, height if square else None, tell)


def _remembered(info: DatasetInfo, data_dir: str | Path | None, was: str, tell: Tell) -> Dataset:
    """Load the data set of a run from where it was."""
    if info.key is None and info.path is not None:
        places = dict.fromkeys((info.path, info.given or info.path))
        there = [Path(place).absolute() for place in places if _seen(place, Path.exists)]
        for place in there:
            dataset = _load(str(place), info, data_dir, tell)
            if dataset.has_test_images_of(info) is not False:
                return replace(dataset, given=info.given)
        state = f"has other test images now, {dataset.info}" if there else "is not there now"
        raise SettingsError(
            f"{was} a data set of your own called {info.name}, from {info.path}, which "
            f"{state}: expected it as it was, {info}, as data (--data PATH)"
        )
    if info.key is None and (info.sha256 or info.name in datasets.SOURCES):
        like = f", not on the built-in {info.name}" if info.name in datasets.SOURCES else ""
        raise SettingsError(
            f"{was} a data set of your own called {info.name}{like}: expected it as data "
            "(--data PATH)"
        )
    if data_dir is None and info.path and _seen(info.path, Path.is_dir):
        data_dir = info.path
    dataset = datasets.load(info.key or info.name, data_dir)
    if dataset.has_test_images_of(info) is False:
        raise SettingsError(
            f"{was} {info}, whose test images are not those at hand, {dataset.info}: expected its "
            "own as data (--data PATH), or the folder of its files (--data-dir)"
        )
    return dataset
