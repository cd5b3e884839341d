"""APGD, targets, and what is made of them: beside numpy, where the optimum is known, on digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring.attacks import APGD, EOT, PGD, InTurn, Matching, Square, Strong, Transfer, strong
from sparring.attacks.apgd import checkpoints
from sparring.attacks.losses import AIMED, LOSSES
from sparring.data import Dataset, DatasetInfo
from sparring.defenses.defense import Defense
from sparring.errors import SettingsError
from sparring.threat import L2, Linf, ThreatModel
from tests.conftest import Linear, patterns
from tests.test_attack_steps import (
    IMAGES,
    LABELS,
    SHAPE,
    Curved,
    Drawing,
    logits_of,
    slopes,
    start_of,
    values,
)
from tests.test_attacks import digits, gray, run

pytestmark = pytest.mark.backend


def called(name: str, y: Sequence[int], logits: Any, target: Sequence[int] | None = None) -> Any:
    label, given = ops.convert_to_tensor(np.array(y, np.int32)), ops.convert_to_tensor(logits)
    if target is None:
        return values(LOSSES[name](label, given))
    return values(AIMED[name](label, given, ops.convert_to_tensor(np.array(target, np.int32))))


def test_losses_by_hand() -> None:
    logits = np.array([[1, 5, 2, 3], [1, 5, 2, 3], [-2, -8, -3, -4]], np.float32)
    # The margins -2, 4 and 1 over the first less the third logit: 5 - 2, 5 - 2 and -2 + 4.
    assert called("dlr", [1, 0, 2], logits) == pytest.approx([-2 / 3, 4 / 3, 1 / 2])
    assert called("dlr", [1, 0, 2], 1000 * logits) == pytest.approx([-2 / 3, 4 / 3, 1 / 2])
    # Aimed: the target's less the label's, 3 - 5, 2 - 1 and -8 + 3, over 5 - 1.5 and -2 + 6.
    aims = [1, 0, 2], logits, [3, 2, 1]
    assert called("margin", *aims) == pytest.approx([-2, 1, -5])
    assert called("dlr", *aims) == pytest.approx([-2 / 3.5, 1 / 3.5, -5 / 4])
    exps = np.exp(logits.astype(np.float64))
    expected = np.log(exps[range(3), [3, 2, 1]] / exps.sum(axis=1))
    assert called("ce", *aims) == pytest.approx(expected, rel=1e-5)


def test_logit_ratios_need_classes(linear: Linear) -> None:
    x, y = gray()
    with pytest.raises(SettingsError, match="loss: dlr needs 3 classes or more, got 2; take marg"):
        APGD(loss="dlr")(linear, x, y, Linf(0.1))
    message = "loss: dlr with targets needs 4 classes or more, got 3; take margin"
    with pytest.raises(SettingsError, match=message):
        PGD(loss="dlr", targets=1)(Curved(), IMAGES, LABELS, Linf(0.1))


# APGD's path


def test_checkpoints_are_the_paper_s() -> None:
    # p = 0.22, then + max(0.22 - 0.03, 0.06) ...: 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99
    assert [at for at, _ in checkpoints(100)][:9] == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert [period for _, period in checkpoints(100)][:4] == [0, 22, 19, 16]
    assert [at for at, _ in checkpoints(3)] == [0, 1, 2, 3]


def loss_of(x: np.ndarray, y: int) -> float:
    logits = logits_of(x[None].astype(np.float64))[0]
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[y])


def projected(x_adv: np.ndarray, x: np.ndarray, threat: ThreatModel) -> np.ndarray:
    moved = x_adv - x
    if threat.norm == "Linf":
        moved = np.clip(moved, -threat.eps, threat.eps)
    else:
        moved = moved * min(1, threat.eps / max(float(np.sqrt((moved**2).sum())), 1e-12))
    return np.clip(x + moved, 0, 1)


def simulated(
    x: np.ndarray, y: int, start: np.ndarray, threat: ThreatModel, steps: int
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """APGD on one image as the paper has it: its points, its best, and why steps were halved."""
    point = before = best = start
    points = []
    size, highest, then, halved, since = 2 * threat.eps, -np.inf, -np.inf, False, 0
    losses: list[float] = []
    periods = dict(checkpoints(steps))
    why = []
    for number in range(steps):
        losses.append(loss_of(point, y))
        if losses[-1] > highest:
            highest, best = losses[-1], point
        if number in periods:
            recent = np.diff(losses[since:])
            seldom = (recent > 0).sum() < 0.75 * len(recent)
            stuck = highest == then and not halved
            halved = bool(number and (seldom or stuck))
            if halved:
                why.append("seldom" if seldom else "stuck")
                size, point = size / 2, best
            then, since = highest, number
        slope = slopes(point[None], np.array([y]), "ce")[0]
        length = np.sqrt((slope**2).sum())
        direction = np.sign(slope) if threat.norm == "Linf" else slope / length
        ahead = projected(point + size * direction, x, threat)
        share = 0.75 if number else 1.0
        moved = point + share * (ahead - point) + (1 - share) * (point - before)
        before, point = point, projected(moved, x, threat)
        points.append(point)
    return points, best, why


@pytest.mark.parametrize("threat", [Linf(0.3), L2(0.9)], ids=lambda threat: threat.norm)
def test_apgd_takes_the_path_of_its_definition(threat: ThreatModel) -> None:
    steps, starts = 33, start_of(IMAGES, threat, 5)
    attack = APGD(steps=steps, seed=5, early_stopping=False)
    ways = [
        simulated(image.astype(np.float64), label, start, threat, steps)
        for image, label, start in zip(IMAGES, LABELS, starts, strict=True)
    ]
    x, y = ops.convert_to_tensor(IMAGES), ops.convert_to_tensor(LABELS)
    step = attack.step(attack._rise(Curved()), threat)
    moving = attack.moving(ops.convert_to_tensor(starts.astype(np.float32)))
    for number in range(steps):
        moving, _ = step(moving, x, y, y)
        expected = np.array([points[number] for points, _, _ in ways])
        # Near the top float32 has other points for the best than float64, by this much, and the
        # sign of a slope that is zero but for rounding may be either, of a few values.
        assert np.mean(np.abs(values(moving[0]) - expected) < 1e-3) > 0.97
    found = attack(Curved(), IMAGES, LABELS, threat)
    np.testing.assert_allclose(found, [best for _, best, _ in ways], atol=1e-3)
    reasons = [why for _, _, why in ways]
    assert len({len(why) for why in reasons}) > 1  # each image has steps of its own
    if threat.norm == "L2":
        assert {reason for why in reasons for reason in why} == {"seldom", "stuck"}


def test_when_step_sizes_are_halved() -> None:
    attack, threat = APGD(steps=100), Linf(0.3)
    x, y = ops.convert_to_tensor(IMAGES), ops.convert_to_tensor(LABELS)
    highest = np.array(
        [loss_of(image, label) + 1 for image, label in zip(IMAGES, LABELS, strict=True)]
    )
    best = 0.9 * IMAGES
    states = np.array(
        [  # number, rises since the last checkpoint, whether the best stayed, halved then, now
            [22, 17, 0, 0, 0],
            [22, 16, 0, 0, 1],  # 16.5 of 22 would do
            [22, 17, 1, 0, 1],
            [22, 17, 1, 1, 0],
            [21, 0, 1, 0, 0],  # no checkpoint
            [0, 0, 0, 0, 0],
        ],
        np.float32,
    )
    number, rises, stayed, halved, expected = states.T
    then = np.where(stayed, highest, highest - 0.5)
    counts = number, np.ones(6), highest, highest, then, rises, halved
    tensors = [ops.convert_to_tensor(count.astype(np.float32)) for count in counts]
    around = [x, x, *(ops.convert_to_tensor(each.astype(np.float32)) for each in (best, best))]
    moving, _ = attack.step(attack._rise(Curved()), threat)((*around, *tensors), x, y, y)
    _, before, _, _, number, size, _, _, then, rises, halved = map(values, moving)
    np.testing.assert_array_equal(size, np.where(expected, 0.5, 1))
    np.testing.assert_array_equal(before, np.where(expected[:, None, None, None], best, IMAGES))
    np.testing.assert_array_equal(number, states[:, 0] + 1)
    np.testing.assert_array_equal(rises, np.where(states[:, 0] == 21, states[:, 1], 0))
    np.testing.assert_array_equal(halved, expected)
    due = states[:, 0] != 21
    np.testing.assert_allclose(then[due], highest[due], rtol=1e-6)


def test_the_point_of_the_highest_loss_is_given_and_steps_are_counted() -> None:
    for steps in (1, 2, 3):
        found = APGD(steps=steps, early_stopping=False)(Curved(), IMAGES, LABELS, Linf(0.3))
        start = start_of(IMAGES, Linf(0.3), 0)
        best = [
            simulated(image.astype(np.float64), label, begin, Linf(0.3), steps)[1]
            for image, label, begin in zip(IMAGES, LABELS, start, strict=True)
        ]
        np.testing.assert_allclose(found, best, atol=1e-5)


def test_unless_told_otherwise() -> None:
    usual = {"loss": "ce", "early_stopping": True, "seed": 0, "targets": 0, "order": "logits"}
    assert APGD() == APGD(steps=100, restarts=1, **usual)  # type: ignore[arg-type]
    assert Strong() == Strong(steps=100, targets=9, queries=5000, draws=20, seed=0)
    assert Matching() == Matching(steps=100, targets=3, what="logits")
    with pytest.raises(SettingsError, match=r"unknown order 'norm'\. Valid: logits, malt"):
        APGD(order="norm")
    with pytest.raises(SettingsError, match="targets: expected an integer of 0 or more"):
        PGD(targets=-1)


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.4)], ids=lambda threat: threat.norm)
def test_the_best_point_of_a_hyperplane_is_reached(linear: Linear, threat: ThreatModel) -> None:
    x, y = gray()
    # Every pixel moves by eps, in L2 by eps / 8: the corner, and the scaled gradient.
    found = APGD(steps=30)(linear, x, y, threat)
    np.testing.assert_allclose(found, 0.5 - 0.05 * np.stack([linear.direction] * 3), atol=1e-4)


class Spot(Curved):
    """Answers with the second class within 0.004 of one point in the ball, as the max has it."""

    middle = IMAGES + 0.1 * np.random.default_rng(3).uniform(-1, 1, IMAGES.shape)

    def logits(self, x: Any, chance: Any = None) -> Any:
        middle = ops.convert_to_tensor(self.middle[:1], "float32")
        apart = ops.mean(ops.square(x - middle), axis=(1, 2, 3))
        return ops.stack([apart, ops.full_like(apart, 0.004**2)], axis=-1)


def test_halved_steps_reach_what_steps_of_one_size_miss() -> None:
    x, y = IMAGES[:1], np.zeros(1, np.int32)
    defense, threat = Spot(), Linf(0.2)
    for step_size in (0.05, 0.2, 2.0):
        passed = PGD(steps=100, step_size=step_size, seed=1)(defense, x, y, threat)
        assert not defense.broken(passed, y).any()
    assert defense.broken(APGD(seed=1)(defense, x, y, threat), y).all()


# Targets


class Detour(Curved):
    """Three classes: that with the second largest logit cannot be reached, the third can."""

    direction = np.where(np.random.default_rng(5).random(SHAPE) < 0.5, -1, 1).astype(np.float32)

    def logits(self, x: Any, chance: Any = None) -> Any:
        along = ops.sum((x - 0.5) * ops.convert_to_tensor(self.direction), axis=(1, 2, 3))
        return ops.stack([ops.zeros_like(along), 0.01 * along - 0.1, -along - 1], axis=-1)


@pytest.mark.parametrize("kind", [PGD, APGD])
def test_only_the_second_target_is_reachable(kind: type[PGD] | type[APGD]) -> None:
    x, y = np.full((3, *SHAPE), 0.5, np.float32), np.zeros(3, np.int32)
    defense, threat = Detour(), Linf(0.1)  # 24 values: along reaches 2.4

    def broken(**options: Any) -> bool:
        found = kind(steps=10, loss="margin", **options)(defense, x, y, threat)
        return bool(defense.broken(found, y).all())

    assert not broken()
    assert not broken(targets=1)
    assert broken(targets=2)
    assert broken(targets=9)  # there are only two
    assert broken(targets=1, order="malt")


class Slopes(Curved):
    """Logits 0, along one value less 0.9, and along all values less 1."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        one, every = 3 * (x[:, 0, 0, 0] - 0.5), ops.sum(x - 0.5, axis=(1, 2, 3)) / 2
        return ops.stack([ops.zeros_like(one), one - 0.9, every - 1], axis=-1)


def test_targets_are_in_the_order_of_logits_or_of_distances() -> None:
    x, y = np.full((2, *SHAPE), 0.5, np.float32), np.zeros(2, np.int32)

    def order(order: str, threat: ThreatModel) -> list[Any]:
        return np.array(PGD(targets=2, order=order).aims(Slopes(), x, y, threat)).T.tolist()

    # Slopes are 3 and 24 / 2 in all, of which Linf moves every value, but 3 and sqrt(24) / 2 long.
    assert order("logits", Linf(0.1)) == order("logits", L2(0.1)) == [[1, 2]] * 2
    assert order("malt", Linf(0.1)) == [[2, 1]] * 2
    assert order("malt", L2(0.1)) == [[1, 2]] * 2


def test_every_target_has_a_start_of_its_own_and_images_leave() -> None:
    seen: list[tuple[int, list[float]]] = []

    class Noting(PGD):
        def aimed(self, defense: Any, x: Any, y: Any, target: Any) -> tuple[Any, Any]:
            seen.append((x.shape[0], values(x)[:1].ravel().tolist()))
            return super().aimed(defense, x, y, target)

    if sparring.backend.name != "torch":
        return  # elsewhere it is traced once
    x, y = np.full((3, *SHAPE), 0.5, np.float32), np.zeros(3, np.int32)
    x[0] -= 0.06 * Detour.direction  # which is broken by class 2 already
    Noting(steps=2, loss="margin", targets=2, restarts=2)(Detour(), x, y, Linf(0.03))
    assert [count for count, _ in seen] == [3, 2, 2, 2, 2, 2, 2, 2]
    starts = [start_of(x[1:2], Linf(0.03), seed).ravel() for seed in (1, 2, 3)]
    for (_, found), start in zip(seen[2::2], starts, strict=True):
        np.testing.assert_allclose(found, start, atol=1e-6)


# Suites and starts


def test_strong_on_few_classes_and_on_draws(
    linear: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    class Noting:
        def __init__(self, attacks: Any) -> None:
            given.append(attacks)

        def __call__(self, defense: Any, *_: Any) -> None:
            given.append(defense)

    monkeypatch.setattr(strong, "InTurn", Noting)
    x, y = gray()
    attack = Strong(steps=7, targets=2, queries=5, draws=3, seed=9)
    attack(linear, x, y, Linf(0.1))
    assert given.pop() is linear
    assert given.pop() == (
        APGD(7, seed=9),
        APGD(7, loss="margin", targets=2, seed=9),
        APGD(7, loss="margin", targets=2, seed=9),
        Square(5, seed=9),
    )
    drawing = Drawing()
    attack(drawing, x, y, Linf(0.1))
    assert given.pop() == EOT(drawing, 3)
    attack(EOT(drawing, 2), x, y, Linf(0.1))
    assert given.pop() == EOT(drawing, 2)
    drawing.info = DatasetInfo("four", SHAPE, tuple("abcd"), False, 1, 1, "")
    attack(drawing, x, y, Linf(0.1))
    assert given[-2][1] == APGD(7, loss="dlr", targets=2, seed=9)


class Stepped(Linear):
    """The hyperplane without its slope."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return ops.sign(super().logits(x))


def test_transfer_reaches_where_no_gradient_leads(linear: Linear) -> None:
    x, y = gray()
    target = Stepped(linear.direction, linear.bias)
    assert not target.broken(PGD()(target, x, y, Linf(0.1)), y).any()
    assert target.broken(Transfer(linear)(target, x, y, Linf(0.1)), y).all()


def test_transfer_goes_on_from_the_source_s_point(linear: Linear) -> None:
    x, y = gray()
    starts: list[np.ndarray] = []

    class Noting(PGD):
        def climb(self, defense: Any, x: Any, y: Any, threat: Any, start: Any = None) -> Any:
            found = super().climb(defense, x, y, threat, start)
            starts.append(found if start is None else start)
            return found

    # The target's slope is another one: half of the pixels are left where the source has them.
    half = linear.direction * (np.arange(8) < 4).reshape(8, 1, 1)
    target = Linear(half, -1.5)
    attack = Transfer(linear, fine_tune=Noting(steps=3, step_size=1.0))
    found = attack(target, x, y, Linf(0.03))
    np.testing.assert_array_equal(starts[0], starts[1])
    np.testing.assert_allclose(starts[0], 0.5 - 0.03 * np.stack([linear.direction] * 3), atol=1e-6)
    assert not target.broken(found, y).any()
    # It takes all its steps on the source, though that is broken at once.
    attack(target, x, y, Linf(0.1))
    np.testing.assert_allclose(starts[-1], 0.5 - 0.1 * np.stack([linear.direction] * 3), atol=1e-6)
    # A start outside of the ball, broken there, is brought back into it.
    far = PGD(steps=1, step_size=1e-6).climb(linear, x, y, Linf(0.01), starts[-1])
    np.testing.assert_allclose(far, 0.5 - 0.01 * np.stack([linear.direction] * 3), atol=1e-6)


def test_wrong_use_of_transfer(linear: Linear) -> None:
    x, y = gray()
    for wrong in (3, None, PGD()):
        with pytest.raises(SettingsError, match="source: expected a defense, a wrapper around"):
            Transfer(wrong)
    with pytest.raises(SettingsError, match=r"fine_tune: expected PGD\(...\) or APGD\(...\), got"):
        Transfer(linear, fine_tune=Square())
    with pytest.raises(SettingsError, match="source: runs/x is not loaded"):
        Transfer("runs/x")(linear, x, y, Linf(0.1))
    with pytest.raises(SettingsError, match=r"images \[8, 8, 1\], got one of images \[3, 4, 2\]"):
        Transfer(Curved())(linear, x, y, Linf(0.1))


def test_transfer_by_a_run_directory(tmp_path: Path) -> None:
    x, y = patterns(24)
    dataset = Dataset("patterns", x, y, x[:8], y[:8], tuple("abcd"))
    for name, seed in (("one", 0), ("other", 1)):
        options: dict[str, Any] = {"filters": 4, "epochs": 1, "batch_size": 8, "seed": seed}
        sparring.train("baseline", dataset, out=tmp_path / name, **options)
    one, other = (next((tmp_path / name).rglob("run.json")).parent for name in ("one", "other"))
    verdict = sparring.evaluate(
        str(one), "transfer", Linf(0.5), dataset, 8, options={"source": str(other)}, check=False
    )
    assert verdict.success_rate.value > 0.5
    given = sparring.evaluate(
        str(one), Transfer(sparring.load(other)), Linf(0.5), dataset, 8, check=False
    )
    np.testing.assert_array_equal(given.adversarial, verdict.adversarial)
    # Trained anew with the same settings, a source is another attack.
    weights = sparring.load(other).weights_sha256
    assert weights is not None
    assert weights in verdict.about.attack
    assert weights in given.about.attack


# Matching


def test_the_logits_of_the_nearest_image_of_another_class_are_reached(linear: Linear) -> None:
    # Logits 4, -1 and -3 for class b: the second is nearer to the first than the third is.
    shift = np.array([0, -5, -7], np.float32).reshape(-1, 1, 1, 1) / 64
    x, y = (0.5 + shift * linear.direction).astype(np.float32), np.array([1, 0, 0], np.int32)
    np.testing.assert_allclose(values(linear.logits(ops.convert_to_tensor(x)))[:, 1], [4, -1, -3])
    found = Matching(targets=1, early_stopping=False)(linear, x, y, Linf(0.2))
    logits = values(linear.logits(ops.convert_to_tensor(found)))[:, 1]
    np.testing.assert_allclose(logits, [-1, 4, 4], atol=1e-2)
    assert len(list(Matching(targets=5).aims(linear, x, y, Linf(0.2)))) == 1  # of all three images
    with pytest.raises(SettingsError, match="expected images of two classes or more in a batch"):
        Matching()(linear, x[1:], y[1:], Linf(0.2))
    with pytest.raises(SettingsError, match="what: the networks of linear have no features"):
        Matching(what="features")(linear, x, y, Linf(0.2))


def test_features_are_matched(digits_baseline: Defense) -> None:
    x, y = digits(20)
    attack = Matching(steps=20, what="features", targets=1, early_stopping=False)
    (aims,) = attack.aims(digits_baseline, x, y, Linf(0.3))

    def apart(x: np.ndarray) -> np.ndarray:
        (net,) = digits_baseline.nets
        features = values(net.features(ops.convert_to_tensor(x))).mean(axis=(1, 2))
        return np.square(features - aims).sum(axis=1)

    found = run(attack, digits_baseline, x, y, Linf(0.3))
    assert np.median(apart(found) / apart(x)) < 0.5


# A trained network


def test_each_piece_breaks_what_pgd_breaks(digits_baseline: Defense) -> None:
    x, y = digits(60)
    right = ~digits_baseline.broken(x, y)
    x, y = x[right], y[right]

    def success(attack: Any) -> float:
        found = run(attack, digits_baseline, x, y, Linf(0.1))
        return float(digits_baseline.broken(found, y).mean())

    pgd = success(PGD(steps=20))
    assert 0.3 < pgd < 0.99
    few = PGD(steps=20, loss="margin", targets=2)
    assert success(APGD(steps=20)) >= pgd - 0.04
    assert success(APGD(steps=20, loss="dlr", targets=3)) >= pgd - 0.04
    assert success(few) >= pgd - 0.04
    every = InTurn((PGD(steps=20), few))
    assert success(Strong(steps=20, queries=50, targets=3)) >= success(every) - 0.02
