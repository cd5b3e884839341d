"""Account: what each part of an attack did, and why images resist it, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from sparring.attacks.search import Way
from sparring.evaluation.strips import Stretch, number
from sparring.evaluation.trace import Trace
from sparring.evaluation.verdict import Verdict

HARDLY = 0.05
"""A margin that moves by less than this share of where it began, hardly moved."""

LATE = 0.1
"""What rises within this share of the steps, the last ones, is still rising."""


@dataclass
class Part:
    """An attack that is a part of what was evaluated, with all its restarts and targets.

    Attributes:
        letter: names it in the curves.
        attack: it in words, with its options; empty where that is not known.
        title: it in a few words.
        did: what came of it, in words.
        ways: places of its ways in the trace.
    """

    letter: str
    attack: str
    title: str
    did: str = ""
    ways: list[int] = field(default_factory=list)


def parts(trace: Trace) -> list[Part]:
    """Tell what each part of an attack did to the images that were traced, in the order of time."""
    found: dict[tuple[str, str, str], Part] = {}
    for place, way in enumerate(trace.ways):
        key = way.attack, way.name, way.loss
        if key not in found:
            count = len(found)
            letter = chr(ord("A") + count) if count < 26 else str(count + 1)
            found[key] = Part(letter, way.attack, "")
        found[key].ways.append(place)
    for part in found.values():
        ways = [trace.ways[place] for place in part.ways]
        part.title = _title(ways)
        part.did = _did(trace, part)
    return list(found.values())


_ASKED = "images that the defense was asked about"


def _title(ways: Sequence[Way]) -> str:
    name, loss = ways[0].name or _ASKED, ways[0].loss
    restarts = 1 + max(way.restart for way in ways)
    targets = 1 + max(-1 if way.aim is None else way.aim for way in ways)
    title = f"{name} ({loss})" if loss else name
    title += f", {restarts} starts" if restarts > 1 else ""
    return title + (f", {targets} target{'s' if targets > 1 else ''}" if targets else "")


def _did(trace: Trace, part: Part) -> str:
    points = trace.points[np.isin(trace.points["way"], part.ways)]
    images = list(dict.fromkeys(points["image"].tolist()))
    broken, on_the_way = [], 0
    for image in images:
        own = points[points["image"] == image]
        places = np.flatnonzero(own["broken"] > 0.5)
        if len(places) and own["broken"][-1] > 0.5:
            broken.append(int(own["step"][places[0]]))
        else:
            on_the_way += len(places) > 0
    several = len(images) > 1
    if not broken:
        text = f"broke none of {len(images)} images" if several else "did not break its image"
    else:
        steps = sorted({min(broken), max(broken)})
        at = f"at step{'s' if len(steps) > 1 else ''} {' to '.join(map(str, steps))}"
        text = f"broke {len(broken)} of {len(images)} image{'s' if several else ''}, {at}"
    if on_the_way:
        text += f"; {on_the_way} more on the way, but not at its end"
    return text


def stretches(points: np.ndarray, ways: Sequence[Way], told: Sequence[Part]) -> list[Stretch]:
    """Cut the points of an image where another part of the attack begins, or the same once more.

    Args:
        points: of one image, as in a trace, [P] of one or more.
        ways: the trace's.
        told: what `parts` gave.
    """
    cut = (np.diff(points["way"]) != 0) | (np.diff(points["step"]) <= 0)
    starts = [0, *(np.flatnonzero(cut) + 1).tolist()]
    part_of = {place: part for part in told for place in part.ways}
    found = []
    for begin, end in zip(starts, [*starts[1:], len(points)], strict=True):
        way = ways[points["way"][begin]]
        part = part_of[points["way"][begin]]
        title = way.name or _ASKED
        title += f", start {way.restart + 1}" if way.restart else ""
        title += "" if way.aim is None else f", target {way.aim + 1}"
        found.append(Stretch(part.letter, title, begin, end))
    return found


def resisting(verdict: Verdict) -> list[int]:
    """Give the rows of attacked images that are not broken, those nearest to it first."""
    rows = np.flatnonzero(verdict.attacked & (verdict.success <= 0.5))
    margin = verdict.margin if verdict.margin is not None else np.full(len(verdict.rows), np.nan)
    near = np.where(np.isnan(margin[rows]), -np.inf, margin[rows])
    order = np.lexsort((rows, -near, -verdict.success[rows]))
    return [int(row) for row in rows[order]]


def why(verdict: Verdict, row: int) -> str:
    """Say why an attacked image is not broken, as far as can be seen.

    Args:
        verdict: the verdict, finished.
        row: the image's.
    """
    points = None
    if verdict.trace is not None:
        points = verdict.trace.of(int(verdict.index[row]))
    sentences = list(_of_result(verdict, row))
    if points is not None and len(points):
        sentences += _of_steps(points)
    return " ".join(sentences)


def _of_result(verdict: Verdict, row: int) -> Iterator[str]:
    reason, eps = verdict.reason[row], verdict.about.threat.eps
    distance = float(verdict.distance[row])
    if reason.startswith("broken in"):
        yield f"It is {reason}, not in more than half of them."
    elif reason == "rejected":
        yield "It gets another label, but the defense rejects it."
    elif reason.startswith("too far"):
        yield f"Its distance is {number(distance)}, and {eps:.4g} is allowed."
    elif reason == "label unchanged":
        margin = np.nan if verdict.margin is None else float(verdict.margin[row])
        if margin < 0:
            yield f"The best other logit is {number(-margin)} below the label's."
        elif margin >= 0:
            yield "Another logit is the largest, but the defense does not answer by it."
        else:
            yield "Its label is unchanged."
        if distance < eps / 2:
            yield f"It moved by {100 * distance / eps:.0f} % of what is allowed."
    else:
        yield f"{reason[:1].upper()}{reason[1:]}."


def _of_steps(points: np.ndarray) -> Iterator[str]:
    broken, steps = np.flatnonzero(points["broken"] > 0.5), points["step"]
    if len(broken):
        yield (
            f"In the traced run it was broken, at step {steps[broken[0]]}."
            if broken[-1] == len(points) - 1
            else f"On the way it was broken at {len(broken)} of {len(points)} steps, first at step "
            f"{steps[broken[0]]}, but not at the last."
        )
        return
    if rejected := int((points["rejected"] > 0.5).sum()):
        yield f"It was rejected at {rejected} of {len(points)} steps."
    margin = points["margin"][np.isfinite(points["margin"])]
    if len(margin) < 2:
        return
    first, best = float(margin[0]), float(margin.max())
    span = f"from {number(first)} to {number(best)} at best"
    if best - first < HARDLY * abs(first):
        loss = points["loss"][np.isfinite(points["loss"])]
        rose = len(loss) > 1 and loss.max() - loss[0] > HARDLY * abs(loss[0])
        yield (
            f"The loss rose and the margin hardly did, {span}: the attack follows what leads to no "
            "other answer."
            if rose
            else f"The margin hardly moved, {span}: the attack found no direction, as where "
            "gradients are zero or masked."
        )
        return
    late = max(1, round(LATE * len(margin)))
    before = float(margin[:-late].max())
    if best - before > LATE / 2 * (best - first):
        yield f"The margin rose {span}, and was still rising: more steps may break it."
    else:
        yield f"The margin rose {span}, and no further."
