"""Port: a defense written anew in an attack's file, compared with the defense itself.

Who has written a defense anew understands it. A file may define `port_labels(defense, x)` and
`port_gradient(defense, x, y)` beside its attack. They run where the attack does; what comes of them
are arrays, which the judge compares with what it finds out itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparring import backend, usercode
from sparring.attacks import files, margins
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.errors import DataError, kind_of, printable, told
from sparring.evaluation import slopes
from sparring.evaluation.judge import Judge, as_images
from sparring.runs.records import LONGEST_REASON, AgreementRecord, PortRecord

LABELS, GRADIENT = "port_labels", "port_gradient"
"""The names of the two functions of a file."""

REJECTED = -1
"""In place of a label, where a defense rejects."""

IMAGES = 50
"""How many of the attacked images are compared, at most."""

_SURE = 0.9  # of the draws in which a random defense has to give one answer, for it to count
_OFF = 0.2  # the share of the length by which derivatives that agree may differ


@dataclass
class Port:
    """What the functions of a file gave.

    Attributes:
        arrays: by the function's name: labels int [P] of `points`, the gradient float32
            [B, H, W, C] at the images.
        problems: in words, why there is no array, by the function's name.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        """Take what a process handed over as one of its answers.

        Args:
            name: of the function.
            array: what it gave.
            shape: of the images that are compared, (B, H, W, C).

        Raises:
            DataError: it is none.
        """
        expected, kinds = ((2 * shape[0],), "iu") if name == LABELS else (shape, "f")
        if name not in (LABELS, GRADIENT) or array.dtype.kind not in kinds:
            raise DataError(f"expected an answer of a port, found {name!r:.80} {array.dtype}")
        if array.shape != expected:
            raise DataError(f"expected {list(expected)}, found {list(array.shape)}")
        self.arrays.setdefault(name, array)


def points(x: np.ndarray) -> np.ndarray:
    """Give the images at which labels are compared.

    Most defenses answer clean images alike. In the middle between two of them a defense is unsure,
    and one that is not quite the same answers otherwise.

    Args:
        x: images float32 [B, H, W, C] in [0, 1].

    Returns:
        float32 [2 B, H, W, C]: the images, and the middle of each and the next.
    """
    return np.concatenate([x, (x + np.roll(x, -1, axis=0)) / 2])


def answers(
    file: Path, defense: Any, x: np.ndarray, y: np.ndarray
) -> Iterator[tuple[str, np.ndarray | None, str]]:
    """Ask the functions of an attack's file, which was run; those it does not define are left out.

    Args:
        file: the file.
        defense: what they are given.
        x: images float32 [B, H, W, C] in [0, 1].
        y: their labels, int [B].

    Yields:
        The function's name; its answer or None; and what is wrong in words, or "".
    """
    asked = files.defined(file, (LABELS, GRADIENT))
    for name, function in asked.items():
        try:
            if name == LABELS:
                given, wrong = _as_labels(function(defense, _tensor(points(x))), 2 * len(x))
            else:
                labels = ops.convert_to_tensor(y.astype(backend.label_dtype))
                given, wrong = as_images(function(defense, _tensor(x), labels), x)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # its own, SystemExit, ...
            given, wrong = None, f"raised {told(error)}{usercode.where(error)}"
        yield name, given, printable(wrong)[:LONGEST_REASON]


def _tensor(x: np.ndarray) -> Any:
    return ops.convert_to_tensor(x.copy())


def _as_labels(given: Any, count: int) -> tuple[np.ndarray | None, str]:
    """Take what a function gave for labels int64 [count]; or None, and what is wrong."""
    if not (ops.is_tensor(given) or isinstance(given, np.ndarray)):
        return None, f"returned {kind_of(given)}: expected labels, integers [{count}]"
    array = given if isinstance(given, np.ndarray) else ops.convert_to_numpy(given)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        found = f"{array.dtype} {list(array.shape)}"
        return None, f"returned {found}: expected labels, integers [{count}]"
    return array.astype(np.int64), ""


def compared(judge: Judge, x: np.ndarray, y: np.ndarray, port: Port) -> PortRecord | None:
    """Compare the answers of a port with the defense's own.

    Labels are compared where the defense gives one of them in nearly all of its draws. A gradient
    is compared with finite differences of the defense's margin, the best other logit less the
    label's, along random directions: at images where the defense's own gradient agrees with them,
    as it does not behind what has no gradient, and of defenses that answer at random at none.

    Args:
        judge: asks the defense.
        x: images float32 [B, H, W, C] in [0, 1].
        y: their labels, int [B].
        port: what was handed over.

    Returns:
        The record; None where the file defines neither function.
    """
    found: dict[str, AgreementRecord | None] = {LABELS: None, GRADIENT: None}
    for name in {*port.arrays, *port.problems}:
        compare = _labels if name == LABELS else partial(_gradients, y=y)
        agree = compare(judge, x, port.arrays.get(name))
        problem = "" if name in port.arrays else port.problems[name]
        found[name] = AgreementRecord(agree=int(agree.sum()), of=len(agree), problem=problem)
    record = PortRecord(labels=found[LABELS], gradient=found[GRADIENT])
    return record if found[LABELS] or found[GRADIENT] else None


def _labels(judge: Judge, x: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    """Which labels are the defense's, bool, of the points where it is sure."""
    labels, rejected = judge.ask(points(x))  # [D, P]
    own = np.where(rejected, REJECTED, labels)
    values, counts = [], []
    for answers_of_one in own.T:
        each, times = np.unique(answers_of_one, return_counts=True)
        values.append(each[times.argmax()])
        counts.append(times.max())
    sure = np.array(counts) >= _SURE * len(own)
    if given is None:
        return np.zeros(int(sure.sum()), bool)
    return (given == np.array(values))[sure]


def _gradients(judge: Judge, x: np.ndarray, given: np.ndarray | None, y: np.ndarray) -> np.ndarray:
    """Which gradients agree with differences, bool, of the images where the defense's own does."""
    defense: Defense = judge.defense
    if defense.stochastic:
        return np.zeros(0, bool)
    differences, slope = slopes.measured(
        *(defense, x, y, judge.threat, ("port", None)),
        lambda images, labels: margins(labels, defense.logits(images)),
    )
    sound = differences.told & ~differences.off(slope, _OFF)
    if given is None:
        return np.zeros(int(sound.sum()), bool)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite ones
        agrees = np.isfinite(given).all(axis=(1, 2, 3)) & ~differences.off(given, _OFF)
    return agrees[sound]
