"""Attacks that are not the one before, and honest attacks and files that have to be taken."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

from sparring.attacks.files import checked, from_file
from sparring.data import Dataset, DatasetInfo
from sparring.data.reading import read_idx
from sparring.errors import RunError, SettingsError
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.request import EvaluationRequest
from sparring.threat import Linf
from tests.conftest import Linear


@pytest.fixture
def grays() -> Dataset:
    x = np.full((6, 8, 8, 1), 128, np.uint8)
    return Dataset("grays", x, np.ones(6, int), x, np.ones(6, int), ("a", "b"), mirror=False)


@dataclass(frozen=True)
class Towards:
    """Moves against the direction, times numbers that its words do not show in full."""

    factors: Any = field(default_factory=lambda: np.ones(3))

    def __call__(self, defense: Any, x: Any, y: Any, threat: Any) -> Any:
        return x - float(self.factors[0]) * threat.eps * ops.convert_to_tensor(defense.direction)


def test_an_attack_that_words_do_not_identify_is_evaluated_anew(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    usual: Any = {"threat": Linf(0.1), "dataset": grays, "n": 6, "check": False}
    first = evaluate(linear, Towards(np.ones(9000)), out=tmp_path / "v", **usual)
    assert first.success_rate.value == 1
    with pytest.raises(RunError, match="holds the finished verdict"):
        evaluate(linear, Towards(np.zeros(9000)), out=tmp_path / "v", **usual)


def test_a_damaged_verdict_is_replaced_by_force(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    usual: Any = {"threat": Linf(0.1), "dataset": grays, "n": 6, "check": False}
    out = tmp_path / "v"
    evaluate(linear, "noise", out=out, **usual)
    (out / "verdict.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        evaluate(linear, "noise", out=out, **usual)
    assert evaluate(linear, "noise", out=out, force=True, **usual).file == out / "verdict.json"


def test_honest_attacks_are_taken(tmp_path: Path, linear: Linear, grays: Dataset) -> None:
    def inner(defense: Any, x: Any, y: Any, threat: Any, generator: Any) -> Any:
        return x

    @wraps(inner)
    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        return inner(defense, x, y, threat, None)

    assert checked(attack) is attack
    file = tmp_path / "mine.py"
    file.write_text(
        "from sparring.attacks import Attack\n\n\n"
        "def attack(defense, x, y, threat):\n    return x\n"
    )
    assert from_file(file, {}).__name__ == "attack"
    verdict = evaluate(linear, Towards(), Linf(0.1), grays, 6, check=False)
    assert verdict.success_rate.value == 1


def test_flags_of_a_request_are_checked(linear: Linear) -> None:
    with pytest.raises(SettingsError, match="other_data: expected true or false, got 'no'"):
        EvaluationRequest("baseline", other_data="no")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="data: give it as dataset"):
        evaluate(linear, "noise", Linf(0.1), data="digits")


def test_classes_may_have_letters_of_every_script(
    make_dataset: Callable[..., Dataset],
) -> None:
    dataset = make_dataset()
    names = ("کتاب\u200cها", "a\u00a0b", "ক", "d")  # noqa: RUF001
    info = Dataset(
        *("own", dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test, names),
        mirror=False,
    ).info
    assert DatasetInfo.from_json(info.as_json()).class_names == names


def test_gzip_files_one_behind_the_other(tmp_path: Path) -> None:
    content = bytes([0, 0, 8, 1]) + (6).to_bytes(4, "big") + bytes(range(6))
    file = tmp_path / "labels.gz"
    file.write_bytes(gzip.compress(content[:9]) + gzip.compress(content[9:]))
    np.testing.assert_array_equal(read_idx(file, (6,)), np.arange(6))
