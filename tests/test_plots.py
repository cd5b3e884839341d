"""Pictures: well-formed, and they show the pixels, points and texts they were given."""

from __future__ import annotations

import base64
import io
import itertools
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from sparring import plots

SVG = "{http://www.w3.org/2000/svg}"


def pixels(text: str) -> list[np.ndarray]:
    """The images in a picture, each [H, W, 3]."""
    files = [base64.b64decode(data) for data in re.findall(r'image/png;base64,([^"]+)"', text)]
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


def drawn(text: str) -> dict[str, tuple[str, np.ndarray, int]]:
    """Of each line in a picture the color, the places of its points, and how many are marked."""
    lines = {}
    for group in ElementTree.fromstring(text).iter(f"{SVG}g"):
        if re.match(r"line-\d", name := group.get("id", "")):
            path = group.find(f"{SVG}path")
            marks = list(group.iter(f"{SVG}use"))
            style = (marks[0] if path is None else path).get("style", "")
            places = [] if path is None else re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))
            color = re.search(r"stroke: (#\w+)", style)
            assert color is not None
            lines[name] = color[1], np.array(places, float), len(marks)
    return lines


def written(text: str) -> dict[str, ElementTree.Element]:
    """The texts in a picture with their elements."""
    return {each.text or "": each for each in ElementTree.fromstring(text).iter(f"{SVG}text")}


def size(text: str) -> tuple[float, float]:
    width, height = ElementTree.fromstring(text).get("viewBox", "").split()[2:]
    return float(width), float(height)


def test_examples_hold_the_pixels() -> None:
    random = np.random.default_rng(0)
    for channels in (1, 3):
        images = random.integers(0, 256, (3, 5, 7, channels))
        moved = random.integers(0, 256, images.shape)
        shown = pixels(plots.examples(images / 255, moved / 255, "abc", "abc", "t"))
        assert len(shown) == 9
        for row, expected in ((0, images), (2, moved)):
            for image, pixel in zip(shown[3 * row :], expected, strict=False):
                np.testing.assert_array_equal(image, np.broadcast_to(pixel, (5, 7, 3)))


def test_examples_show_original_perturbation_and_result() -> None:
    images = np.full((2, 8, 8, 1), 0.5)
    moved = images.copy()
    moved[0, 0, 0, 0], moved[1, 0, 0, 0] = 0.7, 0.45
    text = plots.examples(images, moved, ["<a>", "b"], ["c", "d"], "A & B")
    assert "&lt;a&gt;" in text
    assert "A &amp; B" in text
    corners = [int(image[0, 0, 0]) for image in pixels(text)]
    # Of the perturbations, 0.2 is the largest and shown white; -0.05 is a quarter of it below gray.
    assert corners == [128, 128, 255, 96, 178, 115]
    assert (np.array(corners[2:4]) == [255, 96]).all()
    assert {"original", "perturbation", "adversarial", "up to 0.2", "up to 0.05"} <= {
        *written(text)
    }
    # Pixels are not smoothed.
    assert text.count("image-rendering:pixelated") == text.count("<image") == 6


def test_long_names_are_not_cut_off_by_the_edge_or_their_neighbors() -> None:
    x = np.zeros((2, 4, 4, 1))
    names = ["sulphur-crested cockatoo", "W" * 40]
    text = plots.examples(x, x, names, ["a", "b"], "a long title of few images " * 2)
    places = written(text)
    assert {"sulphur-", "a long title of few images a long title of few"} <= {*places}
    assert size(text)[0] == 300  # of points, 400 pixels
    [wide, fitting] = (
        float(re.findall(r"font-size: ([\d.]+)px", places[name].get("style", ""))[0])
        for name in ("W" * 14, "sulphur-")
    )
    assert 14 * wide < 84 * 0.75 < 14 * fitting
    lines = {name: [([0, 1], [0, 1])] for name in ("a name that takes two lines in a legend", "b")}
    text = plots.curves(lines, "a title " * 30, "x", "y")
    assert {"a name that takes two lines in", "a legend", "b"} <= {*written(text)}
    assert sum("a title a title" in name for name in written(text)) == 2
    [first, _] = drawn(text).values()
    legend = float(written(text)["b"].get("y", ""))  # below the axis' numbers and name
    assert first[1][:, 1].max() + 25 < legend < size(text)[1] - 5


def test_names_are_text_whatever_they_hold() -> None:
    x = np.zeros((1, 4, 4, 1))
    odd = "$\\frac{1$ <b>\x00\n\ud800 船"
    with_names = plots.examples(x, x, [odd], [odd], odd)
    for text in (with_names, plots.curves({odd: [([0, 1], [0, 1])]}, odd, odd, odd)):
        ElementTree.fromstring(text.encode())
        assert "$\\frac{1$ &lt;b&gt;" in text


def test_points_are_at_their_places() -> None:
    [(_, places, marks)] = drawn(
        plots.curves({"x": [([0, 5, 10], [0.0, 0.5, 0.25])]}, "t", "eps", "success")
    ).values()
    x, y = (places - places[0]).T
    # To the right and, in pictures, upward: half and whole the way, and up to 0.5 and 0.25.
    assert x == pytest.approx([0, x[2] / 2, x[2]])
    assert y == pytest.approx([0, y[1], y[1] / 2])
    assert x[2] > 240
    assert -70 < y[1] < -55  # 0.5 of an axis of about 125 points
    assert marks == 3


def test_curves_leave_out_what_is_not_finite() -> None:
    text = plots.curves({"x": [([1, 2, 3], [0.1, float("nan"), 0.3])]}, "t", "eps", "success")
    [(_, places, marks)] = drawn(text).values()
    assert len(places) == marks == 2
    assert "nan" not in text
    ElementTree.fromstring(plots.curves({}, "t", "x", "y", percent=False))
    assert not drawn(plots.curves({"x": [([], []), ([1], [np.inf])]}, "t", "x", "y"))


def test_curves_of_one_name_share_a_color_and_names_stay_apart() -> None:
    line = [0, 50, 100], [2.0, 0.5, 0.1]
    lines = {f"name {number}": [line, line] for number in range(10)}
    text = plots.curves(lines, "t", "epoch", "loss", percent=False)
    colors = [color for color, *_ in drawn(text).values()]
    assert colors[::2] == colors[1::2]
    assert len(set(colors)) == 10
    names = {name: each for name, each in written(text).items() if name.startswith("name")}
    assert len(names) == 10
    for number, name in enumerate(names):
        assert f"fill: {colors[2 * number]}" in names[name].get("style", "")
    places = [(float(each.get("x", "")), float(each.get("y", ""))) for each in names.values()]
    for (left, upper), (right, lower) in itertools.combinations(sorted(places), 2):
        assert right - left >= 60 or lower - upper >= 10
    assert max(lower for _, lower in places) <= size(text)[1] - 5


def test_names_stand_in_the_order_of_the_lines_ends() -> None:
    lines = {"low": [([0, 1], [0.9, 0.1])], "high": [([0, 1], [0.1, 0.9])]}
    places = written(plots.curves(lines, "t", "x", "y"))
    at = {name: [float(places[name].get(axis, "")) for axis in "xy"] for name in lines}
    assert at["high"] < at["low"]  # column by column


def test_bars_are_as_long_as_their_shares() -> None:
    shares = {
        "first": {"noise": (0.2, 0.1, 0.35), "PGD": (0.8, 0.7, 0.9)},
        "second": {"PGD": (0.4, 0.2, 0.5), "reference": (1.0, 0.95, 1.0)},
    }
    text = plots.bars(shares, "t", "broken")
    corners = {}  # of each bar, the ends in both directions
    for group in ElementTree.fromstring(text).iter(f"{SVG}g"):
        if (name := group.get("id", "")).startswith("bar-") and group.find(
            f"{SVG}path"
        ) is not None:
            path = group.find(f"{SVG}path")
            assert path is not None
            places = np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d", "")), float)
            corners[name] = *np.ptp(places, axis=0), places[:, 1].mean()
    assert {*corners} == {"bar-0-0", "bar-0-1", "bar-1-1", "bar-1-2"}
    whole = corners["bar-1-2"][0]
    lengths = {name: length / whole for name, (length, *_) in corners.items()}
    expected = {"bar-0-0": 0.2, "bar-0-1": 0.8, "bar-1-1": 0.4, "bar-1-2": 1.0}
    assert lengths == pytest.approx(expected, abs=1e-3)
    below = [corners[name][2] for name in ("bar-0-0", "bar-0-1", "bar-1-1", "bar-1-2")]
    assert below == sorted(below)
    thickness = corners["bar-0-0"][1]
    assert below[2] - below[1] >= thickness  # bars of a name do not overlap
    # An interval is a line in ink, as long as it is wide.
    lines = re.findall(r'd="M (\S+) \S+ \nL (\S+) \S+ \n"[^>]*stroke: #1f2328', text)
    wide = sorted((float(end) - float(start)) / whole for start, end in lines)
    assert wide == pytest.approx([0.05, 0.2, 0.25, 0.3], abs=1e-3)
    assert {"noise", "PGD", "reference", "first", "second", "20.0 %", "100.0 %"} <= {*written(text)}
    assert "first" not in written(plots.bars({"first": shares["first"]}, "t", "broken"))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colors as WCAG 2 defines it, from 1 to 21."""

    def luminance(color: str) -> float:
        values = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colors_can_be_read_on_light_and_dark_paper() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    for light in (plots.INK, plots.SOFT, *plots.LINES):
        assert contrast(light, plots.PAPER) >= 4.5
        assert contrast(plots.DARK[light], plots.DARK[plots.PAPER]) >= 4.5
    x = np.zeros((1, 4, 4, 1))
    lines = {f"name {number}": [([0, 1], [0, 1])] for number in range(12)}
    shares = {name: {"noise": (0.5, 0.4, 0.6)} for name in "abc"}
    drawings = plots.curves(lines, "t", "x", "y"), plots.examples(x, x, "a", "b", "t")
    for text in (*drawings, plots.bars(shares, "t", "x")):
        assert "@media (prefers-color-scheme: dark)" in text
        colors = set(re.findall(r"(?:fill|stroke): (#\w+)", text))
        assert {plots.PAPER, plots.INK} <= colors
        assert colors <= set(plots.DARK)  # none is left as it is where the scheme is dark
        for what in ("fill", "stroke"):
            for light, dark in plots.DARK.items():
                assert f'[style*="{what}: {light}"]{{{what}:{dark}!important}}' in text


@pytest.mark.parametrize("kind", ["curves", "bars"])
def test_texts_are_large_enough_on_a_phone(kind: str) -> None:
    title = "majority: test accuracy of the averaged weights"
    lines = {f"network {number}": [([1, 2], [0.1, 0.2])] for number in range(10)}
    shares = {name: {"noise": (0.1, 0.0, 0.2), "PGD": (1.0, 0.9, 1.0)} for name in "ab"}
    drawings = {
        "curves": plots.curves(lines, title, "epoch", "y"),
        "bars": plots.bars(shares, title, "broken"),
    }
    text = drawings[kind]
    width = size(text)[0]
    texts = ElementTree.fromstring(text).iter(f"{SVG}text")
    styles = [each.get("style", "") for each in texts]
    sizes = [float(found) for style in styles for found in re.findall(r"([\d.]+)px", style)]
    assert len(sizes) == len(styles) > 10
    assert min(sizes) * 358 / width >= 11  # of a screen 400 pixels wide, less its margins


def test_ticks_are_round_numbers() -> None:
    def labels(x: list[float], y: list[float], percent: bool = False) -> list[str]:
        text = plots.curves({"a": [(x, y)]}, "t", "epoch", "loss", percent)
        return [name for name in written(text) if re.match(r"-?\d", name)]

    assert labels([1, 2], [0.1, 2.3]) == ["1", "2", "0", "0.5", "1.5"]
    assert labels([1, 100], [1, 1])[:6] == ["0", "20", "40", "60", "80", "100"]
    assert labels([0.05, 0.1], [3, 4])[:6] == ["0.05", "0.06", "0.07", "0.08", "0.09", "0.1"]
    assert labels([1], [1e99])[0] == "1"
    assert labels([0, 1], [0, 0.3], True)[-6:] == [f"{n} %" for n in (0, 20, 40, 60, 80, 100)]


def test_pictures_are_the_same_in_every_process_and_nothing_global_changes() -> None:
    code = (
        "import sys, numpy as np; from sparring import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib; before = matplotlib.rcParams.copy()\n"
        "x = np.arange(16).reshape(1, 4, 4, 1) / 16\n"
        "print(plots.curves({'a': [([1, 2], [.1, .2])]}, 't', 'x', 'y'))\n"
        "print(plots.examples(x, x / 2, ['a'], ['b'], 't'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams.copy() == before\n"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert first.stdout == second.stdout
    assert first.stdout.count("</svg>") == 2
    assert not re.search(r"\b20\d\d-", first.stdout)  # no date


def test_a_user_s_style_and_figures_are_neither_used_nor_changed() -> None:
    import matplotlib
    from matplotlib import pyplot

    x = np.arange(16).reshape(1, 4, 4, 1) / 16

    def draw() -> tuple[str, str]:
        lines = {"a": [([1, 2], [0.1, 0.2])]}
        return plots.curves(lines, "t", "x", "y"), plots.examples(x, x / 2, ["a"], ["b"], "t")

    expected, backend = draw(), matplotlib.get_backend()
    odd: Any = {
        "font.size": 40, "axes.facecolor": "black", "savefig.bbox": "tight", "savefig.dpi": 30,
        "svg.fonttype": "path", "image.cmap": "hot", "text.usetex": True, "figure.dpi": 20,
        "savefig.transparent": True, "lines.linewidth": 9,
    }  # fmt: skip
    with matplotlib.rc_context(odd):
        before = matplotlib.rcParams.copy()
        figure = pyplot.figure()
        try:
            with ThreadPoolExecutor(4) as threads:
                made = [each.result() for each in [threads.submit(draw) for _ in range(8)]]
            assert pyplot.get_fignums() == [figure.number]
            assert pyplot.gcf() is figure
        finally:
            pyplot.close(figure)
        assert matplotlib.rcParams == before
    assert made == [expected] * 8
    assert matplotlib.get_backend() == backend
