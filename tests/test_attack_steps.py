"""What attacks do step by step: beside a simulation in numpy, and with scripted parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring import attacks, backend, defenses
from sparring.attacks import (
    BPDA,
    EOT,
    FGSM,
    PGD,
    InTurn,
    Noise,
    Square,
    ascent,
    cross_entropies,
    margins,
)
from sparring.attacks.ascent import filled
from sparring.attacks.gradients import straight_through, unwrapped
from sparring.attacks.search import best_of
from sparring.attacks.simple import uniforms
from sparring.data import DatasetInfo
from sparring.defenses.defense import Defense
from sparring.errors import AttackError, SettingsError
from sparring.networks.allconv import AllConv
from sparring.randomness import Chance
from sparring.threat import L2, Linf, ThreatModel
from sparring.training.settings import Settings

SHAPE = (3, 4, 2)
CENTERS = np.random.default_rng(1).random((3, *SHAPE)).astype(np.float32)
STEEP = np.array([1.5, 2.0, 2.5], np.float32)
# Two images of each class, between its center and noise.
IMAGES = 0.4 * CENTERS[[0, 2, 1, 1, 0, 2]] + 0.6 * np.random.default_rng(0).random(
    (6, *SHAPE)
).astype(np.float32)


def values(x: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(x))


class Curved(Defense):
    """Three classes; a logit falls with the square of the distance to the class's center.

    Its losses are curved, so that every part of a step shows in where the next one leads.
    """

    name = "curved"
    idea = "three bowls, for tests"

    def __init__(self) -> None:
        super().__init__(
            DatasetInfo("curved", SHAPE, ("a", "b", "c"), False, 1, 1, ""), Settings(), []
        )

    def logits(self, x: Any, chance: Any = None) -> Any:
        apart = ops.square(x[:, None] - ops.convert_to_tensor(CENTERS))
        return -ops.convert_to_tensor(STEEP) * ops.sum(apart, axis=(2, 3, 4))


class Deciding(Curved):
    """Finds images broken to a share that is scripted for each call."""

    def __init__(self, *shares: float) -> None:
        super().__init__()
        self.shares = list(shares)

    def broken_share(self, x: Any, y: Any, draws: int = 10) -> np.ndarray:
        return np.full(len(x), self.shares.pop(0))


class Rejecting(Curved):
    """Rejects images whose last value is above 0.65."""

    detects = True
    threshold = 0.65

    def scores(self, x: Any, chance: Any = None) -> Any:
        return x[:, -1, -1, -1]


class Drawing(Curved):
    """Says that it answers at random."""

    stochastic = True


# The same in numpy


def logits_of(x: np.ndarray) -> np.ndarray:
    return -STEEP * np.square(x[:, None] - CENTERS).sum(axis=(2, 3, 4))


LABELS = logits_of(IMAGES).argmax(axis=1).astype(np.int32)  # all are answered rightly


def slopes(x: np.ndarray, y: np.ndarray, loss: str) -> np.ndarray:
    """Gradients of the loss by the images, as calculus has them."""
    logits = logits_of(x)
    of_logits = -2 * STEEP[:, None, None, None] * (x[:, None] - CENTERS)
    label = np.eye(3)[y]
    if loss == "ce":
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights = exps / exps.sum(axis=1, keepdims=True) - label
    else:
        weights = np.eye(3)[np.where(label > 0, -np.inf, logits).argmax(axis=1)] - label
    return (weights[:, :, None, None, None] * of_logits).sum(axis=1)


def lengths(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(x).sum(axis=(1, 2, 3), keepdims=True))


def start_of(x: np.ndarray, threat: ThreatModel, seed: int) -> np.ndarray:
    numbers = values(Chance(ops.convert_to_tensor(x), seed).uniform(24)).astype(np.float64)
    drawn = numbers.reshape(x.shape)
    if threat.norm == "Linf":
        return np.clip(x + threat.eps * (2 * drawn - 1), 0, 1)
    moved = 2 * drawn - 1
    return np.clip(x + threat.eps * drawn[:, :1, :1, :1] * moved / lengths(moved), 0, 1)


def path(
    x: np.ndarray,
    y: np.ndarray,
    threat: ThreatModel,
    steps: int,
    step_size: float,
    momentum: float = 0.0,
    loss: str = "ce",
    seed: int | None = 0,
) -> list[np.ndarray]:
    """All points of PGD from the start to the end; no random start without a seed."""
    x = x.astype(np.float64)
    points = [x if seed is None else start_of(x.astype(np.float32), threat, seed)]
    velocity = np.zeros_like(x)
    for _ in range(steps):
        slope = slopes(points[-1], y, loss)
        if momentum:
            velocity = momentum * velocity + slope / np.abs(slope).mean(
                axis=(1, 2, 3), keepdims=True
            )
            slope = velocity
        if threat.norm == "Linf":
            moved = points[-1] + step_size * threat.eps * np.sign(slope) - x
            moved = np.clip(moved, -threat.eps, threat.eps)
        else:
            moved = points[-1] + step_size * threat.eps * slope / lengths(slope) - x
            moved = moved * np.minimum(1, threat.eps / np.maximum(lengths(moved), 1e-12))
        points.append(np.clip(x + moved, 0, 1))
    return points


# PGD and FGSM. Points in float32 differ from float64's by a few times 2^-24 a step, unless the sign
# of a gradient turns, which none does here.
CLOSE = 2e-5


@pytest.mark.backend
@pytest.mark.parametrize(
    ("options", "threat"),
    [
        ({}, Linf(0.2)),
        ({"momentum": 0.75, "step_size": 0.3}, Linf(0.2)),
        ({"loss": "margin", "seed": 4}, L2(0.8)),
        ({"momentum": 0.75, "random_start": False}, L2(0.8)),
        ({"momentum": 1, "step_size": 0.2}, L2(0.8)),
    ],
    ids=["Linf", "Linf with momentum", "L2", "L2 with momentum", "L2 with full momentum"],
)
def test_pgd_takes_the_path_of_its_definition(options: dict[str, Any], threat: ThreatModel) -> None:
    attack = PGD(steps=6, early_stopping=False, **options)

    def simulated(momentum: float) -> np.ndarray:
        seed = attack.seed if attack.random_start else None
        size = attack.step_size or 2.5 / 6
        return path(IMAGES, LABELS, threat, 6, size, momentum, attack.loss, seed)[-1]

    found = attack(Curved(), IMAGES, LABELS, threat)
    np.testing.assert_allclose(found, simulated(attack.momentum), atol=CLOSE)
    assert found.dtype == np.float32
    for other in (0.0, 0.75, 1.0):  # the momentum is to be seen in where the path ends
        if other != attack.momentum:
            assert np.abs(found - simulated(other)).max() > 1e-3


def test_pgd_unless_told_otherwise() -> None:
    usual = PGD(
        steps=40, step_size=None, restarts=1, momentum=0.0, loss="ce", random_start=True,
        early_stopping=True, seed=0, targets=0, order="logits",
    )  # fmt: skip
    assert PGD() == usual


def broken_along(points: list[np.ndarray]) -> np.ndarray:
    """Which images get another answer at each point: [points, images]."""
    return np.array([logits_of(point).argmax(axis=1) != LABELS for point in points])


# Images break after 0 to 8 steps: some at the start, some not within 7.
@pytest.mark.backend
@pytest.mark.parametrize("threat", [Linf(0.25), L2(0.9)], ids=lambda threat: threat.norm)
def test_pgd_keeps_the_point_at_which_an_image_broke(threat: ThreatModel) -> None:
    points = path(IMAGES, LABELS, threat, 7, 0.1, 0.75)
    broken = broken_along(points[:-1])
    assert 4 <= broken[-1].sum() <= 5
    assert len(set(broken.argmax(axis=0))) >= 3
    found = PGD(steps=7, step_size=0.1, momentum=0.75)(Curved(), IMAGES, LABELS, threat)
    for image, breaks in enumerate(broken.T):
        where = int(breaks.argmax()) if breaks.any() else 7
        np.testing.assert_allclose(found[image], points[where][image], atol=CLOSE)


def test_all_images_broken_end_the_steps() -> None:
    asked: list[int] = []
    judged: list[list[int]] = []

    class Asking(PGD):
        def objective(self, defense: Any, x: Any, y: Any) -> tuple[Any, Any]:
            asked.append(len(x))
            return super().objective(defense, x, y)

    class Judging(Curved):
        def broken(self, x: Any, y: Any, seed: int = 0) -> np.ndarray:
            judged.append(list(y))
            return super().broken(x, y)

    broken = broken_along(path(IMAGES, LABELS, Linf(0.25), 12, 0.1))
    assert broken[9].all()
    Asking(steps=12, step_size=0.1)(Judging(), IMAGES, LABELS, Linf(0.25))
    # At each step those that had not been seen broken before; all six at the first.
    seen = [6, *(6 - broken[:10].sum(axis=1))]
    assert asked == [count for count in seen if count]
    # Judged are those that look broken for the first time; the only restart's end is not.
    new = [broken[0], *(broken[step] & ~broken[step - 1] for step in range(1, 10))]
    assert judged == [LABELS[each].tolist() for each in new if each.any()]


def test_images_answered_wrongly_from_the_start_stay_as_they_are() -> None:
    wrong = (LABELS + 1) % 3
    found = PGD(steps=2, random_start=False)(Curved(), IMAGES, wrong, Linf(0.1))
    np.testing.assert_array_equal(found, IMAGES)


def test_detecting_defenses_are_asked_every_ten_steps() -> None:
    defense, threat = Rejecting(), Linf(0.25)
    points = path(IMAGES, LABELS, threat, 25, 0.1)
    answered_wrongly = broken_along(points)
    assert answered_wrongly[10].all()
    broken = answered_wrongly & (np.array(points)[:, :, -1, -1, -1] <= 0.65)
    # Of the last values one falls below 0.65 between the steps 10 and 20; two stay above.
    expected = [next((at for at in (0, 10, 20) if breaks[at]), 25) for breaks in broken.T]
    assert expected == [20, 10, 25, 25, 10, 0]
    asked: list[int] = []
    broken_now = defense.broken

    def counted(x: Any, y: Any, seed: int = 0) -> np.ndarray:
        asked.append(len(x))
        return broken_now(x, y)

    defense.broken = counted  # type: ignore[method-assign]
    found = PGD(steps=25, step_size=0.1)(defense, IMAGES, LABELS, threat)
    for image, step in enumerate(expected):
        np.testing.assert_allclose(found[image], points[step][image], atol=CLOSE)
    # Two look broken at the start, all that are left at the steps 10 and 20.
    assert asked == [2, 5, 3]


@pytest.mark.parametrize(
    ("early_stopping", "kind"),
    [(False, Curved), (True, Drawing)],
    ids=["told not to", "stochastic"],
)
def test_pgd_goes_on_to_the_last_step(early_stopping: bool, kind: type[Curved]) -> None:
    points = path(IMAGES, LABELS, Linf(0.25), 12, 0.1)
    assert broken_along(points)[9].all()
    attack = PGD(steps=12, step_size=0.1, early_stopping=early_stopping)
    found = attack(kind(), IMAGES, LABELS, Linf(0.25))
    np.testing.assert_allclose(found, points[-1], atol=CLOSE)


def test_gradients_are_summed_at_mean_absolute_value_1() -> None:
    threat = Linf(0.2)
    x, y = ops.convert_to_tensor(IMAGES), ops.convert_to_tensor(LABELS)
    attack = PGD(momentum=0.5)
    step = attack.step(attack._rise(Curved()), threat)
    before = np.random.default_rng(2).random(IMAGES.shape, dtype=np.float32)
    (_, velocity), _ = step((x, ops.convert_to_tensor(before)), x, y, y)
    slope = slopes(IMAGES.astype(np.float64), LABELS, "ce")
    scaled = slope / np.abs(slope).mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(values(velocity), 0.5 * before + scaled, atol=1e-5)


@pytest.mark.parametrize("random_start", [True, False])
def test_every_restart_has_a_start_of_its_own(random_start: bool) -> None:
    threat = Linf(0.2)
    ends = []
    for restarts in (1, 2, 3):
        attack = PGD(
            steps=2, step_size=0.1, restarts=restarts, random_start=random_start, seed=7,
            early_stopping=False,
        )  # fmt: skip
        # Every restart is better than the one before, so that the last is what is given.
        ends.append(attack(Deciding(0.1, 0.2, 0.3), IMAGES, LABELS, threat))
    seeds = [7 if random_start else None, 8, 9]
    for end, seed in zip(ends, seeds, strict=True):
        points = path(IMAGES, LABELS, threat, 2, 0.1, seed=seed)
        np.testing.assert_allclose(end, points[-1], atol=CLOSE)
    assert np.abs(ends[1] - ends[2]).max() > 0.1


def test_attacks_made_fast_are_not_mistaken_for_each_other() -> None:
    defense = Curved()
    for attack, threat in [
        (PGD(steps=2, early_stopping=False), Linf(0.1)),
        (PGD(steps=2, early_stopping=False), Linf(0.2)),
        (PGD(steps=2, early_stopping=False), L2(0.2)),
        (PGD(steps=2, early_stopping=False, loss="margin"), L2(0.2)),
    ]:
        found = attack(defense, IMAGES, LABELS, threat)
        points = path(IMAGES, LABELS, threat, 2, 1.25, loss=attack.loss)
        np.testing.assert_allclose(found, points[-1], atol=CLOSE)


# After 3 steps three images are left, of which the end has to be given; after 9 none.
@pytest.mark.parametrize(("steps", "left"), [(3, 3), (9, 0)])
def test_batches_filled_up_give_the_same(
    steps: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Asking(PGD):
        def objective(self, defense: Any, x: Any, y: Any) -> tuple[Any, Any]:
            asked.append(len(x))
            return super().objective(defense, x, y)

    points = path(IMAGES, LABELS, Linf(0.25), steps, 0.1, 0.75)
    assert (~broken_along(points[:-1])[-1]).sum() == left
    attack = Asking(steps=steps, step_size=0.1, momentum=0.75)
    monkeypatch.setattr(backend, "whole_batches", False)
    # Batches are filled up with their first images, of which one is broken at once.
    x, y = IMAGES[::-1].copy(), LABELS[::-1].copy()
    as_it_is = attack(Curved(), x, y, Linf(0.25))
    counts = asked.copy()
    asked.clear()
    monkeypatch.setattr(backend, "whole_batches", True)
    np.testing.assert_allclose(attack(Curved(), x, y, Linf(0.25)), as_it_is, atol=1e-6)
    powers = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 8}
    assert asked == [powers[count] for count in counts]
    assert filled(np.array([5, 7, 9])).tolist() == [5, 7, 9, 5]


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)], ids=lambda threat: threat.norm)
def test_fgsm_is_one_step_as_long_as_eps(threat: ThreatModel) -> None:
    # Half of the images are broken from the start, and move all the same.
    labels = np.where(np.arange(6) % 2, LABELS, (LABELS + 1) % 3).astype(np.int32)
    slope = slopes(IMAGES, labels, "ce")
    step = np.sign(slope) if threat.norm == "Linf" else slope / lengths(slope)
    expected = np.clip(IMAGES + threat.eps * step, 0, 1)
    np.testing.assert_allclose(FGSM()(Curved(), IMAGES, labels, threat), expected, atol=CLOSE)
    margin = slopes(IMAGES, labels, "margin")
    assert (np.sign(margin) != np.sign(slope)).any()  # another loss would show


def test_l2_pgd_finds_the_maximum_inside_the_cube() -> None:
    """The farthest point from a bowl's middle is known: straight away from it, eps far."""

    class Bowl(PGD):
        def objective(self, defense: Any, x: Any, y: Any) -> tuple[Any, Any]:
            away = ops.sum(ops.square(x - 0.4), axis=(1, 2, 3))
            return away, away < 0

    x = np.float32(0.4) + np.float32(0.1) * IMAGES
    attack = Bowl(steps=100, step_size=1)
    found = attack(Curved(), x, LABELS, L2(0.3))
    moved = x - 0.4
    np.testing.assert_allclose(found, x + 0.3 * moved / lengths(moved), atol=1e-3)


def test_the_objective_of_pgd() -> None:
    labels = np.array([*LABELS[:3], *(LABELS[3:] + 1) % 3], np.int32)
    x, y = ops.convert_to_tensor(IMAGES), ops.convert_to_tensor(labels)
    for name, loss in (("ce", cross_entropies), ("margin", margins)):
        losses, looks_broken = PGD(loss=name).objective(Curved(), x, y)
        expected = values(loss(y, ops.convert_to_tensor(logits_of(IMAGES))))
        np.testing.assert_allclose(values(losses), expected, rtol=1e-5)
        assert values(looks_broken).tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("steps", 0), ("steps", True), ("steps", 2.0), ("restarts", 0), ("restarts", -1),
        ("step_size", 0), ("step_size", -0.1), ("momentum", -0.01), ("momentum", 1.01),
        ("loss", "cross"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_pgd(name: str, wrong: Any) -> None:
    with pytest.raises(SettingsError, match=name):
        PGD(**{name: wrong})
    PGD(steps=1, restarts=1, step_size=1e-6, momentum=1)  # what is just right
    assert PGD(momentum=0).momentum == 0


# Which of several images is kept. Images are told by their labels here; an image is broken to the
# share that is its first value, and its second value says which attack it is from.

SCRIPT = np.array(
    [  # image by attack
        [0.2, 0.6, 0.4, 0.5],  # the second is best, and neither of the later ones replaces it
        [1.0, 0.0, 0.0, 0.0],  # wholly broken at once: nothing more is tried
        [0.0, 0.0, 0.0, 0.0],  # the first is given, not the image; equals do not replace it
        [0.5, 0.3, 0.9, 0.8],
        [0.3, 1.0, 0.0, 0.0],
    ],
    np.float32,
)
KEPT = [(0.6, 1), (1.0, 0), (0.0, 0), (0.9, 2), (1.0, 1)]
ASKED = [[0, 1, 2, 3, 4], [0, 2, 3, 4], [0, 2, 3], [0, 2, 3]]
MARKS = np.array([0.1, 0.2, 0.3, 0.4], np.float32)


class Shares(Drawing):
    """A defense that breaks to the share of an image's first value."""

    def broken_share(self, x: np.ndarray, y: np.ndarray, draws: int = 10) -> np.ndarray:
        assert values(x).shape == (len(y), 1, 2, 1)
        np.testing.assert_array_equal(np.round(values(x)[:, 0, 0, 0], 6), self.script(x, y))
        return values(x)[:, 0, 0, 0].astype(float)

    def script(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """What the script has for these labels: whether x and y belong together."""
        attack = int(np.argmin(np.abs(MARKS - values(x)[0, 0, 1, 0])))
        return np.round(SCRIPT[y, attack], 6)


def scripted(labels: np.ndarray, attack: int) -> np.ndarray:
    given = np.full((len(labels), 1, 2, 1), MARKS[attack], np.float32)
    given[:, 0, 0, 0] = SCRIPT[labels, attack]
    return given


def check_kept(found: np.ndarray) -> None:
    assert found.shape == (5, 1, 2, 1)
    assert found[:, 0, 0, 0] == pytest.approx([share for share, _ in KEPT])
    assert found[:, 0, 1, 0] == pytest.approx([MARKS[attack] for _, attack in KEPT])


def test_the_only_attempt_is_given_back_and_the_defense_is_not_asked() -> None:
    x, y = numbered()
    found = best_of([lambda rows: scripted(y[rows], 2)], object(), x, y)
    np.testing.assert_array_equal(found, scripted(y, 2))


@dataclass
class Plays:
    """An attack that gives what the script has for its number."""

    number: int
    asked: list[list[int]] = field(default_factory=list)

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        assert threat == Linf(0.3)
        assert ops.is_tensor(x)
        assert ops.is_tensor(y)
        labels = values(y)
        np.testing.assert_allclose(values(x)[:, 0, 0, 0], labels / 10, atol=1e-6)
        self.asked.append(labels.tolist())
        return ops.convert_to_tensor(scripted(labels, self.number))


def numbered() -> tuple[np.ndarray, np.ndarray]:
    """Images that tell which one they are, by a tenth of their label."""
    labels = np.arange(5, dtype=np.int32)
    return np.float32(labels / 10).reshape(5, 1, 1, 1) * np.ones((1, 1, 2, 1), np.float32), labels


def test_in_turn_keeps_the_better_image_and_hands_on_what_is_left() -> None:
    x, y = numbered()
    plays = [Plays(number) for number in range(4)]
    check_kept(InTurn(tuple(plays))(Shares(), x, y, Linf(0.3)))
    assert [each.asked for each in plays] == [[asked] for asked in ASKED]
    np.testing.assert_array_equal(x, numbered()[0])


def test_in_turn_ends_when_nothing_is_left() -> None:
    x, y = numbered()
    only = np.array([1])
    plays = [Plays(0), Plays(1)]
    found = InTurn(tuple(plays))(Shares(), x[only], y[only], Linf(0.3))
    assert found.ravel() == pytest.approx([1.0, MARKS[0]])
    assert [each.asked for each in plays] == [[[1]], []]


def test_restarts_keep_the_best_image_and_go_on_with_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[list[int]] = []

    def scripted_run(_: Any, __: Any, images: Any, labels: np.ndarray, *___: Any) -> np.ndarray:
        np.testing.assert_allclose(images[:, 0, 0, 0], labels / 10, atol=1e-6)
        runs.append(labels.tolist())
        return scripted(labels, len(runs) - 1)

    monkeypatch.setattr(ascent, "run", scripted_run)
    x, y = numbered()
    check_kept(PGD(restarts=4)(Shares(), x, y, Linf(0.3)))
    assert runs == ASKED
    np.testing.assert_array_equal(x, numbered()[0])
    runs.clear()
    once = PGD(restarts=1)(Shares(), x, y, Linf(0.3))
    assert once[:, 0, 1, 0] == pytest.approx([0.1] * 5)
    assert runs == [[0, 1, 2, 3, 4]]
    runs.clear()
    PGD(restarts=3)(Shares(), x[1:2], y[1:2], Linf(0.3))
    assert runs == [[1]]  # wholly broken: no other start


# Noise


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.9)], ids=lambda threat: threat.norm)
def test_noise_is_the_first_draw_that_breaks_an_image_or_the_last(threat: ThreatModel) -> None:
    # Images on their ways to the next class's center, near the border.
    x = (0.7 * IMAGES + 0.3 * CENTERS[(LABELS + 1) % 3]).astype(np.float32)
    draws = [start_of(x, threat, seed) for seed in (7, 8, 9)]
    broken = broken_along(draws)
    # Three break at the first draw, one at the second, one at the third, and one at none.
    which = [int(breaks.argmax()) if breaks.any() else 2 for breaks in broken.T]
    assert which == [2, 0, 0, 2, 1, 0]
    assert broken[2].tolist() == [False, True, False, True, False, True]  # the last is not best
    found = Noise(draws=3, seed=7)(Curved(), ops.convert_to_tensor(x), LABELS, threat)
    for image, draw in enumerate(which):
        np.testing.assert_allclose(values(found)[image], draws[draw][image], atol=1e-6)


def test_one_draw_of_noise_unless_told_otherwise() -> None:
    assert Noise() == Noise(draws=1, seed=0)


def test_noise_ends_when_every_image_is_broken() -> None:
    asked: list[list[int]] = []

    class Asked(Curved):
        def broken(self, x: Any, y: Any, seed: int = 0) -> np.ndarray:
            asked.append(y.tolist())
            return np.arange(len(y)) % 2 == 0

    labels = np.arange(6, dtype=np.int32)
    Noise(draws=9)(Asked(), ops.convert_to_tensor(IMAGES), labels, Linf(0.1))
    # Every other one of those that are left is broken by each draw.
    assert asked == [[0, 1, 2, 3, 4, 5], [1, 3, 5], [3]]


def test_uniform_draws_follow_from_seed_and_image() -> None:
    x = ops.convert_to_tensor(IMAGES)
    numbers = values(Chance(x, 3).uniform(24))
    np.testing.assert_array_equal(values(uniforms(x, 3)), numbers.reshape(IMAGES.shape))


@pytest.mark.backend
def test_numpy_draws_on_as_the_framework_does() -> None:
    x = ops.convert_to_tensor(IMAGES)
    chance, other = Chance(x, 3), Chance(x, 3)
    chance.uniform(5)
    on_host = chance.on_host()
    other.uniform(5)
    for count in (1, 24, 3):
        np.testing.assert_array_equal(on_host(count), values(other.uniform(count)))
        assert on_host(count).dtype == np.float32
        other.uniform(count)


# Losses and gradients


@pytest.mark.backend
def test_margins_and_cross_entropies_of_large_and_of_negative_logits() -> None:
    logits = np.array([[-5, -3, -4], [-5, -3, -4], [-5, -3, -4], [90, 0, -90]], np.float32)
    y = np.array([0, 1, 2, 2], np.int32)
    tensors = ops.convert_to_tensor(y), ops.convert_to_tensor(logits)
    # The best other class less the label's: -3 + 5, -4 + 3, -3 + 4, 90 + 90.
    assert values(margins(*tensors)) == pytest.approx([2, -1, 1, 180])
    total = np.log(np.exp(-5) + np.exp(-3) + np.exp(-4))
    expected = [total + 5, total + 3, total + 4, 180]
    assert values(cross_entropies(*tensors)) == pytest.approx(expected, rel=1e-5)


def test_gradients_are_those_of_each_image_s_own_loss() -> None:
    y = ops.convert_to_tensor(LABELS)
    for name, loss in (("ce", cross_entropies), ("margin", margins)):

        def losses(x: Any, loss: Callable[..., Any] = loss) -> Any:
            return loss(y, Curved().logits(x))

        found = sparring.gradient(losses, ops.convert_to_tensor(IMAGES))
        expected = slopes(IMAGES.astype(np.float64), LABELS, name)
        np.testing.assert_allclose(values(found), expected, atol=1e-5)


def test_straight_through_is_exact_forward_and_smooth_backward() -> None:
    both = straight_through(lambda x: 5 * x - 1, ops.square)
    x = ops.convert_to_tensor(IMAGES)
    np.testing.assert_allclose(values(both(x)), 5 * IMAGES - 1, atol=1e-6)
    found = sparring.gradient(lambda x: ops.sum(both(x), axis=(1, 2, 3)), x)
    np.testing.assert_allclose(values(found), 2 * IMAGES, atol=1e-6)


# Wrappers


class Numbered(Curved):
    """Its logits are an image's first value times the square of its draw, and the draw itself."""

    stochastic = True

    def logits(self, x: Any, chance: Any = None) -> Any:
        seed = 0 if chance is None else chance.seed
        numbers = ops.cast(seed, "float32") * ops.ones((x.shape[0],))
        return ops.stack([x[:, 0, 0, 0] * numbers**2, numbers], axis=-1)


def test_eot_is_the_mean_over_draws_of_each_image_s_logits() -> None:
    defense = Numbered()
    found = values(EOT(defense, 4).logits(ops.convert_to_tensor(IMAGES[:2])))
    # Draws 0 to 3: the mean of their squares is 3.5, their own 1.5.
    first = IMAGES[:2, 0, 0, 0]
    np.testing.assert_allclose(found, np.stack([3.5 * first, [1.5] * 2], axis=-1), rtol=1e-6)
    assert values(defense.logits(ops.convert_to_tensor(IMAGES)))[:, 1].tolist() == [0] * 6
    assert EOT(defense).draws == 20
    assert EOT(defense, 1).draws == 1


@pytest.mark.parametrize("count", [100, 50])
def test_many_draws_of_many_images_are_averaged_as_few_are(count: int) -> None:
    # 100 images leave room for one draw at a time, 50 for two, of draws 3, 4, 5 and 6.
    images = np.random.default_rng(1).random((count, *SHAPE), dtype=np.float32)
    defense, numbers = EOT(Numbered(), 4), np.arange(count, dtype=np.float32)
    x, weights = ops.convert_to_tensor(images), ops.convert_to_tensor(numbers)

    def loss(x: Any) -> tuple[Any, Any]:
        logits = defense.logits(x, Chance(x, 3))  # [count, 2]
        return ops.sum(logits[:, 0] * weights), logits

    slope, logits = defense.compiled(("loss",), lambda x: backend.input_gradient_and(loss, x))(x)
    first = images[:, 0, 0, 0]
    expected = np.stack([21.5 * first, [4.5] * count], axis=-1)  # (9 + 16 + 25 + 36) / 4
    np.testing.assert_allclose(values(logits), expected, rtol=1e-6)
    slopes = np.zeros_like(images)
    slopes[:, 0, 0, 0] = 21.5 * numbers
    np.testing.assert_allclose(values(slope), slopes, rtol=1e-6)


@pytest.mark.skipif(backend.name != "torch", reason="of PyTorch's ways to look")
def test_many_draws_keep_no_more_for_the_gradient_than_the_images() -> None:
    import torch

    kind = defenses.get("randomneuron")
    info = DatasetInfo("x", (8, 8, 1), tuple("abcdefghij"), False, 9, 9, "0" * 64)
    defense = kind(info, kind.settings_class(filters=8), [kind.network((8, 8, 1), 10, 8)])
    images = np.random.default_rng(1).random((100, 8, 8, 1), dtype=np.float32)
    x = torch.tensor(images, requires_grad=True)
    kept = 0

    def count(tensor: Any) -> Any:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        EOT(defense, 20).logits(x)
    # The images once for each draw, and a few numbers; one pass of the network keeps 30 times more.
    assert images.nbytes * 20 <= kept < 1.1 * images.nbytes * 20


@pytest.mark.parametrize("wrong", [0, -1, True, 2.0])
def test_draws_are_whole_numbers_above_0(wrong: Any) -> None:
    with pytest.raises(SettingsError, match=f"draws: .* integer of 1 or more, got {wrong!r}"):
        EOT(Numbered(), wrong)


def test_equal_wrappers_share_what_is_compiled_and_others_do_not() -> None:
    defense = Numbered()

    def one(x: Any) -> Any:
        return x + 1

    def two(x: Any) -> Any:
        return x + 2

    x = ops.convert_to_tensor(np.ones(1, np.float32))
    assert values(EOT(defense, 2).compiled(("key",), one)(x)) == [2]
    assert values(EOT(defense, 2).compiled(("key",), two)(x)) == [2]  # as above, once and for all
    assert values(EOT(defense, 3).compiled(("key",), two)(x)) == [3]
    assert values(EOT(defense, 2).compiled(("other",), two)(x)) == [3]
    assert values(defense.compiled(("key",), two)(x)) == [3]
    assert values(BPDA(defense).compiled(("key",), two)(x)) == [3]


def test_eot_goes_on_from_the_draw_it_is_given() -> None:
    defense, x = Numbered(), ops.convert_to_tensor(IMAGES[:2])
    # Draws 5 and 6 of all; then 5 and 6 of the first, 1 and 2 of the second image.
    assert values(EOT(defense, 2).logits(x, Chance(x, 5)))[:, 1].tolist() == [5.5, 5.5]
    seeds = np.array([5, 1], np.int32)
    assert values(EOT(defense, 2).logits(x, Chance(x, seeds)))[:, 1].tolist() == [5.5, 1.5]
    # Of three draws each the inner one averages 0, 1 and 1, 2.
    assert values(EOT(EOT(defense, 2), 2).logits(x))[:, 1].tolist() == [1.0, 1.0]


def test_the_defense_within_wrappers_and_their_names() -> None:
    defense = Numbered()
    assert unwrapped(defense) == (defense, "")
    assert unwrapped(EOT(defense, 3)) == (defense, "EOT(draws=3)")
    within = BPDA(EOT(defense), transform=smooth_transform)
    name = "BPDA(transform=smooth_transform, activation=None) of EOT(draws=20)"
    assert unwrapped(within) == (defense, name)
    other = Curved()
    moved = within.around(other)
    assert unwrapped(moved) == (other, name)
    assert unwrapped(within) == (defense, name)  # as it was


def test_wrappers_hand_on_what_is_the_defense_s() -> None:
    defense = Rejecting()
    wrapped = EOT(BPDA(defense), 2)
    assert wrapped.detects
    assert wrapped.threshold == 0.65
    assert wrapped.broken_share == defense.broken_share
    with pytest.raises(AttributeError, match="__len__"):
        wrapped.__len__()
    with pytest.raises(AttributeError, match="nothing"):
        _ = wrapped.nothing
    blank = EOT.__new__(EOT)  # as when one is unpickled: no defense to ask yet
    assert not hasattr(blank, "__deepcopy__")


class Steps:
    """A network in steps: its transform rounds, its activation gives signs."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def transform(self, x: Any) -> Any:
        return ops.round(x)

    def activation(self, x: Any) -> Any:
        return ops.sign(x)

    def __call__(self, x: Any) -> Any:
        return self.factor * (self.transform(x) + 10 * self.activation(x - 0.5))


class Stepwise(Curved):
    """Adds two networks in steps."""

    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.nets = [Steps(1.0), Steps(3.0)]

    def logits(self, x: Any, chance: Any = None) -> Any:
        if self.fails:
            raise ArithmeticError("no answer")
        return ops.sum(self.nets[0](x) + self.nets[1](x), axis=(1, 2))


def smooth_transform(x: Any) -> Any:
    return ops.square(x)  # slope 2x


def smooth_activation(x: Any) -> Any:
    return 7 * x


# Both networks, whose factors are 1 and 3: slopes of 4 * 2x there and 4 * 10 * 7 behind it.
@pytest.mark.parametrize(
    ("transform", "activation", "expected"),
    [
        (smooth_transform, None, 8 * IMAGES),
        (None, smooth_activation, 0 * IMAGES + 280),
        (smooth_transform, smooth_activation, 8 * IMAGES + 280),
        (None, None, 0 * IMAGES),
    ],
    ids=["transform", "activation", "both", "neither"],
)
def test_bpda_replaces_slopes_and_nothing_else(
    transform: Any, activation: Any, expected: np.ndarray
) -> None:
    defense, x = Stepwise(), ops.convert_to_tensor(IMAGES)
    exact = values(defense.logits(x))
    wrapped = BPDA(defense, transform=transform, activation=activation)
    np.testing.assert_allclose(values(wrapped.logits(x)), exact, rtol=1e-5)
    found = values(sparring.gradient(lambda x: ops.sum(wrapped.logits(x), axis=-1), x))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # The defense itself is as it was.
    plain = values(sparring.gradient(lambda x: ops.sum(defense.logits(x), axis=-1), x))
    np.testing.assert_array_equal(plain, 0 * IMAGES)
    assert [vars(net) for net in defense.nets] == [{"factor": 1.0}, {"factor": 3.0}]


def test_bpda_restores_the_networks_after_an_error() -> None:
    defense = Stepwise()
    defense.fails = True
    wrapped = BPDA(defense, transform=smooth_transform, activation=smooth_activation)
    with pytest.raises(ArithmeticError, match="no answer"):
        wrapped.logits(ops.convert_to_tensor(IMAGES))
    assert [vars(net) for net in defense.nets] == [{"factor": 1.0}, {"factor": 3.0}]


# Finding attacks


def test_attacks_by_name_and_option() -> None:
    assert attacks.get("noise") == Noise()
    assert attacks.get("fgsm") == FGSM()
    assert attacks.get("pgd", {"steps": 3, "loss": "margin"}) == PGD(steps=3, loss="margin")
    assert attacks.get("square", {"queries": 9}) == Square(queries=9)
    assert {"noise", "fgsm", "pgd", "square"} <= set(attacks.ATTACKS)
    options = {"steps": 3}
    attacks.get("pgd", options)
    assert options == {"steps": 3}
    with pytest.raises(SettingsError, match=r"Valid: noise, fgsm, pgd, apgd, .*, a file"):
        attacks.get("nothing")
    with pytest.raises(SettingsError, match=r"option of the attack 'steps'.*Valid: none"):
        attacks.get("fgsm", {"steps": 3})
    with pytest.raises(SettingsError, match=r"'colour'.*Valid: draws, seed"):
        attacks.get("noise", {"colour": 3})


def test_the_reference_is_the_named_defense_s() -> None:
    from sparring.attacks.reference import advtrain, baseline

    assert attacks.get("reference", {}, "baseline") == baseline.attack
    assert attacks.get("reference", None, "advtrain") == advtrain.attack
    changed = replace(baseline.attack, steps=3)
    assert attacks.get("reference", {"steps": 3}, "baseline") == changed


def from_text(folder: Path, text: str, options: dict[str, Any] | None = None) -> Any:
    file = folder / "mine.py"
    file.write_text(text)
    return attacks.get(file, options)


def test_what_a_file_may_define(tmp_path: Path) -> None:
    function = "def attack(defense, x, y, threat, shade=1):\n    return shade\n"
    given = from_text(tmp_path, function)
    assert given(None, None, None, None) == 1
    assert given.__name__ == "attack"  # as it stands, when there are no options
    assert from_text(tmp_path, function, {"shade": 4})(None, None, None, None) == 4
    # What an attack is called with is no option.
    with pytest.raises(SettingsError, match=r"'threat'.*Valid: shade"):
        from_text(tmp_path, function, {"threat": 4})
    kind = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Attack:\n"
        "    shade: int = 2\n"
        "    def __call__(self, defense, x, y, threat):\n"
        "        return self.shade\n"
    )
    assert from_text(tmp_path, kind)(None, None, None, None) == 2
    assert from_text(tmp_path, kind, {"shade": 5})(None, None, None, None) == 5
    # A class goes before a function, and what is no function does not count.
    assert from_text(tmp_path, kind + function)(None, None, None, None) == 2
    assert from_text(tmp_path, "Attack = 3\n" + function)(None, None, None, None) == 1
    made = from_text(tmp_path, kind + "attack = Attack(7)\ndel Attack\n")
    assert made(None, None, None, None) == 7
    changed = from_text(
        tmp_path,
        "from sparring import PGD\nattack = PGD(steps=7, restarts=3)\n",
        {"steps": 2},
    )
    assert changed == PGD(steps=2, restarts=3)
    # Text names a file too, by its ending alone.
    assert attacks.get(str(tmp_path / "mine.py")) == PGD(steps=7, restarts=3)
    with pytest.raises(AttackError, match=r"mine\.py: NameError: name 'nowhere'"):
        from_text(tmp_path, "nowhere")


# For other libraries


def test_the_module_for_other_libraries_holds_the_networks_and_turns_images_around() -> None:
    if backend.name != "torch":
        pytest.skip("PyTorch alone")
    import torch

    net = AllConv((8, 12, 3), 4, filters=2)
    defense = Curved()
    defense.nets = [net]
    module = sparring.as_torch_module(defense)
    assert not module.training
    for parameter, variable in zip(module.parameters(), net.trainable_variables, strict=True):
        torch.testing.assert_close(parameter.data, variable.value.data)
        assert parameter is not variable.value  # moving the module does not move the defense
    seen = torch.from_numpy(np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(module(seen).numpy(), logits_of(IMAGES), rtol=1e-5)
