"""`Dataset`: images and labels, checked when made; `DatasetInfo`: all but the images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from sparring.errors import DataError, SettingsError, unknown_name

SMALLEST, LARGEST = 8, 4096
"""The shortest and the longest side an image may have, in pixels."""

_SHAPE = f"two sides of {SMALLEST} to {LARGEST}, and 1 or 3 channels"
_MOST_CLASSES = 30_000

_LONGEST_NAME = 200
"""Bytes that a name may have: file systems take 255, and a few are added."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line breaks and halves of characters; letters of every script are fine."""

_NAMES_BEFORE_KEYS = ("digits", "fashion-mnist", "cifar10")
"""The built-in data sets of runs that were written before there was a `key`."""


def check_name(name: Any) -> str:
    """Give a data set's name, which is that of a folder too; DataError when it cannot be."""
    if (
        isinstance(name, str)
        and not _UNPRINTABLE.search(_readable(name))
        and 0 < len(name.encode("utf-8", "surrogateescape")) <= _LONGEST_NAME
        and name[0] not in ". "
        and not set("/\\") & set(name)
    ):
        return name
    raise DataError(
        f"name of a data set: expected a name for a folder, 1 to {_LONGEST_NAME} printable bytes, "
        f"without slashes, that begins with no dot or space, got {name!r:.60}"
    )


def _readable(text: str) -> str:
    """The text with what the locale could not read of a file's name read as UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # no file has such a name
        return "\0"


@dataclass(frozen=True, repr=False)
class DatasetInfo:
    """What a network and a saved run know of a data set without its images."""

    name: str
    """The name: a built-in one, or a file's without its ending."""
    shape: tuple[int, int, int]
    """Height, width and channels of an image."""
    class_names: tuple[str, ...]
    """Names of the classes, in the order of the labels."""
    mirror: bool
    """Whether classes survive being mirrored left to right."""
    train_images: int
    """Number of training images."""
    test_images: int
    """Number of test images."""
    sha256: str
    """Hash of images and labels."""
    key: str | None = None
    """The name of a built-in data set, None for a user's own, whatever its name."""
    test_sha256: str = field(default="", compare=False)
    """Hash of the test images and labels; empty in runs from before it was kept."""
    path: str | None = field(default=None, compare=False)
    """Absolute path of its file or, of a built-in one, of the folder that was given."""
    given: str | None = field(default=None, compare=False)
    """The path as it was given, which may be relative."""

    def __str__(self) -> str:
        """Give the name, the numbers and the beginning of the hash."""
        return f"{_in_words(self, self.train_images, self.test_images)}, SHA-256 {self.sha256:.12}"

    def __repr__(self) -> str:
        """Give one line."""
        return f"DatasetInfo({self})"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def as_json(self) -> dict[str, Any]:
        """Give the fields as plain JSON values, which `from_json` reads back.

        Returns:
            The fields by name, without those of `source`. `key` is left out where the name tells
            it, as in files that were written before there were keys, so that the old and the new
            ones compare equal.
        """
        values = asdict(self)
        if self.key == _key_of_name(self.name):
            del values["key"]
        return {name: value for name, value in values.items() if name not in _SOURCE}

    def source(self) -> dict[str, Any]:
        """Give the fields by which the data set is found and compared, as far as they are known."""
        return {name: value for name in _SOURCE if (value := getattr(self, name))}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DatasetInfo:
        """Read what `as_json` and `source` gave, now or before there were keys.

        Args:
            values: the fields by name, as they stand in run.json.

        Returns:
            The information; without a `key` that of the built-in data set of the same name.

        Raises:
            ValueError: when fields are missing, unknown, of other types, or out of the ranges that
                a `Dataset` has.
        """
        valid = [part.name for part in fields(cls)]
        if unknown := [name for name in values if name not in valid]:
            raise ValueError(unknown_name("field of a data set", unknown[0], valid))
        given = {"key": _key_of_name(check_name(values.get("name"))), **values}
        shape, names = given.get("shape"), _checked_names(given.get("class_names"))
        if not (isinstance(shape, list | tuple) and _is_shape(shape)):
            raise ValueError(f"expected shape to be {_SHAPE}, found {shape!r:.40}")
        for name in ("train_images", "test_images"):
            if type(count := given.get(name)) is not int or not 0 <= count <= _MOST:
                raise ValueError(f"expected {name} to be 0 to {_MOST}, found {count!r:.40}")
        if type(mirror := given.get("mirror")) is not bool:
            raise ValueError(f"expected mirror to be true or false, found {mirror!r:.40}")
        for name in ("sha256", "key", *_SOURCE):
            text = given.get(name)
            if type(text) is not str and (text is not None or name == "sha256"):
                raise ValueError(f"expected {name} to be text, found {text!r:.40}")
        return cls(**{**given, "shape": tuple(shape), "class_names": names})


_MOST = 10**9
_SOURCE = ("test_sha256", "path", "given")


def _key_of_name(name: str) -> str | None:
    """The key that a data set of that name has where no key is written."""
    return name if name in _NAMES_BEFORE_KEYS else None


def _in_words(about: Dataset | DatasetInfo, train: int, test: int) -> str:
    size = "x".join(map(str, about.shape))
    return f"{about.name!r}, {train:,} + {test:,} images of {size}, {about.classes} classes"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels for training and testing, checked when made.

    Raises:
        DataError: for anything but what the attributes say; tells what was expected and found.
    """

    name: str
    """The name, which is also that of the folder its runs go to."""
    x_train: np.ndarray
    """Training images, uint8 [N, H, W, C], sides of `SMALLEST` to `LARGEST`, 1 or 3 channels."""
    y_train: np.ndarray
    """Training labels, int32 [N], counted from 0."""
    x_test: np.ndarray
    """Test images, of the same shape as the training images."""
    y_test: np.ndarray
    """Test labels, int32 [N]."""
    class_names: tuple[str, ...]
    """Names of the classes, in the order of the labels; two at least."""
    mirror: bool = True
    """Whether classes survive being mirrored left to right, as training images are then."""
    key: str | None = None
    """The name of a built-in data set, by which defenses have settings and attacks an eps for it;
    `sparring.data.load` sets it. None for a user's own, whatever its name."""
    path: str | None = None
    """Absolute path of its file or, of a built-in one, of the folder that was given."""
    given: str | None = None
    """The path as it was given, which may be relative."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it was read: what was converted, passed over or held out."""
    whole: Dataset | None = field(init=False, default=None)
    """What `limit` took it from, if anything."""

    def __post_init__(self) -> None:
        """Check names, images and labels."""
        check_name(self.name)
        object.__setattr__(self, "class_names", _checked_names(self.class_names))
        if type(self.mirror) is not bool:
            raise DataError(f"mirror: expected True or False, got {self.mirror!r:.80}")
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            check_images(f"x_{part}", x)
            check_labels(f"y_{part}", y, len(x), len(self.class_names))
            object.__setattr__(self, f"y_{part}", y.astype(np.int32))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise DataError(
                f"x_train and x_test: expected images of one shape, found "
                f"{self.x_train.shape[1:]} and {self.x_test.shape[1:]}"
            )

    def __repr__(self) -> str:
        """Give one line, without images."""
        return f"Dataset({_in_words(self, len(self.x_train), len(self.x_test))})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def sha256(self) -> str:
        """Hash of images and labels: equal exactly when they are."""
        return _sha256(self.x_train, self.y_train, self.x_test, self.y_test)

    @cached_property
    def test_sha256(self) -> str:
        """Hash of the test images and labels."""
        return _sha256(self.x_test, self.y_test)

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
            key=self.key,
            test_sha256=self.test_sha256,
            path=self.path,
            given=self.given,
        )

    def has_test_images_of(self, info: DatasetInfo) -> bool | None:
        """Compare the test images and labels with those of a run, by their hash.

        Args:
            info: what the run knows of its data set.

        Returns:
            True where these are its test images, or some of the first ones; False where they are
            others; None where that cannot be told, as the run knows no hash, or one of the training
            images too, which are not here.
        """
        dataset = self.whole or self
        if not 0 < info.test_images <= len(dataset.x_test):
            return False if info.test_sha256 else None
        if info.test_sha256:
            return dataset.limit(test=info.test_images).test_sha256 == info.test_sha256
        if info.sha256 and 0 < info.train_images <= len(dataset.x_train):
            same = dataset.limit(info.train_images, info.test_images)
            return same.sha256 == info.sha256
        return None

    def limit(self, train: int | None = None, test: int | None = None) -> Dataset:
        """Keep the first images only.

        Args:
            train: how many training images; None keeps all.
            test: how many test images; None keeps all.

        Returns:
            The smaller data set, of the same name and key; this one where nothing is left out.

        Raises:
            SettingsError: for what is no integer, or below 1 or above what the data set has.
        """
        for what, number, available in (
            ("training", train, len(self.x_train)),
            ("test", test, len(self.x_test)),
        ):
            integer = isinstance(number, int | np.integer) and not isinstance(number, bool)
            if number is not None and not (integer and 1 <= number <= available):
                raise SettingsError(
                    f"limit of {what} images: expected 1 to {available}, the number {self.name} "
                    f"has, got {number!r:.80}"
                )
        if train in (None, len(self.x_train)) and test in (None, len(self.x_test)):
            return self
        limited = replace(
            self,
            x_train=self.x_train[:train],
            y_train=self.y_train[:train],
            x_test=self.x_test[:test],
            y_test=self.y_test[:test],
        )
        object.__setattr__(limited, "whole", self.whole or self)
        return limited


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{little_endian.dtype.str}{little_endian.shape}".encode())
        digest.update(little_endian.data)
    return digest.hexdigest()


def _is_shape(shape: Sequence[Any]) -> bool:
    """Whether an image may have a shape, as in `_SHAPE`."""
    return (
        len(shape) == 3
        and all(type(size) is int for size in shape)
        and all(SMALLEST <= side <= LARGEST for side in shape[:2])
        and shape[2] in (1, 3)
    )


def _checked_names(names: Any) -> tuple[str, ...]:
    """Class names as a tuple; DataError unless they are some short texts."""
    if not isinstance(names, tuple | list):
        raise DataError(f"class_names: expected a tuple of texts, got {type(names).__name__}")
    if not 2 <= len(names) <= _MOST_CLASSES:
        raise DataError(
            f"class_names: expected at least two classes, at most {_MOST_CLASSES:,}; "
            f"found {len(names):,}"
        )
    for name in names:
        if not isinstance(name, str) or _UNPRINTABLE.search(name) or len(name) > _LONGEST_NAME:
            raise DataError(
                f"class_names: expected texts of at most {_LONGEST_NAME} printable characters, "
                f"got {type(name).__name__} {name!r:.60}"
            )
    return tuple(names)


def _check_array(name: str, array: Any) -> None:
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise DataError(f"{name}: expected a plain numpy array, got {type(array).__name__}")


def check_images(name: str, x: np.ndarray) -> None:
    """Check the type and shape of images.

    Args:
        name: what the array is called in the message.
        x: the array.

    Raises:
        DataError: when it is not uint8 [N, H, W, C] as `Dataset` needs it.
    """
    _check_array(name, x)
    expected = (
        f"{name}: expected uint8 [N, height, width, channels], at least one image, {_SHAPE}; "
        f"found {x.dtype} {list(x.shape)}"
    )
    if x.dtype != np.uint8:
        # Their range says what is to be done; a search through billions would take too long.
        if x.dtype.kind == "f" and 0 < x.size <= 2**26:
            finite = x[np.isfinite(x)]
            expected += f" in [{finite.min():.4g}, {finite.max():.4g}]" if finite.size else ""
            bad = x.size - finite.size
            expected += f" with {bad} NaN or infinite values" if bad else ""
        raise DataError(f"{expected}. Bring values to 0..255 and convert with astype.")
    if not (x.ndim and len(x) and _is_shape(x.shape[1:])):
        raise DataError(expected)


def check_labels(name: str, y: np.ndarray, images: int, classes: int | None = None) -> None:
    """Check the type and shape of labels, and that each is one of a class.

    Args:
        name: what the array is called in the message.
        y: the array.
        images: how many images there are.
        classes: how many classes there are; None leaves the values unread.

    Raises:
        DataError: when it is not integers [N], one an image, from 0 to below `classes`.
    """
    _check_array(name, y)
    if y.dtype.kind not in "iu" or y.shape != (images,):
        raise DataError(
            f"{name}: expected integers [{images}], one label an image; "
            f"found {y.dtype} {list(y.shape)}"
        )
    if classes is None:
        return
    if y.min() < 0 or y.max() >= classes:
        raise DataError(
            f"{name}: expected labels 0 to {classes - 1}, one for each class, "
            f"found {y.min()} to {y.max()}"
        )
