"""Anybody's images as files in folders, one folder a class, as torchvision's ImageFolder has them.

Reference: https://pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from sparring.data.dataset import Dataset
from sparring.data.encoded import (
    CHUNK,
    MOST_IMAGES,
    Collection,
    Encoded,
    Tell,
    in_threads,
    pillow,
    to_dataset,
)
from sparring.data.reading import read
from sparring.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff", ".webp")
"""Of files that are images, in any case."""
TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Names of the folder with the test images, the first one that is there."""

_MOST_BYTES = 2**28
"""Bytes that one file may have."""
_DEEPEST = 32
"""Folders within one another that are gone into."""


def load(path: Path, resize: int | None, tell: Tell) -> Dataset:
    """Read a data set from a folder.

    Args:
        path: a folder with train/CLASS/IMAGE and test/CLASS/IMAGE, where val, valid or validation
            may stand for test; or with CLASS/IMAGE, of which a fifth is held out for testing, as
            where there is train alone. Images may lie in folders within those of the classes.
        resize: side of the square that images are brought to; None needs images of one size.
        tell: told what is being done, now and then.

    Returns:
        The data set, named after the folder, without a key. Names of the classes are those of the
        folders, sorted.

    Raises:
        DataError: for a folder of another form, a class without images or in one part alone, and
            files that are no images; names the file or folder.
        SettingsError: when Pillow is not installed.
    """
    pillow()  # is missed before files are read
    try:
        return to_dataset(_collection(path, tell), resize, tell)
    except OSError as error:  # a folder in which one may not look, say
        raise DataError(f"{path}: cannot be read: {error}") from error


def name_of(path: Path) -> str:
    """Give a folder's name, that of "." and ".." too."""
    return path.resolve().name if path.name in ("", "..") else path.name


@dataclass
class _PassedOver:
    """Files that are none of the data set's."""

    files: list[Path] = field(default_factory=list)

    def said(self) -> list[str]:
        if not self.files:
            return []
        first = f"{self.files[0]}" if len(self.files) == 1 else f"{self.files[0]} first of all"
        number = f"{len(self.files):,} file{'s' * (len(self.files) > 1)}"
        return [f"{number} without the name of an image passed over: {first}"]


def _collection(path: Path, tell: Tell) -> Collection:
    """List the images of a folder, and hash them."""
    passed, notes = _PassedOver(), []
    folders = _folders(path)
    by_part = {name.lower(): folder for name, folder in folders.items()}
    parts = {name: by_part[name] for name in ("train", *TEST_FOLDERS) if name in by_part}
    if not parts:
        parts = {"": path}
    elif "train" not in parts:
        raise DataError(
            f"{path}: expected train/CLASS/IMAGE beside {', '.join(parts)}, found no folder train"
        )
    elif others := [name for name in folders if name.lower() not in ("train", *TEST_FOLDERS)]:
        notes.append(f"folders beside train passed over: {', '.join(others)[:200]}")
    used = list(parts)[:2]
    if len(parts) > 2:
        notes.append(f"{', '.join(list(parts)[2:])} not used: the test images are those of test")
    classes = {part: _folders(parts[part]) for part in used}
    names = tuple(sorted(classes[used[0]]))
    _check_classes(path, parts, classes)
    files: list[Path] = []
    labels: list[int] = []
    test: list[bool] = []
    for part in used:
        for label, name in enumerate(names):
            found = list(_images(classes[part][name], passed, len(files)))
            if not found:
                raise DataError(
                    f"{classes[part][name]}: expected images ({', '.join(ENDINGS)}), found none: "
                    "a class has one at least"
                )
            files += found
            labels += [label] * len(found)
            test += [part != used[0]] * len(found)
    images = [Encoded(str(file), partial(read, file, _MOST_BYTES + 1)) for file in files]
    texts = [file.relative_to(path).as_posix() for file in files]
    hashes: list[bytes] = []
    for some in in_threads(_hash, _cut(images), len(images), "Reading", tell):
        hashes += some
    digest = hashlib.sha256()
    for text, hashed in zip(texts, hashes, strict=True):
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0" + hashed)
    verified = [
        Encoded(image.where, partial(_unchanged, image, hashed))
        for image, hashed in zip(images, hashes, strict=True)
    ]
    return Collection(
        name=name_of(path),
        names=texts,
        labels=np.array(labels),
        test=np.array(test) if len(used) > 1 else None,
        class_names=names,
        sha256=digest.hexdigest(),
        chunks=lambda: _cut(verified),
        notes=(*notes, *passed.said()),
    )


def _check_classes(
    path: Path, parts: Mapping[str, Path], classes: Mapping[str, Mapping[str, Path]]
) -> None:
    """Raise DataError unless there are classes, the same in both parts."""
    first, *others = classes
    if len(classes[first]) < 2:
        inside = next(iter(classes[first].values()), None)
        hint = f" Is it {inside} that is meant?" if inside and _folders(inside) else ""
        raise DataError(
            f"{parts[first]}: expected two folders of classes at least, as "
            f"{path.name}/train/CLASS/IMAGE or {path.name}/CLASS/IMAGE, found "
            f"{', '.join(classes[first]) or 'none'}.{hint}"
        )
    for other in others:
        for name in sorted(classes[first].keys() ^ classes[other].keys()):
            there, lacks = (first, other) if name in classes[first] else (other, first)
            raise DataError(
                f"{parts[lacks]}: expected the same classes as in {parts[there]}, found no folder "
                f"{name}"
            )


def _folders(path: Path) -> dict[str, Path]:
    """The folders within one by name, sorted, without hidden ones."""
    found = {
        entry.name: path / entry.name
        for entry in os.scandir(path)
        if entry.is_dir() and not entry.name.startswith((".", "__"))
    }
    return dict(sorted(found.items()))


def _images(folder: Path, passed: _PassedOver, before: int) -> Iterator[Path]:
    """The images in a folder and those within it, sorted; others are noted as passed over."""
    above: list[tuple[int, int]] = []

    def within(place: Path) -> Iterator[Path]:
        nonlocal before
        about = place.stat()
        if (about.st_dev, about.st_ino) in above or len(above) > _DEEPEST:
            raise DataError(
                f"{place}: leads back to a folder that it lies in, by a symbolic link, or lies in "
                f"more than {_DEEPEST} folders within one another"
            )
        above.append((about.st_dev, about.st_ino))
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            path = place / entry.name
            if entry.is_dir():
                yield from within(path)
            elif entry.name.startswith(".") or not entry.name.lower().endswith(ENDINGS):
                passed.files.append(path)
            elif (before := before + 1) > MOST_IMAGES:
                raise DataError(f"{folder}: expected at most {MOST_IMAGES:,} images in all")
            else:
                yield path
        above.pop()

    return within(folder)


def _cut(images: Sequence[Encoded]) -> Iterator[Sequence[Encoded]]:
    """The images, some at a time."""
    return (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))


def _hash(image: Encoded) -> bytes:
    data = image.read()
    if len(data) > _MOST_BYTES:
        raise DataError(f"{image.where}: expected a file of at most {_MOST_BYTES:,} bytes")
    return hashlib.sha256(data).digest()


def _unchanged(image: Encoded, expected: bytes) -> bytes:
    """The bytes of a file; DataError where they are not those that were hashed."""
    data = image.read()
    if hashlib.sha256(data).digest() != expected:
        raise DataError(f"{image.where}: was changed while the data set was read; read it again")
    return data
