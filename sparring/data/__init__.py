"""Data sets: the embedded digits, Fashion-MNIST, CIFAR-10, and anybody's images in an .npz file."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from sparring.errors import DataError, SettingsError, unknown_name

NAMES = ("digits", "fashion-mnist", "cifar10")

SMALLEST = 8
"""The shortest side an image may have, in pixels."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a network and a saved run know of a data set without its images.

    `shape` is (height, width, channels) of an image; `mirror` says whether classes survive being
    mirrored left to right; `sha256` is the hash of images and labels.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mirror: bool
    train_images: int
    test_images: int
    sha256: str

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def as_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DatasetInfo:
        """The reverse of `as_json`."""
        height, width, channels = values["shape"]
        return cls(
            **{
                **values,
                "shape": (height, width, channels),
                "class_names": tuple(values["class_names"]),
            }
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels for training and testing, checked when made.

    Attributes: `x_train`, `x_test`: uint8 [N, H, W, C], sides of 8 pixels and more, 1 or 3
    channels; `y_train`, `y_test`: int32 [N], classes counted from 0; `class_names`, one a class;
    `mirror`: whether classes survive being mirrored left to right; `key`: the name of a built-in
    data set, by which defenses have settings for it, None for a user's own, whatever its name.

    Raises DataError, saying what was expected and found, when anything else comes.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]
    mirror: bool = True
    key: str | None = None

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _check_images(f"x_{part}", x)
            _check_labels(f"y_{part}", y, len(x), len(self.class_names))
            object.__setattr__(self, f"y_{part}", y.astype(np.int32))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise DataError(
                f"x_train and x_test: expected images of one shape, found "
                f"{self.x_train.shape[1:]} and {self.x_test.shape[1:]}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def sha256(self) -> str:
        """Hash of images and labels: equal exactly when they are."""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            digest.update(f"{little_endian.dtype.str}{little_endian.shape}".encode())
            digest.update(little_endian.data)
        return digest.hexdigest()

    @property
    def info(self) -> DatasetInfo:
        """Everything but the images and labels."""
        return DatasetInfo(
            name=self.name,
            shape=self.shape,
            class_names=self.class_names,
            mirror=self.mirror,
            train_images=len(self.x_train),
            test_images=len(self.x_test),
            sha256=self.sha256,
        )

    def limit(self, train: int | None = None, test: int | None = None) -> Dataset:
        """The first `train` training and `test` test images; None keeps all.

        Raises SettingsError for numbers below 1 or above what there is.
        """
        for what, number, there in (
            ("training", train, len(self.x_train)),
            ("test", test, len(self.x_test)),
        ):
            if number is not None and not 1 <= number <= there:
                raise SettingsError(
                    f"limit of {what} images: expected 1 to {there}, the number {self.name} has, "
                    f"got {number}"
                )
        return replace(
            self,
            x_train=self.x_train[:train],
            y_train=self.y_train[:train],
            x_test=self.x_test[:test],
            y_test=self.y_test[:test],
        )


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """A data set by name ("digits", "fashion-mnist", "cifar10") or from the path of an .npz file.

    Args:
        name: one of `NAMES`, or a path ending in .npz of a file with x_train, y_train, x_test and
            y_test (and class_names, if wanted): images uint8 [N, H, W, C] or, for one channel,
            [N, H, W], labels integers [N].
        data_dir: folder with the files of fashion-mnist (IDX, gzipped or not) or cifar10 (binary
            batches, or their tar.gz); without it they are downloaded once, verified, and kept
            under ~/.keras/datasets.

    Raises DataError for files that are missing, damaged or of another kind, SettingsError for an
    unknown name.
    """
    if str(name).endswith(".npz"):
        if data_dir is not None:
            raise SettingsError(
                f"a data folder goes with fashion-mnist and cifar10; {name} is a file by itself"
            )
        return _npz(Path(name))
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if name == "digits":
        return _digits()
    if name == "fashion-mnist":
        return _fashion_mnist(folder)
    if name == "cifar10":
        return _cifar10(folder)
    raise SettingsError(f"{unknown_name('data set', name, NAMES)} Or the path of an .npz file.")


def files(name: str, data_dir: str | Path | None = None) -> list[Path]:
    """The files `load` reads for a data set of `NAMES`, none for an embedded one; reads nothing.

    Without data_dir they are those kept from a download. Raises DataError, naming it, when one is
    missing.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if name == "digits":
        return []
    if name == "fashion-mnist":
        return list(_fashion_files(folder or cache_folder() / name).values())
    if name == "cifar10":
        return _cifar_files(folder) if folder else [_find(cache_folder(), (_CIFAR_ARCHIVE,))]
    raise SettingsError(unknown_name("data set", name, NAMES))


def cache_folder() -> Path:
    """Where downloads are kept, which Keras decides: below KERAS_HOME, else below ~/.keras."""
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if not os.access(nearest_existing(home), os.W_OK):
        home = Path("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()) / ".keras"
    return home / "datasets"


# Checks of images and labels


def _check_images(name: str, x: np.ndarray) -> None:
    expected = (
        f"{name}: expected uint8 [N, height, width, channels], at least one image, sides of "
        f"{SMALLEST} and more, 1 or 3 channels; found"
    )
    if x.dtype != np.uint8:
        found = f"{x.dtype} {list(x.shape)}"
        if x.dtype.kind == "f" and x.size:
            found += f" in [{np.nanmin(x):.4g}, {np.nanmax(x):.4g}]" if np.isfinite(x).any() else ""
            bad = int(x.size - np.isfinite(x).sum())
            found += f" with {bad} NaN or infinite values" if bad else ""
        raise DataError(f"{expected} {found}. Bring values to 0..255 and convert with astype.")
    if x.ndim != 4 or not len(x) or min(x.shape[1:3]) < SMALLEST or x.shape[3] not in (1, 3):
        raise DataError(f"{expected} {x.dtype} {list(x.shape)}")


def _check_labels(name: str, y: np.ndarray, images: int, classes: int) -> None:
    if y.dtype.kind not in "iu" or y.shape != (images,):
        raise DataError(
            f"{name}: expected integers [{images}], one label an image; "
            f"found {y.dtype} {list(y.shape)}"
        )
    if classes < 2:
        raise DataError(f"{name}: expected at least two classes, found {classes}")
    if y.min() < 0 or y.max() >= classes:
        raise DataError(
            f"{name}: expected labels 0 to {classes - 1}, one for each class, "
            f"found {y.min()} to {y.max()}"
        )


# The embedded digits


def _digits() -> Dataset:
    packed = resources.files("sparring.data").joinpath("embedded/digits.npz").read_bytes()
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        # 0..16 to 0..255, halves up: 16 levels of 15.9375.
        images = ((arrays["images"].astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
        labels = arrays["labels"]
    # Images of one writer follow each other: every fifth for testing takes some of each.
    test = np.arange(len(labels)) % 5 == 0
    return Dataset(
        name="digits",
        x_train=images[~test, :, :, None],
        y_train=labels[~test],
        x_test=images[test, :, :, None],
        y_test=labels[test],
        class_names=tuple("0123456789"),
        mirror=False,
        key="digits",
    )


# Fashion-MNIST

_FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

# Of the pixels and labels, without IDX headers: archives are packed anew by distributors.
_FASHION_SHA256 = {
    "x_train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "y_train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "x_test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "y_test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}

_FASHION_FILES = {
    "x_train": ("train-images-idx3-ubyte", (60000, 28, 28)),
    "y_train": ("train-labels-idx1-ubyte", (60000,)),
    "x_test": ("t10k-images-idx3-ubyte", (10000, 28, 28)),
    "y_test": ("t10k-labels-idx1-ubyte", (10000,)),
}


def _fashion_mnist(folder: Path | None) -> Dataset:
    if folder is None:
        arrays = _download_fashion_mnist()
    else:
        paths = _fashion_files(folder)
        arrays = {key: _idx(paths[key], shape) for key, (_, shape) in _FASHION_FILES.items()}
    for key, array in arrays.items():
        if (found := hashlib.sha256(array.tobytes()).hexdigest()) != _FASHION_SHA256[key]:
            raise DataError(
                f"fashion-mnist {key}: expected contents with SHA-256 {_FASHION_SHA256[key]}, "
                f"found {found}: another data set in the same format? Use an .npz file for it."
            )
    # Two black pixels on each side: the network halves 32x32 evenly, 28x28 not.
    margin = ((0, 0), (2, 2), (2, 2))
    return Dataset(
        name="fashion-mnist",
        x_train=np.pad(arrays["x_train"], margin)[..., None],
        y_train=arrays["y_train"],
        x_test=np.pad(arrays["x_test"], margin)[..., None],
        y_test=arrays["y_test"],
        class_names=_FASHION_CLASSES,
        key="fashion-mnist",
    )


def _fashion_files(folder: Path) -> dict[str, Path]:
    return {key: _find(folder, (f"{file}.gz", file)) for key, (file, _) in _FASHION_FILES.items()}


def _download_fashion_mnist() -> dict[str, np.ndarray]:
    from sparring.backend import keras

    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise _no_download("fashion-mnist", "the four IDX .gz files", error) from error
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    data = _read(path)
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except EOFError as error:
            raise DataError(f"{path}: truncated: the gzip stream ends too soon") from error
        except (OSError, zlib.error) as error:
            raise DataError(f"{path}: expected a gzip file: {error}") from error
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    if data[: len(header)] != header:
        raise DataError(
            f"{path}: expected an IDX file of {' x '.join(map(str, shape))} bytes, which begins "
            f"with {header.hex(' ')}, found {data[: len(header)].hex(' ') or 'nothing'}"
        )
    expected = len(header) + int(np.prod(shape))
    if len(data) != expected:
        short = "truncated: " if len(data) < expected else ""
        raise DataError(f"{path}: {short}expected {expected} bytes, found {len(data)}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


# CIFAR-10

_CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR_URL = f"https://www.cs.toronto.edu/~kriz/{_CIFAR_ARCHIVE}"
_CIFAR_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_CIFAR_TRAIN = tuple(f"data_batch_{index}.bin" for index in range(1, 6))
_CIFAR_TEST = "test_batch.bin"
_CIFAR_RECORD = 1 + 3 * 32 * 32
_CIFAR_BATCH = 10000
_CIFAR_PER_CLASS = {"training": 5000, "test": 1000}


def _cifar10(folder: Path | None) -> Dataset:
    arrays = {name: _cifar_batch(name, data) for name, data in _cifar_batches(folder)}
    dataset = Dataset(
        name="cifar10",
        x_train=np.concatenate([arrays[name][0] for name in _CIFAR_TRAIN]),
        y_train=np.concatenate([arrays[name][1] for name in _CIFAR_TRAIN]),
        x_test=arrays[_CIFAR_TEST][0],
        y_test=arrays[_CIFAR_TEST][1],
        class_names=_CIFAR_CLASSES,
        key="cifar10",
    )
    for part, y in (("training", dataset.y_train), ("test", dataset.y_test)):
        counts, each = np.bincount(y, minlength=10), _CIFAR_PER_CLASS[part]
        if not (counts == each).all():
            raise DataError(
                f"cifar10 {part} batches: expected {each} images of each class, found "
                f"{counts.tolist()}: damaged, or the same batch twice?"
            )
    return dataset


def _cifar_batches(folder: Path | None) -> Iterator[tuple[str, bytes]]:
    """Name and contents of the six binary batches, from an archive or from files."""
    for path in [_download_cifar10()] if folder is None else _cifar_files(folder):
        if path.name == _CIFAR_ARCHIVE:
            yield from _cifar_members(path)
        else:
            yield path.name, _read(path)


def _cifar_files(folder: Path) -> list[Path]:
    """The archive in a folder, or the six binary batches in it or below it."""
    archive = folder / _CIFAR_ARCHIVE
    inside = folder / "cifar-10-batches-bin"
    batches = inside if inside.is_dir() else folder
    if archive.is_file() and not (batches / _CIFAR_TEST).is_file():
        return [archive]
    if not (batches / _CIFAR_TEST).is_file():
        for pickled in ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1"):
            if (folder / pickled).exists():
                raise DataError(
                    f"{folder / pickled}: this is the Python version of CIFAR-10, which is "
                    "pickled, and unpickling a file can run any code, so it is never done here. "
                    f"Take the binary version instead: {_CIFAR_URL}"
                )
    return [_find(batches, (name,)) for name in (*_CIFAR_TRAIN, _CIFAR_TEST)]


def _download_cifar10() -> Path:
    from sparring.backend import keras

    # keras.datasets.cifar10 would fetch the pickled version.
    try:
        path = keras.utils.get_file(_CIFAR_ARCHIVE, _CIFAR_URL, file_hash=_CIFAR_SHA256)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise _no_download("cifar10", _CIFAR_ARCHIVE, error) from error
    return Path(path)


def _cifar_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    found = hashlib.sha256(_read(archive)).hexdigest()
    wanted = {*_CIFAR_TRAIN, _CIFAR_TEST}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and name in wanted:
                    wanted.remove(name)
                    stream = tar.extractfile(member)
                    # A byte more than a batch has tells a longer member without reading it all.
                    yield name, stream.read(_CIFAR_BATCH * _CIFAR_RECORD + 1) if stream else b""
    except EOFError as error:
        raise DataError(f"{archive}: truncated: the archive ends too soon") from error
    except (tarfile.TarError, OSError, zlib.error) as error:
        raise DataError(f"{archive}: expected a tar.gz archive: {error}") from error
    if wanted:
        raise DataError(f"{archive}: missing in the archive: {', '.join(sorted(wanted))}")
    if found != _CIFAR_SHA256:
        raise DataError(f"{archive}: expected SHA-256 {_CIFAR_SHA256}, found {found}")


def _cifar_batch(name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    expected = _CIFAR_BATCH * _CIFAR_RECORD
    if len(data) != expected:
        short = "truncated: " if len(data) < expected else ""
        raise DataError(
            f"{name}: {short}expected {expected} bytes ({_CIFAR_BATCH} images of {_CIFAR_RECORD}), "
            f"found {len(data)}"
        )
    records = np.frombuffer(data, np.uint8).reshape(_CIFAR_BATCH, _CIFAR_RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].copy()


# Anybody's images


def _npz(path: Path) -> Dataset:
    needed = ("x_train", "y_train", "x_test", "y_test")
    _read(path, first_bytes=512)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if missing := [key for key in needed if key not in file.files]:
                raise DataError(
                    f"{path}: expected arrays {', '.join(needed)}; missing {', '.join(missing)}, "
                    f"found {', '.join(file.files) or 'none'}"
                )
            arrays = {key: file[key] for key in (*needed, "class_names") if key in file.files}
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(
            f"{path}: expected an .npz file of plain numeric arrays, as numpy.savez writes; this "
            "one is damaged, of another kind, or holds pickled objects, which are never loaded"
        ) from error
    for key in ("x_train", "x_test"):
        if arrays[key].ndim == 3:
            arrays[key] = arrays[key][..., None]
    _check_images("x_train", arrays["x_train"])
    names = arrays.get("class_names")
    if names is not None:
        class_names = tuple(str(name) for name in names.ravel())
    else:
        y = arrays["y_train"]
        highest = int(y.max()) if y.dtype.kind in "iu" and y.size else 1
        class_names = tuple(str(label) for label in range(highest + 1))
    dataset = Dataset(
        name=path.stem, class_names=class_names, **{key: arrays[key] for key in needed}
    )
    absent = sorted(set(range(dataset.classes)) - set(dataset.y_train.tolist()))
    if absent:
        raise DataError(
            f"{path}: y_train: expected labels 0 to {dataset.classes - 1}, each at least once; "
            f"missing {', '.join(map(str, absent[:10]))}"
        )
    return dataset


# Files


def nearest_existing(path: Path) -> Path:
    """A path or, until it is made, the folder it would be made in."""
    return next(place for place in (path, *path.absolute().parents) if os.access(place, os.F_OK))


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: expected a file {' or '.join(names)}, found none")


def _read(path: Path, first_bytes: int = -1) -> bytes:
    """The bytes of a file that is there, is not empty and is no web page."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as file:
        data = file.read(first_bytes)
    if not data:
        raise DataError(f"{path}: expected data, found an empty file")
    if data[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError(
            f"{path}: expected data, found a web page: a download that went wrong? "
            "Fetch the file anew."
        )
    return data


def _no_download(name: str, files: str, error: Exception) -> DataError:
    return DataError(
        f"{name} could not be downloaded: {error}. Without a network, put {files} into a folder "
        "and name it with --data-dir."
    )
