"""Planted adversarial examples: they are there, sound attacks find them, obstructed ones do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

from sparring import attacks, backend
from sparring.attacks import APGD, BPDA, PGD, Matching, Square, Wrapped
from sparring.data import load
from sparring.defenses.defense import Defense
from sparring.evaluation import checks, planted
from sparring.evaluation.checks import Attempt
from sparring.evaluation.planted import Bypassed, Layer, Planted
from sparring.threat import L2, Linf, ThreatModel
from tests.conftest import Linear
from tests.test_checks import train

pytestmark = pytest.mark.backend

once = pytest.mark.skipif(backend.name != "torch", reason="what is trained is so there")


def told(defense: Any, attack: Any, threat: ThreatModel, x: Any, y: Any) -> list[str]:
    """What is said of planted adversarial examples, of an attack that breaks nothing."""
    attempt = Attempt(defense, attack, threat, x, y, np.zeros(len(x)))
    return [text for _, text in planted.found(attempt)]


def line(origin: Any, inner: Any, surface: Any) -> tuple[np.ndarray, ...]:
    """The line for one image of two logits, whatever they are."""
    arrays = (np.array(each, float) for each in (origin, inner, surface))
    middle, within, outside = arrays
    return planted._line(middle[None], within[:, None], outside[:, None])


def test_the_line_is_the_one_along_which_a_point_stands_out_most() -> None:
    # Within, the first logit spreads four times as far as the second: mean squares 8 and 1/2. So
    # (0, 3) is 18 such units out, (4, 0) only 2; the line is (0, 3 / (1/2)) = (0, 6). Along it
    # the last of those within is at 6, the point at 18, and 9/10 of the way between is 16.8.
    inner = [(4, 0), (-4, 0), (0, 1), (0, -1)]
    slope, far, there = line((5, 5), np.add(inner, 5), [(9, 5), (5, 8)])
    # A thousandth of the mean of both squares, 4.25, steadies what is inverted: 0.5 + 0.00425.
    steadied = 0.50425 + 2.5e-7  # and 1e-4 of the logits, squared
    np.testing.assert_allclose(slope, [[0, 3 / steadied]], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(far, [(1 + 0.9 * 2) * 3 / steadied], rtol=1e-9)
    assert there.tolist() == [True]


@pytest.mark.parametrize(("height", "there"), [(2.0, True), (1.6, False), (1.0, False)])
def test_a_point_stands_out_by_one_standard_deviation(height: float, there: bool) -> None:
    # Those within reach to 1, and their standard deviation is the root of a half, 0.707.
    inner = [(4, 0), (-4, 0), (0, 1), (0, -1)]
    assert line((0, 0), inner, [(0, height)])[2].tolist() == [there]


def test_logits_that_are_constant_but_for_rounding_are_no_line() -> None:
    random = np.random.default_rng(0)
    inner = 100 + 1e-5 * random.standard_normal((64, 2))
    surface = np.array([[100, 100 + 1e-4]])
    assert line((100, 100), inner, surface)[2].tolist() == [False]
    assert line((0.1, 0.1), inner - 99.9, surface - 99.9)[2].tolist() == [True]


@pytest.fixture
def layered(linear: Linear) -> Planted:
    """A layer for a black and a white image; logits are 0 and alternating sums + 4."""
    x = np.stack([np.zeros((8, 8, 1)), np.ones((8, 8, 1))]).astype(np.float32)
    numbers = ([4.0, 3.0], [[0.0, 4.0], [0.0, 4.0]], [[0.0, 2.0], [1.0, -0.5]])
    lead, origin, slope = (np.array(each, np.float32) for each in numbers)
    return Planted(linear, Layer(x, np.array([1, 0]), np.array([0, 1]), lead, origin, slope))


def test_a_point_gets_the_layer_of_the_nearest_image(layered: Planted) -> None:
    points = np.stack([np.full((8, 8, 1), gray) for gray in (0.0, 0.4, 0.6, 1.0)])
    points = np.repeat(points, 2, axis=0).astype(np.float32)
    points[1::2, 0, 1, 0] -= 0.25  # a pixel that counts with 1
    logits = ops.convert_to_numpy(layered.logits(ops.convert_to_tensor(points)))
    # Black: 4 - 2 moved for class 1; white: 3 + moved / 2 for class 0. Half of it, and the
    # negative for the other; moved is 0 or -1/4.
    black, white = (4 + 0.5) / 2, (3 - 0.125) / 2
    expected = [(-2, 2), (-black, black), (-2, 2), (-black, black)]
    expected += [(1.5, -1.5), (white, -white), (1.5, -1.5), (white, -white)]
    np.testing.assert_allclose(logits, expected, atol=1e-5)  # sums of 64 values
    one = ops.convert_to_numpy(layered.logits(ops.convert_to_tensor(points[5:6])))
    np.testing.assert_allclose(one, logits[5:6], atol=1e-5)


class Three(Linear):
    """Three classes, the third far behind."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.info = self.info.__class__("linear", self.info.shape, tuple("abc"), False, 1, 1, "")

    def logits(self, x: Any, chance: Any = None) -> Any:
        two = super().logits(x)
        return ops.concatenate([two, two[:, :1] - 9], axis=-1)


def test_other_classes_stay_behind_by_the_lead(linear: Linear) -> None:
    x = np.full((1, 8, 8, 1), 0.5, np.float32)
    made = Planted.around(Three(linear.direction, linear.bias), Linf(0.1), x, np.array([1]))
    assert made is not None
    defense, rows = made
    assert rows.tolist() == [0]
    found = ops.convert_to_numpy(defense.logits(ops.convert_to_tensor(x)))
    np.testing.assert_allclose(found, [[-2, 2, -4]], atol=1e-5)  # the label leads by 4 as ever


def digits(defense: Defense, n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Images that it answers rightly, and their labels."""
    data = load("digits")
    x, y = data.x_test[: 2 * n].astype(np.float32) / 255, data.y_test[: 2 * n]
    right = ~defense.broken(x, y)
    return x[right][:n], y[right][:n]


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.5)])
def test_every_image_has_one_adversarial_example_that_chance_does_not_find(
    digits_baseline: Defense, threat: ThreatModel
) -> None:
    x, y = digits(digits_baseline)
    made = Planted.around(digits_baseline, threat, x, y)
    assert made is not None
    defense, rows = made
    assert rows.tolist() == list(range(len(x)))
    assert not defense.broken(x, y).any()
    inner, surface = (
        defense.broken(points, np.tile(y, planted.POINTS)).reshape(-1, len(x))
        for points in planted._points(threat, x)
    )
    assert not inner.any()
    assert surface.any(axis=0).all()
    assert surface.mean() <= 0.05  # 1/64 is the planted one
    for points in planted._points(threat, x):
        assert threat.check(points, np.tile(x, (planted.POINTS, 1, 1, 1))).valid.all()
    # The image keeps its lead, by which a loss saturates as it does without the layer.
    before, after = (
        np.sort(ops.convert_to_numpy(each.logits(ops.convert_to_tensor(x))), axis=1)
        for each in (digits_baseline, defense)
    )
    np.testing.assert_allclose(after[:, -1] - after[:, -2], before[:, -1] - before[:, -2], 1e-4)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(steps=10),
        pytest.param(APGD(steps=10), marks=once),
        pytest.param(Square(300), marks=once),
    ],
)
def test_sound_attacks_find_all(digits_baseline: Defense, attack: Any) -> None:
    x, y = digits(digits_baseline)
    assert told(digits_baseline, attack, Linf(0.05), x, y) == []


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("discretize", {}, 0),
        ("temperature", {"epochs": 60, "base": 1.08, "learning_rate": 0.1}, None),
    ],
)
def test_what_hides_gradients_hides_what_is_planted_until_it_is_got_around(
    tmp_path: Path, name: str, settings: dict[str, Any], found: int | None
) -> None:
    defense, x, y = train(name, tmp_path, **settings)
    [text] = told(defense, PGD(steps=10), Linf(0.1), x, y)
    assert text.endswith("planted adversarial examples")
    if found is not None:
        assert text.startswith(f"the attack finds {found} of ")
    reference = attacks.get("reference", {"steps": 20}, defense=name)
    assert told(defense, reference, Linf(0.1), x, y) == []


def test_a_stand_in_of_a_wrapper_reaches_the_networks_within(tmp_path: Path) -> None:
    from sparring.attacks.reference.discretize import smooth

    defense, x, y = train("discretize", tmp_path)
    wrapped = BPDA(defense, transform=smooth)
    assert told(wrapped, PGD(steps=20, loss="margin", momentum=0.75), Linf(0.1), x, y) == []


class Masked(Linear):
    """Answers as the linear one, without a gradient."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return super().logits(ops.stop_gradient(x))


class Unmasked(Wrapped):
    """Gives the logits of the linear one, which have a gradient, and asks for those within."""

    def __init__(self, defense: Any) -> None:
        self.defense = defense

    def logits(self, x: Any, chance: Any = None) -> Any:
        return self.defense.logits(x, chance)


def images(linear: Linear, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images far from each other, all of class 1 by 4, around which something can be planted.

    Neighbors are alike, so alternating sums are 0. With two logits few points stand out, and around
    some images none.
    """
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (2 * n, 8, 4, 1))
    x = (0.5 + 0.3 * np.repeat(signs, 2, axis=2)).astype(np.float32)
    y = np.ones(2 * n, np.int64)
    made = Planted.around(linear, Linf(0.1), x, y)
    assert made is not None
    _, rows = made
    assert len(rows) >= n
    return x[rows[:n]], y[:n]


def finding(count: int) -> Callable[..., Any]:
    """An attack that finds what is planted on so many images, of as many surface points."""

    def attack(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        originals, labels = (np.array(ops.convert_to_numpy(each)) for each in (x, y))
        _, surface = planted._points(threat, originals)
        best = originals.copy()
        for points in surface.reshape(planted.POINTS, *originals.shape):
            broken = defense.broken(points, labels)
            best[broken] = points[broken]
        best[count:] = originals[count:]
        return best

    return attack


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("missed", "says"), [(0, False), (1, False), (2, True), (10, True)])
def test_two_that_are_not_found_are_told(
    linear: Linear, missed: int, says: bool, wrapped: bool
) -> None:
    x, y = images(linear, 10)
    defense: Any = Unmasked(linear) if wrapped else linear
    text = f"the attack finds {10 - missed} of 10 planted adversarial examples"
    assert told(defense, finding(10 - missed), Linf(0.1), x, y) == ([text] if says else [])


def test_only_those_are_counted_that_are_there(linear: Linear) -> None:
    x, y = images(linear, 10)
    y[:4] = 0  # labels that the logits do not name have no lead
    [text] = told(linear, finding(0), Linf(0.1), x, y)
    assert text == "the attack finds 0 of 6 planted adversarial examples"
    assert told(linear, finding(0), Linf(0.1), x[:4], y[:4]) == []


def test_attacks_that_go_around_the_layer_are_not_judged_by_it(digits_baseline: Defense) -> None:
    x, y = digits(digits_baseline, 5)
    asked: list[Any] = []

    def by_network(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        asked.append(defense)
        defense.nets[0](x)
        return x

    def by_features(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        try:
            defense.nets[0].features(x)
        except Bypassed:
            asked.append(defense)
        return x

    def by_parts(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        asked.append(defense)
        return x - defense.signatures

    for attack in (by_network, by_features, by_parts):
        assert told(digits_baseline, attack, Linf(0.05), x, y) == []
    assert [defense.notes.bypassed for defense in asked] == [True, True, False]
    assert told(digits_baseline, Matching(steps=1), Linf(0.05), x, y) == []

    def idle(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return x

    def failing(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        raise ValueError("too much")

    assert told(digits_baseline, idle, Linf(0.05), x, y) != []
    with pytest.raises(ValueError, match="too much"):
        told(digits_baseline, failing, Linf(0.05), x, y)
    # The defense's own network is asked as ever.
    digits_baseline.nets[0](ops.convert_to_tensor(x))


def test_nothing_is_planted_where_answers_are_drawn_or_networks_are_others(linear: Linear) -> None:
    x, y = images(linear, 5)

    class Drawing(Masked):
        stochastic = True

    class Foreign(Masked):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.nets = [object()]

    for kind, says in ((Masked, True), (Drawing, False), (Foreign, False)):
        defense = kind(linear.direction, linear.bias)
        assert bool(told(defense, PGD(steps=2), Linf(0.1), x, y)) is says


class Broken(Linear):
    """Has no finite logits."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return super().logits(x) + np.float32(np.inf)


def test_nothing_is_planted_where_logits_are_not_finite(linear: Linear) -> None:
    x, y = images(linear, 5)
    assert told(Broken(linear.direction, linear.bias), PGD(steps=2), Linf(0.1), x, y) == []


def test_it_is_among_the_checks(linear: Linear) -> None:
    x, y = images(linear, 10)
    masked = Masked(linear.direction, linear.bias)
    attempt = Attempt(masked, PGD(steps=2), Linf(0.1), x, y, np.zeros(10))
    assert "planted" in {warning.name for warning in checks.look(attempt)}
