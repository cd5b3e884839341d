"""Trace: what the first of the attacked images go through, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, final

import numpy as np
from typing_extensions import override

from sparring.attacks import margins
from sparring.attacks.search import Search, Way
from sparring.attacks.watching import Onlooker
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.errors import RunError, printable
from sparring.evaluation.judge import Judge
from sparring.networks.allconv import in_batches
from sparring.randomness import Chance
from sparring.runs.records import (
    MOST_POINTS,
    MOST_TRACED,
    MOST_WAYS,
    Evaluated,
    PointsRecord,
    TraceRecord,
    WayRecord,
)
from sparring.tensors import Images

DRAWS = 5
"""In how many draws a stochastic defense is asked about every point."""

FILE = "trace.json"

_INTEGERS, _NUMBERS = ("image", "way", "step", "target", "answer"), ("loss", "margin", "distance")
_SHARES = ("rejected", "broken")

POINT = np.dtype(
    [(name, np.int64 if name in _INTEGERS else np.float64) for name in PointsRecord.model_fields]
)
"""A point of a trace; see `Trace.points`."""

_VALUES_AT_ONCE = 1 << 22
"""How many values of points are kept before the defense is asked about them, 16 MiB."""


@dataclass(repr=False)
class Trace:
    """What some images went through under an attack.

    Attributes:
        index: indices of the test images, int [M].
        ways: the parts of the attack, which points are of.
        points: what the attack came to, in the order of time, a structured array [P]:
            `image`, the index of the test image; `way`, which part of the attack, a place in ways;
            `step`, counted from 0, where that part began; `target`, the class that it aimed at, -1
            without; `loss`, what it rose along, NaN where that is not known; `margin`, the best
            other logit less the label's, NaN for a point of values that are no image's; `distance`
            in the threat model's norm; `answer`, the label most frequent in the draws, -1 without
            any; `rejected` and `broken`, in which shares of the draws.
        omitted: how many points were too many to be kept.
        problem: in words, why there is nothing more to see; empty where there is no problem.
    """

    index: np.ndarray
    ways: list[Way]
    points: np.ndarray
    omitted: int = 0
    problem: str = ""

    def __repr__(self) -> str:
        """Say how much there is."""
        points, images = len(self.points), len(self.index)
        return f"<Trace: {points:,} points of {images} images, {len(self.ways)} parts>"

    def of(self, image: int) -> np.ndarray:
        """Give the points of an image, by its index among the test images, in the order of time."""
        return self.points[self.points["image"] == image]

    def record(self, evaluated: Evaluated) -> TraceRecord:
        """Give what trace.json holds; numbers are rounded to six digits.

        Args:
            evaluated: what was evaluated.
        """
        columns: dict[str, Any] = {name: self.points[name].tolist() for name in POINT.names or ()}
        for name in (*_NUMBERS, *_SHARES):
            columns[name] = [float(f"{value:.6g}") for value in columns[name]]
        return TraceRecord(
            evaluated=evaluated,
            images=self.index.tolist(),
            ways=[WayRecord(**asdict(way)) for way in self.ways],
            points=PointsRecord(**columns),
            omitted=self.omitted,
            problem=self.problem,
        )

    def write(self, folder: Path, evaluated: Evaluated) -> None:
        """Write trace.json into a verdict's folder."""
        self.record(evaluated).write(folder / FILE)

    @classmethod
    def read(cls, folder: Path, evaluated: Evaluated, images: Sequence[int]) -> Trace | None:
        """Read the trace beside a verdict.

        Args:
            folder: of the verdict.
            evaluated: what the verdict is of.
            images: indices of the images that would be traced.

        Returns:
            The trace, or None where there is none, or a damaged one, or one of something else.
        """
        if not (folder / FILE).is_file():
            return None
        try:
            record = TraceRecord.read(folder / FILE)
        except RunError:
            return None  # it can be made again
        about = record.evaluated.model_copy(update={"run": evaluated.run})
        if about != evaluated or record.images != list(images):
            return None
        return cls.of_record(record)

    @classmethod
    def of_record(cls, record: TraceRecord) -> Trace:
        """Take what trace.json holds; texts are made printable."""
        ways = [Way(**_printable(way.model_dump())) for way in record.ways]
        points = np.zeros(len(record.points.image), POINT)
        for name in POINT.names or ():
            points[name] = getattr(record.points, name)
        _drop_odd_numbers(points)
        problem = printable(record.problem)
        return cls(np.array(record.images, int), ways, points, record.omitted, problem)


def _drop_odd_numbers(points: np.ndarray) -> None:
    """Make numbers NaN that are infinite, or so large that differences of them may be."""
    for name in _NUMBERS:
        points[name][~(np.abs(points[name]) < 1e100)] = np.nan


def _printable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: printable(v) if isinstance(v, str) else v for name, v in values.items()}


@final
class Tracer(Onlooker):
    """Takes note of every point that an attack comes to, and of what the defense makes of it.

    Args:
        judge: asks the defense.
        index: which test images are attacked, int [M], MOST_TRACED at most.
        x: the images, float32 [M, H, W, C].
        y: their labels, int [M].
    """

    def __init__(self, judge: Judge, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        """Know of no points yet."""
        assert len(x) <= MOST_TRACED
        self._judge = Judge(judge.defense, judge.threat, judge.seeds[:DRAWS])
        self._index, self._x, self._y = index, x, y
        self._rows: dict[bytes, list[int]] = {}
        for row, image in enumerate(x):
            self._rows.setdefault(image.tobytes(), []).append(row)
        self._ways: dict[Way, int] = {}
        self._stepped: set[int] = set()  # hashes of points that searches came to
        self._seen: list[set[int]] = [set() for _ in x]  # of all points, by image
        self._counts = np.zeros(len(x), int)  # of points
        self._asked = np.zeros(len(x), int)  # of points asked about since the last step
        self._omitted = 0
        self._notes: list[tuple[np.ndarray, np.ndarray]] = []  # points, and what is known of them
        self._values = 0
        self._points: list[np.ndarray] = []
        self.ended = False

    @override
    def step(self, search: Search, number: int, images: np.ndarray, points: Images) -> None:
        if self.ended:
            return
        rows = self._rows_of(images)
        losses, targets = search.losses(points), search.targets
        known = np.zeros(len(rows), POINT)
        known["step"] = number
        known["loss"] = np.nan if losses is None else _values(losses)[: len(rows)]
        known["target"] = -1 if targets is None else _values(targets)[: len(rows)]
        self._asked[:] = 0
        self._note(search.way, rows, _values(points)[: len(rows)], known)

    @override
    def asked(self, points: np.ndarray) -> None:
        if self.ended or points.dtype.kind not in "fu":
            return
        points = points[None] if points.ndim == 3 else points
        if points.shape[1:] != self._x.shape[1:] or not len(points):
            return
        whole = points.dtype == np.uint8
        points = points.astype(np.float32) / (255 if whole else 1)
        rows = self._nearest(points)
        # Each once: copies for several draws are one point, as is what a search gave before.
        marks = [hash(point.tobytes()) for point in points]
        new = [
            place
            for place, (row, mark) in enumerate(zip(rows, marks, strict=True))
            if row not in rows[:place] and mark not in self._seen[row] and mark not in self._stepped
        ]
        rows, known = rows[new], np.zeros(len(new), POINT)
        known["loss"], known["target"], known["step"] = np.nan, -1, self._asked[rows]
        self._asked[rows] += 1
        self._note(Way(), rows, points[new], known)

    def given(self, images: Any) -> None:
        """Take note of what the attack returned in the end, which may be anything."""
        try:
            points = np.asarray(_values(images) if ops.is_tensor(images) else images)
        except Exception:  # the judge says what is wrong with it
            return
        if points.shape == self._x.shape and not self._omitted:  # it may be among those
            self.asked(points)

    def _rows_of(self, images: np.ndarray) -> np.ndarray:
        """The places of originals among the images, -1 for others; equal images have one each."""
        seen, rows = Counter[bytes](), []
        for image in images:
            key = image.tobytes()
            alike = self._rows.get(key, [])
            rows.append(alike[seen[key]] if seen[key] < len(alike) else -1)
            seen[key] += 1
        return np.array(rows, int)

    def _nearest(self, points: np.ndarray) -> np.ndarray:
        """The places of the images that points are nearest to; in whole batches their own."""
        near = self._judge.threat.eps * (1 + 1e-3)
        with np.errstate(all="ignore"):
            if len(points) == len(self._x):
                whole = self._judge.threat.distance(points, self._x)
                if (whole <= near).all():
                    return np.arange(len(points))
            apart = np.square(points[:, None] - self._x).sum(axis=(2, 3, 4))  # [B, M]
        return np.where(np.isnan(apart), np.inf, apart).argmin(axis=1)

    def _note(self, way: Way, rows: np.ndarray, points: np.ndarray, known: np.ndarray) -> None:
        room = (rows >= 0) & (self._counts[rows] < MOST_POINTS)
        if way not in self._ways and len(self._ways) == MOST_WAYS:
            room[:] = False
        self._omitted += int((~room & (rows >= 0)).sum())
        # Copies, since the attack may go on to write to what it gave.
        rows, points, known = rows[room], points[room].astype(np.float32), known[room]
        if not len(rows):
            return
        known["way"] = self._ways.setdefault(way, len(self._ways))
        self._counts[rows] += 1
        for row, point in zip(rows, points, strict=True):
            self._seen[row].add(hash(point.tobytes()))
            if way.name:
                self._stepped.add(hash(point.tobytes()))
        known["image"] = rows  # the index in its place once it is measured
        self._notes.append((points, known))
        self._values += points.size
        if self._values >= _VALUES_AT_ONCE:
            self._measure()

    def _measure(self) -> None:
        """Ask the defense about the points that were noted."""
        if not self._notes:
            return
        points, known = map(np.concatenate, zip(*self._notes, strict=True))
        self._notes, self._values = [], 0
        rows = known["image"]
        x, y = self._x[rows], self._y[rows]
        images, near, known["distance"], _ = self._judge.threat.check(points, x)
        labels, rejected = self._judge.ask(images)  # [D, P]
        changed = (labels != y) & (labels >= 0)
        if not self._judge.defense.stochastic:
            changed &= known["distance"] > 0  # as it is judged
        known["rejected"] = rejected.mean(axis=0)
        known["broken"] = (changed & ~rejected & near).mean(axis=0)
        classes = np.arange(self._judge.defense.info.classes)
        votes = (labels[..., None] == classes).sum(axis=0)  # [P, K]
        none = np.isnan(known["distance"]) | ~votes.any(axis=1)
        known["answer"] = np.where(none, -1, votes.argmax(axis=1))
        margin = margins_of(self._judge, images, y)
        known["margin"] = np.where(np.isnan(known["distance"]), np.nan, margin)
        known["image"] = self._index[rows]
        _drop_odd_numbers(known)
        self._points.append(known)

    def trace(self, problem: str = "") -> Trace:
        """Give what was noted; nothing is, from here on.

        Args:
            problem: in words, what ended the attack.
        """
        self.ended = True
        self._measure()
        points = np.concatenate(self._points) if self._points else np.zeros(0, POINT)
        if not len(points) and not problem:
            problem = (
                "the attack takes no steps that can be watched, and asked the defense about no "
                "images that could be seen"
            )
        return Trace(self._index, list(self._ways), points, self._omitted, problem)


def margins_of(judge: Judge, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute by how much the best other logit exceeds the label's, in the mean over draws.

    Args:
        judge: whose defense is asked, in the judge's draws.
        x: images float32 [B, H, W, C] in [0, 1].
        y: their labels, int [B].

    Returns:
        float64 [B]; below 0 the label has the largest logit.
    """
    defense = judge.defense
    means = np.zeros(len(x))
    for seed in judge.seeds:
        logits = ops.convert_to_tensor(_logits(defense, x, seed))
        means += _values(margins(ops.convert_to_tensor(y.astype("int32")), logits))
    return means / len(judge.seeds)


def _logits(defense: Defense, x: np.ndarray, seed: int) -> np.ndarray:
    """Logits [B, K] in one draw."""

    def asked(images: Images, seed: Any) -> Any:
        return defense.logits(images, Chance(images, seed) if defense.stochastic else None)

    compiled, drawn = defense.compiled(("drawn",), asked), ops.convert_to_tensor(seed, "int32")
    return in_batches(lambda images: compiled(images, drawn), x)


def _values(tensor: Any) -> np.ndarray:
    return cast(np.ndarray, ops.convert_to_numpy(tensor))
