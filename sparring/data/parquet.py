"""Anybody's images in parquet files, as Hugging Face's datasets library writes them.

Reference: https://huggingface.co/docs/datasets/image_dataset; read by pyarrow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sparring.data.dataset import Dataset
from sparring.data.encoded import CHUNK, MOST_IMAGES, Collection, Encoded, Tell, pillow, to_dataset
from sparring.data.folder import TEST_FOLDERS, name_of
from sparring.data.reading import read
from sparring.errors import DataError, SettingsError

IMAGES, LABELS = ("image", "img"), ("label", "labels", "target")
"""Names that the columns may have where the file's features do not tell them."""
SPLIT = "split"
"""Name of the column that says which images are for testing."""


def load(path: Path, resize: int | None, tell: Tell) -> Dataset:
    """Read a data set from parquet files.

    Args:
        path: a file, or a folder with files whose names begin with train and test (val, valid and
            validation may stand for test) or that lie in folders called so; with a column of
            images, bytes or a struct with bytes, and one of labels, integers or texts. One file
            may have a column split; without any split a fifth is held out for testing.
        resize: side of the square that images are brought to; None needs images of one size.
        tell: told what is being done, now and then.

    Returns:
        The data set, named after the file or folder, without a key. Names of the classes are those
        of the features, or the texts, sorted, or numbers.

    Raises:
        DataError: for files that are damaged or have other columns, and for images that cannot be
            read; names the file and the row.
        SettingsError: when pyarrow or Pillow is not installed.
    """
    pillow()  # is missed before files are read
    parquet = _library()
    try:
        return to_dataset(_collection(parquet, path), resize, tell)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def has_files(folder: Path) -> bool:
    """Whether a folder has parquet files, as deep as `load` looks."""
    return bool(_files(folder))


def _library() -> ModuleType:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SettingsError(
            "parquet files are read by pyarrow, which cannot be imported: "
            f"pip install 'sparring[images,parquet]' ({error})"
        ) from error
    return parquet


@dataclass(frozen=True)
class _Table:
    """The labels of a file, and which columns they and the images are."""

    path: Path
    image: str
    labels: list[Any]
    splits: list[Any] | None
    class_names: tuple[str, ...] | None
    library: ModuleType

    def chunks(self) -> Iterator[Sequence[Encoded]]:
        """The images, some at a time, which alone are in memory."""
        row = 0
        with self.library.ParquetFile(self.path) as file:
            for batch in file.iter_batches(CHUNK, columns=[self.image], use_threads=False):
                images = []
                for value in batch.column(0).to_pylist():
                    data = value.get("bytes") if isinstance(value, dict) else value
                    where = f"{self.path}: row {row}"
                    if not isinstance(data, bytes):
                        other = " but a path, which is not followed" * isinstance(value, dict)
                        raise DataError(f"{where}: expected the bytes of an image, got none{other}")
                    images.append(Encoded(where, lambda data=data: data))  # type: ignore[misc]
                    row += 1
                yield images


def _collection(library: ModuleType, path: Path) -> Collection:
    """Read the labels of all files, and hash them."""
    by_part = _parts(path)
    notes = []
    used = [part for part in ("train", *TEST_FOLDERS) if part in by_part]
    if unused := used[2:]:
        notes.append(f"{', '.join(unused)} not used: the test images are those of {used[1]}")
    if not used:
        used = [""]
    elif used[0] != "train":
        raise DataError(f"{path}: expected train files beside {', '.join(used)}, found none")
    used = used[:2]
    tables, test = [], []
    for part in used:
        for file in by_part[part]:
            table = _table(library, file)
            tables.append(table)
            test += [part != used[0]] * len(table.labels)
    names = {table.class_names for table in tables}
    if len(names) > 1:
        raise DataError(f"{path}: expected the same names of classes in all files")
    labels = [label for table in tables for label in table.labels]
    if not labels or len(labels) > MOST_IMAGES:
        raise DataError(f"{path}: expected 1 to {MOST_IMAGES:,} rows, found {len(labels):,}")
    held_out: np.ndarray | None = np.array(test) if len(used) > 1 else None
    keep = np.ones(len(labels), bool)
    if held_out is None and all(table.splits is not None for table in tables):
        splits = np.array([str(split).lower() for table in tables for split in table.splits or ()])
        held_out, keep = _by_column(path, splits, notes)
    numbers, class_names = _numbered(path, labels, names.pop())
    _check_classes(
        path, numbers[keep], held_out if held_out is None else held_out[keep], class_names
    )

    hashes = {table.path: _hash(table.path) for table in tables}

    def chunks() -> Iterator[Sequence[Encoded]]:
        for table, kept in _rows(tables, keep):
            row = 0
            for images in table.chunks():
                wanted = kept[row : row + len(images)]
                row += len(images)
                yield [image for image, is_kept in zip(images, wanted, strict=True) if is_kept]
            if _hash(table.path) != hashes[table.path]:  # what is kept is found by the first one
                raise DataError(
                    f"{table.path}: was changed while the data set was read; read it again"
                )

    return Collection(
        name=name_of(path) if path.is_dir() else path.stem,
        names=[f"{number}" for number in np.flatnonzero(keep)],
        labels=numbers[keep],
        test=None if held_out is None else held_out[keep],
        class_names=class_names,
        sha256=hashlib.sha256(b"".join(hashes.values())).hexdigest(),
        chunks=chunks,
        notes=tuple(notes),
    )


def _check_classes(
    path: Path, labels: np.ndarray, test: np.ndarray | None, names: tuple[str, ...]
) -> None:
    """Raise DataError unless each class has images, of both parts where there are two."""
    parts = {"": labels} if test is None else {"training ": labels[~test], "test ": labels[test]}
    for part, own in parts.items():
        absent = np.setdiff1d(np.arange(len(names)), own)
        if len(absent):
            raise DataError(
                f"{path}: expected {part}images of each class, found none of "
                f"{', '.join(names[label] for label in absent[:10])}"
            )


def _rows(tables: Sequence[_Table], keep: np.ndarray) -> Iterator[tuple[_Table, np.ndarray]]:
    """Each file with which of its rows are kept."""
    start = 0
    for table in tables:
        yield table, keep[start : start + len(table.labels)]
        start += len(table.labels)


def _files(folder: Path) -> list[Path]:
    """Parquet files in a folder, or in folders in it, two deep as in data/ or default/train/."""
    found = (path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}.parquet"))
    inside = (path for path in found if not path.name.startswith("."))
    return sorted(path for path in inside if path.is_file())


def _parts(path: Path) -> dict[str, list[Path]]:
    """The files by part; "" is that of those which belong to none."""
    if not path.is_dir():
        return {"": [path]}
    by_part: dict[str, list[Path]] = {}
    for file in _files(path):
        words = [file.name.lower().split(".")[0].split("-")[0].split("_")[0]]
        words += [file.parent.name.lower()] if file.parent != path else []
        part = next((word for word in words if word in ("train", *TEST_FOLDERS)), "")
        by_part.setdefault(part, []).append(file)
    if len(by_part) > 1 and "" in by_part:
        raise DataError(
            f"{by_part[''][0]}: expected train or {', '.join(TEST_FOLDERS)} at the beginning of "
            f"its name, or as its folder, as of {next(iter(by_part.values()))[0].name}"
        )
    return by_part


def _table(library: ModuleType, path: Path) -> _Table:
    """Read all of a file but its images."""
    read(path, first_bytes=512)
    try:
        with library.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_IMAGES:
                raise DataError(
                    f"{path}: expected at most {MOST_IMAGES:,} rows, found "
                    f"{file.metadata.num_rows:,}"
                )
            schema = file.schema_arrow
            features = _features(schema.metadata or {})
            image = _column(path, schema.names, features, "Image", IMAGES)
            label = _column(path, schema.names, features, "ClassLabel", LABELS)
            wanted = [label, SPLIT] if SPLIT in schema.names else [label]
            columns = file.read(columns=wanted, use_threads=False)
            named = features.get(label, {}).get("names")
            names = tuple(map(str, named)) if isinstance(named, list) else None
            splits = columns.column(SPLIT).to_pylist() if SPLIT in schema.names else None
            labels = columns.column(label).to_pylist()
        return _Table(path, image, labels, splits, names, library)
    except DataError:
        raise
    except Exception as error:  # damaged bytes make pyarrow raise nearly everything
        raise DataError(f"{path}: expected a parquet file: {error!s:.200}") from error


def _features(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What Hugging Face's library says of each column; none where it does not."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: about for name, about in features.items() if isinstance(about, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _column(
    path: Path,
    names: list[str],
    features: dict[str, dict[str, Any]],
    kind: str,
    usual: tuple[str, ...],
) -> str:
    """The one column of a kind, by the features, or else by its name."""
    found = [name for name in names if features.get(name, {}).get("_type") == kind]
    found = found or [name for name in names if name.lower() in usual]
    if len(found) != 1:
        many = f"found {', '.join(found)}, and either may be meant: leave one" if found else ""
        raise DataError(
            f"{path}: expected one column of type {kind}, or called {' or '.join(usual)}; "
            f"{many or 'found none among ' + ', '.join(names)[:200]}"
        )
    return found[0]


def _numbered(
    path: Path, labels: list[Any], names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as integers [N] from 0, and the names of the classes."""
    kinds = {type(label) for label in labels}
    if kinds == {str}:
        names = tuple(sorted(set(labels)))
        places = {name: place for place, name in enumerate(names)}
        return np.array([places[label] for label in labels]), names
    if kinds != {int}:
        shown = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"{path}: expected labels that are integers, or texts, found {shown}")
    classes = max(labels) + 1 if names is None else len(names)
    if min(labels) < 0 or max(labels) >= min(classes, len(labels)):
        raise DataError(
            f"{path}: expected labels 0 to {min(classes, len(labels)) - 1}, found {min(labels)} to "
            f"{max(labels)}; those without a label (-1) are to be left out"
        )
    return np.array(labels), names or tuple(map(str, range(classes)))


def _by_column(path: Path, splits: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are for testing, and which are for that or training, by the column split."""
    values = sorted(set(splits.tolist()))
    test = [name for name in TEST_FOLDERS if name in values]
    other = [value for value in values if value not in ("train", *TEST_FOLDERS)]
    if "train" not in values or not test or other:
        raise DataError(
            f"{path}: expected train and {' or '.join(TEST_FOLDERS)} in the column {SPLIT}, found "
            f"{', '.join(values)[:200]}"
        )
    if test[1:]:
        notes.append(f"{', '.join(test[1:])} not used: the test images are those of {test[0]}")
    held_out = splits == test[0]
    return held_out, held_out | (splits == "train")


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
