"""cifar10: small photographs of ten kinds, the binary version, downloaded or from files.

The Python version, which most libraries fetch, is pickled; unpickling a file can run any code.

Reference: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import override

from sparring.data.dataset import Dataset
from sparring.data.reading import cache_folder, download, expect_length, find, read
from sparring.data.source import Source
from sparring.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Names of the classes."""

ARCHIVE = "cifar-10-binary.tar.gz"
"""Name of the archive with the six batches."""
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
"""Where the archive is downloaded from."""
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
"""Hash of the archive."""
BYTES = 170_052_171
"""Size of the archive."""
TRAIN = tuple(f"data_batch_{index}.bin" for index in range(1, 6))
"""Names of the training batches."""
TEST = "test_batch.bin"
"""Name of the test batch."""
RECORD = 1 + 3 * 32 * 32
"""Bytes of a label and its image's red, green and blue planes."""
BATCH = 10000
"""Images in a batch."""
PER_CLASS = {"training": 5000, "test": 1000}
"""Images of each class."""

MEAN, DEVIATION = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
"""Of red, green and blue in 0..255, over all images."""
_OFF, _ALIKE = 8.0, 0.7
"""How far a batch may be off these, which a copy as JPEG is by 2 at most; and how far neighboring
pixels go together, by their correlation, which is 0.93 in the batches and 0 in noise."""
_ENOUGH = 1000
"""Fewer images are too few to tell."""


@final
class Cifar10(Source):
    """50,000 + 10,000 color photographs of 32x32, classes of equal size."""

    name = "cifar10"
    description = "photographs, 50,000 + 10,000 of 32x32x3, downloaded"
    usual_eps = {"Linf": 4 / 255, "L2": 1.0}  # the course's

    @override
    def load(self, folder: Path | None) -> Dataset:
        arrays = {name: _batch(name, data) for name, data in self._batches(folder)}
        dataset = Dataset(
            name=self.name,
            x_train=np.concatenate([arrays[name][0] for name in TRAIN]),
            y_train=np.concatenate([arrays[name][1] for name in TRAIN]),
            x_test=arrays[TEST][0],
            y_test=arrays[TEST][1],
            class_names=CLASSES,
        )
        for part, y in (("training", dataset.y_train), ("test", dataset.y_test)):
            counts, expected = np.bincount(y, minlength=10), PER_CLASS[part]
            if not (counts == expected).all():
                raise DataError(
                    f"{self.name} {part} batches: expected {expected} images of each class, found "
                    f"{counts.tolist()}: damaged, or the same batch twice?"
                )
        return dataset

    @override
    def files(self, folder: Path | None) -> list[Path]:
        if folder is None:
            return [find(cache_folder(), (ARCHIVE,))]
        inside = folder / "cifar-10-batches-bin"
        batches = inside if inside.is_dir() else folder
        if not (batches / TEST).is_file():
            if (folder / ARCHIVE).is_file():
                return [folder / ARCHIVE]
            for pickled in ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1"):
                if (folder / pickled).exists():
                    raise DataError(
                        f"{folder / pickled}: this is the Python version of CIFAR-10, which is "
                        "pickled, and unpickling a file can run any code, so it is never done "
                        f"here. Take the binary version instead: {URL}"
                    )
        return [find(batches, (name,)) for name in (*TRAIN, TEST)]

    def _batches(self, folder: Path | None) -> Iterator[tuple[str, bytes]]:
        """Name and contents of the six binary batches, from an archive or from files."""
        if folder is None:  # keras.datasets.cifar10 would fetch the pickled version
            paths = [download(self.name, ARCHIVE, URL, file_hash=SHA256)]
        else:
            paths = self.files(folder)
        for path in paths:
            if path.name == ARCHIVE:
                yield from _members(path)
            else:
                yield path.name, read(path, BATCH * RECORD + 1)


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and contents of the batches in the archive, which is not extracted."""
    _expect_known(archive)
    wanted = {*TRAIN, TEST}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and name in wanted:
                    wanted.remove(name)
                    stream = tar.extractfile(member)
                    # A byte more than a batch has tells a longer member without reading it all.
                    yield name, stream.read(BATCH * RECORD + 1) if stream else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: expected a tar.gz archive: {error}") from error
    if wanted:
        raise DataError(f"{archive}: missing in the archive: {', '.join(sorted(wanted))}")


def _expect_known(archive: Path) -> None:
    """Raise DataError unless it is the archive by its hash: others may unpack to anything."""
    if not read(archive, first_bytes=512).startswith(b"\x1f\x8b"):
        raise DataError(f"{archive}: expected a tar.gz archive, found something else")
    with archive.open("rb") as file:
        digest = hashlib.sha256()
        while (read_so_far := file.tell()) <= BYTES and (part := file.read(2**20)):
            digest.update(part)
    if (found := digest.hexdigest()) != SHA256:
        other = "longer" if read_so_far > BYTES else "truncated, or another one"
        raise DataError(
            f"{archive}: expected SHA-256 {SHA256}, found {found}: {other}; the archive has "
            f"{BYTES:,} bytes"
        )


def _batch(name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels uint8 [N] of a batch."""
    expect_length(name, data, BATCH * RECORD, f" ({BATCH} images of {RECORD})")
    records = np.frombuffer(data, np.uint8).reshape(BATCH, RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    _expect_photographs(name, images)
    return np.ascontiguousarray(images), records[:, 0].copy()


def _expect_photographs(name: str, images: np.ndarray) -> None:
    """Raise DataError for images that cannot be the batch's, by their statistics."""
    if len(images) < _ENOUGH:
        return
    some = images[::5].astype(np.float32)  # [N, 32, 32, 3]
    off = np.abs([some.mean((0, 1, 2)) - MEAN, some.std((0, 1, 2)) - DEVIATION]).max()
    steps = np.diff(some, axis=2)
    alike = 1 - float(np.mean(steps**2)) / max(2 * float(some.var()), 1e-9)
    if not (off <= _OFF and alike >= _ALIKE):
        raise DataError(
            f"{name}: expected CIFAR-10's photographs, of mean color {MEAN} and deviation "
            f"{DEVIATION}, found images that are off by {off:.1f}, with neighboring pixels of "
            f"correlation {alike:.2f}: damaged, or another data set? Use an .npz file for it."
        )
