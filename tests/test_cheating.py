"""What an attack may not do to be believed: change what judges it, or count what is no success."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring import backend
from sparring.attacks import BPDA, PGD
from sparring.data import Dataset, load
from sparring.defenses.defense import Defense
from sparring.errors import AttackError
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.judge import Judge
from sparring.evaluation.verdict import Verdict
from sparring.threat import Linf, ThreatModel
from tests.conftest import Linear

pytestmark = pytest.mark.backend

THREAT = Linf(0.1)


@pytest.fixture
def grays() -> Dataset:
    """Six gray images of class 1, which `linear` answers rightly."""
    x, y = np.full((6, 8, 8, 1), 128, np.uint8), np.ones(6, np.int32)
    return Dataset("linear", x, y, x, y, ("a", "b"))


def judged(defense: Any, data: Dataset, attack: Any, **options: Any) -> Verdict:
    options = {"check": False, "n": 6, "batch_size": 4, **options}
    return evaluate(defense, attack, options.pop("threat", THREAT), data, **options)


def making(change: Any) -> Any:
    """An attack that makes a change and gives its input back."""

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        change(defense)
        return x

    return attack


def changed_by(defense: Any, data: Dataset, change: Any, **options: Any) -> str:
    """What the error says of an attack that changes the defense that judges it."""
    with pytest.raises(AttackError, match="changed the defense that judges it") as caught:
        judged(defense, data, making(change), **options)
    return str(caught.value)


def changed_in_its_copy(defense: Any, data: Dataset, change: Any, **options: Any) -> str:
    """What the warning says of an attack that changes the defense it was given."""
    verdict = judged(defense, data, making(change), **options)
    assert verdict.success_rate.value == 0
    assert set(verdict.reason[verdict.attacked]) == {"label unchanged"}
    [warning] = verdict.warnings
    assert warning.name == "changed-defense"
    return str(warning)


def other_answers(x: Any, seed: int = 0) -> np.ndarray:
    return np.tile(np.array([1, 0], np.float32), (len(x), 1))


class Answering(Linear):
    """Answers as an attack would like it."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return ops.convert_to_tensor(other_answers(x))


def _item(target: str) -> Any:
    def change(defense: Any) -> None:
        getattr(defense, target)["probabilities",] = lambda *_: ops.ones((1, 2))

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: setattr(d, "classify", other_answers), "defense.classify"),
        (lambda d: setattr(d, "logits", other_answers), "defense.logits"),
        (lambda d: setattr(d, "threshold", -1.0), "defense.threshold"),
        (lambda d: setattr(d, "bias", 4.0), "defense.bias"),
        (lambda d: setattr(d, "name", "other"), "defense.name"),
        (lambda d: setattr(d, "nets", [1]), "defense.nets"),
        (lambda d: d.nets.append(1), "defense.nets.0"),
        (lambda d: d.arrays.update(patterns=np.ones(3)), "defense.arrays.patterns"),
        (lambda d: d.direction.fill(0), "defense.direction"),
        (lambda d: object.__setattr__(d.info, "shape", (1, 1, 1)), "defense.info.shape"),
        (lambda d: delattr(d, "bias"), "defense.bias"),
        (lambda d: setattr(d, "__class__", Answering), "defense.__class__"),
    ],
)
def test_a_change_of_its_own_copy_is_told_and_of_no_use(
    linear: Linear, grays: Dataset, change: Any, what: str
) -> None:
    assert what in changed_in_its_copy(linear, grays, change)
    assert (linear.name, linear.nets, linear.arrays) == ("linear", [], {})
    assert linear.bias == -4.0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: setattr(d, "classify", other_answers), "defense.classify"),
        (lambda d: setattr(d, "threshold", -1.0), "defense.threshold"),
        (lambda d: setattr(d, "bias", 4.0), "defense.bias"),
        (lambda d: d.nets.append(1), "defense.nets.0"),
        (lambda d: d.direction.fill(0), "defense.direction"),
        (lambda d: object.__setattr__(d.info, "shape", (1, 1, 1)), "defense.info.shape"),
        (_item("_compiled"), "defense._compiled"),
        (lambda d: setattr(d, "__class__", Answering), "defense.__class__"),
        (lambda d: setattr(type(d), "classify", other_answers), "Linear.classify"),
        (lambda d: setattr(Defense, "detect", other_answers), "Defense.detect"),
        (lambda d: setattr(ThreatModel, "check", other_answers), "ThreatModel.check"),
    ],
)
def test_a_change_of_the_defense_that_judges_is_found_and_put_back(
    linear: Linear, grays: Dataset, tmp_path: Path, change: Any, what: str
) -> None:
    assert what in changed_by(linear, grays, lambda _: change(linear), out=tmp_path / "v")
    assert [file.name for file in (tmp_path / "v").iterdir()] == [".lock"]
    moved = grays.x_test[:6].astype(np.float32) / 255 - np.float32(0.1) * linear.direction
    assert judged(linear, grays, lambda *_: moved[:4], n=4).success_rate.value == 1
    assert judged(linear, grays, lambda d, x, y, t: x).success_rate.value == 0
    assert (linear.name, linear.nets, linear.arrays) == ("linear", [], {})


class Counting(Linear):
    """Counts how often it is asked."""

    ever = 0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked, self.left, self.by = 0, 100, {"logits": 0}

    def logits(self, x: Any, chance: Any = None) -> Any:
        self.asked += 1
        self.left -= 1
        self.by["logits"] += 1
        type(self).ever += 1
        return super().logits(x, chance)


def test_a_defense_may_count_its_queries(linear: Linear, grays: Dataset) -> None:
    defense = Counting(linear.direction, linear.bias)

    def attack(given: Any, x: Any, y: Any, threat: Any) -> Any:
        for _ in range(10):
            given.logits(x)
            defense.logits(x)
        return x

    assert judged(defense, grays, attack).warnings == []
    assert defense.asked >= 20  # of two batches
    assert [defense.by["logits"], 100 - defense.left] == [defense.asked] * 2
    for change in (
        lambda d: setattr(d, "asked", -1),
        lambda d: setattr(d, "left", 1000),
        lambda d: setattr(d, "asked", 1e9),
        lambda d: d.by.update(logits=0.0),
        lambda d: setattr(type(d), "ever", -1),
    ):
        told = changed_by(defense, grays, lambda _, change=change: change(defense))
        assert "defense." in told.replace("Counting.", "defense.")


class Remembering(Counting):
    """Keeps what it was asked."""

    last: Any = None

    def logits(self, x: Any, chance: Any = None) -> Any:
        self.last = x
        return super().logits(x, chance)


def test_a_defense_that_remembers_what_it_was_asked_is_not_judged(
    linear: Linear, grays: Dataset
) -> None:
    defense = Remembering(linear.direction, linear.bias)
    asked = np.zeros((1, 8, 8, 1))
    assert "defense.last" in changed_by(defense, grays, lambda _: defense.logits(asked))


def test_what_earlier_batches_came_to_is_not_written_either(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    calls: list[int] = []

    def change(_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            linear.bias = 4.0

    changed_by(linear, grays, change, out=tmp_path / "v")
    assert [file.name for file in (tmp_path / "v").iterdir()] == [".lock"]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def assign_all(defense: Any, factor: float) -> None:
    for net in defense.nets:
        for variable in net.trainable_variables:
            variable.assign(variable.value * factor)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: assign_all(d, -1.0), "head_kernel of network 1"),
        (lambda d: setattr(d.nets[0], "transform", lambda x: 1 - x), "defense.nets[0].transform"),
        (lambda d: setattr(d.nets[0], "output", lambda x: -x), "defense.nets[0].output"),
        (lambda d: setattr(type(d.nets[0]), "output", lambda net, x: -x), "AllConv.output"),
        (lambda d: d.nets.reverse() or d.nets.append(d.nets[0]), "defense.nets.1"),
    ],
)
def test_a_change_of_a_trained_defense_is_found_and_put_back(
    digits_baseline: Defense, digits: Dataset, change: Any, what: str
) -> None:
    x = digits.x_test[:20]
    before = digits_baseline.classify(x)
    assert what in changed_by(digits_baseline, digits, lambda _: change(digits_baseline))
    np.testing.assert_array_equal(digits_baseline.classify(x), before)
    if what != "AllConv.output":  # a class has no second copy
        assert what in changed_in_its_copy(digits_baseline, digits, change)
    np.testing.assert_array_equal(digits_baseline.classify(x), before)


def test_the_copy_of_a_defense_answers_as_it_does(
    digits_baseline: Defense, digits: Dataset
) -> None:
    x = digits.x_test[:20]
    seen: list[np.ndarray] = []

    def look(defense: Any) -> None:
        assert defense is not digits_baseline
        seen.append(defense.classify(x))

    judged(digits_baseline, digits, making(look))
    np.testing.assert_array_equal(seen[0], digits_baseline.classify(x))


def test_a_network_of_another_class_is_found(digits_baseline: Defense, digits: Dataset) -> None:
    kind = type(digits_baseline.nets[0])
    own = type("Own", (kind,), {"call": lambda net, x, chance=None: -kind.call(net, x, chance)})

    def change(defense: Any) -> None:
        defense.nets[0].__class__ = own

    told = changed_by(digits_baseline, digits, lambda _: change(digits_baseline))
    assert "defense.nets[0].__class__" in told
    assert "defense.nets[0].__class__" in changed_in_its_copy(digits_baseline, digits, change)
    assert type(digits_baseline.nets[0]) is kind


def test_weights_of_another_shape_are_found_and_put_back(
    digits_baseline: Defense, digits: Dataset
) -> None:
    if backend.name != "torch":
        pytest.skip("the others' tensors keep their shape")
    torch = pytest.importorskip("torch")
    x = digits.x_test[:20]
    before = digits_baseline.classify(x)

    def shrink(defense: Any) -> None:
        defense.nets[0].trainable_variables[0].value.data = torch.zeros(1)

    assert "conv_0_kernel" in changed_in_its_copy(digits_baseline, digits, shrink)
    np.testing.assert_array_equal(digits_baseline.classify(x), before)
    assert "conv_0_kernel" in changed_by(digits_baseline, digits, lambda _: shrink(digits_baseline))
    np.testing.assert_allclose(digits_baseline.classify(x), before, atol=1e-6)


def test_an_optimizer_of_pytorch_is_found(digits_baseline: Defense, digits: Dataset) -> None:
    torch = pytest.importorskip("torch")
    if backend.name != "torch":
        pytest.skip("the framework is another")

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        weights = [variable.value for variable in defense.nets[0].trainable_variables]
        optimizer = torch.optim.SGD(weights, lr=5.0)
        (-torch.nn.functional.cross_entropy(defense.logits(x), y.long())).backward()
        optimizer.step()
        return x

    before = digits_baseline.classify(digits.x_test[:20])
    [warning] = judged(digits_baseline, digits, attack).warnings
    assert "conv_0_kernel of network 1" in warning.text
    np.testing.assert_array_equal(digits_baseline.classify(digits.x_test[:20]), before)
    module = sparring.as_torch_module(digits_baseline)

    def honest(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        sparring.as_torch_module(defense)(torch.permute(x, (0, 3, 1, 2)))
        module.eval()
        defense.nets[0].eval()
        return PGD(steps=2)(BPDA(defense, transform=lambda z: z), x, y, threat)

    judged(digits_baseline, digits, honest)


def test_an_attack_that_fails_leaves_no_change_either(linear: Linear, grays: Dataset) -> None:
    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        linear.bias = 4.0
        raise ValueError

    with pytest.raises(AttackError, match=r"changed the defense .* defense\.bias"):
        judged(linear, grays, attack)
    assert linear.bias == -4.0


def test_a_thread_that_runs_on_is_found(
    linear: Linear, grays: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_them = Judge.judge

    def later(*given: Any) -> Any:
        came = judge_them(*given)
        linear.bias = 4.0  # as a thread would, once its batch is judged
        return came

    monkeypatch.setattr(Judge, "judge", later)
    with pytest.raises(AttackError, match=r"defense\.bias"):
        judged(linear, grays, lambda d, x, y, t: x, batch_size=6)
    assert linear.bias == -4.0


def test_a_change_in_the_checks_is_found(linear: Linear, grays: Dataset) -> None:
    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        if threat != THREAT:
            linear.bias = 4.0
        return x

    with pytest.raises(AttackError, match=r"defense\.bias"):
        judged(linear, grays, attack, check=True)
    assert linear.bias == -4.0


def test_the_threat_model_given_away_is_not_the_judge_s(linear: Linear, grays: Dataset) -> None:
    seen: list[float] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        seen.append(threat.eps)
        object.__setattr__(threat, "eps", 1.0)
        return np.array(ops.convert_to_numpy(x)) - np.float32(0.2) * linear.direction

    mine = Linf(0.1)
    verdict = judged(linear, grays, attack, threat=mine)
    assert seen == [0.1, 0.1]
    assert mine.eps == 0.1
    assert set(verdict.reasons) == {"too far: Linf distance above eps"}


class Restless(Linear):
    """Answers otherwise once it was asked about clean images, without an attack's doing."""

    asked = 0

    def _in_batches(self, key: str, answer: Any, x: Any, seed: int) -> np.ndarray:
        answers = super()._in_batches(key, answer, x, seed)
        type(self).asked += 1
        return answers[:, ::-1] if answers.ndim == 2 and self.asked > 2 else answers


def test_what_was_not_moved_is_not_broken(linear: Linear, grays: Dataset) -> None:
    restless = Restless(linear.direction, linear.bias)
    judge = Judge.of(restless, THREAT, 1, 0)
    x = grays.x_test.astype(np.float32) / 255
    rows = judge.clean_rows(np.arange(6), x, grays.y_test)
    moved = x.copy()
    moved[3:] += np.float32(0.01)
    rows, _ = judge.judge(rows, x, moved)
    assert rows["success"].tolist() == [0, 0, 0, 1, 1, 1]
    assert rows["reason"].tolist() == ["label unchanged"] * 3 + ["broken"] * 3


class Overflowing(Linear):
    """Has no finite answer to dark images, nor a score of bright ones."""

    detects = True

    def logits(self, x: Any, chance: Any = None) -> Any:
        dark = ops.mean(x, axis=(1, 2, 3)) < 0.45
        return super().logits(x) / ops.where(dark, 0.0, 1.0)[:, None]  # the first is 0 / 0

    def scores(self, x: Any, chance: Any = None) -> Any:
        bright = ops.mean(x, axis=(1, 2, 3)) > 0.55
        zero = ops.zeros_like(x[:, 0, 0, 0])
        return zero / ops.where(bright, 0.0, 1.0)


def test_an_answer_that_is_not_finite_is_nobody_s_success(linear: Linear, grays: Dataset) -> None:
    overflowing = Overflowing(linear.direction, linear.bias)
    x = np.concatenate([grays.x_test, grays.x_test[:1] // 3])
    data = Dataset("linear", x, np.ones(7, np.int32), x, np.ones(7, np.int32), ("a", "b"))
    moves = np.array([-0.1, 0.1, 0, 0, 0, 0], np.float32)[:, None, None, None]

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        images = np.array(ops.convert_to_numpy(x)) + moves
        images[5] -= np.float32(0.1) * linear.direction
        return images

    verdict = judged(overflowing, data, attack, n=7, batch_size=6)
    assert verdict.attacked.tolist() == [True] * 6 + [False]
    assert verdict.success.tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert verdict.reasons[:2] == ["the defense's answer is not finite"] * 2
    assert verdict.reasons[6] == "clean image misclassified"
    assert verdict.answer.tolist() == [-1, -1, 1, 1, 1, 0, -1]


class Shifting(np.ndarray):
    """An array that looks near when it is measured and far when it is shown."""

    def astype(self, *arguments: Any, **options: Any) -> Any:
        return np.zeros(self.shape, np.float32)

    def reshape(self, *shape: Any, **options: Any) -> Any:
        return np.full(self.shape, 0.5).reshape(*shape)


def test_an_array_of_another_class_is_taken_for_the_numbers_in_it(
    linear: Linear, grays: Dataset
) -> None:
    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        return np.array(ops.convert_to_numpy(x)).view(Shifting)

    verdict = judged(linear, grays, attack)
    assert verdict.distance.tolist() == [0] * 6
    assert set(verdict.reasons) == {"label unchanged"}
    assert type(verdict.adversarial) is np.ndarray
