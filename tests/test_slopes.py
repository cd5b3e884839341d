"""Warnings of gradients that lie and of losses that still rise: numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops

from sparring import backend
from sparring.attacks import APGD, FGSM, PGD, Matching, Noise, Square, Wrapped
from sparring.attacks.gradients import straight_through
from sparring.evaluation import slopes
from sparring.evaluation.checks import Attempt
from sparring.threat import L2, Linf, ThreatModel
from tests.conftest import Linear

pytestmark = pytest.mark.backend

BALL = Linf(0.1)


def attempt(
    defense: Any, attack: Any, x: np.ndarray, success: Any = 0.0, threat: ThreatModel = BALL
) -> Attempt:
    """An attempt at images of class 1."""
    success = np.broadcast_to(np.array(success, float), len(x))
    return Attempt(defense, attack, threat, x, np.ones(len(x), np.int32), success)


def gray(n: int, *lying: int) -> np.ndarray:
    """Images of one gray; at those that lie the first pixel is lighter."""
    x = np.full((n, 8, 8, 1), 0.5, np.float32)
    x[list(lying), 0, 0, 0] = 0.75
    return x


class Lying(Linear):
    """Answers as the linear one; where the first pixel is light, with another gradient.

    That is `factor` times its own.
    """

    factor = -1.0

    def logits(self, x: Any, chance: Any = None) -> Any:
        exact = super().logits
        both = straight_through(exact, lambda x: self.factor * exact(x))(x)
        return ops.where(x[:, 0, 0] > 0.625, both, exact(x))


class Drawing(Lying):
    """Says that it draws."""

    stochastic = True


def mismatch(*arguments: Any, **options: Any) -> dict[str, str]:
    return {
        name: text
        for name, text in slopes.gradients(attempt(*arguments, **options))
        if name == "gradient-mismatch"
    }


def text(count: int, n: int) -> dict[str, str]:
    words = f"gradients of {count} of {n} images are off by more than half from finite differences"
    return {"gradient-mismatch": words}


@pytest.mark.parametrize(
    ("n", "lying", "told"), [(40, 10, True), (40, 9, False), (4, 2, True), (4, 1, False)]
)
@pytest.mark.parametrize("threat", [Linf(0.1), L2(1.0), L2(1e5)])
def test_gradients_that_lie_are_told_from_a_quarter_of_the_images_on(
    linear: Linear, n: int, lying: int, told: bool, threat: ThreatModel
) -> None:
    defense = Lying(linear.direction, linear.bias)
    x = gray(n, *range(lying))
    assert mismatch(defense, PGD(), x, threat=threat) == (text(lying, n) if told else {})


@pytest.mark.parametrize(
    ("factor", "told"),
    # By how much of the larger of both they are apart: |1 - f| / max(1, f).
    [(0.55, False), (0.45, True), (1.9, False), (2.1, True), (1.0, False), (-0.1, True)],
)
def test_a_gradient_may_be_off_by_half_of_the_larger(
    linear: Linear, factor: float, told: bool
) -> None:
    defense = Lying(linear.direction, linear.bias)
    defense.factor = factor
    assert bool(mismatch(defense, PGD(), gray(4, *range(4)))) is told


def test_the_margin_is_looked_at_or_what_the_attack_says_it_follows(linear: Linear) -> None:
    x = gray(4, *range(4))
    confident = Lying(3 * linear.direction, -12.0)  # cross entropies are below 1e-5
    sound = Linear(3 * linear.direction, -12.0)

    def by_hand(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return x

    for attack in (PGD(), APGD(), PGD(loss="margin"), FGSM(), by_hand):
        assert mismatch(confident, attack, x) == text(4, 4)
        assert mismatch(sound, attack, x) == {}

    @dataclass(frozen=True)
    class Own(PGD):
        def objective(self, defense: Any, x: Any, y: Any) -> tuple[Any, Any]:
            logits = sound.logits(x)
            return logits[:, 0] - logits[:, 1], logits[:, 0] > logits[:, 1]

    @dataclass(frozen=True)
    class Unlike(PGD):
        def objective(self, defense: Any, x: Any, y: Any) -> tuple[Any, Any]:
            return confident.logits(x)[:, 1], ops.zeros_like(y) > 0

    assert mismatch(confident, Own(), x) == {}
    assert mismatch(sound, Unlike(), x) == text(4, 4)


def test_of_whom_it_is_not_asked(linear: Linear) -> None:
    x = gray(4, *range(4))

    @dataclass(frozen=True)
    class WithAWrapper(PGD):
        """An attack that gives itself a better gradient, which is not known here."""

        def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
            raise AssertionError("is not run")

    lying = Lying(linear.direction, linear.bias)
    for attack in (Noise(), Square(), WithAWrapper()):
        assert list(slopes.gradients(attempt(lying, attack, x))) == []
    # What breaks more than half of these images gets along with their gradients.
    assert mismatch(lying, PGD(), x, success=[1, 1, 0, 0]) == text(4, 4)
    assert mismatch(lying, PGD(), gray(8, *range(8)), success=[*[1] * 5, 0, 0, 0]) == {}
    assert mismatch(lying, PGD(), gray(9, 0, 1, 2), success=[0, 0, 1, *[0] * 6]) == {}
    zero = Lying(linear.direction, linear.bias)
    zero.factor = 0.0  # a gradient of zero has a warning of its own
    assert {name for name, _ in slopes.gradients(attempt(zero, PGD(), x))} == {"zero-gradients"}
    assert mismatch(Drawing(linear.direction, linear.bias), PGD(), x) == {}


def test_differences_that_rounding_explains_are_none(linear: Linear) -> None:
    # Of logits of a million, one unit in the last place is 1/16. The differences come to 1/125 of
    # a pixel's 1 in the Euclidean norm.
    x = gray(4, *range(4))
    assert mismatch(Lying(1e-3 * linear.direction, 1e6), PGD(), x) == {}


# Losses that still rise


@dataclass(frozen=True)
class Scripted(PGD):
    """Losses that a test says; notes after which steps it was asked for them."""

    asked: ClassVar[list[tuple[int, list[int]]]] = []
    script: ClassVar[np.ndarray]

    def losses(self, defense: Any, x: Any, y: Any, threat: Any, after: Sequence[int]) -> np.ndarray:
        self.asked.append((len(x), list(after)))
        assert y.dtype == backend.label_dtype
        return self.script[list(after)][:, : len(x)]


def rising(curves: Sequence[Any], success: Any = 0.0, **options: Any) -> list[str]:
    """What is said of losses, one curve an image, over that many steps."""
    Scripted.script, Scripted.asked[:] = np.array(curves, float).T, []
    defense = options.pop("defense", Linear(np.ones((8, 8, 1)), 0.0))
    attack = Scripted(steps=len(curves[0]) - 1)
    found = list(slopes.still_rising(attempt(defense, attack, gray(len(curves)), success)))
    assert all(name == "still-rising" for name, _ in found)
    return [text for _, text in found]


def curve(speed: float) -> np.ndarray:
    """A loss that rises by 1 in 90 steps, and on at that share of its mean speed in all 100."""
    last = speed / 10 / (1 - speed / 10)  # so that last / (1 + last) = speed / 10
    return np.concatenate([np.linspace(0, 1, 91), 1 + last * np.arange(1, 11) / 10])


def test_the_last_tenth_of_the_steps_is_compared_with_the_mean() -> None:
    told = "the loss of 4 of the 4 images that the attack did not break still rises in the last "
    assert rising([curve(0.51)] * 4) == [f"{told}10 of 100 steps"]
    assert rising([curve(0.49)] * 4) == []
    assert rising([np.arange(101) * 1e-9] * 4) == [f"{told}10 of 100 steps"]
    assert rising([np.zeros(101)] * 4) == []
    assert rising([-np.arange(101)] * 4) == []
    assert rising([np.arange(6)] * 4) == [f"{told}1 of 5 steps"]
    assert rising([np.arange(2)] * 4) == [f"{told}1 of 1 steps"]
    # One that sways reaches nothing that it had not before, between 80 and 90 % of the steps.
    swaying = np.concatenate([np.linspace(0, 1, 86), np.linspace(0.5, 1, 15)])
    assert rising([swaying] * 4) == []
    assert Scripted.asked == [(4, [0, *range(80, 101)])]
    infinite = np.where(np.arange(101) > 50, np.inf, 0)
    assert rising([infinite, np.full(101, np.nan)] * 2) == []


@pytest.mark.parametrize(
    ("high", "flat", "told"), [(2, 2, True), (1, 1, False), (2, 3, False), (3, 3, True)]
)
def test_half_of_the_images_that_are_left_and_two_are_to_rise(
    high: int, flat: int, told: bool
) -> None:
    # Those that are broken do not count, and are not attacked again.
    curves = [np.arange(101)] * high + [np.zeros(101)] * (flat + 6)
    success = [0.5] * (high + flat) + [0.51] * 6
    assert bool(rising(curves, success)) is told
    assert Scripted.asked[0][0] == high + flat


def test_whose_losses_are_looked_at(linear: Linear) -> None:
    class Random(Linear):
        stochastic = True

    assert rising([np.arange(101)] * 4, defense=Random(np.ones((8, 8, 1)), 0.0)) == []

    @dataclass(frozen=True)
    class Otherwise(PGD):
        def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
            return x

    for attack in (Otherwise(steps=1), Matching(steps=1), Noise(), FGSM()):
        assert list(slopes.still_rising(attempt(linear, attack, gray(4)))) == []


class Wrapper(Wrapped):
    """Changes nothing."""

    def __init__(self, defense: Any) -> None:
        self.defense = defense

    def logits(self, x: Any, chance: Any = None) -> Any:
        return self.defense.logits(x, chance)


@pytest.mark.parametrize("wrapped", [False, True])
def test_losses_on_the_way(linear: Linear, wrapped: bool) -> None:
    # The margin of class 1 is -4 at the images, and each step of a tenth of eps gains 64 x 0.01.
    defense: Any = Wrapper(linear) if wrapped else linear
    x, y = gray(3), np.ones(3, np.int32)
    attack = PGD(steps=12, step_size=0.1, loss="margin", random_start=False)
    found = attack.losses(defense, x, y, Linf(0.1), [0, 1, 9, 10, 12])
    expected = [-4, -3.36, 1.76, 2.4, 2.4]  # after ten steps eps is used up
    np.testing.assert_allclose(found, np.repeat(expected, 3).reshape(5, 3), atol=1e-4)
    # With targets the first one, which is the only other class.
    aimed = PGD(steps=12, step_size=0.1, loss="margin", random_start=False, targets=1)
    np.testing.assert_allclose(aimed.losses(defense, x, y, Linf(0.1), [1]), -3.36, atol=1e-4)
    # APGD begins at a random point, and gives the best that it has looked at.
    best = APGD(steps=10, loss="margin").losses(defense, x, y, Linf(0.1), [0, 1, 2, 10])
    assert np.all(np.abs(best[0] + 4) < 2.4)
    np.testing.assert_array_equal(best[1], best[0])  # it has looked at the start alone
    np.testing.assert_allclose(best[2:], 2.4, atol=1e-4)  # a step of 2 eps


def test_the_start_is_the_attack_s_own(linear: Linear) -> None:
    x, y = gray(2), np.ones(2, np.int32)
    seeds = [
        PGD(steps=1, loss="margin", seed=seed).losses(linear, x, y, Linf(0.1), [0])
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(seeds[0], seeds[1])
    assert (seeds[0] != seeds[2]).all()


def test_steps_too_small_are_told_on_a_loss_that_rises_evenly(linear: Linear) -> None:
    for size, told in ((0.005, True), (None, False)):
        attack = PGD(steps=40, step_size=size)
        assert bool(list(slopes.still_rising(attempt(linear, attack, gray(4))))) is told
