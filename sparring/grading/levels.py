"""What a success is worth: gains over references, the goal, ranks, and the five levels.

Each level says something else of a submission, and a higher one does not need the lower ones: who
breaks a defense without gradients may well reach the goal. The level of a submission is the highest
that it reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from sparring.grading.request import GOAL, REFERENCES, PlannedDefense
from sparring.runs.records import AgreementRecord, PortRecord, VerdictRecord

LEVELS = ("labels", "gradient", "noise", "pgd", "goal")
"""Names of the levels, from 1: its port has the same labels; its port's gradient agrees with finite
differences; it beats noise; it beats plain PGD; it reaches the goal."""

Mark = Literal["reached", "missed", "not asked"]

SAME_LABELS = 0.99
"""The share of the labels of a port that has to be the defense's."""

SAME_GRADIENTS = 0.9
"""The share of the gradients of a port that has to agree with finite differences."""

FEWEST = 5
"""Fewer gradients that can be compared say nothing."""


def goal_of(defense: PlannedDefense, references: Mapping[str, VerdictRecord]) -> float | None:
    """Give the goal of a defense.

    Args:
        defense: the defense.
        references: verdicts by the reference's name, as far as they are known.

    Returns:
        The goal as a share, None while it is not known.
    """
    if defense.goal is not None:
        return defense.goal
    return _success(references.get(GOAL))


def counted(defense: PlannedDefense, verdict: VerdictRecord) -> float | None:
    """Give the success that is compared with the goal, counted as the goal is.

    A published goal is of all images, those included that are misclassified unattacked.
    """
    if defense.goal_from != "published":
        return _success(verdict)
    robust = verdict.results.robust_accuracy
    return 1 - robust.value if robust.n else None


def _success(verdict: VerdictRecord | None) -> float | None:
    """The share broken of the images attacked; None where that is not known, or of no images."""
    if verdict is None or not verdict.results.success_rate.n:
        return None
    return verdict.results.success_rate.value


def gains(
    defense: PlannedDefense, verdict: VerdictRecord, references: Mapping[str, VerdictRecord]
) -> dict[str, float | None]:
    """Give how much more a submission breaks than each reference, and than the goal asks for.

    Returns:
        Differences of shares by "noise", "pgd" and "goal"; None where one is not known.
    """
    own = _success(verdict)
    others = {name: _success(references.get(name)) for name in REFERENCES}
    gained = {name: _less(own, other) for name, other in others.items()}
    return gained | {"goal": _less(counted(defense, verdict), goal_of(defense, references))}


def _less(own: float | None, other: float | None) -> float | None:
    """By how much one share is more than another; sums of the same shares are the same."""
    return None if own is None or other is None else round(own - other, 9)


def marks(
    defense: PlannedDefense, verdict: VerdictRecord, references: Mapping[str, VerdictRecord]
) -> list[Mark]:
    """Say of each level whether it is reached, in the order of `LEVELS`.

    A port that is not there, or cannot be compared, is not asked for. Where noise or PGD breaks all
    images, who breaks all as well has beaten it.
    """
    port, own = verdict.port or PortRecord(), _success(verdict)
    gained = gains(defense, verdict, references)
    found = {
        "labels": _agrees(port.labels, SAME_LABELS, 1),
        "gradient": _agrees(port.gradient, SAME_GRADIENTS, FEWEST),
        "goal": _mark(None if (more := gained["goal"]) is None else more >= 0),
    }
    for name in REFERENCES:
        more = gained[name]
        found[name] = _mark(None if more is None else more > 0 or own == 1)
    return [found[name] for name in LEVELS]


def _agrees(found: AgreementRecord | None, share: float, fewest: int) -> Mark:
    if found is None or found.of < fewest:
        return "not asked"
    return _mark(not found.problem and found.agree >= share * found.of)


def _mark(reached: bool | None) -> Mark:
    return "not asked" if reached is None else "reached" if reached else "missed"


def level(of: Sequence[Mark]) -> int:
    """Give the highest level that is reached, 0 to 5."""
    return max((at for at, mark in enumerate(of, 1) if mark == "reached"), default=0)


def ranks(successes: Mapping[str, float]) -> dict[str, int]:
    """Rank by success, the highest first, from 1; those who are equal share a rank.

    Args:
        successes: shares by name.
    """
    return {
        name: 1 + sum(other > own for other in successes.values())
        for name, own in successes.items()
    }
