"""Estimated gradients, stand-ins for any function, and smallest perturbations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring import backend
from sparring.attacks import BPDA, EOT, FGSM, PGD, Estimated, Smallest
from sparring.attacks.gradients import unwrapped
from sparring.errors import SettingsError
from sparring.evaluation import strips
from sparring.randomness import Chance
from sparring.threat import L2, Linf
from tests.conftest import Linear
from tests.test_attack_steps import IMAGES, Curved, Numbered, values

pytestmark = pytest.mark.backend

X = IMAGES[:3]


def tensor(array: np.ndarray) -> Any:
    return ops.convert_to_tensor(array)


def gradient_of(defense: Any, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of weighted sums of the logits of X, and the logits."""

    def loss(x: Any) -> Any:
        logits = defense.logits(x)
        return ops.sum(logits * tensor(weights)), logits

    step = defense.compiled(("loss",), lambda x: backend.input_gradient_and(loss, x))
    gradient, logits = step(tensor(X))
    return values(gradient), values(logits)


def directions(kind: str, samples: int) -> np.ndarray:
    """What the directions of X should be, [samples, B, H, W, C]."""
    found = []
    for sample in range(samples):
        chance = Chance(tensor(X), sample)
        first = values(chance.uniform(X[0].size))
        if kind == "spsa":
            found.append(np.where(first < 0.5, -1, 1))
        else:
            second = values(chance.uniform(X[0].size))
            found.append(np.sqrt(-2 * np.log(1 - first)) * np.cos(2 * np.pi * second))
    return np.reshape(found, (samples, *X.shape))


# Estimated


@pytest.mark.parametrize("kind", ["spsa", "nes"])
def test_an_estimate_puts_slopes_on_both_sides_together(kind: str) -> None:
    defense, weights = Curved(), np.array([[1, 0, -2]] * 3, np.float32)
    wrapped = Estimated(defense, samples=5, radius=0.1, directions=kind)
    gradient, logits = gradient_of(wrapped, weights)
    np.testing.assert_array_equal(logits, values(defense.logits(tensor(X))))
    expected = np.zeros_like(X, np.float64)
    for ahead in directions(kind, 5):
        up, down = (
            values(defense.logits(tensor((X + side * 0.1 * ahead).astype(np.float32))))
            for side in (1, -1)
        )
        slope = ((up - down) / 0.2 * weights).sum(axis=1)  # [B]
        expected += slope[:, None, None, None] * ahead / 5
    # Differences of float32 numbers of about 10, divided by 0.2.
    np.testing.assert_allclose(gradient, expected, atol=2e-4)


@pytest.mark.parametrize("kind", ["spsa", "nes"])
def test_directions_are_independent_and_of_variance_1(kind: str) -> None:
    wrapped = Estimated(Curved(), directions=kind)
    images = np.random.default_rng(0).random((400, 5, 5, 1), dtype=np.float32)
    first, second = (
        values(wrapped._direction(tensor(images), number)).reshape(400, -1) for number in (0, 1)
    )
    # Of 10,000 numbers the mean deviates by 0.01; four times that.
    for moment in (first, second, first * second, first**2 - 1, first[:, 1:] * first[:, :-1]):
        assert abs(moment.mean()) < 0.06
    assert (np.abs(first).max() == 1) == (kind == "spsa")


class Steps(Linear):
    """The linear defense in steps: no gradient anywhere."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return ops.round(super().logits(x, chance) * 4)


def test_an_estimate_breaks_what_has_no_gradient(linear: Linear) -> None:
    defense = Steps(linear.direction, linear.bias)
    x, y = np.full((4, 8, 8, 1), 0.5, np.float32), np.ones(4, np.int32)
    threat = Linf(0.08)  # the label's logit, 4, falls by 64 times 0.0625 and more
    attack = PGD(steps=20, loss="margin", random_start=False)
    plain = attack(defense, tensor(x), tensor(y), threat)
    estimated = attack(Estimated(defense, samples=100, radius=0.1), tensor(x), tensor(y), threat)
    assert not defense.broken(plain, y).any()
    assert defense.broken(estimated, y).all()


def test_an_estimate_of_a_random_defense_asks_each_side_with_the_draw_it_is_given() -> None:
    # Its first logit is an image's first value times the square of the draw.
    for defense, expected in ((Numbered(), 0.0), (EOT(Numbered(), 4), 3.5)):
        weights = np.array([[1, 0]] * 3, np.float32)
        wrapped = Estimated(defense, samples=400)
        gradient, _ = gradient_of(wrapped, weights)
        # A mean over 400 directions: of the value itself none deviates, of others by 3.5 / 20.
        np.testing.assert_allclose(gradient[:, 0, 0, 0], expected, rtol=1e-3, atol=1e-6)
        assert np.abs(gradient.reshape(3, -1)[:, 1:]).max() <= 0.2 * expected


def test_both_sides_are_asked_in_the_draw_that_is_given() -> None:
    wrapped = Estimated(Numbered(), samples=1)
    found = values(
        wrapped.compiled(
            ("slope",),
            lambda x: backend.input_gradient(
                lambda x: ops.sum(wrapped.logits(x, Chance(x, 3))[:, 0]), x
            ),
        )(tensor(X))
    )
    # The first value counts 9 times in draw 3, and no other; it is its own direction's square.
    np.testing.assert_allclose(found[:, 0, 0, 0], 9, rtol=1e-3)


def test_wrong_options_of_an_estimate(linear: Linear) -> None:
    for options, message in (
        ({"samples": 0}, "samples: expected an integer of 1 or more, got 0"),
        ({"radius": 0}, "radius: expected a number above 0 and at most 1, got 0"),
        ({"radius": 2}, "radius: expected a number above 0 and at most 1, got 2"),
        ({"directions": "sps"}, "unknown directions 'sps'. Did you mean 'spsa'"),
    ):
        with pytest.raises(SettingsError, match=message):
            Estimated(linear, **options)
    with pytest.raises(SettingsError, match="defense: expected a Defense"):
        Estimated(3)
    words = "Estimated(samples=50, radius=0.01, directions=spsa)"
    assert unwrapped(Estimated(linear)) == (linear, words.replace("spsa", "'spsa'"))


# BPDA around any function


class Voting(Linear):
    """It answers by a vote, which has no gradient."""

    def votes(self, x: Any, scale: float = 1.0) -> Any:
        return scale * ops.cast(Linear.logits(self, x) > 0, "float32")

    def logits(self, x: Any, chance: Any = None) -> Any:
        return self.votes(x, scale=3.0)


def test_any_function_of_a_defense_may_have_a_stand_in(linear: Linear) -> None:
    defense = Voting(linear.direction, linear.bias)
    x = np.full((2, 8, 8, 1), 0.5, np.float32)

    def soft(x: Any, scale: float) -> Any:
        return scale * linear.logits(x)

    wrapped = BPDA(defense, functions={"votes": soft})
    assert values(wrapped.logits(tensor(x))).tolist() == [[0, 3]] * 2
    found = sparring.gradient(lambda x: wrapped.logits(x)[:, 1], tensor(x))
    np.testing.assert_allclose(values(found), [3 * linear.direction] * 2)
    assert "votes" not in vars(defense)
    assert unwrapped(wrapped)[1] == "BPDA(transform=None, activation=None, votes=soft)"
    assert wrapped == BPDA(defense, functions={"votes": soft})
    assert hash(wrapped) != hash(BPDA(defense))
    assert {wrapped: 1}[BPDA(defense, functions={"votes": soft})] == 1
    y, threat = np.ones(2, np.int32), Linf(0.08)
    for attacked, broken in ((defense, False), (wrapped, True)):
        given = PGD(steps=5, random_start=False)(attacked, tensor(x), tensor(y), threat)
        assert defense.broken(given, y).tolist() == [broken] * 2


def test_what_is_no_function_of_the_defense_has_no_stand_in(linear: Linear) -> None:
    defense = Voting(linear.direction, linear.bias)
    with pytest.raises(SettingsError, match=r"unknown function .* 'vote'.* 'votes'"):
        BPDA(defense, functions={"vote": ops.square})
    for wrong in ("nets", "_checked", "bias"):
        with pytest.raises(SettingsError, match=f"unknown function of the defense '{wrong}'"):
            BPDA(defense, functions={wrong: ops.square})
    for given in (3, {"votes": 3}, {3: ops.square}, "votes", None):
        with pytest.raises(SettingsError, match="functions: expected functions by their names"):
            BPDA(defense, functions=given)
    wrapped = BPDA(defense, functions={"votes": lambda x, scale: x})
    with pytest.raises(SettingsError, match=r"votes: expected .* gives float32 \[2, 2\]"):
        wrapped.logits(ops.zeros((2, 8, 8, 1)))


# Smallest


def known(linear: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Images whose label's logit is 1, 2.2, 3 and 12, so smallest at 1/64 of that in Linf."""
    x = np.full((4, 8, 8, 1), 0.5, np.float32)
    for image, logit in zip(x, (1, 2.2, 3, 12), strict=True):
        image += np.float32((logit - 4) / 64) * linear.direction
    return x, np.ones(4, np.int32)


def test_the_smallest_perturbation_is_found_within_a_part_of_eps(linear: Linear) -> None:
    x, y = known(linear)
    threat = Linf(0.08)
    smallest = np.array([1, 2.2, 3]) / 64
    for rounds in (3, 5):
        given = Smallest(FGSM(), rounds=rounds)(linear, tensor(x), tensor(y), threat)
        distance = threat.distance(given, x)
        assert linear.broken(given, y).tolist() == [True, True, True, False]
        part = 0.08 / 2**rounds
        assert (distance[:3] >= smallest).all()
        assert (distance[:3] <= smallest + 1.001 * part).all()
    np.testing.assert_array_equal(given[3], x[3])
    # A length: of 64 equal steps, 8 times one.
    length = L2(0.08 * 8)
    given = Smallest(FGSM(), rounds=5)(linear, tensor(x), tensor(y), length)
    found = length.distance(given, x)[:3] / 8
    assert ((found >= smallest) & (found <= smallest + 1.001 * 0.08 / 32)).all()


def test_an_image_is_attacked_at_few_radii_and_with_others_of_its_radius(linear: Linear) -> None:
    x, y = known(linear)
    asked: list[tuple[float, int]] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        asked.append((round(threat.eps * 100, 6), len(x)))
        return FGSM()(defense, x, y, threat)

    Smallest(attack, rounds=3)(linear, tensor(x), tensor(y), Linf(0.08))
    # Of eight parts: all at 8; three at 4, which breaks those at 1.6 and 3.4 parts and not 4.7.
    # Then those two at 2 and the third at 6; the next between those, in parts of 1.
    assert asked == [(8, 4), (4, 3), (2, 2), (6, 1), (1, 1), (3, 1), (5, 1)]


def test_a_point_that_is_nearer_than_its_radius_counts_as_near(linear: Linear) -> None:
    x, y = known(linear)
    asked: list[float] = []

    def near(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        asked.append(threat.eps)
        return FGSM()(defense, x, y, Linf(min(threat.eps, 0.04)))

    given = Smallest(near, rounds=3)(linear, tensor(x[:1]), tensor(y[:1]), Linf(0.08))
    assert np.round(np.array(asked) * 100, 6).tolist() == [8, 2, 1]
    assert linear.broken(given, y[:1]).all()


def test_smallest_takes_an_attack(linear: Linear) -> None:
    with pytest.raises(SettingsError, match="rounds: expected an integer of 1 or more, got 0"):
        Smallest(FGSM(), rounds=0)
    with pytest.raises((SettingsError, sparring.AttackError)):
        Smallest(3)
    x = np.full((4, 8, 8, 1), 128, np.uint8)
    data = sparring.Dataset("linear", x, np.ones(4, int), x, np.ones(4, int), ("a", "b"))
    verdict = sparring.evaluate(linear, Smallest(FGSM()), Linf(0.1), data, 4, check=False)
    assert verdict.success_rate.value == 1
    assert verdict.about.attack == "Smallest(attack=FGSM(), rounds=5)"
    np.testing.assert_allclose(verdict.distance, 0.0625, atol=0.1 / 32)
    assert "success by eps" not in str(sparring.evaluate(linear, "fgsm", Linf(0.1), data, 4))


def test_success_at_every_radius_is_told_and_drawn(linear: Linear, tmp_path: Path) -> None:
    x = np.full((4, 8, 8, 1), 128, np.uint8)
    for image, less in zip(x, (0, 8, 12, -16), strict=True):  # in steps of 1/255 along each pixel
        image -= (less * linear.direction).astype(np.uint8)
    data = sparring.Dataset("linear", x, np.ones(4, int), x, np.ones(4, int), ("a", "b"))
    options: Any = {"min_eps": True, "check": False, "out": tmp_path / "verdict"}
    verdict = sparring.evaluate(linear, "fgsm", Linf(0.08), data, 4, **options)
    # Logits are 4 less 64/255 for each step, and smallest perturbations a 64th of that: 0.0625,
    # 0.0311, 0.0154 and, out of reach, 0.125.
    assert verdict.about.attack == "Smallest(attack=FGSM(), rounds=5)"
    assert verdict.name == "fgsm n=4 min-eps"
    assert [verdict.success_within(eps) for eps in (0.01, 0.02, 0.04, 0.07, 0.08)] == [
        *(0, 0.25, 0.5, 0.75, 0.75),
    ]
    assert (
        "success by eps   0 % at 0.01, 25 % at 0.02, 25 % at 0.03, 50 % at 0.04, "
        "50 % at 0.05, 50 % at 0.06, 75 % at 0.07, 75 % at 0.08"
    ) in str(verdict)
    page = (tmp_path / "verdict" / "verdict.html").read_text()
    assert "success grows from 0 to 75 % at eps 0.08" in page
    again = sparring.evaluate(linear, "fgsm", Linf(0.08), data, 4, **options)
    np.testing.assert_array_equal(again.rows, verdict.rows)


def test_the_checks_of_a_bisection_run_the_attack_itself(linear: Linear) -> None:
    asked: list[float] = []
    before: list[int] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        asked.append(round(threat.eps, 6))
        return FGSM()(defense, x, y, threat)

    def tell(done: int, total: int, message: str) -> None:
        if message.startswith("looking for signs"):
            before.append(len(asked))

    x = np.full((6, 8, 8, 1), 128, np.uint8)
    x[:3] += (10 * linear.direction).astype(np.int8).astype(np.uint8)  # out of reach
    data = sparring.Dataset("linear", x, np.ones(6, int), x, np.ones(6, int), ("a", "b"))
    verdict = sparring.evaluate(linear, attack, Linf(0.07), data, 6, min_eps=True, progress=tell)
    assert verdict.success_rate.value == 0.5
    assert min(asked[: before[0]]) < 0.07
    assert min(asked[before[0] :]) >= 0.07


def test_growth_is_drawn_to_scale() -> None:
    picture = str(strips.growth(np.array([0.05, 0.1]), 4, 0.2))
    # From 38 to 345 across and from 150 up to 8: a quarter of the way up at a quarter of eps.
    assert (
        'points="38.0,150.0 114.8,150.0 114.8,114.5 191.5,114.5 191.5,79.0 345.0,79.0"' in picture
    )
