"""Pictures: well-formed, and they show the pixels they were given."""

from __future__ import annotations

import base64
import itertools
import re
import zlib
from xml.etree import ElementTree

import numpy as np

from sparring import plots as pictures


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
    text = pictures.curves({"x": [([1, 2, 3], [0.1, float("nan"), 0.3])]}, "t", "eps", "success")
    ElementTree.fromstring(text)
    assert text.count("<circle") == 2
    assert "nan" not in text
    ElementTree.fromstring(pictures.curves({}, "t", "x", "y", percent=False))


def test_curves_of_one_name_share_a_color_and_names_stay_apart() -> None:
    line = [0, 50, 100], [2.0, 0.5, 0.1]
    lines = {f"name {number}": [line, line] for number in range(10)}
    text = pictures.curves(lines, "t", "epoch", "loss", percent=False)
    ElementTree.fromstring(text)
    colors = re.findall(r"<polyline[^>]*stroke='(#\w+)'", text)
    assert colors[::2] == colors[1::2]
    assert len(set(colors)) == 10
    names = re.findall(r"<text x='[\d.]+' y='([\d.]+)'[^>]*>name \d", text)
    heights = sorted(float(y) for y in names)
    assert all(b - a >= 14 for a, b in itertools.pairwise(heights))
    assert heights[-1] <= 370 - 46 + 4  # all ends are at the bottom, and yet above the axis


def test_ticks_are_round_numbers() -> None:
    def labels(x: list[float], y: list[float]) -> list[str]:
        text = pictures.curves({"a": [(x, y)]}, "t", "epoch", "loss", percent=False)
        return re.findall(r">(-?[\d.e+-]+)</text>", text)

    assert labels([1, 2], [0.1, 2.3]) == ["0", "0.5", "1", "1.5", "2", "1", "2"]
    assert labels([1, 100], [1, 1])[-6:] == ["0", "20", "40", "60", "80", "100"]
    assert labels([0.05, 0.1], [3, 4])[-6:] == ["0.05", "0.06", "0.07", "0.08", "0.09", "0.1"]
    assert labels([1], [1e99])[-1] == "1"
