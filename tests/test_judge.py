"""The judge: what it counts, what it refuses, and that it keeps what it has."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file

import sparring
from sparring.attacks import PGD, Noise
from sparring.data import Dataset
from sparring.defense import Defense
from sparring.errors import AttackError, RunError, SettingsError
from sparring.figures import Rate
from sparring.judge import Report, evaluate
from sparring.threat import Linf
from tests.conftest import Linear

pytestmark = pytest.mark.backend

THREAT = Linf(0.1)


@pytest.fixture
def grays(linear: Linear) -> Dataset:
    """Ten gray images of class 1, which `linear` answers rightly, but two that it does not."""
    x = np.full((10, 8, 8, 1), 128, np.uint8)
    y = np.ones(10, np.int32)
    y[[3, 7]] = 0
    return Dataset("linear", x, y, x, y, ("a", "b"))


def broken_by(linear: Linear, x: Any, eps: float = 0.1) -> np.ndarray:
    """The best point within eps."""
    return np.array(ops.convert_to_numpy(x)) - np.float32(eps) * linear.direction


def judged(linear: Linear, grays: Dataset, attack: Any, **options: Any) -> Report:
    options = {"threat": THREAT, "n": 10, "check": False, **options}
    return evaluate(linear, attack, options.pop("threat"), grays, options.pop("n"), **options)


def test_wilson_s_interval_by_hand() -> None:
    rate = Rate.of(np.array([1.0] * 8 + [0.0] * 2))
    # (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), z2 = 3.8415, n = 10, p = 0.8
    assert rate == pytest.approx((0.8, 10, 0.4902, 0.9433), abs=1e-4)
    assert str(rate) == "80.0 % (95 % interval 49.0 to 94.3; n = 10)"
    assert Rate.of(np.ones(100)) == pytest.approx((1, 100, 0.9630, 1), abs=1e-4)
    assert math.isnan(Rate.of(np.array([])).value)
    assert "no images" in str(Rate.of(np.array([])))


def test_only_images_answered_correctly_are_attacked(linear: Linear, grays: Dataset) -> None:
    seen = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        seen.append(x.shape[0])
        assert threat == THREAT
        assert (ops.convert_to_numpy(y) == 1).all()
        return broken_by(linear, x)

    report = judged(linear, grays, attack)
    assert seen == [8]
    assert report.clean_accuracy.value == 0.8
    assert report.success_rate == Rate.of(np.ones(8))
    assert report.robust_accuracy.value == 0
    assert report.attacked.tolist() == [i not in (3, 7) for i in range(10)]
    assert report.reasons[3] == "clean image misclassified"
    assert report.distance[0] == pytest.approx(0.1, abs=1e-7)
    assert np.isnan(report.distance[3])
    assert report.failed == []


def _set(x: Any, value: Any) -> np.ndarray:
    images = np.array(ops.convert_to_numpy(x))
    images[0, 0, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda x: _set(x, np.nan), "not finite"),
        (lambda x: _set(x, np.inf), "not finite"),
        (lambda x: _set(x, -0.001), "outside [0, 1]"),
        (lambda x: _set(x, 1.001), "outside [0, 1]"),
        (lambda x: _set(x, 128 / 255 + 0.1001), "too far: Linf distance above eps"),
        (lambda x: x, "label unchanged"),
    ],
)
def test_an_image_that_breaks_a_rule_fails_alone(
    linear: Linear, grays: Dataset, wrong: Any, reason: str
) -> None:
    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        images = broken_by(linear, x)
        images[0] = np.array(ops.convert_to_numpy(wrong(x)))[0]
        return images

    report = judged(linear, grays, attack)
    assert report.reasons[0].startswith(reason)
    assert report.success[0] == 0
    assert report.reasons[1] == "broken"
    assert report.success_rate.value == 7 / 8
    assert report.failed == [0]
    assert np.isfinite(report.adversarial).all()


class OtherTensor:
    """What another framework's tensors look like to this one."""


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (lambda x: None, "returned NoneType: expected a tensor of"),
        (lambda x: [0.5], "returned list: expected a tensor of"),
        (lambda x: OtherTensor(), "returned tests.test_judge.OtherTensor: expected a tensor of"),
        (lambda x: x[:2], "shape [2, 8, 8, 1]: expected [8, 8, 8, 1]"),
        (lambda x: np.zeros((8, 1, 8, 8)), "shape [8, 1, 8, 8]: expected"),
        (lambda x: np.full((8, 8, 8, 1), 200, np.uint8), "dtype uint8: expected float32"),
    ],
)
def test_garbage_fails_with_its_reason(
    linear: Linear, grays: Dataset, garbage: Any, reason: str
) -> None:
    report = judged(linear, grays, lambda defense, x, y, threat: garbage(x))
    assert report.success_rate.value == 0
    assert all(report.reasons[i].startswith(reason) for i in range(10) if i not in (3, 7))
    assert reason in str(report)


def test_another_framework_s_tensor_is_not_taken(linear: Linear, grays: Dataset) -> None:
    if sparring.backend.name == "torch":
        pytest.skip("torch is the framework")
    torch = pytest.importorskip("torch")
    report = judged(linear, grays, lambda d, x, y, t: torch.zeros(8, 8, 8, 1))
    assert report.reasons[0].startswith("returned torch.Tensor: expected a tensor of")


def test_float64_is_judged_as_float32(linear: Linear, grays: Dataset) -> None:
    report = judged(linear, grays, lambda d, x, y, t: broken_by(linear, x).astype(np.float64))
    assert report.success_rate.value == 1


def test_eps_is_kept_to_rounding_and_no_further(linear: Linear, grays: Dataset) -> None:
    def within(eps: float) -> float:
        return judged(
            linear, grays, lambda d, x, y, t: broken_by(linear, x, eps)
        ).success_rate.value

    assert within(0.1) == 1
    assert within(0.1 + 1e-6) == 0


def test_changing_the_input_in_place_gains_nothing(linear: Linear, grays: Dataset) -> None:
    if sparring.backend.name != "torch":
        pytest.skip("tensors of this framework cannot be changed")

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        x -= 0.4 * ops.convert_to_tensor(linear.direction)
        return x

    report = judged(linear, grays, attack)
    assert report.success_rate.value == 0
    assert report.reasons[0].startswith("too far")
    assert [warned.name for warned in report.warnings] == ["changed-input"]


class Coin(Linear):
    """Answers at random when an image is near the boundary."""

    stochastic = True

    def logits(self, x: Any) -> Any:
        logits = super().logits(x)
        drawn = self.chance(x).uniform(1)
        return ops.concatenate([logits[:, :1], logits[:, 1:] * (drawn - 0.25)], axis=-1)


def test_stochastic_defenses_are_judged_by_the_mean(linear: Linear, grays: Dataset) -> None:
    coin = Coin(linear.direction, linear.bias)
    report = evaluate(coin, Noise(), THREAT, grays, 10, draws=200, check=False)
    # The answer is right when the draw is above a quarter; wrong labels need one below.
    assert report.clean[0] == pytest.approx(0.75, abs=0.1)
    assert report.success[0] == pytest.approx(0.25, abs=0.1)
    assert report.reasons[0] == f"broken in {round(200 * report.success[0])} of 200 draws"
    assert 0 in report.failed
    again = evaluate(coin, Noise(), THREAT, grays, 10, draws=200, check=False)
    np.testing.assert_array_equal(report.success, again.success)
    other = evaluate(coin, Noise(), THREAT, grays, 10, draws=200, check=False, seed=1)
    assert (report.success != other.success).any()


class Suspicious(Linear):
    """Rejects what is not gray."""

    detects = True

    def scores(self, x: Any) -> Any:
        return ops.max(ops.abs(x - 128 / 255), axis=(1, 2, 3)) * 100


def test_rejected_images_are_not_broken(linear: Linear, grays: Dataset) -> None:
    suspicious = Suspicious(linear.direction, linear.bias)
    report = judged(suspicious, grays, lambda d, x, y, t: broken_by(linear, x))
    assert report.success_rate.value == 0
    assert report.reasons[0] == "rejected"
    assert report.clean_rejected.value == 0


def test_two_evaluations_are_identical_whatever_the_batch(digits_baseline: Defense) -> None:
    first, again, parts = (
        evaluate(digits_baseline, PGD(steps=10), Linf(0.1), n=40, batch_size=size, check=False)
        for size in (128, 128, 7)
    )
    np.testing.assert_array_equal(first.adversarial, again.adversarial)
    assert first.as_json()["images"] == again.as_json()["images"]
    np.testing.assert_array_equal(first.success, parts.success)


def test_what_is_written(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    report = judged(linear, grays, lambda d, x, y, t: broken_by(linear, x), out=tmp_path / "v")
    written = json.loads((tmp_path / "v" / "report.json").read_text())
    assert written["finished"] is True
    assert written["threat"] == {"norm": "Linf", "eps": 0.1}
    assert written["results"]["success_rate"]["n"] == 8
    assert written["images"][0]["reason"] == "broken"
    images = load_file(tmp_path / "v" / "adversarial.safetensors")
    np.testing.assert_array_equal(images["adversarial"], report.adversarial)


class Fragile:
    """An attack that works for two batches."""

    def __init__(self, linear: Linear, fails: Any) -> None:
        self.linear, self.fails, self.calls = linear, fails, 0

    def __call__(self, defense: Any, x: Any, y: Any, threat: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            self.fails()
        return broken_by(self.linear, x)


def _raise(error: BaseException) -> Any:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("fails", "error", "message"),
    [
        (_raise(ValueError("oops")), AttackError, r"Fragile raised ValueError: oops \(.*line \d+"),
        (_raise(KeyboardInterrupt()), KeyboardInterrupt, "^$"),
        (lambda: time.sleep(30), AttackError, "ran past its limit of 0.5 s for a batch"),
    ],
)
def test_what_came_before_a_failure_is_kept(
    linear: Linear, grays: Dataset, tmp_path: Path, fails: Any, error: Any, message: str
) -> None:
    attack = Fragile(linear, fails)
    options: dict[str, Any] = {"batch_size": 2, "out": tmp_path / "v", "time_limit": 0.5}
    with pytest.raises(error, match=message):
        judged(linear, grays, attack, **options)
    written = json.loads((tmp_path / "v" / "report.json").read_text())
    assert written["finished"] is False
    assert [image["reason"] for image in written["images"]].count("broken") == 4
    attack.calls = 3  # it fails no more
    told: list[str] = []
    report = judged(
        linear, grays, attack, progress=lambda done, total, text: told.append(text), **options
    )
    assert attack.calls == 5  # two of the four batches were done
    assert told[0].startswith("Going on with the evaluation")
    assert report.success_rate == Rate.of(np.ones(8))


def test_another_evaluation_does_not_go_on(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "v"
    with pytest.raises(AttackError):
        judged(linear, grays, Fragile(linear, _raise(ValueError())), batch_size=2, out=out)
    attack = Fragile(linear, lambda: None)
    judged(linear, grays, attack, batch_size=2, out=out, threat=Linf(0.2))
    assert attack.calls == 4
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("dear to me")
    with pytest.raises(RunError, match="expected an empty folder or one with"):
        judged(linear, grays, attack, out=tmp_path / "notes")


def test_an_evaluation_of_other_weights_does_not_go_on(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "v"
    linear.weights_sha256 = "before"
    with pytest.raises(AttackError):
        judged(linear, grays, Fragile(linear, _raise(ValueError())), batch_size=2, out=out)
    linear.weights_sha256 = "after"  # trained anew
    attack = Fragile(linear, lambda: None)
    judged(linear, grays, attack, batch_size=2, out=out)
    assert attack.calls == 4
    assert json.loads((out / "report.json").read_text())["weights_sha256"] == "after"


def test_chosen_images(linear: Linear, grays: Dataset) -> None:
    report = judged(linear, grays, lambda d, x, y, t: x, images=[8, 2, 3])
    assert report.index.tolist() == [2, 3, 8]
    assert report.failed == [2, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 11}, "n: expected at most 10, the test images; got 11"),
        ({"n": 0}, "n: expected an integer of 1 or more, got 0"),
        ({"draws": 0}, "draws: expected an integer of 1 or more"),
        ({"batch_size": cast(int, 1.5)}, "batch_size: expected an integer of 1 or more, got 1.5"),
        ({"images": [0, 10]}, "images: expected indices from 0 to 9, got 0, 10"),
        ({"images": []}, "images: expected indices from 0 to 9"),
        ({"threat": None}, "linear has no usual eps for Linf; give one"),
    ],
)
def test_wrong_use(linear: Linear, grays: Dataset, options: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        judged(linear, grays, PGD(), **options)
    assert message in str(caught.value)


def test_data_of_another_kind_is_refused(linear: Linear, make_dataset: Any) -> None:
    message = r"linear was trained on linear.* of 2 classes; patterns has \[8, 8, 1\] of 4"
    with pytest.raises(SettingsError, match=message):
        evaluate(linear, PGD(), THREAT, make_dataset())
