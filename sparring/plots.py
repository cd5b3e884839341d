"""Pictures as SVG text: adversarial examples, and curves. Nothing but numpy and zlib is needed.

SVG is shown by every browser, scales, and can stand inside an HTML page as it is.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

_FONT = "font-family='system-ui, sans-serif' font-size='12'"
_COLORS = (
    *("#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2"),
    *("#9c6b4e", "#6cc5b0", "#97bbf5", "#ff8ab7", "#9498a0"),
)
_INK, _FAINT, _PAPER = "#333", "#ddd", "#fff"

Line = tuple[Sequence[float], Sequence[float]]
"""The x and the y of a line's points."""


def png(image: np.ndarray) -> bytes:
    """An image [H, W] or [H, W, 1 or 3], uint8, as a PNG file."""
    pixels = np.ascontiguousarray(image if image.ndim == 3 else image[..., None])
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' "
        f"width='{width:g}' height='{height:g}' role='img' {_FONT} fill='{_INK}'>"
        f"<title>{escape(title)}</title><rect width='100%' height='100%' fill='{_PAPER}'/>"
        + "".join(parts)
        + "</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f"<text x='{x:g}' y='{y:g}' text-anchor='{anchor}' {more}>{escape(text)}</text>"


def _image(x: float, y: float, side: float, pixels: np.ndarray) -> str:
    data = base64.b64encode(png(pixels)).decode()
    return (
        f"<image x='{x:g}' y='{y:g}' width='{side:g}' height='{side:g}' "
        f"style='image-rendering: pixelated' href='data:image/png;base64,{data}'/>"
    )


def examples(
    images: np.ndarray,
    adversarial: np.ndarray,
    labels: Sequence[str],
    answers: Sequence[str],
    title: str,
) -> str:
    """Originals over perturbations over adversarial images, each with its label, as SVG.

    `images` and `adversarial` are float [N, H, W, C] in [0, 1], one column each. Perturbations are
    shown around middle gray, the largest one of all at full contrast.
    """
    side, gap, left, top = 72, 10, 92, 34
    width, height = left + len(images) * (side + gap), top + 3 * side + 3 * 24
    parts = [_text(10, 18, title, "start", "font-weight='bold'")]
    rows = "original", "perturbation", "adversarial"
    parts += [
        _text(10, top + row * (side + 24) + side / 2, text, "start")
        for row, text in enumerate(rows)
    ]
    largest = max(float(np.abs(adversarial - images).max()), 1e-12)
    for column, (image, moved) in enumerate(zip(images, adversarial, strict=True)):
        x = left + column * (side + gap)
        shown = image, 0.5 + (moved - image) / (2 * largest), moved
        below = labels[column], f"up to {np.abs(moved - image).max():.2g}", answers[column]
        for row, (pixels, text) in enumerate(zip(shown, below, strict=True)):
            y = top + row * (side + 24)
            parts.append(_image(x, y, side, np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)))
            parts.append(_text(x + side / 2, y + side + 15, text[:14]))
    return _svg(width, height, parts, title)


def curves(
    lines: Mapping[str, Sequence[Line]],
    title: str,
    across: str,
    up: str,
    percent: bool = True,
) -> str:
    """Lines through points, by name, as SVG; the lines of one name share a color.

    With `percent`, y are shares from 0 to 1. Points that are not finite are left out.
    """
    width, height, left, top, right, bottom = 640, 370, 60, 48, 150, 46
    points = {
        name: [
            [(x, y) for x, y in zip(*line, strict=True) if np.isfinite(x) and np.isfinite(y)]
            for line in alike
        ]
        for name, alike in lines.items()
    }
    every = [point for alike in points.values() for line in alike for point in line] or [(0.0, 0.0)]
    low_x, high_x = _span([x for x, _ in every])
    low_y, high_y = (0.0, 1.0) if percent else _span([y for _, y in every])
    whole = all(float(x).is_integer() for x, _ in every)
    ticks_x, ticks_y = _ticks(low_x, high_x, 1.0 if whole else 0.0), _ticks(low_y, high_y)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - low_x) / (high_x - low_x) * (width - left - right),
            height - bottom - (y - low_y) / (high_y - low_y) * (height - top - bottom),
        )

    parts = [_text(10, 18, title, "start", "font-weight='bold'")]
    for tick in ticks_y:
        _, y = place(low_x, tick)
        parts.append(f"<path d='M{left} {y:.1f}H{width - right}' stroke='{_FAINT}'/>")
        shown = f"{100 * tick:.0f} %" if percent else f"{tick:.6g}"
        parts.append(_text(left - 6, round(y, 1) + 4, shown, "end"))
    for tick in ticks_x:
        x, _ = place(tick, low_y)
        parts.append(_text(round(x, 1), height - bottom + 16, f"{tick:.6g}"))
    parts.append(_text(left + (width - left - right) / 2, height - 10, across))
    parts.append(_text(left - 6, top - 10, up, "start", "fill='#666'"))
    ends: list[tuple[float, str, str]] = []
    for number, (name, alike) in enumerate(points.items()):
        color = _COLORS[number % len(_COLORS)]
        placed = [[place(*point) for point in line] for line in alike if line]
        for places in placed:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(
                f"<polyline points='{path}' fill='none' stroke='{color}' "
                f"stroke-width='{2 if len(placed) == 1 else 1.2}' stroke-linejoin='round'/>"
            )
            if len(places) <= 20:
                parts += [
                    f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{color}'/>" for x, y in places
                ]
        if placed:
            ends.append((sum(places[-1][1] for places in placed) / len(placed), name, color))
    # Names stand at the ends of their lines, apart from each other.
    ends.sort()
    heights = _apart([y + 4 for y, _, _ in ends], 14, height - bottom + 4)
    for y, (_, name, color) in zip(heights, ends, strict=True):
        parts.append(_text(width - right + 8, round(y, 1), name, "start", f"fill='{color}'"))
    return _svg(width, height, parts, title)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that holds the values."""
    low, high = min(values), max(values)
    if 0 < low < high / 3:
        low = 0.0
    around = max(0.5, 1e-6 * abs(low))
    return (low, high) if high > low else (low - around, high + around)


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Round numbers within an axis, about six, at least `least` apart."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(least, *(power * factor for factor in (1, 2, 5, 10) if power * factor / 2 < rough))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _apart(places: Sequence[float], gap: float, last: float) -> list[float]:
    """Rising places moved as little as keeps them `gap` apart and at most `last`."""
    moved = list(places)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], last - gap * (len(moved) - 1 - i))
    return moved
