"""digits: handwritten digits of 8x8 pixels, embedded in the package.

Reference: Alpaydin and Kaynak 1998, https://doi.org/10.24432/C50P49; embedded/README.md.
"""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import override

from sparring.data.dataset import Dataset
from sparring.data.source import Source


@final
class Digits(Source):
    """The 1,797 digits, every fifth for testing: writers follow each other, so each is in both."""

    name = "digits"
    description = "handwritten digits, 1,437 + 360 of 8x8x1, embedded"
    usual_eps = {"Linf": 0.15, "L2": 0.75}  # by measurement: docs/attacks.md

    @override
    def load(self, folder: Path | None) -> Dataset:
        packed = resources.files("sparring.data").joinpath("embedded/digits.npz").read_bytes()
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            # 0..16 to 0..255, halves up: 16 levels of 15.9375.
            images = ((arrays["images"].astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
            labels = arrays["labels"]
        test = np.arange(len(labels)) % 5 == 0
        return Dataset(
            name=self.name,
            x_train=images[~test, :, :, None],
            y_train=labels[~test],
            x_test=images[test, :, :, None],
            y_test=labels[test],
            class_names=tuple("0123456789"),
            mirror=False,
        )
