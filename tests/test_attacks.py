"""Attacks, on a hyperplane where the best one is known and on a trained network."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from keras import ops

import sparring
from sparring import attacks
from sparring.attacks import BPDA, EOT, FGSM, PGD, InTurn, Noise, Square, cross_entropies, margins
from sparring.data import load
from sparring.defenses.defense import Defense
from sparring.errors import AttackError, SettingsError
from sparring.randomness import Chance
from sparring.threat import L2, Linf, ThreatModel
from tests.conftest import Linear, patterns

pytestmark = pytest.mark.backend

ALL = [
    Noise(draws=2),
    FGSM(),
    PGD(steps=5),
    PGD(steps=5, loss="margin", momentum=0.75, restarts=2),
    Square(queries=20),
]
# Compiling each takes seconds elsewhere; tests/test_attack_steps.py has every one on all backends.
if sparring.backend.name != "torch":
    ALL = [ALL[0], *ALL[3:]]


def gray(count: int = 3, value: float = 0.5) -> tuple[Any, Any]:
    """Images of one gray, which the fixture `linear` answers with class 1."""
    x = ops.convert_to_tensor(np.full((count, 8, 8, 1), value, np.float32))
    return x, ops.convert_to_tensor(np.ones(count, np.int32))


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    dataset = load("digits")
    return dataset.x_test[:count].astype(np.float32) / 255, dataset.y_test[:count]


def run(attack: Any, defense: Any, x: np.ndarray, y: np.ndarray, threat: ThreatModel) -> np.ndarray:
    given = attack(defense, ops.convert_to_tensor(x), ops.convert_to_tensor(y), threat)
    return np.array(ops.convert_to_numpy(given))


def test_losses_by_hand() -> None:
    logits = ops.convert_to_tensor(np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]], np.float32))
    y = ops.convert_to_tensor(np.array([2, 0], np.int32))
    assert ops.convert_to_numpy(margins(y, logits)) == pytest.approx([1.0, 0.0])
    expected = [np.log(np.exp(-1) + np.exp(1) + 1), np.log(3)]
    assert ops.convert_to_numpy(cross_entropies(y, logits)) == pytest.approx(expected)


def test_gradient_is_each_image_s_own(linear: Linear) -> None:
    x, y = gray(2)
    found = sparring.gradient(lambda images: margins(y, linear.logits(images)), x)
    np.testing.assert_allclose(ops.convert_to_numpy(found), [-linear.direction] * 2)


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=3), PGD(steps=3, loss="margin", momentum=1)])
def test_on_a_hyperplane_gradient_attacks_find_the_best_point(linear: Linear, attack: Any) -> None:
    x, y = gray()
    # 64 pixels moved by 0.05 lower the logit from 4 to 0.8, which is not enough.
    found = attack(linear, x, y, Linf(0.05))
    expected = np.broadcast_to(0.5 - 0.05 * linear.direction, found.shape)
    # With a random start PGD's last step ends at the corner all the same: 3 steps of 2.5 / 3 eps.
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # In L2 every pixel moves by 0.4 / 8.
    found = attack(linear, x, y, L2(0.4))
    if not isinstance(attack, FGSM):
        assert (L2(0.4).distance(found, np.full_like(found, 0.5)) <= 0.4 + 1e-6).all()
    else:
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert linear.broken(attack(linear, x, y, Linf(0.07)), y).all()


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        (PGD(steps=10), Linf(0.1)),
        (PGD(steps=10), L2(0.8)),
        (Square(queries=200), Linf(0.1)),
        (Square(queries=500), L2(3)),  # its pyramids are far from a checkerboard
    ],
)
def test_enough_eps_breaks_the_hyperplane(linear: Linear, attack: Any, threat: ThreatModel) -> None:
    x, y = gray()  # 0.0625 and 0.5 would do
    assert linear.broken(attack(linear, x, y, threat), y).all()


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)])
@pytest.mark.parametrize("attack", ALL, ids=lambda attack: type(attack).__name__)
def test_what_an_attack_gives_is_valid(
    digits_baseline: Defense, attack: Any, threat: ThreatModel
) -> None:
    x, y = digits(20)
    before = x.copy()
    found = run(attack, digits_baseline, x, y, threat)
    assert found.dtype == np.float32
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert (threat.distance(found, x) <= threat.eps + threat.rounding(64)).all()
    assert threat.distance(found, x).max() > 0
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: type(attack).__name__)
def test_attacks_repeat_themselves_however_the_batch_is_cut(
    digits_baseline: Defense, attack: Any
) -> None:
    x, y = digits(30)
    whole = run(attack, digits_baseline, x, y, Linf(0.1))
    again = run(attack, digits_baseline, x, y, Linf(0.1))
    np.testing.assert_array_equal(whole, again)
    parts = [
        run(attack, digits_baseline, x[i], y[i], Linf(0.1)) for i in ([*range(7)], [*range(7, 30)])
    ]
    # Convolutions of other batch sizes round otherwise, which may turn the sign of a gradient that
    # is zero but for rounding; such a pixel changes little.
    np.testing.assert_array_equal(
        digits_baseline.broken(np.concatenate(parts), y), digits_baseline.broken(whole, y)
    )
    assert np.mean(np.abs(np.concatenate(parts) - whole) < 1e-5) > 0.99


def test_more_of_everything_is_stronger(digits_baseline: Defense) -> None:
    x, y = digits(60)
    right = ~digits_baseline.broken(x, y)

    def success(attack: Any, eps: float = 0.12) -> float:
        found = run(attack, digits_baseline, x, y, Linf(eps))
        return float(digits_baseline.broken(found, y)[right].mean())

    noise, fgsm, pgd = success(Noise(5)), success(FGSM()), success(PGD(restarts=2))
    assert noise < fgsm <= pgd
    assert pgd > 0.8
    assert success(PGD(), 0.05) < pgd < success(PGD(), 0.3) + 0.01
    assert success(InTurn((Noise(), PGD(restarts=2)))) >= pgd


def test_pgd_leaves_broken_images_alone(digits_baseline: Defense) -> None:
    x, y = digits(40)
    asked: list[int] = []

    class Counting(PGD):
        def objective(self, defense: Any, images: Any, labels: Any) -> tuple[Any, Any]:
            asked.append(images.shape[0])
            return super().objective(defense, images, labels)

    run(Counting(steps=30), digits_baseline, x, y, Linf(0.15))
    if sparring.backend.name == "torch":  # elsewhere traced once for each size
        assert sum(asked) < 0.5 * 30 * 40
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] < asked[0]


def test_eot_averages_the_logits_of_draws(tmp_path: Path) -> None:
    x, y = patterns(24)
    dataset = sparring.Dataset("patterns", x, y, x[:8], y[:8], tuple("abcd"))
    defense = sparring.train("transform", dataset, out=tmp_path, filters=4, epochs=1, batch_size=8)
    images = ops.convert_to_tensor(x[:3].astype(np.float32) / 255)
    each = []
    for draw in range(4):
        each.append(ops.convert_to_numpy(defense.logits(images, Chance(images, draw))))
    assert np.abs(each[0] - each[1]).max() > 1e-4
    averaged = EOT(defense, 4).logits(images)
    np.testing.assert_allclose(
        ops.convert_to_numpy(averaged), np.mean(each, axis=0), rtol=1e-4, atol=1e-6
    )


def test_bpda_changes_the_backward_pass_only(tmp_path: Path) -> None:
    x, y = patterns(24)
    dataset = sparring.Dataset("patterns", x, y, x[:8], y[:8], tuple("abcd"))
    defense = sparring.train("discretize", dataset, out=tmp_path, filters=4, epochs=1, batch_size=8)
    from sparring.attacks.reference.discretize import smooth

    wrapped = BPDA(defense, transform=smooth)
    images = ops.convert_to_tensor(x[:3].astype(np.float32) / 255)
    labels = ops.convert_to_tensor(y[:3])
    np.testing.assert_allclose(
        ops.convert_to_numpy(wrapped.logits(images)),
        ops.convert_to_numpy(defense.logits(images)),
        rtol=1e-4,
        atol=1e-6,
    )

    def steepest(seen: Any) -> float:
        found = sparring.gradient(lambda x: margins(labels, seen.logits(x)), images)
        return float(np.abs(ops.convert_to_numpy(found)).max())

    assert steepest(defense) == 0
    assert steepest(wrapped) > 0
    # One wrapper around the other, and answers stay the defense's.
    assert steepest(EOT(wrapped, 2)) > 0
    np.testing.assert_array_equal(wrapped.classify(x[:3]), defense.classify(x[:3]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(steps=0), "steps: expected an integer of 1 or more, got 0"),
        (
            lambda: PGD(restarts=cast(int, 1.5)),
            "restarts: expected an integer of 1 or more, got 1.5",
        ),
        (lambda: PGD(step_size=0), "step_size: expected a number above 0, got 0"),
        (lambda: PGD(step_size="x"), "step_size: expected a number above 0, got 'x'"),  # type: ignore[arg-type]
        (lambda: PGD(momentum="x"), "momentum: expected 0 to 1, got 'x'"),  # type: ignore[arg-type]
        (lambda: PGD(random_start=3), "random_start: expected true or false, got 3"),  # type: ignore[arg-type]
        (lambda: PGD(momentum=2), "momentum: expected 0 to 1, got 2"),
        (lambda: PGD(loss="hinge"), "unknown loss 'hinge'. Valid: ce, margin"),
        (lambda: Square(queries=0), "queries: expected an integer of 1 or more"),
        (lambda: attacks.get("pdg"), "unknown attack 'pdg'. Did you mean 'pgd'"),
        (lambda: attacks.get("pgd", {"step": 3}), "unknown option of the attack 'step'. Did you"),
        (lambda: attacks.get("reference", {}, "linear"), "no reference attack on 'linear'"),
    ],
)
def test_wrong_use(make: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make()
    assert message in str(caught.value)


def test_attacks_from_files(
    tmp_path: Path, linear: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # what an environment may say
    file = tmp_path / "mine.py"
    file.write_text("def attack(defense, x, y, threat, shade=0.5):\n    return x * 0 + shade\n")
    x, y = gray()
    given = attacks.get(file, {"shade": 0.25})(linear, x, y, Linf(1))
    assert ops.convert_to_numpy(given) == pytest.approx(np.full((3, 8, 8, 1), 0.25))
    file.write_text("from sparring import PGD\nattack = PGD(steps=7)\n")
    assert attacks.get(file, {"restarts": 2}) == PGD(steps=7, restarts=2)
    before = file.stat()
    file.write_text("from sparring import PGD\nattack = PGD(steps=8)\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # an edit at once, of the same size
    assert attacks.get(file) == PGD(steps=8)
    assert not (tmp_path / "__pycache__").exists()
    for text, message in [
        ("x = 1", "expected a function attack"),
        ("1 / 0", "ZeroDivisionError"),
        ("def attack(:", "SyntaxError"),
    ]:
        file.write_text(text)
        with pytest.raises(AttackError, match=message):
            attacks.get(file)
    with pytest.raises(AttackError, match="no such file"):
        attacks.get(tmp_path / "none.py")


def test_every_defense_has_a_reference_attack() -> None:
    from sparring.attacks import reference
    from sparring.defenses import DEFENSES

    for name in DEFENSES:
        assert callable(reference.get(name))
