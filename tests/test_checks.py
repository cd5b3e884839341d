"""Warnings: each fires where it is deserved and not on the baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops

import sparring
from sparring import attacks, backend
from sparring.attacks import APGD, BPDA, EOT, FGSM, PGD, Noise
from sparring.data import Dataset, load
from sparring.defenses.defense import Defense
from sparring.evaluation import checks, planted, slopes
from sparring.evaluation.checks import Attempt
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.rates import Rate
from sparring.randomness import Chance
from sparring.runs.records import EvaluationWarning
from sparring.threat import L2, Linf, ThreatModel
from tests.conftest import Linear, Zoo, patterns

pytestmark = pytest.mark.backend

# Trained networks show on PyTorch that warnings come where they are deserved; which rule each of
# them follows is tested below on every backend, by scripted attacks.
once = pytest.mark.skipif(backend.name != "torch", reason="scripted attacks test it here")

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
    defense = checks.observed(defense) if defense.stochastic else defense
    given = attack(defense, ops.convert_to_tensor(x), ops.convert_to_tensor(y), threat)
    success = defense.broken_share(given, y)
    found = checks.look(Attempt(defense, attack, threat, x, y, success), transfer)
    for each in found:
        assert f"\n## {each.name}\n" in PAGE
        assert each.text
    return {each.name for each in found}


@pytest.mark.parametrize(
    "attack", [PGD(), pytest.param(PGD(loss="margin", restarts=2), marks=once)]
)
def test_nothing_is_said_of_a_sound_attack_on_the_baseline(
    digits_baseline: Defense, attack: Any
) -> None:
    assert warned(digits_baseline, attack) == set()


@once
def test_weak_attacks_are_told(digits_baseline: Defense) -> None:
    assert "more-steps" in warned(digits_baseline, PGD(steps=3, step_size=0.1), Linf(0.12))
    assert "black-box-wins" in warned(digits_baseline, PGD(steps=3, step_size=0.1), Linf(0.12))
    assert "still-rising" in warned(digits_baseline, PGD(steps=20, step_size=0.01), Linf(0.12))
    assert "unlimited" in warned(digits_baseline, FGSM())
    other = digits_baseline  # what is transferred from the very same network breaks it
    assert "transfer-wins" in warned(digits_baseline, PGD(steps=1, step_size=0.1), None, other)


@once
def test_noise_that_beats_an_attack_is_told(digits_baseline: Defense) -> None:
    def nothing(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return x

    assert {"noise-wins", "unlimited", "black-box-wins"} <= warned(
        digits_baseline, nothing, Linf(0.3)
    )


@once
def test_success_that_falls_with_eps_is_told(digits_baseline: Defense) -> None:
    def timid(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return PGD(steps=20)(defense, x, y, threat) if threat.eps < 0.2 else x

    assert "not-rising" in warned(digits_baseline, timid, Linf(0.1))


@once
def test_an_attack_that_fails_elsewhere_is_told(digits_baseline: Defense) -> None:
    def picky(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        assert threat.eps < 0.2
        return PGD(steps=20)(defense, x, y, threat)

    assert "check-failed" in warned(digits_baseline, picky, Linf(0.1))


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


@once
def test_gradients_that_do_not_see_a_jump_are_told(zoo: Zoo) -> None:
    assert {"gradient-mismatch", "planted"} <= warned(zoo("jump"), PGD(), Linf(0.05))


@once
def test_nothing_is_said_of_a_stand_in_within_an_attack(zoo: Zoo) -> None:
    # At this eps it breaks less than half, and the defense itself has no gradient.
    given: Any = attacks.get("reference", defense="discretize")
    reference = replace(given, restarts=1)
    found = warned(zoo("discretize"), reference, Linf(0.04))
    assert not found & {"zero-gradients", "gradient-mismatch", "planted", "still-rising"}


@once
@pytest.mark.parametrize("name", ["transform", "randomneuron"])
def test_randomness_without_averaging_is_told(tmp_path: Path, name: str) -> None:
    defense, x, y = train(name, tmp_path)

    def averaging(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return PGD(steps=2)(EOT(defense, 2), x, y, threat)

    x, y = x[:8], y[:8]
    assert "not-averaged" in names(defense, PGD(steps=2), Linf(0.1), x, y)
    assert "not-averaged" not in names(defense, Noise(), Linf(0.1), x, y)  # asks for no logits
    for _ in range(
        2 if name == "transform" else 0
    ):  # the second time everything is compiled already
        assert "not-averaged" not in names(defense, averaging, Linf(0.1), x, y)


class Probabilities(Linear):
    """Gives probabilities for logits."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return ops.softmax(super().logits(x), axis=-1)


class Bad(Linear):
    """Has gradients that are not numbers."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return super().logits(x) + ops.sum(ops.sqrt(ops.square(x - 0.5)))


@pytest.mark.parametrize(
    ("kind", "name"), [(Probabilities, "probabilities"), (Bad, "bad-gradients")]
)
def test_odd_outputs_are_told(linear: Linear, kind: Callable[..., Defense], name: str) -> None:
    x = np.full((4, 8, 8, 1), 0.5, np.float32)
    odd = kind(linear.direction, linear.bias)
    assert name in names(odd, asks(), Linf(0.1), x, np.ones(4, np.int32))
    assert name not in names(linear, asks(), Linf(0.1), x, np.ones(4, np.int32))


def test_few_images_are_told() -> None:
    assert checks.few_images(Rate.of(np.arange(100) % 2)) == []
    [only] = checks.few_images(Rate.of(np.arange(60) % 2))
    assert only.name == "few-images"
    assert "60 attacked images leave an interval of 25 points" in only.text


@pytest.mark.parametrize(
    ("success", "told"),
    [
        ([1.0, 0.5, 0.6, 0.0, 0.0], True),  # 60 % and 42 %
        ([1.0, 0.75, 0.7, 0.0, 0.0], True),  # 60 % and 49 %
        ([1.0, 0.75, 0.8, 0.0, 0.0], False),  # 60 % and 51 %
        ([1.0, 1.0, 0.0, 0.0], False),
        ([], False),
    ],
)
def test_success_in_some_draw_is_told_where_it_is_far_above_the_mean(
    success: list[float], told: bool
) -> None:
    found = checks.some_draw(np.array(success), 20)
    assert [each.name for each in found] == (["some-draw"] if told else [])
    assert "\n## some-draw\n" in PAGE
    if success == [1.0, 0.5, 0.6, 0.0, 0.0]:
        text = "60 % are broken in one of 20 draws or more, 42 % in the mean draw"
        assert found[0].text == text


def test_the_judge_reports_them(digits_baseline: Defense) -> None:
    verdict = evaluate(digits_baseline, FGSM(), Linf(0.15), n=50)
    assert "unlimited" in [each.name for each in verdict.warnings]
    assert "docs/warnings.md#unlimited" in str(verdict)
    quiet = evaluate(digits_baseline, FGSM(), Linf(0.15), n=50, check=False)
    assert quiet.warnings == []


# Every threshold, with attacks that break as many images as a test says. An image here is answered
# by its first pixel, class 1 above one half; the next three say what its gradient is like.

SOFT = 0.5625  # exact in float32, as all numbers here are
OTHER = 0.484375  # 1/64 below one half, 5/64 away from SOFT
BASE, TWICE, ALL = Linf(0.125), Linf(0.25), Linf(1.0)
MASKED, NAN, INFINITE = ((0, 1, 0), 0.75), ((0, 2, 0), 0.0), ((0, 3, 0), 0.0)


class Corner(Linear):
    """Class 1 where the first pixel is above one half; with masked and bad gradients on demand."""

    def __init__(self) -> None:
        direction = np.zeros((8, 8, 1))
        direction[0, 0, 0] = 1
        super().__init__(direction, 0.5)

    def logits(self, x: Any, chance: Any = None) -> Any:
        x = ops.where(x[:, :1, 1:2] > 0.625, ops.stop_gradient(x), x)
        # The slope of a root at zero is infinite; times that of a square there, which is zero, it
        # is not a number.
        roots = ops.sqrt(ops.square(x[:, 0, 2, 0])), ops.sqrt(x[:, 0, 3, 0])
        return super().logits(x) + 1e-6 * ops.stack(roots, axis=-1)


class Dice(Corner):
    """Says that it draws."""

    stochastic = True


def corners(count: int, *special: tuple[int, tuple[tuple[int, int, int], float]]) -> np.ndarray:
    """Images of class 1, some of them special: (which, (pixel, value))."""
    x = np.full((count, 8, 8, 1), 0.5, np.float32)
    x[:, 0, 0, 0] = SOFT
    for which, (place, value) in special:
        x[(which, *place)] = value
    return x


def broken(x: Any, count: int) -> np.ndarray:
    """The images, the first `count` of them moved to where the answer is another."""
    images = np.array(ops.convert_to_numpy(x))
    images[:count, 0, 0, 0] = OTHER
    return images


class Ours:
    """Stands in for an attack of ours: breaks the first `count` images, and notes what it gets."""

    count = 0
    calls: ClassVar[list[tuple[dict[str, Any], Any, np.ndarray, np.ndarray, ThreatModel]]]

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        images, labels = (np.array(ops.convert_to_numpy(each)) for each in (x, y))
        self.calls.append((self.options, defense, images, labels, threat))
        return broken(images, self.count)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Ours]]:
    """Noise, Square and PGD as the checks use them, replaced by ones that break nothing.

    Nothing is planted, which attacks that follow a script would not find.
    """
    monkeypatch.setattr(planted, "found", lambda attempt: iter(()))
    kinds: dict[str, type[Ours]] = {}
    for name in ("Noise", "Square", "PGD"):
        kinds[name] = type(name, (Ours,), {"calls": []})
        for module in (checks, slopes):
            monkeypatch.setattr(module, name, kinds[name], raising=False)
    return kinds


@pytest.fixture(scope="module")
def corner() -> Corner:
    return Corner()


def look(
    defense: Defense,
    attack: Any,
    success: Any,
    x: np.ndarray,
    threat: ThreatModel = BASE,
    transfer: Any = None,
) -> dict[str, str]:
    """Names and texts of the warnings about images of class 1."""
    y = np.ones(len(x), np.int64)
    attempt = Attempt(defense, attack, threat, x, y, np.array(success, float))
    found = checks.look(attempt, transfer)
    texts = {each.name: each.text for each in found}
    assert len(texts) == len(found)
    return texts


def trial(defense: Defense, x: np.ndarray, y: np.ndarray | None = None) -> Attempt:
    """Images of class 1, by default, to try attacks on."""
    y = np.ones(len(x), np.int32) if y is None else y
    return Attempt(defense, Noise(), BASE, x, y, np.zeros(len(x)))


@pytest.mark.parametrize(("n", "least"), [(5, 2), (40, 2), (41, 2.05), (60, 3), (100, 5)])
def test_differences_are_told_from_5_percent_and_two_images_on(
    corner: Corner, n: int, least: float
) -> None:
    attempt = trial(corner, corners(n))
    before = np.full(n, 0.5)
    enough, less = before + (least + 1e-6) / n, before + (least - 1e-6) / n
    assert attempt.more(enough, before) is True
    assert attempt.more(less, before) is False
    assert attempt.more(before, enough) is False
    # What counts is the number of images looked at, be it fewer that are compared.
    assert attempt.more(np.array([least + 1e-6]), np.array([0.0]))
    assert not attempt.more(np.array([least - 0.01]), np.array([0.0]))


# Of 40 images the attack breaks 20. How many come to light otherwise without a word: one more by
# noise and by longer attacks, one less at twice the eps, all but one without a limit, and of those
# that are left one by the Square attack and one by transfer.
QUIET = {"Noise": 21, "doubled": 19, "all": 39, "longer": 21, "Square": 1, "PGD": 1}


@pytest.mark.parametrize(
    ("condition", "count", "name", "text"),
    [
        ("Noise", 22, "noise-wins", "random noise succeeds for 55 %, the attack 50 %"),
        ("doubled", 18, "not-rising", "success falls from 50 % to 45 % at Linf(0.25)"),
        ("all", 38, "unlimited", "with Linf(1) success is 95 %, not 100 %"),
        ("longer", 22, "more-steps", "4 times the steps raise success from 50 % to 55 %"),
        (
            *("Square", 2, "black-box-wins"),
            "300 queries of the Square attack break 2 of the 20 images that the attack did not",
        ),
        (
            *("PGD", 2, "transfer-wins"),
            "adversarial images of linear break 2 of the 20 images that the attack did not",
        ),
        ("", 0, "", ""),
    ],
)
def test_each_warning_comes_at_its_threshold_and_not_before(
    corner: Corner, ours: dict[str, type[Ours]], condition: str, count: int, name: str, text: str
) -> None:
    counts = {**QUIET, condition: count}
    for kind in ours:
        ours[kind].count = counts[kind]
    scripted: dict[tuple[ThreatModel, int], int] = {
        (TWICE, 5): counts["doubled"],
        (ALL, 5): counts["all"],
        (BASE, 20): counts["longer"],
    }

    def attack(defense: Any, x: Any, y: Any, threat: ThreatModel, steps: int = 5) -> Any:
        return broken(x, scripted[threat, steps])

    success = [1.0] * 20 + [0.0] * 20
    expected = {name: text} if name else {}
    assert look(corner, attack, success, corners(40), transfer=corner) == expected


def test_how_attacks_of_ours_are_run(corner: Corner, ours: dict[str, type[Ours]]) -> None:
    x = corners(6)
    x[:, 7, 7, 0] = np.arange(6) / 8  # tells them apart
    source = Corner()
    success = [1.0, 0.6, 0.5, 0.0, 0.4, 0.51]

    def attack(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return broken(x, 6)

    assert look(corner, attack, success, x, transfer=source) == {}
    left = [2, 3, 4]  # those broken in no more than half of the draws
    expected = {
        "Noise": ({"draws": 10}, corner, range(6)),
        "Square": ({"queries": 300}, corner, left),
        "PGD": ({"loss": "margin", "early_stopping": False}, source, left),
    }
    for name, (options, defense, rows) in expected.items():
        [(given, asked, images, labels, threat)] = ours[name].calls
        assert (given, threat) == (options, BASE)
        assert asked is defense
        np.testing.assert_array_equal(images, x[list(rows)])
        assert labels.dtype == backend.label_dtype
        assert labels.tolist() == [1] * len(rows)
    look(corner, attack, success, x)  # transferred is what there is a defense for
    assert [len(kind.calls) for kind in ours.values()] == [2, 2, 1]
    look(corner, attack, [1.0] * 3 + [0.6] * 3, x, transfer=source)  # too little is left
    assert [len(kind.calls) for kind in ours.values()] == [2, 2, 1]
    look(corner, attack, [0.6] * 6, x, transfer=source)  # all are broken, if not in all draws
    assert [len(kind.calls) for kind in ours.values()] == [3, 2, 1]


@pytest.mark.parametrize(("count", "told"), [(2, False), (3, True)])
def test_what_the_attack_came_to_in_some_draws_is_no_gain_of_others(
    corner: Corner, ours: dict[str, type[Ours]], count: int, told: bool
) -> None:
    ours["Square"].count = ours["PGD"].count = count
    # Of the three that are left 0.9 are broken already: two are 1.1 more, three 2.1.
    success = [1.0, 0.6, 0.5, 0.0, 0.4]
    x = corners(5)
    found = look(corner, lambda d, x, y, t: broken(x, 5), success, x, transfer=corner)
    assert set(found) == ({"black-box-wins", "transfer-wins"} if told else set())


def test_noise_and_square_are_not_held_against_themselves(
    corner: Corner, ours: dict[str, type[Ours]]
) -> None:
    x = corners(5)
    # Noise is not an attack that could be made better: nothing else is run.
    assert look(corner, ours["Noise"](), [0.0] * 5, x, transfer=corner) == {}
    assert [kind.calls for kind in ours.values()] == [[], [], []]
    ours["Square"].count = ours["PGD"].count = 5
    assert set(look(corner, ours["Square"](), [0.0] * 5, x, transfer=corner)) == {"transfer-wins"}
    assert [threat for *_, threat in ours["Square"].calls] == [TWICE, ALL]


def gradients_of(*arguments: Any) -> dict[str, str]:
    """The warnings about gradients alone."""
    found = look(*arguments)
    return {name: text for name, text in found.items() if name.endswith("-gradients")}


def noise(ours: dict[str, type[Ours]]) -> Any:
    """An attack that ends the checks after those of the defense itself."""
    return ours["Noise"]()


@pytest.mark.parametrize(
    ("n", "masked", "told"),
    [(40, 4, True), (40, 3, False), (5, 1, True), (5, 0, False), (15, 2, True), (15, 1, False)],
)
def test_zero_gradients_are_told_from_a_tenth_of_the_images_on(
    corner: Corner, ours: dict[str, type[Ours]], n: int, masked: int, told: bool
) -> None:
    x = corners(n, *((i, MASKED) for i in range(masked)))
    text = f"gradients of {masked} of {n} images are zero"
    assert gradients_of(corner, asks(), [0.0] * n, x) == ({"zero-gradients": text} if told else {})
    # What follows no gradient is not told, nor what breaks most of these images all the same.
    for kind in ("Noise", "Square"):
        assert gradients_of(corner, ours[kind](), [0.0] * n, x) == {}
    around = [1.0] * (masked - masked // 3) + [0.0] * (n - masked + masked // 3)
    assert gradients_of(corner, asks(), around, x) == {}


def test_the_gradient_is_that_of_the_attack_s_own_loss(
    linear: Linear, ours: dict[str, type[Ours]]
) -> None:
    saturated = Linear(1000 * linear.direction, -4000.0)  # the softmax is, the margin is not
    x = np.full((5, 8, 8, 1), 0.5, np.float32)
    text = "gradients of 5 of 5 images are zero"
    for attack, told in (
        (APGD(steps=1), True),
        (APGD(steps=1, loss="margin"), False),
        (PGD(steps=1), True),
        (PGD(steps=1, loss="margin"), False),
    ):
        expected = {"zero-gradients": text} if told else {}
        assert gradients_of(saturated, attack, [0.0] * 5, x) == expected


@pytest.mark.parametrize("special", [[(1, NAN)], [(1, INFINITE)], [(0, NAN), (3, INFINITE)]])
def test_bad_gradients_are_told_from_one_on(
    corner: Corner, ours: dict[str, type[Ours]], special: list[Any]
) -> None:
    text = f"gradients of {len(special)} of 5 images are NaN or infinite"
    x = corners(5, *special)
    assert gradients_of(corner, asks(), [0.0] * 5, x) == {"bad-gradients": text}
    assert gradients_of(corner, ours["Noise"](), [0.0] * 5, x) == {}
    assert gradients_of(corner, asks(), [1.0, 1.0, 0.0, 1.0, 0.0], x) == {}


class Raw(Corner):
    """Logits are the first two pixels, the second less the third."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return ops.stack([x[:, 0, 0, 0], x[:, 0, 1, 0] - x[:, 0, 2, 0]], axis=-1)


@pytest.mark.parametrize(
    ("first", "second", "less", "told"),
    [
        (0.25, 0.75, 0.0, True),
        (0.0, 1.0, 0.0, True),  # a saturated softmax
        (0.5, 0.50009, 0.0, True),  # the sum may be off by 1e-4
        (0.5, 0.5002, 0.0, False),
        (0.5, 0.4998, 0.0, False),
        (1.0, 0.0, 0.00001, False),  # sums to one within that, but is negative
        (0.0, 0.0, 0.0, False),
    ],
)
def test_probabilities_are_told_where_all_images_have_them(
    ours: dict[str, type[Ours]], first: float, second: float, less: float, told: bool
) -> None:
    raw = Raw()
    x = np.zeros((3, 8, 8, 1), np.float32)
    x[:, 0, 0, 0], x[:, 0, 1, 0], x[:, 0, 2, 0] = first, second, less
    text = "what the defense gives as logits are probabilities"
    expected = {"probabilities": text} if told else {}
    assert look(raw, noise(ours), [0.0] * 3, x) == expected
    if told and first:
        x[2, 0, 0, 0] /= 2
        assert look(raw, noise(ours), [0.0] * 3, x) == {}


def asks(*chances: Any) -> Any:
    """An attack that asks for logits with these random numbers, as functions of the images."""

    def attack(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        for chance in chances:
            defense.logits(x, chance and chance(x))
        return x

    return attack


def first(x: Any) -> Chance:
    return Chance(x, 0)


def second(x: Any) -> Chance:
    return Chance(x, 1)


def compiling(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
    """Gives a compiled function the seeds of its draws."""
    logits = defense.compiled(("mine",), lambda x, seed: defense.logits(x, Chance(x, seed)))
    for seed in range(2):
        logits(x, ops.convert_to_tensor(seed, "int32"))
    return x


def compiling_logits(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
    """Compiles the logits as they are, under a key that every evaluation has in common."""
    defense.compiled(("logits of mine",), defense.logits)(x)
    return x


def averaging(draws: int) -> Any:
    """Compiles a function of the mean over draws."""

    def attack(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        wrapped = EOT(defense, draws)
        wrapped.compiled(("mean",), wrapped.logits)(x)
        return x

    return attack


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (asks(), False),  # no logits at all
        (asks(None), True),
        (asks(None, first, None), True),  # all of them are those of seed 0
        (asks(second), True),
        (asks(first, second), False),
        (asks(None, second), False),
        (asks(lambda x: Chance(x, np.array([0, 1], np.int32))), False),
        (asks(lambda x: Chance(x, np.array([1, 1], np.int32))), True),
        (compiling, False),
        (lambda d, x, y, t: compiling(d, asks(None)(d, x, y, t), y, t), False),
        (compiling_logits, True),
        (averaging(1), True),
        (averaging(2), False),
        (lambda d, x, y, t: averaging(2)(BPDA(d), x, y, t), False),
        (lambda d, x, y, t: asks(None)(BPDA(d), x, y, t), True),
    ],
)
@pytest.mark.parametrize("kind", [Corner, Dice])
def test_not_averaged_is_told_where_logits_are_those_of_one_draw(
    ours: dict[str, type[Ours]], kind: Callable[[], Corner], attack: Any, told: bool
) -> None:
    x, y = (255 * corners(2)).astype(np.uint8), np.ones(2, np.int32)
    dataset = Dataset("linear", x, y, x, y, ("a", "b"))
    text = "the defense answers at random and the attack did not average over draws"
    expected = [text] if kind is Dice and told else []
    defense = kind()
    for _ in range(2):  # what the first evaluation compiled does not keep the second from knowing
        verdict = evaluate(defense, attack, BASE, dataset, 2, draws=2)
        assert [each.text for each in verdict.warnings if each.name == "not-averaged"] == expected


@pytest.mark.parametrize("draws", [1, 2])
def test_a_wrapper_around_the_defense_averages_for_the_attack(draws: int) -> None:
    x, y = (255 * corners(2)).astype(np.uint8), np.ones(2, np.int32)
    dataset = Dataset("linear", x, y, x, y, ("a", "b"))
    verdict = evaluate(EOT(Dice(), draws), asks(None), BASE, dataset, 2, draws=2)
    names = [each.name for each in verdict.warnings]
    assert names.count("not-averaged") == (1 if draws == 1 else 0)


class Sometimes(Dice):
    """Answers class 1 in every second draw, and below one half of the first pixel."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        seed = 0 if chance is None else chance.seed
        odd = ops.cast(ops.cast(seed, "int32") % 2, "float32")
        low = ops.cast(x[:, 0, 0, 0] < 0.5, "float32")
        return ops.stack([odd * low, 0.5 + 0 * low], axis=-1)


def test_the_verdict_tells_success_in_some_draw() -> None:
    x, y = (255 * corners(40)).astype(np.uint8), np.ones(40, np.int32)
    dataset = Dataset("linear", x, y, x, y, ("a", "b"))

    def attack(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return broken(x, 30)

    verdict = evaluate(Sometimes(), attack, Linf(0.125), dataset, 40, draws=8)
    mean, some = verdict.success_rate, verdict.success_in_some_draw
    assert 0.2 < mean.value < 0.6  # 8 draws of even and odd seeds, of 3 in 4 images
    assert (some.value, some.n) == (0.75, 40)
    assert f"\nattack success   {mean}\nin some draw     {some}\nrobust" in str(verdict)
    [warning] = [each for each in verdict.warnings if each.name == "some-draw"]
    assert warning.text.startswith("75 % are broken in one of 8 draws or more, ")
    once = evaluate(Corner(), attack, Linf(0.125), dataset, 40, draws=8, check=False)
    assert "in some draw" not in str(once)


def test_what_breaks_a_rule_has_no_success_under_other_conditions(corner: Corner) -> None:
    # Without a limit every image is near enough. The first pixel alone says broken or not; of the
    # nine that are, two are on the borders of what is allowed and one is as it should be.
    given = [
        ((0, 0, 0), 0.5, False),  # not broken: the logit is above zero by 1e-6 times a root
        ((0, 0, 0), 0.0, True),
        ((7, 7, 0), 1.0, True),
        ((7, 7, 0), 0.5, True),
        ((7, 7, 0), np.nan, False),
        ((0, 0, 0), np.nan, False),
        ((7, 7, 0), np.inf, False),
        ((7, 7, 0), -np.inf, False),
        ((7, 7, 0), -1e-6, False),
        ((7, 7, 0), 1.000001, False),
    ]
    x = corners(len(given))
    images = broken(x, len(given))
    for image, (place, value, _) in zip(images, given, strict=True):
        image[place] = value
    found = trial(corner, x).again(lambda d, x, y, t: images, ALL)
    assert found.tolist() == [float(counts) for _, _, counts in given]
    # Labels that were wrong from the beginning are no success of an image that breaks a rule.
    wrong = trial(corner, x, np.zeros(len(given), np.int32))
    assert wrong.again(lambda d, x, y, t: x - 2, ALL).tolist() == [0.0] * len(given)
    # Nor is what is too far, which 3/16 is within 1/8 and is not within 1/4.
    far = corners(2)
    far[0, 0, 0, 0] = SOFT - 0.1875
    assert trial(corner, corners(2)).again(lambda d, x, y, t: far).tolist() == [0, 0]
    assert trial(corner, corners(2)).again(lambda d, x, y, t: far, TWICE).tolist() == [1, 0]


@pytest.mark.parametrize(("units", "counts"), [(11, 1.0), (13, 0.0)])
def test_rounding_is_allowed_for_one_image_s_values(
    corner: Corner, units: int, counts: float
) -> None:
    # Allowed beyond an eps of 1/4 in L2 with 64 values: 8 x 2^-25 + 8 x 2^-24 / 4 = 12 x 2^-25.
    x = np.repeat(corners(1), 4, axis=0)
    given = x.copy()
    given[:, 0, 0, 0] = SOFT - 0.25 - units * 2.0**-25
    assert trial(corner, x).again(lambda d, x, y, t: given, L2(0.25)).tolist() == [counts] * 4


def test_success_is_the_share_of_draws() -> None:
    class Third(Dice):
        def broken_share(self, x: Any, y: Any, draws: int = 10) -> np.ndarray:
            return np.array([0.3, 0.7])

    assert trial(Third(), corners(2)).again(lambda d, x, y, t: x).tolist() == [0.3, 0.7]


# More steps


STEPS: list[tuple[int, str]] = []
"""What the attacks below were run with."""


@dataclass(frozen=True)
class Stepping:
    """An attack whose fields say its steps."""

    steps: int = 3
    word: str = "no"

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        STEPS.append((self.steps, self.word))
        return broken(x, len(x))


@dataclass(frozen=True)
class Stepless:
    """An attack whose fields say nothing of steps."""

    queries: int = 3

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return Stepping()(defense, x, y, threat)


@dataclass
class Counting:
    """An attack with a field that is no argument."""

    steps: int = 3
    calls: int = field(default=0, init=False)

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        self.calls += 1
        return Stepping(self.steps)(defense, x, y, threat)


class Undeclared:
    """An attack with steps that are no field."""

    steps = 3

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        return Stepping()(defense, x, y, threat)


def stepping(
    defense: Any, x: Any, y: Any, threat: ThreatModel, word: str = "no", steps: int = 3
) -> Any:
    return Stepping(steps, word)(defense, x, y, threat)


def stepping_at_last(
    defense: Any, x: Any, y: Any, threat: ThreatModel, steps: int | None = None
) -> Any:
    return Stepping()(defense, x, y, threat)


@pytest.mark.parametrize(
    ("attack", "longer"),
    [
        (Stepping(word="yes"), (12, "yes")),
        (Stepping(steps=5), (20, "no")),
        (stepping, (12, "no")),
        (partial(stepping, steps=7, word="yes"), (28, "yes")),
        (partial(stepping, word="yes"), (12, "yes")),
        (Counting(), (12, "no")),
        (Stepless(), None),
        (Undeclared(), None),
        (stepping_at_last, None),
        (lambda defense, x, y, threat: stepping(defense, x, y, threat), None),
    ],
)
def test_an_attack_with_steps_is_run_with_four_times_as_many(
    corner: Corner, ours: dict[str, type[Ours]], attack: Any, longer: tuple[int, str] | None
) -> None:
    x = corners(2)
    STEPS.clear()
    assert set(look(corner, attack, [0.0, 0.0], x)) == ({"more-steps"} if longer else set())
    # Twice the eps, no limit, and then more steps where there are any.
    assert len(STEPS) == (2 if longer is None else 3)
    assert STEPS[0] == STEPS[1]
    if longer is not None:
        assert STEPS[2] == longer


def test_threats_of_the_same_norm_are_tried(corner: Corner, ours: dict[str, type[Ours]]) -> None:
    seen: list[ThreatModel] = []

    def attack(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        seen.append(threat)
        return broken(x, len(x))

    look(corner, attack, [0.0, 0.0], corners(2), L2(0.5))
    assert seen == [L2(1.0), L2(8.0)]  # 8 is the root of 64 values


# What is said besides


def test_an_error_under_other_conditions_ends_the_checks_and_keeps_what_they_found(
    corner: Corner, ours: dict[str, type[Ours]]
) -> None:
    def attack(defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        if threat == ALL:
            raise ValueError("too much")
        return x

    x = corners(5, (0, MASKED))
    success = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    found = checks.look(Attempt(corner, attack, BASE, x, np.ones(5, np.int32), success))
    assert [each.name for each in found] == ["zero-gradients", "not-rising", "check-failed"]
    assert found[2].text == "under other conditions the attack raised ValueError: too much"
    assert ours["Square"].calls == []


def test_of_no_images_nothing_is_said(corner: Corner) -> None:
    attempt = Attempt(corner, stepping, BASE, corners(0), np.ones(0), np.ones(0))
    assert checks.look(attempt) == []


@pytest.mark.parametrize(
    ("low", "high", "width"),
    [(0.0, 0.2, None), (0.3, 0.5, None), (0.0, 0.201, 20), (0.2, 0.74, 54), (0.0, 1.0, 100)],
)
def test_intervals_wider_than_ten_points_to_a_side_are_told(
    low: float, high: float, width: int | None
) -> None:
    found = checks.few_images(Rate(0.1, 33, low, high))
    text = f"33 attacked images leave an interval of {width} points; take more"
    assert found == ([] if width is None else [EvaluationWarning(name="few-images", text=text)])


def test_how_a_warning_reads() -> None:
    assert (
        str(EvaluationWarning(name="some-name", text="a text"))
        == "a text [docs/warnings.md#some-name]"
    )
    assert checks.CHANGED_INPUT.name == "changed-input"
    assert checks.IMAGES == 40
