"""fashion-mnist: ten kinds of clothing, downloaded or from the four IDX files.

Reference: Xiao et al. 2017, https://arxiv.org/abs/1708.07747.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import override

from sparring.data.dataset import Dataset
from sparring.data.reading import cache_folder, download, find, read_idx, sha256
from sparring.data.source import Source
from sparring.errors import DataError

CLASSES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
"""Names of the classes."""

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
"""Where the files are downloaded from, as by Keras."""

FILES = {
    "x_train": ("train-images-idx3-ubyte", (60000, 28, 28)),
    "y_train": ("train-labels-idx1-ubyte", (60000,)),
    "x_test": ("t10k-images-idx3-ubyte", (10000, 28, 28)),
    "y_test": ("t10k-labels-idx1-ubyte", (10000,)),
}
"""Name, without .gz, and shape of each file."""

SHA256 = {
    "x_train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "y_train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "x_test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "y_test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
"""Hashes of pixels and labels without IDX headers: distributors pack the archives anew."""


@final
class FashionMnist(Source):
    """60,000 + 10,000 images of 28x28, with two black pixels on each side."""

    name = "fashion-mnist"
    description = "clothing, 60,000 + 10,000 of 32x32x1, downloaded"
    usual_eps = {"Linf": 0.05, "L2": 1.0}  # by measurement: docs/attacks.md

    @override
    def load(self, folder: Path | None) -> Dataset:
        paths = self._download() if folder is None else self.files(folder)
        arrays = {}
        for path, (key, (_, shape)) in zip(paths, FILES.items(), strict=True):
            arrays[key] = array = read_idx(path, shape)
            if (digest := sha256(array.tobytes())) != SHA256[key]:
                raise DataError(
                    f"{self.name} {key}: expected contents with SHA-256 {SHA256[key]}, "
                    f"found {digest}: another data set in the same format? Use an .npz file for it."
                )
        # The network halves 32x32 evenly, 28x28 not.
        margin = ((0, 0), (2, 2), (2, 2))
        return Dataset(
            name=self.name,
            x_train=np.pad(arrays["x_train"], margin)[..., None],
            y_train=arrays["y_train"],
            x_test=np.pad(arrays["x_test"], margin)[..., None],
            y_test=arrays["y_test"],
            class_names=CLASSES,
        )

    @override
    def files(self, folder: Path | None) -> list[Path]:
        folder = folder or cache_folder() / self.name
        return [find(folder, (f"{file}.gz", file)) for file, _ in FILES.values()]

    def _download(self) -> list[Path]:
        folder = {"cache_subdir": f"datasets/{self.name}"}
        names = [f"{file}.gz" for file, _ in FILES.values()]
        return [download(self.name, name, URL + name, **folder) for name in names]
