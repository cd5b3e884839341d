"""Pictures: well-formed, and they show the pixels they were given."""

from __future__ import annotations

import base64
import re
import zlib
from xml.etree import ElementTree

import numpy as np

from sparring import pictures


def pixels(file: bytes, height: int, width: int, channels: int) -> np.ndarray:
    """The image in a PNG that has no filters: a zero byte before each row."""
    assert file.startswith(b"\x89PNG\r\n\x1a\n")
    start = file.index(b"IDAT")
    length = int.from_bytes(file[start - 4 : start], "big")
    data = file[start + 4 : start + 4 + length]
    assert int.from_bytes(file[start + 4 + length :][:4], "big") == zlib.crc32(b"IDAT" + data)
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(height, width, channels)


def test_png_holds_the_pixels() -> None:
    random = np.random.default_rng(0)
    for channels in (1, 3):
        image = random.integers(0, 256, (5, 7, channels), dtype=np.uint8)
        np.testing.assert_array_equal(pixels(pictures.png(image), 5, 7, channels), image)


def test_examples_show_original_perturbation_and_result() -> None:
    images = np.full((2, 8, 8, 1), 0.5)
    moved = images.copy()
    moved[0, 0, 0, 0], moved[1, 0, 0, 0] = 0.7, 0.45
    text = pictures.examples(images, moved, ["<a>", "b"], ["c", "d"], "A & B")
    ElementTree.fromstring(text)
    assert "&lt;a&gt;" in text
    assert "A &amp; B" in text
    files = [base64.b64decode(found) for found in re.findall(r"base64,([^']+)", text)]
    corners = [int(pixels(file, 8, 8, 1)[0, 0, 0]) for file in files]
    # Of the perturbations, 0.2 is the largest and shown white; -0.05 is a quarter of it below gray.
    assert corners == [128, 255, 178, 128, 96, 115]


def test_curves_leave_out_what_is_not_finite() -> None:
    text = pictures.curves({"x": ([1, 2, 3], [0.1, float("nan"), 0.3])}, "t", "eps", "success")
    ElementTree.fromstring(text)
    assert text.count("<circle") == 2
    assert "nan" not in text
    ElementTree.fromstring(pictures.curves({}, "t", "x", "y", percent=False))
