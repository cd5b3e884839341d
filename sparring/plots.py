"""Pictures as SVG: adversarial examples, and curves.

They are drawn by matplotlib, which is imported when the first one is. Text stays text, images keep
their pixels, equal pictures are equal bytes, and colors follow the reader's light or dark scheme;
pyplot and a user's matplotlibrc are not used.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Line = tuple[Sequence[float], Sequence[float]]
"""The x and the y of a line's points."""

Share = tuple[float, float, float]
"""A share from 0 to 1, and the ends of its interval."""

_DPI = 96  # CSS pixels to an inch
_SIZE = 9.5  # of text, in points: curves 360 pixels wide, as on a phone, have 11 pixels of it

PAPER, INK, SOFT, GRID = "#ffffff", "#1f2328", "#59636e", "#d8dee4"
LINES = {
    "#1b62a5": "#79b8ff",
    "#a84b00": "#ffa657",
    "#1a7a2e": "#6fdd8b",
    "#c0271d": "#ff9d94",
    "#7a4fb5": "#c8a6ff",
    "#7d4f3f": "#d9ae9b",
    "#b03a8c": "#ff9bd2",
    "#5f6670": "#aab3bd",
    "#6f6a00": "#d6d04f",
    "#00717f": "#56d4dd",
}
"""The colors of lines and their names, each with the one that is in its place on dark paper."""

DARK = {PAPER: "#14171b", INK: "#e6e8eb", SOFT: "#9da7b1", GRID: "#363c44", **LINES}
"""Each color of a picture, with the one that is in its place where the reader's scheme is dark."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "sparring",  # the same ids in every process
    "text.parse_math": False,  # a dollar sign in a name is one
    "image.composite_image": False,
    "image.interpolation": "none",  # pixels stay pixels
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": _SIZE,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys((f"axes.spines.{side}" for side in ("left", "right", "top", "bottom")), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID},
    **{"legend.frameon": False, "legend.handlelength": 1.2, "legend.labelcolor": "linecolor"},
}


def examples(
    images: np.ndarray,
    adversarial: np.ndarray,
    labels: Sequence[str],
    answers: Sequence[str],
    title: str,
) -> str:
    """Draw originals over perturbations over adversarial images, each with its label.

    Perturbations are shown around middle gray, the largest one of all at full contrast.

    Args:
        images: The originals, float [N, H, W, 1 or 3] in [0, 1], a column each.
        adversarial: What an attack made of them, as they are.
        labels: The names of the originals' classes.
        answers: The names of the classes that the adversarial images are given.
        title: What the picture shows.

    Returns:
        An SVG.
    """
    side, pitch, left = 72, 84, 98  # pixels
    width = max(left + len(images) * pitch, 400)
    heading = _wrapped(title, width // 8)
    top = 14 + 15 * len(heading.splitlines())
    perturbations = adversarial - images  # [N, H, W, C]
    largest = max(float(np.abs(perturbations).max(initial=0)), 1e-12)
    rows = {
        "original": (images, [_wrapped(name, 14) for name in labels]),
        "perturbation": (
            0.5 + perturbations / (2 * largest),
            [f"up to {np.abs(perturbation).max():.2g}" for perturbation in perturbations],
        ),
        "adversarial": (adversarial, [_wrapped(name, 14) for name in answers]),
    }
    most_lines = max([text.count("\n") + 1 for _, texts in rows.values() for text in texts] or [1])
    step = side + 12 + 12 * most_lines
    with _drawing(width, top + 3 * step, title) as (figure, file):
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(top + 3 * step, 0))
        axes.set_axis_off()
        axes.text(10, 8, heading, weight="bold", va="top")
        for row, (name, (pictures, texts)) in enumerate(rows.items()):
            y = top + row * step
            axes.text(10, y + side / 2, name, va="center")
            for column, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
                x = left + column * pitch
                pixels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)  # [H, W, C]
                pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
                axes.imshow(pixels, extent=(x, x + side, y + side, y), aspect="auto")
                label = axes.text(x + side / 2, y + side + 4, text, ha="center", va="top")
                taken = label.get_window_extent().width * _DPI / figure.dpi
                label.set_fontsize(_SIZE * min(1, (pitch - 4) / max(taken, 1)))
    return _for_both_schemes(file)


def curves(
    lines: Mapping[str, Sequence[Line]], title: str, across: str, up: str, percent: bool = True
) -> str:
    """Draw lines through points, by name; the lines of one name share a color.

    Args:
        lines: For each name its lines. Points that are not finite are left out.
        title: What the picture shows.
        across: What the x are.
        up: What the y are.
        percent: Whether the y are shares from 0 to 1.

    Returns:
        An SVG.
    """
    names = [_wrapped(name, 30) for name in lines]
    columns = max(1, 48 // (8 + max([len(name) for name in names] or [0])))
    below = 18 * -(-sum(1 + name.count("\n") for name in names) // columns)  # names, in pixels
    with _drawing(400, 290 + below, title) as (figure, file):
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
        figure.suptitle(_wrapped(title, 44), x=0.02, ha="left", size=_SIZE, weight="bold")
        axes = figure.add_subplot(xlabel=_wrapped(across, 50))
        axes.set_title(_wrapped(up, 50), loc="left", size=_SIZE, color=SOFT)
        axes.margins(0.012, 0.04)
        ends: list[tuple[float, str, Line2D]] = []
        points = [np.zeros((0, 2))]
        for number, (name, alike) in enumerate(zip(names, lines.values(), strict=True)):
            for at, line in enumerate(alike):
                xy = np.array(line, float).T  # [points, 2]
                xy = xy[np.isfinite(xy).all(axis=1)]
                if not len(xy):
                    continue
                points.append(xy)
                [drawn] = axes.plot(
                    xy[:, 0],
                    xy[:, 1],
                    color=list(LINES)[number % len(LINES)],
                    linewidth=1.5 if len(alike) == 1 else 0.9,
                    marker="o" if len(xy) <= (20 if len(alike) == 1 else 1) else "",
                    markersize=4,
                    gid=f"line-{number}-{at}",
                )
                ends.append((float(xy[-1, 1]), name, drawn))
        x, y = np.concatenate(points).T
        integer = bool((x % 1 == 0).all())
        for axis, whole in ((axes.xaxis, integer), (axes.yaxis, False)):
            axis.set_major_locator(
                MaxNLocator(7, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1)
            )
        axes.xaxis.set_major_formatter("{x:.6g}")
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0, " %") if percent else "{x:.6g}")
        for values, limit in ((x, axes.set_xlim), (y, axes.set_ylim)):
            if len(values) and 0 < values.min() < values.max() / 3:
                limit(0)
        if integer and len(set(x)) == 1:
            axes.set_xlim(x[0] - 0.5, x[0] + 0.5)
        if percent:
            axes.set_ylim(-0.02, 1.02)
        # Names stand in the order of their lines' ends.
        ends.sort(key=lambda end: end[0], reverse=True)
        if named := {name: drawn for _, name, drawn in ends}:
            figure.legend(
                list(named.values()),
                list(named),
                loc="outside lower left",
                ncols=columns,
                columnspacing=1.2,
            )
    return _for_both_schemes(file)


def bars(groups: Mapping[str, Mapping[str, Share]], title: str, across: str) -> str:
    """Draw shares as bars, by what they are of; the bars of one group share a color.

    Args:
        groups: For each group its shares by name, which may be those of other groups, too.
        title: What the picture shows.
        across: What the shares are.

    Returns:
        An SVG.
    """
    names = list(dict.fromkeys(name for shares in groups.values() for name in shares))
    most, thick = max(len(groups), 1), 17  # pixels
    rows = thick * (most + 0.6)  # of one name, with the space to the next
    below = 18 * len(groups) if len(groups) > 1 else 0  # the groups' names
    heading = _wrapped(title, 44)
    height = 62 + 14 * len(heading.splitlines()) + rows * len(names) + below
    with _drawing(400, height, title) as (figure, file):
        from matplotlib.ticker import PercentFormatter

        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
        figure.suptitle(heading, x=0.02, ha="left", size=_SIZE, weight="bold")
        axes = figure.add_subplot(xlim=(0, 1.18), ylim=(rows * len(names), 0))
        axes.set_xlabel(_wrapped(across, 50))
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        middle = rows / 2
        axes.set_yticks([rows * at + middle for at in range(len(names))], names)
        for number, (group, shares) in enumerate(groups.items()):
            color = list(LINES)[number % len(LINES)]
            for name, (share, low, high) in shares.items():
                y = rows * names.index(name) + middle + thick * (number - (most - 1) / 2)
                [bar] = axes.barh(y, share, thick * 0.8, color=color, alpha=0.6, label=group)
                bar.set_gid(f"bar-{number}-{names.index(name)}")
                axes.plot([low, high], [y, y], color=INK, linewidth=1)
                end = max(share, high) + 0.02
                axes.text(end, y, f"{100 * share:.1f} %", va="center")
        if len(groups) > 1:
            handles, labels = axes.get_legend_handles_labels()
            named = dict(zip(labels, handles, strict=True))
            figure.legend(
                list(named.values()), list(named), loc="outside lower left", labelcolor=INK
            )
    return _for_both_schemes(file)


def _for_both_schemes(file: io.StringIO) -> str:
    """The picture drawn, with the colors that it has where the reader's scheme is dark."""
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    dark = f"@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return file.getvalue().replace("</style>", dark, 1)


def _wrapped(text: str, width: int) -> str:
    """Text that can be printed, on two lines at most."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder="…"))


_ONE_AT_A_TIME = Lock()  # matplotlib's style is the process's; two threads would mix theirs up


@contextmanager
def _drawing(width: float, height: float, title: str) -> Iterator[tuple[Figure, io.StringIO]]:
    """A figure of so many pixels, and what holds its SVG once it is drawn."""
    import matplotlib.style
    from matplotlib.figure import Figure

    file = io.StringIO()
    style = matplotlib.style.context(["default", _STYLE])
    with _ONE_AT_A_TIME, warnings.catch_warnings(), style:
        # Letters that matplotlib's font lacks are drawn by the browser, with another.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = Figure((width / _DPI, height / _DPI))
        yield figure, file
        told = dict.fromkeys(("Date", "Creator", "Format", "Type"), None)
        figure.savefig(file, format="svg", metadata={**told, "Title": _wrapped(title, 999)})


def png(image: np.ndarray) -> bytes:
    """Encode an image.

    Args:
        image: float [H, W, 1 or 3] in [0, 1], or uint8.

    Returns:
        A PNG, equal for equal images.
    """
    import matplotlib.image

    pixels = image if image.dtype == np.uint8 else np.round(255 * np.clip(image, 0, 1))
    colors = np.broadcast_to(pixels.astype(np.uint8), (*pixels.shape[:2], 3))
    file = io.BytesIO()
    unsigned: dict[str, Any] = {"Software": None}
    matplotlib.image.imsave(file, colors, format="png", metadata=unsigned)
    return file.getvalue()
