"""Strips: loss, margin, distance and answer of one image, step by step, as a small inline SVG.

It is drawn with the color of the text around it, so that it can be read on light and dark paper, in
a page and in a notebook, and needs no style sheet. What matplotlib draws, as the other pictures
are, knows of no text around it, and is ten times as large.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

CURVE, BROKEN, OTHER = "#3b82d6", "#e0484a", "#b7791f"
"""Colors of curves, of broken points, and of answers that are others but rejected."""

WIDTH = 360
_LEFT, _RIGHT, _LANE, _GAP, _ANSWERS = 1, 359, 46, 17, 15
_MOST = 2 * (_RIGHT - _LEFT)  # points of a curve; more lie on the same pixels
_LETTER = 6.2  # width of a letter of the answers, in pixels


@dataclass(frozen=True)
class Stretch:
    """The points of an image that belong to one part of an attack, which follow one another.

    Attributes:
        letter: names the attack that they are of, in the text around.
        title: which part that is, in words.
        begin: place of the first among the image's points.
        end: place after the last.
    """

    letter: str
    title: str
    begin: int
    end: int


def strip(
    points: np.ndarray, stretches: Sequence[Stretch], label: int, names: Sequence[str], eps: float
) -> Markup:
    """Draw what an image goes through.

    Args:
        points: its points, a structured array as `Trace.points`, [P] of one or more.
        stretches: the parts of the attack that they belong to, in order.
        label: the image's label.
        names: of the classes.
        eps: the radius of the threat model.

    Returns:
        An SVG, to stand within a page.
    """
    x = _places(len(points), stretches)
    top = 0.0
    drawn: list[Markup] = []
    # Losses of two attacks are not of one kind, so that each has a scale of its own.
    by_attack = [(group[0].begin, group[-1].end) for group in groups(stretches)]
    whole = [(0, len(points))]
    lanes: list[tuple[str, np.ndarray, list[tuple[int, int]], float | None]] = [
        ("margin", points["margin"], whole, 0.0),
        (f"distance, of {eps:.4g}", points["distance"], whole, eps),
    ]
    if np.isfinite(points["loss"]).any():
        lanes.insert(0, ("loss", points["loss"], by_attack, None))
    height = len(lanes) * (_GAP + _LANE) + _ANSWERS + 6 + 14
    drawn += _bands(x, stretches, height)
    for title, values, scales, line in lanes:
        drawn += _lane(top, title, x, values, scales, line)
        top += _GAP + _LANE
    broken = np.flatnonzero(points["broken"] > 0.5)
    if len(broken):
        at = float(x[broken[0]])
        for lane in range(len(lanes)):
            above = lane * (_GAP + _LANE) + _GAP
            drawn.append(
                _tag(
                    "line", x1=at, x2=at, y1=above, y2=above + _LANE, stroke=BROKEN,
                    stroke_dasharray="2 2",
                )
            )  # fmt: skip
    drawn += _answers(top + 4, x, points, label, names)
    drawn += _footer(height - 3, x, stretches)
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" fill="currentColor" '
        'font-size="10.5" style="display:block;width:100%;height:auto">{}</svg>'
    ).format(WIDTH, height, _described(points, label, names), Markup("").join(drawn))


def growth(distances: np.ndarray, count: int, eps: float) -> Markup:
    """Draw how success grows with the radius, in steps.

    Args:
        distances: of the broken images, each its smallest perturbation, float [M].
        count: of the images attacked, M or more.
        eps: the largest radius.

    Returns:
        An SVG, to stand within a page.
    """
    left, right, top, floor = 38.0, _RIGHT - 14.0, 8.0, 150.0
    at, share = [left], [0.0]
    for place, distance in enumerate(np.sort(distances)):
        across = left + (right - left) * min(1.0, float(distance) / eps)
        at += [across, across]
        share += [place / count, (place + 1) / count]
    at, share = [*at, right], [*share, share[-1]]
    drawn: list[Markup] = []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        across, up = left + (right - left) * part, floor - (floor - top) * part
        drawn.append(
            _tag(
                "line", x1=left, x2=right, y1=up, y2=up, stroke="currentColor", opacity="0.2",
                stroke_width="0.75",
            )
        )  # fmt: skip
        drawn.append(_tag("text", f"{100 * part:.0f} %", x=left - 5, y=up + 3.5, text_anchor="end"))
        text = number(part * eps)
        drawn.append(_tag("text", text, x=across, y=floor + 14, text_anchor="middle"))
    path = " ".join(
        f"{a:.1f},{floor - (floor - top) * part:.1f}" for a, part in zip(at, share, strict=True)
    )
    drawn.append(_tag("polyline", points=path, fill="none", stroke=CURVE, stroke_width="1.8"))
    said = f"success grows from 0 to {100 * share[-1]:.0f} % at eps {number(eps)}"
    return Markup(
        '<svg viewBox="0 0 {} 170" role="img" aria-label="{}" fill="currentColor" font-size="10.5" '
        'style="display:block;width:100%;max-width:36rem;height:auto">{}</svg>'
    ).format(WIDTH, said, Markup("").join(drawn))


def groups(stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    """Put stretches of one attack that follow one another together."""
    together: list[list[Stretch]] = []
    for stretch in stretches:
        if together and together[-1][-1].letter == stretch.letter:
            together[-1].append(stretch)
        else:
            together.append([stretch])
    return together


def _described(points: np.ndarray, label: int, names: Sequence[str]) -> str:
    last = points[-1]
    return (
        f"{len(points)} steps: margin from {number(points['margin'][0])} to "
        f"{number(last['margin'])}, answer {answer(last['answer'], names)} for {names[label]}"
    )


def number(value: float) -> str:
    """Write a number in three digits; "unknown" for NaN."""
    return "unknown" if math.isnan(value) else f"{value or 0.0:.3g}"


def answer(label: int, names: Sequence[str]) -> str:
    """Name an answer, "none" where there is none."""
    return names[label] if 0 <= label < len(names) else "none"


def _places(count: int, stretches: Sequence[Stretch]) -> np.ndarray:
    """Where the points lie across, float [count].

    The width of an attack goes by the root of its steps, so that hundreds can be told apart beside
    thousands.
    """
    x = np.full(count, float(_LEFT))
    spans = [(group[0].begin, group[-1].end) for group in groups(stretches)]
    widths = np.sqrt([end - begin for begin, end in spans])
    ends = _LEFT + (_RIGHT - _LEFT) * np.cumsum(widths) / widths.sum()
    for (begin, end), left, right in zip(spans, [_LEFT, *ends[:-1]], ends, strict=True):
        x[begin:end] = left + (right - left) * (np.arange(end - begin) + 0.5) / (end - begin)
    return x


def _tag(_name: str, _text: str | None = None, **values: object) -> Markup:
    """An element; numbers are rounded to a tenth of a pixel, which is enough."""
    said = Markup("").join(
        Markup(' {}="{}"').format(
            name.replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else value
        )
        for name, value in values.items()
    )
    if _text is None:
        return Markup("<{}{}/>").format(_name, said)
    return Markup("<{}{}>{}</{}>").format(_name, said, _text, _name)


def _bands(x: np.ndarray, stretches: Sequence[Stretch], height: float) -> Iterator[Markup]:
    """Every second attack on a tinted band, and a thin line before each restart or target."""
    for place, group in enumerate(groups(stretches)):
        begin, end = _edge(x, group[0].begin), _edge(x, group[-1].end)
        if place % 2:
            yield _tag("rect", x=begin, y=0, width=end - begin, height=height, opacity=0.07)
        for stretch in group[1:]:
            at = _edge(x, stretch.begin)
            yield _tag(
                "line", x1=at, x2=at, y1=_GAP - 3, y2=height - 15, stroke="currentColor",
                stroke_width="0.5", opacity="0.25",
            )  # fmt: skip


def _edge(x: np.ndarray, place: int) -> float:
    """Where the space of a point begins."""
    if place == 0:
        return float(_LEFT)
    return float(_RIGHT) if place == len(x) else float(x[place - 1] + x[place]) / 2


def _lane(
    top: float,
    title: str,
    x: np.ndarray,
    values: np.ndarray,
    scales: Sequence[tuple[int, int]],
    line: float | None,
) -> Iterator[Markup]:
    """A curve below its name and its range; `line` is a value that is marked."""
    known = np.isfinite(values)
    yield _tag("text", title, x=_LEFT, y=top + 11, opacity="0.75")
    if not known.any():
        said = "not known"
    elif len(scales) > 1:
        said = "each attack on its own scale"
    else:
        said = f"{number(values[known].min())} to {number(values[known].max())}"
    yield _tag("text", said, x=_RIGHT, y=top + 11, text_anchor="end", opacity="0.75")
    floor = top + _GAP + _LANE - 3
    for begin, end in scales:
        part = known[begin:end]
        if not part.any():
            continue
        across, up = x[begin:end][part], values[begin:end][part]
        low, high = float(up.min()), float(up.max())
        if line is not None:
            low, high = min(low, line if line == 0 else 0.0), max(high, line)
        scale = (_LANE - 8) / (high - low or 1.0)
        if line is not None:
            at = floor - (line - low) * scale
            yield _tag(
                "line", x1=_LEFT, x2=_RIGHT, y1=at, y2=at, stroke="currentColor",
                opacity="0.45", stroke_dasharray="3 3", stroke_width="0.75",
            )  # fmt: skip
        across, up = _thinned(across, floor - (up - low) * scale)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))
        yield _tag(
            "polyline", points=path, fill="none", stroke=CURVE, stroke_width="1.4",
            stroke_linejoin="round",
        )  # fmt: skip
        yield _tag("circle", cx=float(across[-1]), cy=float(up[-1]), r="2.2", fill=CURVE)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of many points the lowest and the highest within each pixel or so, and the last."""
    if len(x) <= _MOST:
        return x, y
    cuts = np.linspace(0, len(x), _MOST // 2 + 1).astype(int)
    kept = {len(x) - 1}
    for begin, end in pairwise(cuts.tolist()):
        kept |= {begin + int(y[begin:end].argmin()), begin + int(y[begin:end].argmax())}
    places = sorted(kept)
    return x[places], y[places]


def _answers(
    top: float, x: np.ndarray, points: np.ndarray, label: int, names: Sequence[str]
) -> Iterator[Markup]:
    """A bar of the answers: its colored parts are answers other than the label."""
    state = np.stack([points["answer"], points["broken"] > 0.5])  # [2, P]
    starts = [0, *(np.flatnonzero((state[:, 1:] != state[:, :-1]).any(axis=0)) + 1)]
    for begin, end in zip(starts, [*starts[1:], len(x)], strict=True):
        left, right = _edge(x, begin), _edge(x, end)
        said, broken = points["answer"][begin], points["broken"][begin] > 0.5
        name = answer(said, names)
        color = BROKEN if broken else "currentColor" if said in (label, -1) else OTHER
        kind = "" if broken or said in (label, -1) else ", not broken"
        box = _tag(
            "rect", x=left, y=top, width=max(right - left, 1.0), height=_ANSWERS, fill=color,
            fill_opacity="0.12" if color == "currentColor" else "0.45",
        )  # fmt: skip
        steps = f"steps {points['step'][begin]} to {points['step'][end - 1]}: {name}{kind}"
        yield Markup("<g><title>{}</title>{}").format(steps, box)
        if len(name) * _LETTER + 4 < right - left:
            yield _tag("text", name, x=left + 3, y=top + 11)
        yield Markup("</g>")


def _footer(y: float, x: np.ndarray, stretches: Sequence[Stretch]) -> Iterator[Markup]:
    """Below each attack its letter; below the only one its first and its last step."""
    together = groups(stretches)
    if len(stretches) == 1:
        last = stretches[0].end - stretches[0].begin - 1
        yield _tag("text", "step 0", x=_LEFT, y=y, opacity="0.75")
        if last:
            yield _tag("text", f"{last}", x=_RIGHT, y=y, text_anchor="end", opacity="0.75")
        return
    for group in together:
        middle = (_edge(x, group[0].begin) + _edge(x, group[-1].end)) / 2
        titles = "; ".join(stretch.title for stretch in group[:12])
        more = "; ..." if len(group) > 12 else ""
        text = _tag("text", group[0].letter, x=middle, y=y, text_anchor="middle")
        yield Markup("<g><title>{}</title>{}</g>").format(titles + more, text)
