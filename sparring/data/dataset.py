"""`Dataset`: images and labels, checked when made; `DatasetInfo`: all but the images."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sparring.errors import DataError, SettingsError

SMALLEST = 8
"""The shortest side an image may have, in pixels."""

_NAMES_BEFORE_KEYS = ("digits", "fashion-mnist", "cifar10")
"""The built-in data sets of runs that were written before there was a `key`."""


@dataclass(frozen=True)
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

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def as_json(self) -> dict[str, Any]:
        """Give the fields as plain JSON values, which `from_json` reads back.

        Returns:
            The fields by name. `key` is left out where the name tells it, as in files that were
            written before there were keys, so that the old and the new ones compare equal.
        """
        values = asdict(self)
        if self.key == _key_of_name(self.name):
            del values["key"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DatasetInfo:
        """Read what `as_json` gave, now or before there were keys.

        Args:
            values: the fields by name, as they stand in run.json.

        Returns:
            The information; without a `key` that of the built-in data set of the same name.

        Raises:
            KeyError, TypeError, ValueError: when fields are missing, unknown or of other types.
        """
        height, width, channels = values["shape"]
        return cls(
            **{
                "key": _key_of_name(values["name"]),
                **values,
                "shape": (height, width, channels),
                "class_names": tuple(values["class_names"]),
            }
        )


def _key_of_name(name: str) -> str | None:
    """The key that a data set of that name has where no key is written."""
    return name if name in _NAMES_BEFORE_KEYS else None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels for training and testing, checked when made.

    Raises:
        DataError: for anything but what the attributes say; tells what was expected and found.
    """

    name: str
    """The name, which is also that of the folder its runs go to."""
    x_train: np.ndarray
    """Training images, uint8 [N, H, W, C], sides of `SMALLEST` and more, 1 or 3 channels."""
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

    def __post_init__(self) -> None:
        """Check images and labels."""
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            check_images(f"x_{part}", x)
            _check_labels(f"y_{part}", y, len(x), len(self.class_names))
            object.__setattr__(self, f"y_{part}", y.astype(np.int32))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise DataError(
                f"x_train and x_test: expected images of one shape, found "
                f"{self.x_train.shape[1:]} and {self.x_test.shape[1:]}"
            )

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
            key=self.key,
        )

    def limit(self, train: int | None = None, test: int | None = None) -> Dataset:
        """Keep the first images only.

        Args:
            train: how many training images; None keeps all.
            test: how many test images; None keeps all.

        Returns:
            The smaller data set, of the same name and key.

        Raises:
            SettingsError: for a number below 1 or above what the data set has.
        """
        for what, number, available in (
            ("training", train, len(self.x_train)),
            ("test", test, len(self.x_test)),
        ):
            if number is not None and not 1 <= number <= available:
                raise SettingsError(
                    f"limit of {what} images: expected 1 to {available}, the number {self.name} "
                    f"has, got {number}"
                )
        return replace(
            self,
            x_train=self.x_train[:train],
            y_train=self.y_train[:train],
            x_test=self.x_test[:test],
            y_test=self.y_test[:test],
        )


def check_images(name: str, x: np.ndarray) -> None:
    """Check the type and shape of images.

    Args:
        name: what the array is called in the message.
        x: the array.

    Raises:
        DataError: when it is not uint8 [N, H, W, C] as `Dataset` needs it.
    """
    expected = (
        f"{name}: expected uint8 [N, height, width, channels], at least one image, sides of "
        f"{SMALLEST} and more, 1 or 3 channels; found"
    )
    if x.dtype != np.uint8:
        text = f"{x.dtype} {list(x.shape)}"
        if x.dtype.kind == "f" and x.size:
            text += f" in [{np.nanmin(x):.4g}, {np.nanmax(x):.4g}]" if np.isfinite(x).any() else ""
            bad = int(x.size - np.isfinite(x).sum())
            text += f" with {bad} NaN or infinite values" if bad else ""
        raise DataError(f"{expected} {text}. Bring values to 0..255 and convert with astype.")
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
