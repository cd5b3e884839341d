"""A defense written anew in an attack's file: how it is asked, and compared with the defense."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring.data import load
from sparring.defenses.defense import Defense
from sparring.errors import DataError
from sparring.evaluation import port
from sparring.evaluation.judge import Judge
from sparring.evaluation.port import GRADIENT, LABELS, Port
from sparring.evaluation.request import EvaluationRequest
from sparring.evaluation.verdict import images_of
from sparring.runs.records import AgreementRecord, PortRecord, VerdictRecord
from sparring.threat import Linf
from tests.conftest import Linear, Zoo


def grays(count: int = 4) -> np.ndarray:
    """Images of one gray each, from dark to bright, which `linear` gives logits 0 and 4."""
    shades = np.linspace(0.2, 0.8, count, dtype=np.float32)
    return np.broadcast_to(shades[:, None, None, None], (count, 8, 8, 1)).copy()


def compared(defense: Any, x: np.ndarray, y: np.ndarray, **arrays: np.ndarray) -> PortRecord:
    judge = Judge.of(defense, Linf(0.1), 20, 0)
    record = port.compared(judge, x, y, Port(arrays))
    assert record is not None
    return record


def test_labels_are_compared_at_images_and_between_them() -> None:
    x = np.arange(2 * 4, dtype=np.float32).reshape(2, 2, 2, 1)
    points = port.points(x)
    np.testing.assert_array_equal(points[:2], x)
    np.testing.assert_array_equal(points[2:], np.stack([x.mean(axis=0)] * 2))


def test_labels_that_are_the_defense_s_agree(linear: Linear) -> None:
    x, y = grays(), np.ones(4, int)
    labels = np.ones(8, np.int64)
    assert compared(linear, x, y, **{LABELS: labels}).labels == AgreementRecord(agree=8, of=8)
    labels[5:] = 0
    assert compared(linear, x, y, **{LABELS: labels}).labels == AgreementRecord(agree=5, of=8)


def test_gradients_are_compared_with_differences(linear: Linear) -> None:
    x, y = grays(), np.ones(4, int)
    # The margin of class 1 is 0 less its logit, which the direction gives.
    slope = -np.broadcast_to(linear.direction, x.shape).copy()
    found = compared(linear, x, y, **{GRADIENT: slope})
    assert (found.labels, found.gradient) == (None, AgreementRecord(agree=4, of=4))
    slope[0] *= -1  # uphill for downhill
    slope[1] = 0
    slope[2] *= 1.5  # a third of the larger is more than a fifth
    assert compared(linear, x, y, **{GRADIENT: slope}).gradient == AgreementRecord(agree=1, of=4)
    slope[3] = np.nan
    assert compared(linear, x, y, **{GRADIENT: slope}).gradient == AgreementRecord(agree=0, of=4)


def test_where_the_defense_s_own_gradient_is_off_nothing_is_compared() -> None:
    class Stairs(Linear):
        def logits(self, x: Any, chance: Any = None) -> Any:
            return ops.floor(100 * super().logits(x)) / 100  # its gradient is zero

    signs = np.where(np.indices((8, 8, 1)).sum(axis=0) % 2, 1.0, -1.0)
    x, y = grays(), np.ones(4, int)
    slope = -np.broadcast_to(signs, x.shape).astype(np.float32)
    found = compared(Stairs(signs, -4.0), x, y, **{GRADIENT: slope})
    assert found.gradient == AgreementRecord(agree=0, of=0)


def test_a_defense_that_answers_at_random(zoo: Zoo) -> None:
    defense, data = zoo("transform"), load("digits")
    x, y = images_of(data, np.arange(6)), data.y_test[:6]
    judge = Judge.of(defense, Linf(0.1), 20, 0)
    labels, _ = judge.ask(port.points(x))
    often = np.array([np.bincount(column).argmax() for column in labels.T])
    sure = (labels == often).mean(axis=0) >= 0.9
    found = compared(defense, x, y, **{LABELS: often, GRADIENT: x})
    assert 0 < sure.sum() < 12  # or the test says nothing
    assert found.labels == AgreementRecord(agree=int(sure.sum()), of=int(sure.sum()))
    assert found.gradient == AgreementRecord(agree=0, of=0)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        (LABELS, np.zeros(7, int)),
        (LABELS, np.zeros(8)),
        (GRADIENT, np.zeros((8, 8, 8, 1))),
        (GRADIENT, np.zeros((4, 8, 8, 1), int)),
        ("labels", np.zeros(8, int)),
    ],
)
def test_what_is_no_answer_is_not_taken(name: str, array: np.ndarray) -> None:
    taken = Port()
    with pytest.raises(DataError, match="expected"):
        taken.take(name, array, (4, 8, 8, 1))
    assert taken == Port()


ATTACK = """
from keras import ops
from sparring import gradient
from sparring.attacks import margins

def attack(defense, x, y, threat):
    return x

def port_labels(defense, x):
    assert tuple(x.shape[1:]) == (8, 8, 1)
    return ops.argmax(defense.logits(x), axis=-1)

def port_gradient(defense, x, y):
    return {gradient}
"""


@pytest.mark.backend
def test_the_functions_of_a_file_run_apart(digits_baseline: Defense, tmp_path: Path) -> None:
    assert digits_baseline.path is not None
    run, file = tmp_path / "digits" / "baseline", tmp_path / "mine.py"
    shutil.copytree(digits_baseline.path, run)
    own = "gradient(lambda images: margins(y, defense.logits(images)), x)"
    file.write_text(ATTACK.format(gradient=own), encoding="utf-8")
    request = EvaluationRequest(
        *(str(run), str(file)), n=9, apart=True, transfer=False, out=tmp_path / "verdict"
    )
    verdict = sparring.evaluate(request)
    assert verdict.port is not None
    count = 2 * int(verdict.attacked.sum())
    assert verdict.port.labels == AgreementRecord(agree=count, of=count)
    assert verdict.port.gradient is not None
    assert verdict.port.gradient.agree == verdict.port.gradient.of > 5
    assert f"port, labels     {count} of {count} agree" in str(verdict)
    text = (tmp_path / "verdict" / "verdict.html").read_text(encoding="utf-8")
    assert f"{count} of {count} agree" in text
    assert VerdictRecord.read(tmp_path / "verdict" / "verdict.json").port == verdict.port
    assert sparring.evaluate(request).port == verdict.port  # evaluated already
    file.write_text(ATTACK.format(gradient="1 / 0"), encoding="utf-8")
    broken = sparring.evaluate(EvaluationRequest.of(request, force=True))
    assert broken.port is not None
    assert broken.port.labels == verdict.port.labels
    assert broken.port.gradient is not None
    assert broken.port.gradient.problem.startswith("raised ZeroDivisionError: division by zero")
    assert broken.port.gradient.agree == 0
