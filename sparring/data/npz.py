"""Anybody's images, from an .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from sparring.data.dataset import Dataset, check_images
from sparring.data.reading import read
from sparring.errors import DataError

NEEDED = ("x_train", "y_train", "x_test", "y_test")
"""Names of the arrays that a file has to have; class_names may be there too."""


def load(path: Path) -> Dataset:
    """Read a data set from an .npz file, as numpy.savez writes.

    Args:
        path: a file with images uint8 [N, H, W, C] or, for one channel, [N, H, W], as x_train and
            x_test, labels, integers [N], as y_train and y_test and, if wanted, class_names.

    Returns:
        The data set, named after the file, without a key. Without class_names classes are numbers.

    Raises:
        DataError: for a file that is missing, damaged, of another kind or pickled, for arrays of
            other types and shapes, and when a class has no training image.
    """
    arrays = _arrays(path)
    for key in ("x_train", "x_test"):
        if arrays[key].ndim == 3:
            arrays[key] = arrays[key][..., None]
    check_images("x_train", arrays["x_train"])
    names = arrays.get("class_names")
    if names is None:
        y = arrays["y_train"]
        highest = int(y.max()) if y.dtype.kind in "iu" and y.size else 1
        names = np.arange(highest + 1)
    class_names = tuple(str(name) for name in names.ravel())
    dataset = Dataset(
        name=path.stem,
        x_train=arrays["x_train"],
        y_train=arrays["y_train"],
        x_test=arrays["x_test"],
        y_test=arrays["y_test"],
        class_names=class_names,
    )
    absent = sorted(set(range(dataset.classes)) - set(dataset.y_train.tolist()))
    if absent:
        raise DataError(
            f"{path}: y_train: expected labels 0 to {dataset.classes - 1}, each at least once; "
            f"missing {', '.join(map(str, absent[:10]))}"
        )
    return dataset


def _arrays(path: Path) -> dict[str, np.ndarray]:
    read(path, first_bytes=512)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if missing := [key for key in NEEDED if key not in file.files]:
                raise DataError(
                    f"{path}: expected arrays {', '.join(NEEDED)}; missing {', '.join(missing)}, "
                    f"found {', '.join(file.files) or 'none'}"
                )
            return {key: file[key] for key in (*NEEDED, "class_names") if key in file.files}
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(
            f"{path}: expected an .npz file of plain numeric arrays, as numpy.savez writes; this "
            "one is damaged, of another kind, or holds pickled objects, which are never loaded"
        ) from error
