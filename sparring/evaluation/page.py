"""A verdict to look at: a page that needs no other file, and the output of a notebook's cell.

Every text is escaped, so that it stays text: attacks and what they return have names of their own.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from jinja2 import Template
from markupsafe import Markup

from sparring import plots
from sparring.data import DatasetInfo
from sparring.evaluation import account, strips
from sparring.evaluation.rates import Rate, duration
from sparring.evaluation.verdict import BROKEN, Verdict, port_words
from sparring.templates import environment
from sparring.version import __version__

MOST_SHOWN = 24
"""Images of each kind that a page shows, at most."""

_MOST_VALUES = 1_500_000  # of pixels that images of a kind may have; the page is to stay small
_MOST_IN_CELL = 8
_MOST_REASONS = 25


class Shares(NamedTuple):
    """A rate, and what it is of."""

    name: str
    of: str
    rate: Rate


@dataclass(frozen=True)
class Card:
    """An attacked image as it is shown.

    Attributes:
        index: among the test images.
        label: the name of its class.
        answer: that of what it was made to be taken for, or why there is none.
        broken: whether it is.
        facts: distance and margin, in words.
        why: why it resists; empty where it does not.
        pictures: original, perturbation and adversarial image, each with its description.
        strip: what it went through; None where it was not traced.
    """

    index: int
    label: str
    answer: str
    broken: bool
    facts: str
    why: str
    pictures: Sequence[tuple[str, str]]
    strip: Markup | None


def html(verdict: Verdict) -> str:
    """Give a verdict as a page."""
    return _template("verdict.html.jinja").render(shown=_Shown(verdict), version=__version__)


def cell(verdict: Verdict) -> str:
    """Give a verdict as HTML to stand within other HTML, without style sheets or scripts."""
    return _template("cell.html.jinja").render(shown=_Shown(verdict, _MOST_IN_CELL))


@cache
def _template(name: str) -> Template:
    return environment("sparring.evaluation").get_template(name)


class _Shown:
    """What is shown of a verdict."""

    def __init__(self, verdict: Verdict, most: int = MOST_SHOWN) -> None:
        self.verdict, self.about, self.trace = verdict, verdict.about, verdict.trace
        self.names = DatasetInfo.from_json(_own(self.about.dataset)).class_names
        self.eps = self.about.threat.eps
        self.parts = account.parts(self.trace) if self.trace is not None else []
        self.title = f"{verdict.name or self.about.attack} on {self.about.defense}"
        self.time = duration(verdict.seconds)
        room = max(1, _MOST_VALUES // max(3 * verdict.adversarial[:1].size, 1))
        most = min(most, room)
        resisting = account.resisting(verdict)
        broken = np.flatnonzero(verdict.attacked & (verdict.success > 0.5)).tolist()
        self.resisting_count, self.broken_count = len(resisting), len(broken)
        rows = {int(index): row for row, index in enumerate(verdict.index)}
        traced = [] if self.trace is None else self.trace.index.tolist()
        chosen = [rows[index] for index in traced if index in rows]
        first, second = resisting[:most], broken[:most]
        self.magnified = self._magnified([*chosen, *first, *second])
        self.traced = [self._card(row, stepwise=True) for row in chosen[:room]]
        self.resisting = [self._card(row) for row in first]
        self.broken = [self._card(row) for row in second]

    @property
    def rates(self) -> list[Shares]:
        """The four rates."""
        verdict = self.verdict
        return [
            Shares("attack success", "of the images attacked: broken", verdict.success_rate),
            Shares(
                "robust accuracy",
                "of all images: answered correctly, and not broken",
                verdict.robust_accuracy,
            ),
            Shares(
                "clean accuracy",
                "of all images: answered correctly without an attack",
                verdict.clean_accuracy,
            ),
            Shares("rejected", "of all images: rejected without an attack", verdict.clean_rejected),
        ]

    @property
    def facts(self) -> list[tuple[str, str, str]]:
        """The rates as names, values and intervals."""
        return [
            (
                name,
                f"{100 * rate.value:.1f} %" if rate.n else "-",
                f"{100 * rate.low:.1f} to {100 * rate.high:.1f}, n = {rate.n}"
                if rate.n
                else "no images",
            )
            for name, _, rate in self.rates
        ]

    @property
    def growth(self) -> Markup | None:
        """How success grows with the radius, where that is known."""
        verdict = self.verdict
        if not (verdict.bisected and verdict.attacked.any()):
            return None
        broken = verdict.attacked & (verdict.success > 0.5)
        count = int(verdict.attacked.sum())
        return strips.growth(verdict.distance[broken], count, self.eps)

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """What came of the images, and of how many; those broken in most draws first."""
        counts: Counter[tuple[float, str]] = Counter()
        for row in self.verdict.rows:
            counts[row["success"] if row["attacked"] else -1.0, row["reason"]] += 1
        most = sorted(counts.most_common(_MOST_REASONS), key=lambda item: -item[0][0])
        return [(reason, count) for (_, reason), count in most]

    @property
    def where(self) -> list[tuple[str, str]]:
        """What was evaluated, and how, by names."""
        about, other = self.about, self.about.dataset.get("other_data")
        declared = about.model or {}
        weights = f"{about.weights_sha256:.12}" if about.weights_sha256 else "-"
        return [
            ("defense", about.defense),
            ("run", about.run or "-"),
            ("weights, SHA-256", weights),
            *([("its class, SHA-256", f"{about.code_sha256:.12}")] if about.code_sha256 else []),
            *((f"its {name.replace('_', ' ')}", str(value)) for name, value in declared.items()),
            ("attack", about.attack),
            ("threat model", f"{about.threat.norm}, eps {about.threat.eps:.6g}"),
            ("data set", f"{about.dataset['name']}{' (other data)' if other else ''}"),
            ("cost", self.verdict.cost or "-"),
            *port_words(self.verdict.port),
            ("draws", str(about.draws)),
            ("seed", str(about.seed)),
            ("computed with", f"{about.backend}, Sparring {about.sparring}, in {self.time}"),
        ]

    def _magnified(self, rows: Sequence[int]) -> float:
        """How many times perturbations are magnified: the largest is to have full contrast."""
        if self.about.threat.norm == "Linf":
            return max(1.0, 1 / (2 * self.eps))
        if self.verdict.originals is None or not len(rows):
            return 1.0
        moved = np.abs(self.verdict.adversarial[rows] - _floats(self.verdict.originals[rows]))
        return max(1.0, 0.5 / max(float(moved.max()), 1e-6))

    def _card(self, row: int, stepwise: bool = False) -> Card:
        verdict, said = self.verdict, int(self.verdict.answer[row])
        label, broken = int(verdict.label[row]), bool(verdict.success[row] > 0.5)
        reason = verdict.reason[row]
        answer = strips.answer(said, self.names) if said >= 0 else "no valid image"
        answer += ", rejected" if reason == "rejected" else ""
        facts = f"distance {strips.number(float(verdict.distance[row]))} of {self.eps:.4g}"
        if verdict.margin is not None and np.isfinite(verdict.margin[row]):
            facts += f", margin {strips.number(float(verdict.margin[row]))}"
        if reason != BROKEN and broken:
            facts += f", {reason}"
        strip = None
        if stepwise and self.trace is not None:
            points = self.trace.of(int(verdict.index[row]))
            if len(points):
                cut = account.stretches(points, self.trace.ways, self.parts)
                strip = strips.strip(points, cut, label, self.names, self.eps)
        return Card(
            *(int(verdict.index[row]), strips.answer(label, self.names), answer, broken, facts),
            *("" if broken else account.why(verdict, row), self._pictures(row), strip),
        )

    def _pictures(self, row: int) -> list[tuple[str, str]]:
        if self.verdict.originals is None:
            return []
        original, adversarial = _floats(self.verdict.originals[row]), self.verdict.adversarial[row]
        moved = 0.5 + self.magnified * (adversarial - original)
        return [
            (_uri(original), "original"),
            (_uri(moved), "perturbation"),
            (_uri(adversarial), "adversarial"),
        ]


def _own(dataset: dict[str, object]) -> dict[str, object]:
    """What a data set says of itself, without what the evaluation adds."""
    return {name: value for name, value in dataset.items() if name != "other_data"}


def _floats(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 255


def _uri(image: np.ndarray) -> str:
    return f"data:image/png;base64,{b64encode(plots.png(image)).decode('ascii')}"
