"""Every reference attack's rules, on networks made by hand whose logits are the image's pixels.

Nothing is trained: an image here is a table of what the networks are to answer, so that losses and
their gradients by the pixels are those by the logits, which can be worked out by hand. How the
attacks do on trained defenses is another matter.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

from sparring import attacks, backend
from sparring.attacks import APGD, BPDA, PGD, InTurn, Strong, reference
from sparring.attacks.reference import (
    discretize,
    injection,
    jump,
    knn,
    majority,
    mergebinary,
    randomneuron,
)
from sparring.attacks.reference import transform as transform_spoiler
from sparring.data import DatasetInfo
from sparring.defenses import DEFENSES
from sparring.defenses import get as defense_named
from sparring.defenses.blur import blur as blurred
from sparring.defenses.discretize import discretized
from sparring.defenses.injection import InjectionSettings
from sparring.defenses.jump import height
from sparring.defenses.passes import Passes
from sparring.errors import SettingsError
from sparring.randomness import Chance
from sparring.threat import Linf
from sparring.training.settings import Settings
from tests.conftest import KNOWN

pytestmark = pytest.mark.backend


def tensor(values: Any, dtype: str = "float32") -> Any:
    return ops.convert_to_tensor(np.array(values, dtype))


def array(answer: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(answer))


class Reads:
    """A network whose logits [B, W] are one row of the image [B, H, W, 1], times `scale`."""

    variables: tuple[()] = ()

    def __init__(self, row: int = 0, scale: float = 1.0) -> None:
        self.row, self.scale = row, scale

    def __call__(self, x: Any) -> Any:
        return self.scale * x[:, self.row, :, 0]


def defense_of(
    name: str,
    nets: list[Any],
    shape: tuple[int, int, int],
    classes: int,
    arrays: dict[str, np.ndarray] | None = None,
    settings: Settings | None = None,
) -> Any:
    """A defense with these networks."""
    info = DatasetInfo("tables", shape, tuple("abcdefghij"[:classes]), False, 1, 1, "")
    return defense_named(name)(info, settings or Settings(), nets, arrays)


def asked(
    attack: Any, defense: Any, images: np.ndarray, labels: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses [B], which images look broken [B], and the gradient of the losses by the images.

    All in one compiled function, which a defense keeps: on JAX every operation by itself would be
    compiled.
    """

    def step(x: Any, y: Any) -> tuple[Any, Any, Any]:
        def total(points: Any) -> tuple[Any, tuple[Any, Any]]:
            losses, broken = attack.objective(defense, points, y)
            return ops.sum(losses), (losses, ops.cast(broken, "float32"))

        slope, (losses, broken) = backend.input_gradient_and(total, x)
        return losses, broken, slope

    compiled = defense.compiled(("asked", attack), step)
    given = compiled(tensor(images), tensor(labels, "int32"))
    losses, broken, slope = (array(each) for each in given)
    assert losses.shape == broken.shape == (len(images),)
    return losses, broken > 0.5, slope


def by_differences(
    loss: Callable[[np.ndarray, int], float], images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """The gradient of loss(image, label) by differences in float64."""
    step = 1e-5
    found = np.zeros(images.shape)
    for number, (image, label) in enumerate(zip(images.astype(np.float64), labels, strict=True)):
        for place in np.ndindex(image.shape):
            up, down = image.copy(), image.copy()
            up[place] += step
            down[place] -= step
            found[number][place] = (loss(up, label) - loss(down, label)) / (2 * step)
    return found


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


# Which attack there is on which defense, and with what numbers


def pgd(
    steps: int, loss: str, restarts: int = 1, momentum: float = 0.0, seed: int = 0, **more: float
) -> dict[str, Any]:
    return {
        "steps": steps,
        "step_size": None,
        "restarts": restarts,
        "momentum": momentum,
        "loss": loss,
        "random_start": True,
        "early_stopping": True,
        "seed": seed,
        "targets": 0,
        "order": "logits",
        **more,
    }


def apgd(loss: str, targets: int) -> dict[str, Any]:
    return {
        "steps": 100,
        "restarts": 1,
        "loss": loss,
        "early_stopping": True,
        "seed": 0,
        "targets": targets,
        "order": "logits",
    }


STRONGEST = [("Strong", {"steps": 100, "targets": 9, "queries": 2000, "draws": 20, "seed": 0})]
ATTACKS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "baseline": [("APGD", apgd("margin", 9))],
    "blur": [("APGD", apgd("margin", 9))],
    "temperature": [("APGD", apgd("margin", 9))],
    "labelsmooth": [("PGD", pgd(100, "margin", restarts=2))],
    "jump": [("SmoothJump", pgd(200, "margin", restarts=2, momentum=0.75))],
    "mergebinary": [
        ("LargestMargin", pgd(100, "ce", restarts=2)),
        ("PGD", pgd(100, "ce")),
        ("OneOverAll", apgd("ce", 9)),
    ],
    "majority": [("TwoOfThree", pgd(200, "ce", momentum=0.75) | {"targets": 3})],
    "discretize": [("SmoothCode", pgd(100, "margin", restarts=2, momentum=0.75))],
    "randomneuron": [("Underneath", pgd(100, "ce", momentum=0.5))],
    "transform": [("OverDraws", pgd(100, "ce", momentum=0.9, draws=5))],
    "injection": [("Ordinary", pgd(200, "ce", restarts=2, lead=2.0, weight=5.0))],
    "knn": [("SoftNeighbors", pgd(100, "ce", restarts=2, sharpness=50.0))],
    "advtrain": STRONGEST,
    "pgdtrain": STRONGEST,
    "trades": STRONGEST,
}


def parts(name: str) -> tuple[Any, ...]:
    attack = reference.get(name)
    return attack.attacks if isinstance(attack, InTurn) else (attack,)


@pytest.mark.parametrize("name", KNOWN)
def test_every_defense_s_reference_attack_is_as_it_was_measured(name: str) -> None:
    assert [(type(each).__name__, asdict(each)) for each in parts(name)] == ATTACKS[name]
    assert isinstance(reference.get(name), InTurn) == (len(ATTACKS[name]) > 1)
    assert all(isinstance(each, PGD | APGD | Strong) for each in parts(name))


def test_there_are_reference_attacks_on_defenses_only() -> None:
    modules = [module.name for module in pkgutil.iter_modules(reference.__path__)]
    assert sorted(modules) == sorted(DEFENSES)
    assert sorted(ATTACKS) == sorted(KNOWN)


def test_what_the_attacks_take_unless_told_otherwise() -> None:
    assert transform_spoiler.OverDraws().draws == 10
    assert knn.SoftNeighbors().sharpness == 50
    assert (injection.Ordinary().lead, injection.Ordinary().weight) == (2, 5)


def test_get_gives_the_attack_of_that_defense() -> None:
    assert reference.get("majority") is majority.attack
    assert reference.get("knn") is knn.attack
    changed = attacks.get("reference", {"steps": 3, "sharpness": 7.0}, "knn")
    assert changed == knn.SoftNeighbors(steps=3, restarts=2, sharpness=7.0)


def test_a_defense_without_a_reference_attack_is_told() -> None:
    with pytest.raises(SettingsError) as caught:
        reference.get("moat")
    assert str(caught.value) == "no reference attack on 'moat': see sparring/attacks/reference/"
    # Raised "from None": that Python could not import a module says nothing more.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_what_an_attack_s_own_import_lacks_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "there.py").write_text("attack = 'found'\n")
    monkeypatch.setattr(reference, "__path__", [*reference.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        reference.get("lacking")
    assert reference.get("there") == "found"


@pytest.mark.parametrize("name", ["mergebinary"])
def test_attacks_run_in_turn_each_on_what_is_left(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[Any, np.ndarray]] = []

    def recorded(attack: Any, defense: Any, x: Any, y: Any, threat: Any) -> Any:
        ran.append((attack, array(y)))
        return array(x) + np.float32(len(ran))

    class Breaking:
        """Every attack breaks the first image it is given."""

        @staticmethod
        def broken_share(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return (np.arange(len(x)) == 0).astype(float)

    for kind in (PGD, APGD):
        monkeypatch.setattr(kind, "__call__", recorded)
    found = reference.get(name)(
        Breaking(), tensor(np.zeros((5, 1, 1, 1))), tensor(range(5), "int32"), Linf(0.1)
    )
    count = len(ATTACKS[name])
    assert [each for each, _ in ran] == list(parts(name))
    assert [y.tolist() for _, y in ran] == [[*range(first, 5)] for first in range(count)]
    # What is never broken stays as the first attack left it.
    assert found.ravel().tolist() == [*range(1, count + 1), *[1] * (5 - count)]


# Attacks on the logits


# Of an attack: one step from the image itself, as long as eps.
ONE_STEP: dict[str, Any] = {
    "steps": 1,
    "step_size": 1.0,
    "restarts": 1,
    "momentum": 0.0,
    "random_start": False,
}


@pytest.mark.parametrize(
    "name",
    ["baseline", "blur", "temperature", "labelsmooth", "jump", "discretize"],
)
def test_attacks_on_logits_follow_the_loss_they_name(name: str) -> None:
    logits = np.array([[1, 3, 2], [0.5, 0, -2], [-1, 2, 2]], np.float32)
    images = tensor(logits[:, None, :, None])
    labels = tensor([2, 0, 0], "int32")
    defense = defense_of(name, [Reads()], (1, 3, 1), 3)
    expected = {
        "margin": [1, -0.5, 3],
        "ce": [
            math.log(math.exp(1) + math.exp(3) + math.exp(2)) - 2,
            math.log(math.exp(0.5) + 1 + math.exp(-2)) - 0.5,
            math.log(math.exp(-1) + 2 * math.exp(2)) + 1,
        ],
    }
    for attack in parts(name):
        if isinstance(attack, PGD | APGD):
            losses, broken = attack.objective(defense, images, labels)
            np.testing.assert_allclose(array(losses), expected[attack.loss], rtol=1e-5)
            assert array(broken).tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["baseline", "temperature", "labelsmooth"])
def test_the_margin_has_a_gradient_where_softmax_is_saturated(name: str) -> None:
    # Logits 5,000 and 0: the softmax is 1 and 0 in float32, and cross entropy has no gradient.
    image = np.array([0.5, 0, -0.25], np.float32).reshape(1, 1, 3, 1)
    defense = defense_of(name, [Reads(scale=1e4)], (1, 3, 1), 3)
    (attack,) = parts(name)
    losses, broken, slope = asked(attack, defense, image, [0])
    assert losses == pytest.approx([-5000])
    assert not broken[0]
    np.testing.assert_allclose(slope.ravel(), [-1e4, 1e4, 0])
    assert not asked(replace(attack, loss="ce"), defense, image, [0])[2].any()


# blur


class Blurred:
    """A network of two logits: 0, and a weighted sum of the blurred image, less 1."""

    variables: tuple[()] = ()
    weights = np.array([[1, -3, 0], [1, 0, 4], [-4, 1, 0]], np.float32)[..., None]

    def __call__(self, x: Any) -> Any:
        second = ops.sum(blurred(x) * tensor(self.weights), axis=(1, 2, 3)) - 1
        return ops.stack([ops.zeros_like(second), second], axis=-1)


def test_the_attack_on_blur_goes_through_the_blur() -> None:
    defense = defense_of("blur", [Blurred()], (2, 2, 1), 2)
    # A pixel is in the 2x2 averages right and below of its place: the weights there add up to
    # 1 - 3 + 1 + 0 = -1 and -3 + 0 + 0 + 4 = 1, and to 1 + 0 - 4 + 1 = -2 and 0 + 4 + 1 + 0 = 5.
    image = np.full((1, 2, 2, 1), 0.5, np.float32)
    found = reference.get("blur")(defense, tensor(image), tensor([0], "int32"), Linf(0.2))
    assert found.ravel() == pytest.approx([0.3, 0.7, 0.3, 0.7], abs=1e-6)


# discretize


def test_the_smooth_code_by_hand() -> None:
    # Two rows, three columns and two channels, all different, so that no two axes are mixed up.
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 2, 3, 2)
    code = array(discretize.smooth(tensor(image)))
    assert code.shape == (1, 2, 3, 40)
    for row, column, channel in np.ndindex(2, 3, 2):
        value = float(image[0, row, column, channel])
        expected = [1 / (1 + math.exp(20 * (value - 0.05 * (bit + 1)))) for bit in range(20)]
        found = code[0, row, column, 20 * channel : 20 * channel + 20]
        # The exponent, at most 20, is off by a few units in float32's last place: 1e-6 of it.
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    # It stands in for the code served: a half at a threshold, and on the same side elsewhere.
    exact = array(discretized(tensor(image)))
    assert np.abs(code - exact).max() <= 0.5 + 1e-6
    at_threshold = array(discretize.smooth(tensor(np.full((1, 1, 1, 1), 0.25))))
    assert at_threshold[0, 0, 0, 4] == pytest.approx(0.5, abs=1e-6)


def test_the_smooth_code_s_slopes_by_hand() -> None:
    weights = np.arange(1, 21, dtype=np.float32)
    values = np.array([0.07, 0.5, 0.93])

    def weighted(x: Any) -> Any:
        return ops.sum(discretize.smooth(x) * tensor(weights))

    slope = backend.input_gradient(weighted, tensor(values.reshape(3, 1, 1, 1)))
    bits = sigmoid(20 * (np.arange(1, 21) / 20 - values[:, None]))
    expected = (-20 * bits * (1 - bits) * weights).sum(axis=1)
    np.testing.assert_allclose(array(slope).ravel(), expected, rtol=1e-5)
    assert (expected < -30).all()  # far from nothing, and downwards


class Code:
    """A network of two logits: 0, and how many of one pixel's bits are set, less 10.5."""

    variables: tuple[()] = ()

    def transform(self, x: Any) -> Any:
        return discretized(x)

    def activation(self, x: Any) -> Any:
        return x

    def __call__(self, x: Any) -> Any:
        bits = ops.sum(self.activation(self.transform(x)), axis=(1, 2, 3)) - 10.5
        return ops.stack([ops.zeros_like(bits), bits], axis=-1)


def test_discretize_s_code_is_descended_where_it_has_no_slope() -> None:
    net = Code()
    defense = defense_of("discretize", [net], (1, 1, 1), 2)
    # Half: ten bits of twenty are set, one too few; at 0.4 there are eleven or twelve.
    image, label = np.full((1, 1, 1, 1), 0.5, np.float32), np.zeros(1, np.int32)
    exact = PGD(**ONE_STEP, loss="margin")
    found = exact(defense, tensor(image), tensor(label, "int32"), Linf(0.1))
    np.testing.assert_array_equal(found, image)
    found = replace(discretize.attack, **ONE_STEP)(
        defense, tensor(image), tensor(label, "int32"), Linf(0.1)
    )
    assert found.ravel() == pytest.approx([0.4], abs=1e-6)
    assert defense.broken(found, label).all()
    assert "transform" not in vars(net)  # the defense is as it was


# jump


def test_the_smooth_jump_by_hand() -> None:
    x = np.array([-5, -0.5, -0.01, 0.01, 0.5, 5])
    expected = np.where(x > 0, x, 0.2 * x) + 5 / (1 + np.exp(-2 * x))
    np.testing.assert_allclose(array(jump.smooth(tensor(x))), expected, rtol=1e-5)
    assert float(array(jump.smooth(tensor([0.0])))[0]) == pytest.approx(2.5)
    # Far from zero it is what is served: leaky ReLU, with the served height to the right.
    served = float(array(height(1.0)))
    far = array(jump.smooth(tensor([-10, 10])))
    np.testing.assert_allclose(far, [-2, 10 + served], rtol=1e-5)
    assert served == jump.HEIGHT


def test_the_smooth_jump_s_slopes_by_hand() -> None:
    x = np.array([-0.75, -0.2, 0.2, 0.75])
    slope = backend.input_gradient(lambda t: ops.sum(jump.smooth(t)), tensor(x))
    steps = sigmoid(2 * x)
    expected = np.where(x > 0, 1, 0.2) + 10 * steps * (1 - steps)
    np.testing.assert_allclose(array(slope), expected, rtol=1e-5)


class Jumping:
    """A network of two logits: 0, and jumping(u) - 1.5 u - 1 of one pixel, u = pixel - 0.5."""

    variables: tuple[()] = ()

    def transform(self, x: Any) -> Any:
        return x

    def activation(self, x: Any) -> Any:
        return ops.leaky_relu(x, negative_slope=0.2) + 5 * ops.cast(x > 0, "float32")

    def __call__(self, x: Any) -> Any:
        at = self.transform(x)[:, 0, 0, 0] - 0.5
        second = self.activation(at) - 1.5 * at - 1
        return ops.stack([ops.zeros_like(second), second], axis=-1)


def test_jump_s_activation_is_climbed_against_its_own_slope() -> None:
    net = Jumping()
    defense = defense_of("jump", [net], (1, 1, 1), 2)
    # At u = -0.2 the slope is 0.2 - 1.5 < 0, the stand-in's 0.2 + 10 * 0.24 - 1.5 = 1.1; the jump
    # lies at u = 0, and beyond it class b wins.
    image, label = np.full((1, 1, 1, 1), 0.3, np.float32), np.zeros(1, np.int32)
    exact = PGD(**ONE_STEP, loss="margin")
    found = exact(defense, tensor(image), tensor(label, "int32"), Linf(0.25))
    assert found.ravel() == pytest.approx([0.05], abs=1e-6)
    found = replace(jump.attack, **ONE_STEP)(
        defense, tensor(image), tensor(label, "int32"), Linf(0.25)
    )
    assert found.ravel() == pytest.approx([0.55], abs=1e-6)
    assert defense.broken(found, label).all()
    assert "activation" not in vars(net)


@pytest.mark.parametrize(
    ("module", "hook", "other"),
    [(discretize, "transform", "activation"), (jump, "activation", "transform")],
    ids=["discretize", "jump"],
)
def test_pgd_is_given_the_defense_behind_its_stand_in(
    module: Any, hook: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, ...]] = []

    def recorded(attack: Any, *arguments: Any) -> str:
        given.append((attack, *arguments))
        return "what PGD found"

    monkeypatch.setattr(PGD, "__call__", recorded)
    defense = defense_of("jump", [], (1, 1, 1), 2)
    assert module.attack(defense, "x", "y", "threat") == "what PGD found"
    ((attack, wrapped, *rest),) = given
    assert attack is module.attack
    assert rest == ["x", "y", "threat"]
    assert isinstance(wrapped, BPDA)
    assert wrapped.defense is defense
    assert getattr(wrapped, hook) is module.smooth
    assert getattr(wrapped, other) is None


# majority: an image's three rows are the three networks' logits


def majority_defense(scale: float = 1.0) -> Any:
    nets = [Reads(row, scale) for row in range(3)]
    return defense_of("majority", nets, (3, 4, 1), 4)


def two_of_three(image: np.ndarray, label: int) -> float:
    """The sum of the two largest leads, each at most 1, for the other class where it is largest."""
    sums = []
    for wanted in set(range(4)) - {label}:
        leads = []
        for logits in image[:, :, 0]:
            lead = logits[wanted] - max(logits[k] for k in range(4) if k != wanted)
            leads.append(min(lead, 1.0))
        sums.append(sum(sorted(leads)[1:]))
    return max(sums)


# Networks' logits, the label, the loss and whether it looks broken.
MAJORITY: dict[str, tuple[list[list[float]], int, float, bool]] = {
    # Leads of class 1: -2, -0.5, -1; of class 2: -3, -3, -0.25; of class 3: -4, -2, -3.
    "none fooled": ([[3, 1, 0, -1], [2, 1.5, -1, 0], [1, 0, 0.75, -2]], 0, -1.5, False),
    # Leads of class 1: 4, of which 1 counts, 0.5 and -4.
    "two fooled": ([[0, 5, 1, 1], [0, 2.5, 1, 2], [4, 0, 1, 0]], 0, 1.5, True),
    # The same with label 1, named by two. Leads of class 0: -5, -2.5 and 3, of which 1 counts; of
    # class 2: -4, -1.5, -3; of class 3: -4, -0.5, -4.
    "one fooled": ([[0, 5, 1, 1], [0, 2.5, 1, 2], [4, 0, 1, 0]], 1, -1.5, False),
    # Leads of class 3: 2, 3, 4: twice 1, whichever two.
    "all fooled": ([[0, 0.5, 1, 3], [0, 0.5, 1, 4], [0, 0.5, 1, 5]], 2, 2, True),
    # Each names another class, which is rejected. Leads of class 0: 0.75, -2, -2; of class 1:
    # -1.75, 0.5, -0.75; of class 2: -0.75, -0.5, 0.75.
    "all differ": ([[1.75, 0, 1, 0], [0, 2, 1.5, 0], [0, 1.25, 2, 0]], 3, 0.25, False),
    # Two name class 3, against the label's one. Leads of class 3: -1, 0.5, 0.25.
    "outvoted": ([[2, 1, 0, 1], [0, 1, 0, 1.5], [0, 1, 0, 1.25]], 0, 0.75, True),
    # Two largest logits that are equal lead by nothing. Leads of class 1: 0, 0, -1.
    "equals": ([[2, 2, 0, 0], [0.5, 2, 2, 0], [1, 0, 0, 0]], 0, 0, True),
}


def test_majority_s_loss_by_hand() -> None:
    images = np.array([case[0] for case in MAJORITY.values()])[..., None]
    labels, losses, broken = (
        np.array([case[i] for case in MAJORITY.values()]) for i in range(1, 4)
    )
    found, looks, slope = asked(majority.attack, majority_defense(), images, labels)
    np.testing.assert_allclose(found, losses, atol=1e-6)
    # The last one looks broken or not, as the first of two equal logits is taken: not asked here.
    assert looks[:-1].tolist() == broken[:-1].tolist()
    expected = np.zeros((5, 3, 4))
    # Only networks whose lead is counted, up for the class, down for the best of the others.
    expected[0, 1, [1, 0]] = expected[0, 2, [1, 0]] = [1, -1]
    expected[1, 1, [1, 3]] = [1, -1]
    expected[2, 1, [0, 1]] = [1, -1]
    expected[4, 1, [2, 1]] = expected[4, 2, [2, 1]] = [1, -1]
    np.testing.assert_allclose(slope[:5, ..., 0], expected, atol=1e-6)


def test_majority_s_loss_aims_at_a_class() -> None:
    images = np.array([case[0] for case in MAJORITY.values()], np.float32)[..., None]
    labels, losses, broken = (
        np.array([case[i] for case in MAJORITY.values()]) for i in range(1, 4)
    )
    aimed = []
    for target in range(4):
        targets = tensor(np.full(len(labels), target), "int32")
        found, looks = majority.attack.aimed(
            majority_defense(), tensor(images), tensor(labels, "int32"), targets
        )
        aimed.append(array(found))
        assert array(looks)[:-1].tolist() == broken[:-1].tolist()
    # Of "none fooled": of class 1 -0.5 and -1, of class 2 -3 and -0.25, of class 3 -2 and -3.
    assert [each[0] for each in aimed[1:]] == pytest.approx([-1.5, -3.25, -5])
    others = np.where(np.eye(4)[labels] > 0, -np.inf, np.transpose(aimed))
    np.testing.assert_allclose(others.max(axis=1), losses, atol=1e-6)


def random_tables(shape: tuple[int, ...], classes: int, count: int = 48) -> Any:
    """Images of random pixels in [0, 1], and labels."""
    random = np.random.default_rng(7)
    images = random.random((count, *shape), dtype=np.float32)
    return images, random.integers(0, classes, count).astype(np.int32)


def test_majority_s_loss_by_loops() -> None:
    # Logits from 0 to 4, so that a good part of the leads is above 1.
    images, labels = random_tables((3, 4, 1), 4)
    defense = majority_defense(4.0)
    losses, broken, slope = asked(majority.attack, defense, images, labels)
    expected = [two_of_three(4 * image, y) for image, y in zip(images, labels, strict=True)]
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    numeric = by_differences(lambda image, y: two_of_three(4 * image, y), images, labels)
    np.testing.assert_allclose(slope, numeric, atol=1e-4)
    np.testing.assert_array_equal(broken, defense.broken(images, labels))
    wrong = defense.classify(images).argmax(axis=1) != labels
    assert 5 < broken.sum() < wrong.sum() < len(images)  # some are rejected, some are right
    # A step along the gradient raises the loss of every image that has one.
    moved = images + 0.01 * np.sign(slope)
    raised = [two_of_three(4 * image, y) for image, y in zip(moved, labels, strict=True)]
    assert (np.array(raised) - expected >= 0).all()
    assert (np.array(raised) > expected)[np.abs(slope).sum(axis=(1, 2, 3)) > 0].all()


# mergebinary: row k of an image are network k's logits for no and yes


def mergebinary_defense(scale: float = 1.0) -> Any:
    nets = [Reads(row, scale) for row in range(4)]
    return defense_of("mergebinary", nets, (4, 2, 1), 4)


def largest_margin(image: np.ndarray, label: int) -> float:
    gaps = [yes - no for no, yes in image[:, :, 0]]
    other = max(gap for k, gap in enumerate(gaps) if k != label)
    return min(other, 4.0) - max(gaps[label], -4.0)


# The networks' gaps, the label, the loss and whether it looks broken: another class has a
# probability of 0.7 of softmax(5 sigmoid(5 tanh(gap / 2))).
MERGED: dict[str, tuple[list[float], int, float, bool]] = {
    "right": ([3, -2, 1, -5], 0, 1 - 3, False),
    "broken": ([6, -7, -5, -8], 1, 4 + 4, True),
    "two say yes": ([6, -3, 5, -8], 1, 4 + 3, False),
    "enough of the label": ([-3, 2, -6, -1], 2, 2 + 4, True),
    # Nobody says yes. Merged logits 5 sigmoid(-0.349) = 2.068, thrice 0.033:
    # 7.91 / (7.91 + 3.10) = 0.718.
    "barely one": ([-0.14, -12, -12, -12], 1, -0.14 + 4, True),
    # 5 sigmoid(-0.498) = 1.890: 6.62 / (6.62 + 3.10) = 0.681.
    "nearly one": ([-0.2, -12, -12, -12], 1, -0.2 + 4, False),
    # However sure the networks are of the label, both gaps count in full.
    "sure": ([-9, -6, -5, 9], 3, -5 - 9, False),
}


def test_mergebinary_s_loss_by_hand() -> None:
    gaps = np.array([case[0] for case in MERGED.values()])
    images = np.stack([np.ones_like(gaps), 1 + gaps], axis=-1)[..., None]
    labels, losses, broken = (np.array([case[i] for case in MERGED.values()]) for i in range(1, 4))
    attack, *_ = mergebinary.attack.attacks
    found, looks, slope = asked(attack, mergebinary_defense(), images, labels)
    np.testing.assert_allclose(found, losses, atol=1e-5)
    assert looks.tolist() == broken.tolist()
    # By the gaps: up for the best other, down for the label, as far as either still counts.
    expected = np.zeros((7, 4))
    expected[0, [2, 0]] = [1, -1]
    expected[2, 1] = -1
    expected[3, 1] = expected[4, 0] = expected[5, 0] = 1
    expected[6, [2, 3]] = [1, -1]
    np.testing.assert_allclose(slope[..., 1, 0], expected, atol=1e-6)
    np.testing.assert_allclose(slope[..., 0, 0], -expected, atol=1e-6)


def test_mergebinary_s_last_loss_puts_one_network_over_all() -> None:
    gaps = np.array([case[0] for case in MERGED.values()])
    images = np.stack([np.ones_like(gaps), 1 + gaps], axis=-1)[..., None].astype(np.float32)
    labels, broken = (np.array([case[i] for case in MERGED.values()]) for i in (1, 3))
    targets = np.array([1, 0, 2, 1, 0, 3, 2])
    attack: Any = mergebinary.attack.attacks[2]
    found, looks = attack.aimed(
        mergebinary_defense(), tensor(images), tensor(labels, "int32"), tensor(targets, "int32")
    )
    # At most 4 of the target's own gap less that of the best other, which is at least -4.
    expected = [-2 - 3, 4 + 4, 4 - 6, 2 + 1, -0.14 + 4, -12 + 0.2, -5 - 9]
    np.testing.assert_allclose(array(found), expected, atol=1e-5)
    assert array(looks).tolist() == broken.tolist()


def test_mergebinary_s_loss_by_loops() -> None:
    # Gaps from -20 to 20, most of them large: networks are sure.
    images, labels = random_tables((4, 2, 1), 4)
    defense = mergebinary_defense(20.0)
    attack, *_ = mergebinary.attack.attacks
    losses, broken, _ = asked(attack, defense, images, labels)
    expected = [largest_margin(20 * image, y) for image, y in zip(images, labels, strict=True)]
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    np.testing.assert_array_equal(broken, defense.broken(images, labels))
    wrong = defense.classify(images).argmax(axis=1) != labels
    assert 5 < broken.sum() < wrong.sum() < len(images)


# knn: an image's pixels are its embedding


STORED_BY_LABEL = {
    0: [[0.9, 0.1, 0.1], [0.8, 0.0, 0.4], [0.7, 0.3, 0.0], [0.6, 0.2, 0.5]],
    1: [[0.1, 0.9, 0.2], [0.0, 0.8, 0.1], [0.4, 0.7, 0.1], [0.2, 0.6, 0.6]],
    2: [[0.1, 0.2, 0.9], [0.3, 0.0, 0.8], [0.5, 0.1, 0.7]],
}
STORED = np.concatenate(list(STORED_BY_LABEL.values()))
STORED_LABELS = np.repeat([0, 1, 2], [4, 4, 3])


def knn_defense(stored: Any = STORED, labels: Any = STORED_LABELS) -> Any:
    arrays = {"0/embeddings": np.array(stored, np.float32), "0/labels": np.array(labels, np.int32)}
    return defense_of("knn", [Reads()], (1, np.shape(stored)[1], 1), 3, arrays)


def soft_vote(image: np.ndarray, label: int, sharpness: float = 50.0) -> float:
    """Logarithm of the others' votes exp(sharpness * similarity) to the label's."""
    votes = {True: 0.0, False: 0.0}
    for stored, name in zip(STORED, STORED_LABELS, strict=True):
        similarity = float(sum(a * b for a, b in zip(image[0, :, 0], stored, strict=True)))
        votes[bool(name == label)] += math.exp(sharpness * similarity)
    return math.log(votes[False] / votes[True])


def test_knn_s_soft_vote_by_hand() -> None:
    # Similarities 0.5, 0.4, 0.3 and 0.1 to stored images of classes 0, 1, 0 and 2.
    defense = knn_defense([[1, 0.5], [0.8, 0], [0.6, 0], [0.2, 1]], [0, 1, 0, 2])
    images = np.array([[0.5, 0], [0.5, 0], [0.5, 0]], np.float32).reshape(3, 1, 2, 1)
    exp = math.exp
    for sharpness in (2.0, 50.0):
        near, next_, third, far = (exp(sharpness * each) for each in (0.5, 0.4, 0.3, 0.1))
        expected = [
            math.log((next_ + far) / (near + third)),
            math.log((near + third + far) / next_),
            math.log((near + next_ + third) / far),
        ]
        attack = replace(knn.attack, sharpness=sharpness)
        losses, broken, slope = asked(attack, defense, images, [0, 1, 2])
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        # All four vote, for class 0 twice.
        assert broken.tolist() == [False, True, True]
        # The second pixel: each weight by how much of it the stored images have.
        expected_slope = sharpness * (far / (next_ + far) - 0.5 * near / (near + third))
        assert slope[0, 0, 1, 0] == pytest.approx(expected_slope, rel=1e-4)


def test_knn_s_soft_vote_by_loops() -> None:
    images, labels = random_tables((1, 3, 1), 3)
    defense = knn_defense()
    losses, broken, slope = asked(knn.attack, defense, images, labels)
    expected = [soft_vote(image, y) for image, y in zip(images, labels, strict=True)]
    # Products of up to 50 are off by some units in float32's last place: 2e-5.
    np.testing.assert_allclose(losses, expected, atol=5e-5)
    numeric = by_differences(soft_vote, images, labels)
    np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-2)
    # What looks broken is the vote of the eight nearest and not the soft vote, which differ here.
    np.testing.assert_array_equal(broken, defense.broken(images, labels))
    assert (broken != (losses > 0)).any()
    assert 5 < broken.sum() < len(images) - 5
    # A step along the gradient makes the label's neighbors fewer in the soft vote.
    moved = images + 0.001 * np.sign(slope)
    raised = [soft_vote(image, y) for image, y in zip(moved, labels, strict=True)]
    assert (np.array(raised) > expected).all()


# randomneuron


class Dropping:
    """Logits are the pixels, and the other way round while anything is dropped."""

    variables: tuple[()] = ()

    def __call__(self, x: Any, chance: Any = None) -> Any:
        logits = 10 * x[:, 0, :, 0]
        return logits if chance is None else -logits


def test_randomneuron_s_network_is_attacked_without_the_dropping() -> None:
    defense = defense_of("randomneuron", [Dropping()], (1, 3, 1), 3)
    # Margins -3, 0, 90, all of which counts, and 0.5.
    pixels = np.array([[0.2, 0.5, -0.1], [0.5, 0.5, 0.1], [0, -1, 9], [0.4, 0.45, 0]], np.float32)
    losses, broken, slope = asked(
        randomneuron.attack, defense, pixels[:, None, :, None], [1, 0, 0, 0]
    )
    np.testing.assert_allclose(losses, [-3, 0, 90, 0.5], atol=1e-5)
    assert broken.tolist() == [False, False, True, True]
    expected = 10 * np.array([[1, -1, 0], [-1, 1, 0], [-1, 0, 1], [-1, 1, 0]])
    np.testing.assert_allclose(slope[:, 0, :, 0], expected, atol=1e-5)


def test_a_step_against_randomneuron_raises_the_margin_underneath() -> None:
    defense = defense_of("randomneuron", [Dropping()], (1, 3, 1), 3)
    image = np.array([0.3, 0.6, 0.1], np.float32).reshape(1, 1, 3, 1)
    attack = replace(randomneuron.attack, **ONE_STEP)
    found = attack(defense, tensor(image), tensor([1], "int32"), Linf(0.1))
    assert found.ravel() == pytest.approx([0.4, 0.5, 0.1], abs=1e-6)


# transform


class Drawn:
    """A stochastic defense: the pixels are its logits, the second one raised by each draw's own."""

    raised = np.array([-3, -1.25, 0, 0.5, 5, 100, 100, 100, 100, 100], np.float32)
    asks = 1

    def __init__(self) -> None:
        self.passes = Passes()
        self.asked_for: list[tuple[int, ...]] = []

    def compiled(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        return backend.compile(function, [])

    def logits(self, x: Any, chance: Any = None) -> Any:
        self.asked_for.append(tuple(x.shape))
        raised = ops.take(tensor(self.raised), chance.seed, axis=0)
        logits = x[:, 0, :, 0]
        return ops.stack([logits[:, 0], logits[:, 1] + raised], axis=-1)


def test_transform_s_loss_saturates_for_each_draw_by_itself() -> None:
    defense = Drawn()
    pixels = np.array([[0, 0], [0.25, 0], [0, 0], [0, 3], [0.5, 0]], np.float32)
    labels = [0, 0, 1, 1, 1]
    # Margins over the draws -3, -1.25, 0, 0.5 and 5, of which 1 counts: the mean is 0.25, what
    # counts -0.55. The others: 0.25 less, a mean of 0; the other way round; then 3 less and 0.5
    # more than that.
    margins = np.array([-3, -1.25, 0, 0.5, 5])
    each = np.array([margins, margins - 0.25, -margins, -margins - 3, 0.5 - margins])
    # All of them twice: of ten images and five draws no mix-up is a mere change of order.
    losses, broken, slope = asked(
        transform_spoiler.attack,
        defense,
        np.tile(pixels, (2, 1))[:, None, :, None],
        np.tile(labels, 2),
    )
    assert each[0].mean() == 0.25
    np.testing.assert_allclose(losses, np.tile(np.minimum(each, 1).mean(axis=1), 2), atol=1e-6)
    assert losses[0] == pytest.approx(-0.55)
    assert broken.tolist() == 2 * [True, False, False, False, True]
    # Of five draws four, four, three, five and three still count.
    shares = np.tile([0.8, 0.8, -0.6, -1, -0.6], 2)
    np.testing.assert_allclose(slope[:, 0, 1, 0], shares, atol=1e-6)
    np.testing.assert_allclose(slope[:, 0, 0, 0], -shares, atol=1e-6)
    assert set(defense.asked_for) == {(50, 1, 2, 1)}  # ten images, five draws


@pytest.mark.parametrize("draws", [1, 2])
def test_transform_s_draws_are_the_first_ones_as_many_as_told(draws: int) -> None:
    attack = transform_spoiler.OverDraws(draws=draws)
    losses, _, _ = asked(attack, Drawn(), np.zeros((1, 1, 2, 1)), [0])
    assert losses == pytest.approx([[-3], [(-3 - 1.25) / 2]][draws - 1])


def test_transform_s_loss_on_the_defense_itself() -> None:
    class Rows:
        """Two logits: the sums of the image's upper and lower half."""

        variables: tuple[()] = ()

        def __call__(self, x: Any) -> Any:
            return ops.stack([ops.sum(x[:, :4], (1, 2, 3)), ops.sum(x[:, 4:], (1, 2, 3))], -1)

    defense = defense_of("transform", [Rows()], (8, 8, 1), 2, settings=Settings(flip=False))
    images, labels = random_tables((8, 8, 1), 2, count=3)
    logits = defense.compiled(("seeded",), lambda x, seed: defense.logits(x, Chance(x, seed)))
    margins = []
    for seed in range(3):
        answers = array(logits(tensor(images), tensor(seed, "int32")))  # draw k is that of seed k
        label, other = answers[range(3), labels], answers[range(3), 1 - labels]
        margins.append(other - label)
    assert np.ptp(margins, axis=0).min() > 0.01  # draws differ
    losses, broken, _ = asked(transform_spoiler.OverDraws(draws=3), defense, images, labels)
    np.testing.assert_allclose(losses, np.minimum(margins, 1).mean(axis=0), atol=1e-4)
    np.testing.assert_array_equal(broken, np.mean(margins, axis=0) > 0)


# injection


CLASSES, FEATURES = 6, 7
STRENGTH = 0.25


class Trapdoors:
    """A network that reads its answers from a table in the image.

    Row 0 has the features of the image as it is, then a tenth of its logits; row 1 + k those under
    pattern k, which adds `STRENGTH` to the last pixel of row 1 + k and so is recognized.
    """

    variables: tuple[()] = ()

    def mean_features(self, x: Any) -> tuple[Any, Any]:
        under = x[:, 1:, -1, 0] / STRENGTH
        chosen = ops.concatenate([1 - ops.sum(under, axis=-1, keepdims=True), under], axis=-1)
        values = ops.sum(chosen[:, :, None] * x[:, :, :-1, 0], axis=1)
        return values[:, :FEATURES], 10 * values[:, FEATURES:]

    def __call__(self, x: Any) -> Any:
        return self.mean_features(x)[1]


@cache
def injection_defense() -> Any:
    shape = (1 + CLASSES, FEATURES + CLASSES + 1, 1)
    patterns = np.zeros((CLASSES, *shape), np.float32)
    patterns[np.arange(CLASSES), 1 + np.arange(CLASSES), -1] = 1
    # A signature's cosine to features of length 1 is one of them. Their own lengths are to be of
    # no consequence, nor are those of features.
    signatures = np.eye(CLASSES, FEATURES, dtype=np.float32) * np.arange(1, 7)[:, None]
    arrays = {"0/patterns": patterns, "0/signatures": signatures.astype(np.float32)}
    settings = InjectionSettings(strength=STRENGTH)
    return defense_of("injection", [Trapdoors()], shape, CLASSES, arrays, settings)


CALM: dict[str, list[float]] = {
    "logits": [5, 1, 7, 2, 3, 4],
    "likeness": [0.3, 0.1, 0.4, 0.2, 0.15, 0.05],  # cosines to the six signatures
    "under": [0.9, 0.82, 0.95, 0.83, 0.88, 0.84],  # under each pattern, to its signature
    "works": [3, 0.5, 2, 0.75, 4, 0.25],  # lead of its class over the next under each pattern
}


def table(**changes: dict[int, float]) -> np.ndarray:
    """An image that is answered so; by default as `CALM` says, changed at some places."""
    values = {name: list(each) for name, each in CALM.items()}
    for name, places in changes.items():
        for place, value in places.items():
            values[name][place] = value
    image = np.zeros((1 + CLASSES, FEATURES + CLASSES + 1), np.float32)
    likeness = np.array(values["likeness"])
    image[0, :CLASSES] = likeness
    image[0, CLASSES] = math.sqrt(1 - np.square(likeness).sum())
    image[0, :FEATURES] *= 0.5  # a length of features that is not 1
    image[0, FEATURES:-1] = np.array(values["logits"]) / 10
    for k in range(CLASSES):
        image[1 + k, k] = values["under"][k]
        image[1 + k, CLASSES] = math.sqrt(1 - values["under"][k] ** 2)
        # The next class after k has the best logit but perhaps k's.
        answers = np.full(CLASSES, 3.0)
        answers[(k + 1) % CLASSES] = 4
        answers[k] = 4 + values["works"][k]
        answers += k / 2  # a level of their own: classes are to be compared, not patterns
        image[1 + k, FEATURES:-1] = answers / 10
    return image[:, :, None]


def asked_of_injection(
    tables: list[np.ndarray], labels: Any, attack: Any = injection.attack
) -> tuple[np.ndarray, ...]:
    """As `asked`, always with twelve images: what is compiled is compiled once."""
    images, count = np.stack(tables), len(tables)
    images = np.resize(images, (12, *images.shape[1:]))
    answers = asked(attack, injection_defense(), images, np.resize(labels, 12))
    return tuple(each[:count] for each in answers)


def ordinary(image: np.ndarray, label: int, lead: float = 2.0, weight: float = 5.0) -> float:
    """The loss, read from the table."""

    def cosine(row: int, signature: int) -> float:
        features = image[row, :FEATURES, 0]
        return float(features[signature] / math.sqrt(float(np.square(features).sum())))

    logits = 10 * image[:, FEATURES:-1, 0]
    target = max((k for k in range(CLASSES) if k != label), key=lambda k: float(logits[0, k]))
    loss = min(float(logits[0, target] - logits[0, label]), lead)
    loss -= weight * max(cosine(0, target), 0.5)
    for k in range(CLASSES):
        if k != target:
            best = max(float(logits[1 + k, other]) for other in range(CLASSES) if other != k)
            loss += weight * min(cosine(1 + k, k), 0.85) / CLASSES
            loss += min(float(logits[1 + k, k]) - best, 1.0) / CLASSES
    return loss


def test_injection_s_loss_by_hand() -> None:
    images = [
        table(),
        table(logits={2: 4.5}, likeness={2: 0.1, 5: 0.55}, under={0: 0.7}),
        table(logits={2: 6}, likeness={2: 0.7}, works={0: -2}),
    ]
    # The target, class 2, leads by 2, which is enough, and is alike by less than 0.5. Under the
    # others' patterns 0.85, 0.82, 0.83, 0.85 and 0.84 of the cosines count, and 1, 0.5, 0.75, 1
    # and 0.25 of the leads.
    first = 2 - 5 * 0.5 + 5 * (0.85 + 0.82 + 0.83 + 0.85 + 0.84) / 6 + (1 + 0.5 + 0.75 + 1.25) / 6
    # Class 2 lags behind the label by 0.5, and is still the best other one, if above 4. Under
    # pattern 0 the cosine is 0.7 where 0.85 counted.
    second = first - 2.5 + 5 * (0.7 - 0.85) / 6
    # A lead of 1, and alike by 0.7; under pattern 0 its class lags by 2 where 1 counted.
    third = first - 1 - 5 * 0.2 + (-2 - 1) / 6
    losses, _, _ = asked_of_injection(images, [0, 0, 0])
    np.testing.assert_allclose(losses, [first, second, third], atol=1e-5)
    # Another lead and weight: a lead of 1.5 is enough, cosines count twice. Theirs, of those under
    # patterns, add up to 4.19, and the leads to 3.5.
    other = replace(injection.attack, lead=1.5, weight=2.0)
    losses, _, _ = asked_of_injection(images, [0, 0, 0], other)
    first = 1.5 - 2 * 0.5 + 2 * 4.19 / 6 + 3.5 / 6
    second = first - 2 + 2 * (0.7 - 0.85) / 6
    np.testing.assert_allclose(losses, [first, second, 1 - 1.4 + 8.38 / 6 + 0.5 / 6], atol=1e-5)


def test_injection_s_loss_and_its_gradient_by_loops() -> None:
    random = np.random.default_rng(3)
    images = []
    for _ in range(12):
        image = table()
        image[:, :-1] = random.random((1 + CLASSES, FEATURES + CLASSES, 1))
        # Features so that cosines lie on both sides of 0.5 and 0.85.
        for k in range(CLASSES):
            image[1 + k, k] += random.uniform(0, 4)
        image[0, random.integers(CLASSES)] += 2
        image[0, FEATURES:-1] -= 1  # logits below 0, as good as others
        images.append(image)
    labels = random.integers(0, CLASSES, 12)
    losses, _, slope = asked_of_injection(images, labels)
    expected = [ordinary(image, y) for image, y in zip(images, labels, strict=True)]
    # Terms of up to 10 are off by a few units in float32's last place.
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    numeric = by_differences(ordinary, np.stack(images), labels)
    # The last column is what patterns mark.
    np.testing.assert_allclose(slope[:, :, :-1], numeric[:, :, :-1], atol=2e-3)


def test_a_step_against_injection_raises_what_it_is_to_raise() -> None:
    # Class 2 lags behind label 0, and all terms are on the side where they count: it is too like
    # its signature, and under the other patterns neither features nor answers are the patterns'.
    image = table(
        logits={2: 4.5},
        likeness={2: 0.6},
        under=dict.fromkeys(range(CLASSES), 0.6),
        works=dict.fromkeys(range(CLASSES), -0.5),
    )
    _, _, slope = asked_of_injection([image], [0])
    gradient = slope[0, :, :, 0]
    assert gradient[0, FEATURES : FEATURES + CLASSES] == pytest.approx([-10, 0, 10, 0, 0, 0])
    assert gradient[0, 2] < -0.1  # less like class 2
    for k in range(CLASSES):
        answers = gradient[1 + k, FEATURES : FEATURES + CLASSES]
        if k == 2:
            assert not gradient[1 + k, :-1].any()
        else:
            assert gradient[1 + k, k] > 0.1
            assert answers[k] == pytest.approx(10 / 6)
            assert answers[(k + 1) % CLASSES] == pytest.approx(-10 / 6)
    # Where every term has enough nothing is left to do.
    calm = table(logits={2: 8}, under={1: 0.9, 3: 0.9, 5: 0.9}, works={1: 2, 3: 2, 5: 2})
    _, _, slope = asked_of_injection([calm], [0])
    assert not slope[0, :, :-1].any()


def test_injection_s_images_look_broken_when_changed_and_not_rejected() -> None:
    cases: list[tuple[np.ndarray, int, bool]] = [
        (table(), 0, True),
        (table(), 2, False),  # the label itself
        (table(logits={0: 7.1}), 0, False),
        # Like the signature of its answer, above 0.6; of the label's, no matter.
        (table(likeness={2: 0.61}), 0, False),
        (table(likeness={2: 0.59}), 0, True),
        (table(likeness={0: 0.75}), 0, True),
        # Three of the others' features may be unlike, four may not; its answer's do not count.
        (table(under={0: 0.79, 1: 0.79, 3: 0.79}), 0, True),
        (table(under={0: 0.79, 1: 0.79, 2: 0.1, 3: 0.79}), 0, True),
        (table(under={0: 0.79, 1: 0.79, 3: 0.79, 4: 0.79}), 0, False),
        # Of five others' patterns four have to work.
        (table(works={0: -1}), 0, True),
        (table(works={0: -1, 5: -1}), 0, False),
        (table(works={0: -1, 2: -1}), 0, True),
    ]
    images, labels = [case[0] for case in cases], [case[1] for case in cases]
    _, broken, _ = asked_of_injection(images, labels)
    assert broken.tolist() == [case[2] for case in cases]
    judged = injection_defense().broken(np.stack(images), np.array(labels))
    np.testing.assert_array_equal(broken, judged)
