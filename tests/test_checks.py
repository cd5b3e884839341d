"""Warnings: each fires where it is deserved and not on the baseline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring import checks
from sparring.attacks import EOT, FGSM, PGD, Noise
from sparring.data import Dataset, load
from sparring.defense import Defense
from sparring.figures import Rate
from sparring.judge import evaluate
from sparring.threat import Linf, ThreatModel
from tests.conftest import Linear, patterns

pytestmark = pytest.mark.backend

PAGE = (Path(__file__).parent.parent / "docs" / "warnings.md").read_text(encoding="utf-8")


def warned(
    defense: Any, attack: Any, threat: ThreatModel | None = None, transfer: Any = None
) -> set[str]:
    """Names of the warnings about an attack on digits."""
    threat = threat or Linf(0.15)
    dataset = load("digits")
    x, y = dataset.x_test[:40].astype(np.float32) / 255, dataset.y_test[:40]
    right = ~defense.broken(x, y)
    return names(defense, attack, threat, x[right], y[right], transfer)


def names(
    defense: Any, attack: Any, threat: ThreatModel, x: Any, y: Any, transfer: Any = None
) -> set[str]:
    defense.averaged = False
    given = attack(defense, ops.convert_to_tensor(x), ops.convert_to_tensor(y), threat)
    success = defense.broken_share(given, y)
    found = checks.look(defense, attack, threat, x, y, success, transfer)
    for each in found:
        assert f"\n## {each.name}\n" in PAGE
        assert each.text
    return {each.name for each in found}


@pytest.mark.parametrize("attack", [PGD(), PGD(loss="margin", restarts=2)])
def test_nothing_is_said_of_a_sound_attack_on_the_baseline(
    digits_baseline: Defense, attack: Any
) -> None:
    assert warned(digits_baseline, attack) == set()


def test_weak_attacks_are_told(digits_baseline: Defense) -> None:
    assert "more-steps" in warned(digits_baseline, PGD(steps=3, step_size=0.1), Linf(0.12))
    assert "black-box-wins" in warned(digits_baseline, PGD(steps=3, step_size=0.1), Linf(0.12))
    assert "unlimited" in warned(digits_baseline, FGSM())
    other = digits_baseline  # what is transferred from the very same network breaks it
    assert "transfer-wins" in warned(digits_baseline, PGD(steps=1, step_size=0.1), None, other)


def test_noise_that_beats_an_attack_is_told(digits_baseline: Defense) -> None:
    def nothing(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return x

    assert {"noise-wins", "unlimited", "black-box-wins"} <= warned(
        digits_baseline, nothing, Linf(0.3)
    )


def test_success_that_falls_with_eps_is_told(digits_baseline: Defense) -> None:
    def timid(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return PGD(steps=20)(defense, x, y, threat) if threat.eps < 0.2 else x

    assert "not-rising" in warned(digits_baseline, timid)


def test_an_attack_that_fails_elsewhere_is_told(digits_baseline: Defense) -> None:
    def picky(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        assert threat.eps < 0.2
        return PGD(steps=20)(defense, x, y, threat)

    assert "check-failed" in warned(digits_baseline, picky)


def train(name: str, out: Path, **settings: Any) -> tuple[Defense, np.ndarray, np.ndarray]:
    """A defense trained on patterns, and images it answers correctly."""
    x, y = patterns(96)
    dataset = Dataset("patterns", x, y, x[:40], y[:40], tuple("abcd"))
    options = {"filters": 8, "epochs": 8, "batch_size": 16, **settings}
    if name == "randomneuron":
        sparring.train("baseline", dataset, out=out, eval_every=0, **options)
        options = {}
    defense = sparring.train(name, dataset, out=out, eval_every=0, **options)
    images = dataset.x_test.astype(np.float32) / 255
    right = ~defense.broken(images, dataset.y_test)
    assert right.sum() >= 10
    return defense, images[right], dataset.y_test[right]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("discretize", {}),
        ("knn", {"epochs": 4}),
        ("temperature", {"epochs": 60, "base": 1.08, "learning_rate": 0.1}),
    ],
)
def test_masked_gradients_are_told(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    defense, x, y = train(name, tmp_path, **settings)
    assert "zero-gradients" in names(defense, PGD(steps=5), Linf(0.1), x, y)


@pytest.mark.parametrize("name", ["transform", "randomneuron"])
def test_randomness_without_averaging_is_told(tmp_path: Path, name: str) -> None:
    defense, x, y = train(name, tmp_path)

    def averaging(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return PGD(steps=2)(EOT(defense, 2), x, y, threat)

    x, y = x[:8], y[:8]
    assert "not-averaged" in names(defense, Noise(), Linf(0.1), x, y)
    for _ in range(
        2 if name == "transform" else 0
    ):  # the second time everything is compiled already
        assert "not-averaged" not in names(defense, averaging, Linf(0.1), x, y)


class Probabilities(Linear):
    """Gives probabilities for logits."""

    def logits(self, x: Any) -> Any:
        return ops.softmax(super().logits(x), axis=-1)


class Bad(Linear):
    """Has gradients that are not numbers."""

    def logits(self, x: Any) -> Any:
        return super().logits(x) + ops.sum(ops.sqrt(ops.square(x - 0.5)))


@pytest.mark.parametrize(
    ("kind", "name"), [(Probabilities, "probabilities"), (Bad, "bad-gradients")]
)
def test_odd_outputs_are_told(linear: Linear, kind: Callable[..., Defense], name: str) -> None:
    x = np.full((4, 8, 8, 1), 0.5, np.float32)
    odd = kind(linear.direction, linear.bias)
    assert name in names(odd, Noise(), Linf(0.1), x, np.ones(4, np.int32))
    assert name not in names(linear, Noise(), Linf(0.1), x, np.ones(4, np.int32))


def test_few_images_are_told() -> None:
    assert checks.few_images(Rate.of(np.arange(100) % 2)) == []
    [only] = checks.few_images(Rate.of(np.arange(60) % 2))
    assert only.name == "few-images"
    assert "60 attacked images leave an interval of 25 points" in only.text


def test_the_judge_reports_them(digits_baseline: Defense) -> None:
    report = evaluate(digits_baseline, FGSM(), Linf(0.15), n=50)
    assert "unlimited" in [each.name for each in report.warnings]
    assert "docs/warnings.md#unlimited" in str(report)
    quiet = evaluate(digits_baseline, FGSM(), Linf(0.15), n=50, check=False)
    assert quiet.warnings == []
