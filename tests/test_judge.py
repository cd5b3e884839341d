"""The judge: what it counts, what it refuses, and that it keeps what it has."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file

import sparring
from sparring import attacks
from sparring import data as datasets
from sparring import plots as pictures
from sparring.attacks import EOT, PGD, Noise
from sparring.data import Dataset, DatasetInfo
from sparring.defenses.defense import Defense
from sparring.errors import AttackError, RunError, SettingsError
from sparring.evaluation import checks
from sparring.evaluation import evaluate as driver
from sparring.evaluation import verdict as verdicts
from sparring.evaluation.checks import CHANGED_INPUT, SHORT_OF_MEMORY
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.rates import Mean, Rate, duration
from sparring.evaluation.verdict import ROW, Verdict
from sparring.randomness import Chance, Stream, spread
from sparring.runs import records
from sparring.runs.files import LARGEST_JSON, read_tensors
from sparring.runs.records import (
    LONGEST_REASON,
    MOST_IMAGES,
    Evaluated,
    EvaluationWarning,
    ImageRecord,
    ThreatRecord,
    VerdictRecord,
)
from sparring.threat import L2, Linf
from sparring.training.settings import Settings
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


def warning(name: str, text: str) -> EvaluationWarning:
    return EvaluationWarning(name=name, text=text)


def judged(linear: Linear, grays: Dataset, attack: Any, **options: Any) -> Verdict:
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

    verdict = judged(linear, grays, attack)
    assert seen == [8]
    assert verdict.clean_accuracy.value == 0.8
    assert verdict.success_rate == Rate.of(np.ones(8))
    assert verdict.robust_accuracy.value == 0
    assert verdict.attacked.tolist() == [i not in (3, 7) for i in range(10)]
    assert verdict.reasons[3] == "clean image misclassified"
    assert verdict.distance[0] == pytest.approx(0.1, abs=1e-7)
    assert np.isnan(verdict.distance[3])
    assert verdict.failed == []


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

    verdict = judged(linear, grays, attack)
    assert verdict.reasons[0].startswith(reason)
    assert verdict.success[0] == 0
    assert verdict.reasons[1] == "broken"
    assert verdict.success_rate.value == 7 / 8
    assert verdict.failed == [0]
    assert np.isfinite(verdict.adversarial).all()


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
    verdict = judged(linear, grays, lambda defense, x, y, threat: garbage(x))
    assert verdict.success_rate.value == 0
    assert all(verdict.reasons[i].startswith(reason) for i in range(10) if i not in (3, 7))
    assert reason in str(verdict)


def test_another_framework_s_tensor_is_not_taken(linear: Linear, grays: Dataset) -> None:
    if sparring.backend.name == "torch":
        pytest.skip("torch is the framework")
    torch = pytest.importorskip("torch")
    verdict = judged(linear, grays, lambda d, x, y, t: torch.zeros(8, 8, 8, 1))
    assert verdict.reasons[0].startswith("returned torch.Tensor: expected a tensor of")


def test_float64_is_judged_as_float32(linear: Linear, grays: Dataset) -> None:
    verdict = judged(linear, grays, lambda d, x, y, t: broken_by(linear, x).astype(np.float64))
    assert verdict.success_rate.value == 1


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

    verdict = judged(linear, grays, attack)
    assert verdict.success_rate.value == 0
    assert verdict.reasons[0].startswith("too far")
    assert [each.name for each in verdict.warnings] == ["changed-input"]


class Coin(Linear):
    """Answers at random when an image is near the boundary."""

    stochastic = True

    def logits(self, x: Any, chance: Any = None) -> Any:
        logits = super().logits(x)
        drawn = (chance or Chance(x)).uniform(1)
        return ops.concatenate([logits[:, :1], logits[:, 1:] * (drawn - 0.25)], axis=-1)


def test_stochastic_defenses_are_judged_by_the_mean(linear: Linear, grays: Dataset) -> None:
    coin = Coin(linear.direction, linear.bias)
    verdict = evaluate(coin, Noise(), THREAT, grays, 10, draws=200, check=False)
    # The answer is right when the draw is above a quarter; wrong labels need one below.
    assert verdict.clean[0] == pytest.approx(0.75, abs=0.1)
    assert verdict.success[0] == pytest.approx(0.25, abs=0.1)
    assert verdict.reasons[0] == f"broken in {round(200 * verdict.success[0])} of 200 draws"
    assert 0 in verdict.failed
    again = evaluate(coin, Noise(), THREAT, grays, 10, draws=200, check=False)
    np.testing.assert_array_equal(verdict.success, again.success)
    other = evaluate(coin, Noise(), THREAT, grays, 10, draws=200, check=False, seed=1)
    assert (verdict.success != other.success).any()


def test_a_wrapped_defense_is_judged_itself_while_the_attack_sees_the_wrapper(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    coin = Coin(linear.direction, linear.bias)
    seen: list[Any] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        seen.append(defense)
        return broken_by(linear, x)

    options: dict[str, Any] = {"threat": THREAT, "dataset": grays, "n": 10, "check": False}
    wrapped, plain = (
        evaluate(defense, attack, out=tmp_path / "both", force=True, **options)
        for defense in (EOT(coin, 3), coin)
    )
    # The second did not go on with the first; each was given a copy.
    assert list(map(repr, seen)) == list(map(repr, [EOT(coin, 3), coin]))
    assert (wrapped.about.attack, plain.about.attack) == ("attack on EOT(draws=3)", "attack")
    assert wrapped.about.defense == plain.about.defense == "linear"
    np.testing.assert_array_equal(wrapped.success, plain.success)
    np.testing.assert_array_equal(wrapped.clean, plain.clean)
    # The attack is observed while it runs; its wrapper stays outside.
    evaluate(EOT(coin, 3), attack, **{**options, "check": True})
    assert isinstance(seen[2], EOT)
    assert isinstance(seen[2].defense, checks.Observed)
    assert isinstance(seen[2].defense.defense, Coin)


class Suspicious(Linear):
    """Rejects what is not gray."""

    detects = True

    def scores(self, x: Any, chance: Any = None) -> Any:
        return ops.max(ops.abs(x - 128 / 255), axis=(1, 2, 3)) * 100


def test_rejected_images_are_not_broken(linear: Linear, grays: Dataset) -> None:
    suspicious = Suspicious(linear.direction, linear.bias)
    verdict = judged(suspicious, grays, lambda d, x, y, t: broken_by(linear, x))
    assert verdict.success_rate.value == 0
    assert verdict.reasons[0] == "rejected"
    assert verdict.clean_rejected.value == 0


def test_two_evaluations_are_identical_whatever_the_batch(digits_baseline: Defense) -> None:
    first, again, parts = (
        evaluate(digits_baseline, PGD(steps=10), Linf(0.1), n=40, batch_size=size, check=False)
        for size in (128, 128, 7)
    )
    np.testing.assert_array_equal(first.adversarial, again.adversarial)
    assert first.as_json()["images"] == again.as_json()["images"]
    np.testing.assert_array_equal(first.success, parts.success)


def test_what_is_written(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    verdict = judged(linear, grays, lambda d, x, y, t: broken_by(linear, x), out=tmp_path / "v")
    written = json.loads((tmp_path / "v" / "verdict.json").read_text())
    assert written["finished"] is True
    assert written["threat"] == {"norm": "Linf", "eps": 0.1}
    assert written["results"]["success_rate"]["n"] == 8
    assert written["images"][0]["reason"] == "broken"
    images = load_file(tmp_path / "v" / "adversarial.safetensors")
    np.testing.assert_array_equal(images["adversarial"], verdict.adversarial)


def test_what_is_written_is_never_too_large_to_be_read(
    linear: Linear, grays: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (1,) * 64  # in words longer than may be told of an image
    verdict = judged(linear, grays, lambda *_: np.zeros(shape, np.bool_), out=tmp_path / "v")
    longest = {
        **{"index": 10**9, "label": 10**9, "answer": 10**9},
        **dict.fromkeys(("clean", "rejected", "success"), 0.1 + 0.2),
        **{"attacked": False, "distance": 1.2345678901234567e-300, "reason": "x" * LONGEST_REASON},
    }
    assert max(map(len, verdict.reasons)) == LONGEST_REASON
    record = VerdictRecord.read(tmp_path / "v" / "verdict.json")
    images = [ImageRecord.model_validate(longest)] * 1000
    (tmp_path / "longest").mkdir()
    record.model_copy(update={"images": images}).write(tmp_path / "longest")
    size = (tmp_path / "longest" / "verdict.json").stat().st_size
    assert size * MOST_IMAGES / 1000 < LARGEST_JSON
    monkeypatch.setattr(driver, "MOST_IMAGES", 9)
    for words in ({"n": 10}, {"images": range(10)}):
        with pytest.raises(SettingsError, match="expected at most 9 in a verdict that is written"):
            judged(linear, grays, "noise", out=tmp_path / "more", **words)
    assert not (tmp_path / "more").exists()
    assert len(judged(linear, grays, "noise").rows) == 10  # which nobody has to read


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
    written = json.loads((tmp_path / "v" / "verdict.json").read_text())
    assert written["finished"] is False
    assert [image["reason"] for image in written["images"]].count("broken") == 4
    attack.calls = 3  # it fails no more
    told: list[str] = []
    verdict = judged(
        linear, grays, attack, progress=lambda done, total, text: told.append(text), **options
    )
    assert attack.calls == 5  # two of the four batches were done
    assert told[0].startswith("Going on with the evaluation")
    assert verdict.success_rate == Rate.of(np.ones(8))


def test_another_evaluation_does_not_go_on(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "v"
    with pytest.raises(AttackError):
        judged(linear, grays, Fragile(linear, _raise(ValueError())), batch_size=2, out=out)
    attack = Fragile(linear, lambda: None)
    judged(linear, grays, attack, batch_size=2, out=out, threat=Linf(0.2))
    assert attack.calls == 4
    (tmp_path / "notes").mkdir()
    for name in ("mine.txt", ".mine.tmp"):
        (tmp_path / "notes" / name).write_text("dear to me")
    with pytest.raises(RunError, match="expected an empty folder or one with"):
        judged(linear, grays, attack, out=tmp_path / "notes")
    assert {file.name for file in (tmp_path / "notes").iterdir()} == {"mine.txt", ".mine.tmp"}


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
    assert json.loads((out / "verdict.json").read_text())["weights_sha256"] == "after"


def test_chosen_images(linear: Linear, grays: Dataset) -> None:
    verdict = judged(linear, grays, lambda d, x, y, t: x, images=[8, 2, 3])
    assert verdict.index.tolist() == [2, 3, 8]
    assert verdict.failed == [2, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 11}, "n: expected at most 10, the test images; got 11"),
        ({"n": 0}, "n: expected an integer of 1 or more, got 0"),
        ({"draws": 0}, "draws: expected an integer of 1 to 1000000"),
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


# Figures


def test_an_interval_stays_within_what_a_share_can_be() -> None:
    for n in (1, 2, 3, 7, 30, 41, 1000):
        none, all_ = Rate.of(np.zeros(n)), Rate.of(np.ones(n))
        # With nothing found the upper end is z2 / (n + z2), and so is the lower one from above.
        end = 1.959964**2 / (n + 1.959964**2)
        assert none[:2] == (0, n)
        assert none.low >= 0
        assert all_.high <= 1
        assert (none.low, all_.high) == pytest.approx((0, 1), abs=1e-12)
        assert (none.high, all_.low) == pytest.approx((end, 1 - end))
    assert tuple(Rate.of(np.array([])))[1:] == (0, 0.0, 1.0)
    assert Rate.of(np.array([0.25, 0.5])).value == 0.375


def test_means_over_seeds_and_durations() -> None:
    assert Mean.of([]) is None
    assert Mean.of([0.5]) == (0.5, None, 1)
    assert Mean.of([0.5, 0.7]) == pytest.approx((0.6, math.sqrt(0.02), 2))
    found = Mean.of([0.1, 0.2, 0.6])
    # The sample's variance divides by n - 1: (0.04 + 0.01 + 0.09) / 2 = 0.07.
    assert found == pytest.approx((0.3, math.sqrt(0.07), 3))
    assert found is not None
    assert found.percent(2) == "30.00 ± 26.46 %"
    assert Mean(0.98765, None, 1).percent(1) == "98.8 %"
    shown = {0.4: "0:00", 7: "0:07", 59.6: "1:00", 61: "1:01", 3599: "59:59", 3600: "1:00:00"}
    assert {seconds: duration(seconds) for seconds in shown} == shown
    assert duration(2 * 3600 + 5 * 60 + 9) == "2:05:09"


# The verdict


@pytest.fixture
def verdict() -> Verdict:
    """Four images: broken, broken in half of the draws, not broken, and not attacked."""
    about = Evaluated(
        defense="coin",
        attack="PGD()",
        threat=ThreatRecord(norm="L2", eps=1 / 3),
        dataset={"name": "digits"},
        seed=0,
        draws=4,
        backend="torch",
        sparring="0.1.0",
    )
    reasons = ["broken", "broken in 1 of 2 draws", "outside [0, 1]", "clean image rejected"]
    rows = [
        (2, 0, 1.0, 0.0, True, 1.0, 1, 0.1, reasons[0]),
        (3, 1, 0.75, 0.0, True, 0.5, 1, 1 / 3, reasons[1]),
        (5, 2, 1.0, 0.0, True, 0.0, -1, np.nan, reasons[2]),
        (8, 3, 0.25, 0.75, False, 0.0, -1, np.nan, reasons[3]),
    ]
    return Verdict(
        about,
        np.array(rows, ROW),
        adversarial=np.zeros((4, 8, 8, 1), np.float32),
        warnings=[warning("odd", "something is odd")],
        seconds=1.23456,
    )


def test_what_a_verdict_counts(verdict: Verdict) -> None:
    verdict.clean[3] = 0.125
    assert verdict.clean_accuracy == Rate.of(np.array([1, 0.75, 1, 0.125]))
    assert verdict.clean_rejected == Rate.of(np.array([0, 0, 0, 0.75]))
    assert verdict.success_rate == Rate.of(np.array([1, 0.5, 0]))
    # What is not attacked is not robust either.
    assert verdict.robust_accuracy == Rate.of(np.array([0, 0.5, 1, 0]))
    assert verdict.failed == [3, 5]  # indices of test images
    verdict.success[1] = 0.75
    assert verdict.failed == [5]
    assert verdict.robust_accuracy == Rate.of(np.array([0, 0.25, 1, 0]))


def test_what_a_verdict_says(verdict: Verdict) -> None:
    lines = str(verdict).splitlines()
    assert lines[:1] == ["coin on digits, PGD(), L2 eps 0.333333"]
    assert lines[1] == f"clean accuracy   {verdict.clean_accuracy}"
    assert lines[2] == f"rejected         {verdict.clean_rejected}"
    assert lines[3] == f"attack success   {verdict.success_rate}"
    assert lines[4] == f"in some draw     {verdict.success_in_some_draw}"
    assert lines[5] == f"robust accuracy  {verdict.robust_accuracy}"
    # Of the attacked images alone, and not the broken ones.
    assert sorted(lines[6:8]) == ["     1  broken in 1 of 2 draws", "     1  outside [0, 1]"]
    assert lines[8] == "isolation        in-process"
    assert lines[9:] == ["warning: something is odd [docs/warnings.md#odd]"]
    # The most frequent reasons come first, eight of them.
    rows = [0] * 3 + [1] * 2 + list(range(2, 12))
    verdict.rows = verdict.rows[[1] * len(rows)]
    verdict.rows["reason"] = [f"reason {row}" for row in rows]
    assert str(verdict).splitlines()[6:-2] == [
        *("     3  reason 0", "     2  reason 1"),
        *(f"     1  reason {row}" for row in range(2, 8)),
    ]


def test_a_verdict_as_json(verdict: Verdict) -> None:
    verdict.clean[1] = 2 / 3
    values = verdict.as_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["format"] == 2
    about = verdict.about.model_dump()
    assert {key: values[key] for key in about} == about
    came = {"results", "warnings", "seconds", "images", "drawn", "eight_bit"}
    came |= {"forward", "backward", "port"}
    assert set(values) == {"format", *came, *about}
    names = ("clean_accuracy", "clean_rejected", "success_rate", "robust_accuracy")
    assert values["results"] == {name: getattr(verdict, name)._asdict() for name in names}
    assert values["warnings"] == [{"name": "odd", "text": "something is odd"}]
    assert values["seconds"] == 1.235
    order = ("index", "label", "clean", "rejected", "attacked", "success", "answer", "distance")
    rows = [
        (2, 0, 1.0, 0.0, True, 1.0, 1, 0.1, "broken"),
        (3, 1, 0.666667, 0.0, True, 0.5, 1, 1 / 3, "broken in 1 of 2 draws"),
        (5, 2, 1.0, 0.0, True, 0.0, -1, None, "outside [0, 1]"),
        (8, 3, 0.25, 0.75, False, 0.0, -1, None, "clean image rejected"),
    ]
    assert values["images"] == [dict(zip((*order, "reason"), row, strict=True)) for row in rows]
    # Of nothing there is no rate, and JSON has no NaN.
    verdict.attacked[:] = False
    empty = {"value": None, "n": 0, "low": 0.0, "high": 1.0}
    assert verdict.as_json()["results"]["success_rate"] == empty


# Answers by draws


class Ballot(Defense):
    """Answers in every draw as the image's first bytes say: see `bytes_of`."""

    name = "ballot"
    idea = "an answer for every draw"
    stochastic = True
    detects = True

    def __init__(self, seeds: list[int]) -> None:
        info = DatasetInfo("ballot", (8, 8, 1), tuple("abcd"), False, 1, 1, "")
        super().__init__(info, Settings(), [])
        self.known, self.seeds = seeds, list[int]()

    def _in_batches(self, key: str, answer: Any, x: Any, seed: int) -> np.ndarray:
        self.seeds.append(seed)
        return super()._in_batches(key, answer, x, self.known.index(seed))  # the draw's number

    def _said(self, x: Any) -> Any:
        return ops.cast(ops.round(255 * x[:, 0, :5, 0]), "int32")

    def logits(self, x: Any, chance: Any = None) -> Any:
        said = self._said(x)
        answer = ops.where(chance.seed < said[:, 1], said[:, 2], said[:, 0])
        return ops.one_hot(answer, 4)

    def scores(self, x: Any, chance: Any = None) -> Any:
        said = self._said(x)
        rejected = (said[:, 3] <= chance.seed) & (chance.seed < said[:, 4])
        return ops.where(rejected, 1.0, 0.5)


def bytes_of(*ballots: tuple[int, int, int, int, int]) -> np.ndarray:
    """Images that say (answer, n, answer in the first n draws, rejected from draw, up to draw)."""
    x = np.zeros((len(ballots), 8, 8, 1), np.uint8)
    x[:, 0, :5, 0] = np.array(ballots)
    return x


def balloted(*ballots: tuple[int, int, int, int, int]) -> Dataset:
    x, y = bytes_of(*ballots), np.ones(len(ballots), np.int32)
    return Dataset("ballot", x, y, x, y, tuple("abcd"))


FOUR = [spread(3, Stream.JUDGE, draw) for draw in range(4)]
"""Seeds of four draws under the user's seed 3."""


def test_attacked_is_what_is_right_and_passed_in_more_than_half_of_the_draws() -> None:
    cases: list[tuple[tuple[int, int, int, int, int], float, float, str]] = [
        ((1, 0, 0, 0, 0), 1, 0, ""),
        ((1, 1, 2, 0, 0), 0.75, 0, ""),
        ((1, 2, 2, 0, 0), 0.5, 0, "clean image misclassified"),
        ((2, 0, 0, 0, 0), 0, 0, "clean image misclassified"),
        ((1, 0, 0, 1, 2), 0.75, 0.25, ""),
        ((1, 0, 0, 0, 2), 0.5, 0.5, "clean image rejected"),
        ((1, 1, 2, 0, 1), 0.75, 0.25, ""),
        ((1, 2, 2, 2, 3), 0.25, 0.25, "clean image misclassified"),
        ((1, 0, 0, 0, 3), 0.25, 0.75, "clean image rejected"),
        ((2, 0, 0, 0, 3), 0, 0.75, "clean image rejected"),
        ((2, 1, 1, 1, 4), 0.25, 0.75, "clean image rejected"),
    ]
    ballot = Ballot(FOUR)
    data = balloted(*(said for said, *_ in cases))
    verdict = evaluate(
        *(ballot, lambda d, x, y, t: x, Linf(1.0), data, len(cases)), draws=4, seed=3, check=False
    )
    assert verdict.clean.tolist() == [clean for _, clean, _, _ in cases]
    assert verdict.rejected.tolist() == [rejected for _, _, rejected, _ in cases]
    assert verdict.attacked.tolist() == [reason == "" for *_, reason in cases]
    for found, (_, _, _, reason) in zip(verdict.reasons, cases, strict=True):
        assert found == reason or (reason == "" and found != "")
    assert verdict.about.draws == 4
    assert verdict.about.seed == 3
    # Every draw is asked for labels and for scores, once for the clean images and once for the
    # batch.
    assert ballot.seeds == [seed for seed in FOUR + FOUR for _ in range(2)]


def test_success_is_the_share_of_draws_and_the_answer_the_most_frequent() -> None:
    cases: list[tuple[tuple[int, int, int, int, int], float, int, str]] = [
        ((2, 0, 0, 0, 0), 1, 2, "broken"),
        ((0, 1, 3, 0, 0), 1, 0, "broken"),
        ((1, 1, 2, 0, 0), 0.25, 1, "broken in 1 of 4 draws"),
        ((3, 2, 1, 0, 0), 0.5, 1, "broken in 2 of 4 draws"),  # as many votes for 1 as for 3
        ((1, 3, 2, 0, 0), 0.75, 2, "broken in 3 of 4 draws"),
        ((2, 0, 0, 0, 1), 0.75, 2, "broken in 3 of 4 draws"),
        ((2, 0, 0, 0, 4), 0, 2, "rejected"),
        ((1, 1, 2, 0, 1), 0, 1, "rejected"),  # where it is another label
        ((1, 1, 2, 1, 4), 0.25, 1, "broken in 1 of 4 draws"),  # where it is not
        ((1, 0, 0, 0, 4), 0, 1, "label unchanged"),
        ((1, 0, 0, 0, 0), 0, 1, "label unchanged"),
    ]
    ballot = Ballot(FOUR)
    data = balloted(*[(1, 0, 0, 0, 0)] * len(cases))
    given = bytes_of(*(said for said, *_ in cases)).astype(np.float32) / 255
    verdict = evaluate(
        *(ballot, lambda d, x, y, t: given, Linf(1.0), data, len(cases)),
        **{"draws": 4, "seed": 3, "check": False},  # type: ignore[arg-type]
    )
    assert verdict.success.tolist() == [success for _, success, _, _ in cases]
    assert verdict.answer.tolist() == [answer for _, _, answer, _ in cases]
    assert verdict.reasons == [reason for *_, reason in cases]
    assert verdict.failed == [i for i, (_, success, _, _) in enumerate(cases) if success <= 0.5]


class Seeds(Linear):
    """Notes the seeds it is asked under."""

    def __init__(self, linear: Linear) -> None:
        super().__init__(linear.direction, linear.bias)
        self.seeds: list[int] = []

    def _in_batches(self, key: str, answer: Any, x: Any, seed: int) -> np.ndarray:
        self.seeds.append(seed)
        return super()._in_batches(key, answer, x, seed)


def test_what_draws_nothing_is_asked_once(linear: Linear, grays: Dataset) -> None:
    defense = Seeds(linear)
    verdict = judged(
        *(defense, grays, lambda d, x, y, t: broken_by(linear, x)), seed=5, draws=9, batch_size=3
    )
    assert defense.seeds == [0] * 8  # clean, and three batches; labels and scores
    assert verdict.about.draws == 1
    assert verdict.success_rate == Rate.of(np.ones(8))


# What an attack gives


def test_the_borders_of_the_range_are_within_it_and_reasons_have_an_order(
    linear: Linear, grays: Dataset
) -> None:
    gray = np.float32(128 / 255)
    up, down = np.nextafter(np.array([1, 0], np.float32), np.array([2, -1], np.float32))
    cases: list[tuple[list[float], float, str]] = [
        ([0.0], float(gray), "label unchanged"),
        ([1.0], 1 - float(gray), "label unchanged"),
        ([float(up)], math.nan, "outside [0, 1]"),
        ([float(down)], math.nan, "outside [0, 1]"),
        ([2.0, np.nan], math.nan, "not finite: NaN or infinite values"),
        ([-np.inf], math.nan, "not finite: NaN or infinite values"),
        ([-3.0], math.nan, "outside [0, 1]"),  # too far as well
        ([0.0, 1.0, 1.0], math.nan, ""),
    ]
    threat = Linf(0.6)

    def attack(defense: Any, x: Any, y: Any, t: Any) -> Any:
        images = np.array(ops.convert_to_numpy(x))
        for image, (values, _, _) in zip(images, cases, strict=True):
            image[0, : len(values), 0] = values
        images[-1] = broken_by(linear, x[-1:])[0]
        return images

    verdict = judged(linear, grays, attack, threat=threat)
    rows = np.flatnonzero(verdict.attacked)[:-1]
    assert [verdict.reasons[row] for row in rows] == [reason for *_, reason in cases[:-1]]
    np.testing.assert_allclose(verdict.distance[rows], [d for _, d, _ in cases[:-1]], rtol=1e-6)
    assert verdict.answer[rows].tolist() == [1, 1, -1, -1, -1, -1, -1]
    # What cannot be shown is not kept: the image itself stands there.
    kept = verdict.adversarial[rows]
    assert kept[0, 0, 0, 0] == 0
    assert kept[1, 0, 0, 0] == 1
    np.testing.assert_array_equal(kept[2:], np.full((5, 8, 8, 1), gray))
    assert verdict.reasons[9] == "broken"


def test_what_is_too_far_is_kept_with_its_distance(linear: Linear, grays: Dataset) -> None:
    verdict = judged(linear, grays, lambda d, x, y, t: broken_by(linear, x, 0.25), threat=L2(1.5))
    # 64 values moved by 1/4 are 2 away.
    assert verdict.reasons[0] == "too far: L2 distance above eps"
    np.testing.assert_allclose(verdict.distance[verdict.attacked], 2, rtol=1e-6)
    assert np.isnan(verdict.distance[~verdict.attacked]).all()
    assert verdict.answer.tolist() == [-1] * 10
    assert verdict.success.tolist() == [0] * 10
    moved = np.abs(verdict.adversarial[0] - np.float32(128 / 255))
    np.testing.assert_allclose(moved, 0.25, rtol=1e-6)


@pytest.mark.parametrize(("units", "reason"), [(11, "label unchanged"), (13, "too far")])
def test_l2_is_kept_to_the_rounding_of_one_image_s_values(
    linear: Linear, grays: Dataset, units: int, reason: str
) -> None:
    # Allowed beyond an eps of 1/4 with 64 values: 8 x 2^-25 + 8 x 2^-24 / 4 = 12 x 2^-25.
    gray = float(np.float32(128 / 255))

    def attack(defense: Any, x: Any, y: Any, t: Any) -> Any:
        images = np.array(ops.convert_to_numpy(x))
        images[:, 0, 0, 0] = gray - 0.25 - units * 2.0**-25
        return images

    verdict = judged(linear, grays, attack, threat=L2(0.25))
    assert {each.split(":")[0] for each in verdict.reasons} == {reason, "clean image misclassified"}


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (lambda x: np.zeros((8, 4), np.uint8), "shape [8, 4]: expected [8, 8, 8, 1]"),
        (lambda x: np.zeros(x.shape, np.int64), "dtype int64: expected float32"),
        (lambda x: np.zeros(x.shape, bool), "dtype bool: expected float32"),
        (lambda x: np.full(x.shape, 1e300), "not finite: NaN or infinite values"),
        (lambda x: np.full(x.shape, 0.5, np.float16), "label unchanged"),
        (lambda x: ops.convert_to_tensor(x), "label unchanged"),
    ],
)
def test_shapes_come_before_types_and_floats_are_taken(
    linear: Linear, grays: Dataset, garbage: Any, reason: str
) -> None:
    def attack(d: Any, x: Any, y: Any, t: Any) -> Any:
        return garbage(np.array(ops.convert_to_numpy(x)))

    verdict = judged(linear, grays, attack)
    assert {verdict.reasons[row] for row in np.flatnonzero(verdict.attacked)} == {reason}
    whole = reason == "label unchanged"
    assert set(verdict.answer[verdict.attacked].tolist()) == {1 if whole else -1}
    np.testing.assert_allclose(verdict.adversarial, 0.5, atol=0.002)  # 128 / 255, or a half


def test_an_attack_gets_copies_and_what_they_are(linear: Linear, grays: Dataset) -> None:
    seen: list[tuple[str, str]] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        assert ops.is_tensor(x)
        assert ops.is_tensor(y)
        images, labels = ops.convert_to_numpy(x), ops.convert_to_numpy(y)
        seen.append((str(images.dtype), str(labels.dtype)))
        np.testing.assert_array_equal(images, np.full(x.shape, np.float32(128) / np.float32(255)))
        if sparring.backend.name == "torch":  # the others' tensors cannot be changed
            y -= 1
        return x

    verdict = judged(linear, grays, attack, batch_size=3)
    assert seen == [("float32", sparring.backend.label_dtype)] * 3
    assert verdict.success.tolist() == [0] * 10  # by the labels it was given they would be broken
    assert verdict.label[verdict.attacked].tolist() == [1] * 8
    assert verdict.warnings == []


def test_a_change_of_the_input_is_told_once(linear: Linear, grays: Dataset) -> None:
    if sparring.backend.name != "torch":
        pytest.skip("tensors of this framework cannot be changed")

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        given = broken_by(linear, x)
        x[0] = 0
        return given

    verdict = judged(linear, grays, attack, batch_size=3)
    assert verdict.warnings == [CHANGED_INPUT]
    assert verdict.success_rate.value == 1


# Batches, progress, and what is kept


def test_images_go_to_the_attack_in_batches_and_progress_is_told(
    linear: Linear, grays: Dataset
) -> None:
    sizes: list[int] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        sizes.append(x.shape[0])
        images = broken_by(linear, x)
        images[0] = ops.convert_to_numpy(x)[0]  # the first of each batch stays
        return images

    told: list[tuple[int, int, str]] = []
    verdict = judged(
        *(linear, grays, attack), batch_size=3, progress=lambda *each: told.append(each), check=True
    )
    # Three batches, and then the larger eps, no limit and what is planted, on all eight.
    assert sizes == [3, 3, 2, 8, 8, 8]
    assert told == [
        (0, 8, "attacking"),
        (3, 8, "success 66.7 %"),
        (6, 8, "success 66.7 %"),
        (8, 8, "success 62.5 %"),
        (8, 8, "looking for signs to distrust the result"),
    ]
    assert verdict.success.tolist() == [0, 1, 1, 0, 0, 1, 1, 0, 0, 1]


class Clock:
    """A clock that attacks move."""

    def __init__(self, *steps: float) -> None:
        self.now, self.steps = 1000.0, iter(steps)

    def tick(self) -> None:
        self.now += next(self.steps)

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clock]:
    def start(*steps: float) -> Clock:
        made = Clock(*steps)
        monkeypatch.setattr(
            driver, "time", SimpleNamespace(perf_counter=made.time, monotonic=made.time)
        )
        return made

    return start


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, float, int]]:
    """What is saved: whether finished, seconds so far, and how many images are judged."""
    noted: list[tuple[bool, float, int]] = []
    save = Verdict.save

    def noting(verdict: Verdict, finished: bool) -> None:
        judged = int(np.sum([bool(reason) for reason in verdict.reasons]))
        if verdict.folder is not None:
            noted.append((finished, verdict.seconds, judged - int((~verdict.attacked).sum())))
        save(verdict, finished)

    monkeypatch.setattr(Verdict, "save", noting)
    return noted


def test_what_there_is_is_saved_every_ten_seconds(
    linear: Linear, grays: Dataset, tmp_path: Path, clock: Any, saves: Any
) -> None:
    # More than ten seconds after the last time: at 10.5 and 21, and when all is done.
    running = clock(10, 0.5, 10, 0.5, 4, 4, 1, 0.25)

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        running.tick()
        return broken_by(linear, x)

    verdict = judged(linear, grays, attack, batch_size=1, out=tmp_path / "v")
    assert saves == [(False, 10.5, 2), (False, 21, 4), (True, 30.25, 8)]
    assert verdict.seconds == 30.25


def test_a_first_batch_that_fails_leaves_nothing(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(AttackError, match="oops"):
        judged(
            *(linear, grays, lambda d, x, y, t: _raise(ValueError("oops"))()), out=tmp_path / "v"
        )
    assert [file.name for file in (tmp_path / "v").iterdir()] == [".lock"]


def outcomes(linear: Linear, index: int, image: np.ndarray) -> np.ndarray:
    """One image made: broken, unchanged, not a number or too far, by turns."""
    moved = image - np.float32(0.1) * linear.direction
    return [moved, image, image * np.float32(np.nan), image - 0.3 * linear.direction][index % 4]


class Varied:
    """Makes of the attacked images what `outcomes` says; fails at one of its calls."""

    def __init__(self, linear: Linear, clock: Clock, fails_at: int = -1, done: int = 0) -> None:
        self.linear, self.clock, self.fails_at, self.done, self.calls = (
            linear,
            clock,
            fails_at,
            done,
            0,
        )

    def __call__(self, defense: Any, x: Any, y: Any, threat: Any) -> Any:
        self.clock.tick()
        if self.calls == self.fails_at:
            raise ValueError("oops")
        self.calls += 1
        images = ops.convert_to_numpy(x)
        made = [outcomes(self.linear, self.done + i, image) for i, image in enumerate(images)]
        self.done += len(images)
        return np.array(made, np.float32)


def test_resumed_an_evaluation_comes_to_the_same(
    linear: Linear, grays: Dataset, tmp_path: Path, clock: Any, saves: Any
) -> None:
    options: dict[str, Any] = {"batch_size": 2, "out": tmp_path / "nested" / "v"}
    whole = judged(linear, grays, Varied(linear, clock(*[1] * 4)), **{**options, "out": None})
    # It fails after two batches of a second each.
    with pytest.raises(AttackError):
        judged(linear, grays, Varied(linear, clock(*[1] * 4), fails_at=2), **options)
    # And again, after one more.
    with pytest.raises(AttackError):
        judged(linear, grays, Varied(linear, clock(*[1] * 4), fails_at=1, done=4), **options)
    told: list[tuple[int, int, str]] = []
    attack = Varied(linear, clock(*[1] * 4), done=6)
    parts = judged(linear, grays, attack, progress=lambda *each: told.append(each), **options)
    assert attack.calls == 1
    text = f"Going on with the evaluation in {options['out']}."
    assert told == [(0, 0, text), (6, 8, "attacking"), (8, 8, "success 25.0 %")]
    assert saves == [(False, 2, 4), (False, 3, 6), (True, 4, 8)]
    assert whole.seconds == parts.seconds == 4
    assert whole.as_json() == parts.as_json()
    np.testing.assert_array_equal(whole.adversarial, parts.adversarial)
    np.testing.assert_array_equal(whole.distance, parts.distance)
    assert [whole.reasons[i].split(":")[0] for i in (0, 1, 2, 4)] == [
        *("broken", "label unchanged", "not finite", "too far")
    ]


def test_only_the_same_unfinished_evaluation_is_gone_on_with(
    linear: Linear, grays: Dataset, tmp_path: Path, clock: Any
) -> None:
    out = tmp_path / "v"
    with pytest.raises(AttackError):
        judged(linear, grays, Varied(linear, clock(*[1] * 4), 2), batch_size=2, out=out)
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    written = json.loads(files["verdict.json"])
    about = {
        *("defense", "run", "weights_sha256", "attack", "attack_sha256", "threat", "dataset"),
        *("seed", "draws", "backend", "sparring"),
    }
    assert about < set(written)

    def calls(change: dict[str, Any], **options: Any) -> int:
        for name, data in files.items():
            (out / name).write_bytes(data)
        (out / "verdict.json").write_text(json.dumps({**written, **change}))
        attack = Varied(linear, clock(*[1] * 4))
        judged(linear, grays, attack, batch_size=2, out=out, **options)
        return attack.calls

    other = dict.fromkeys(about, "other") | {"seed": 7, "draws": 2, "dataset": {"name": "other"}}
    other["threat"] = {"norm": "L2", "eps": 0.1}
    assert calls({}) == 2
    assert {key: calls({key: other[key]}) for key in about} == dict.fromkeys(about, 4)
    with pytest.raises(RunError, match=r"finished verdict on Varied of 10 images.*--force"):
        calls({"finished": True})
    assert calls({"finished": True}, force=True) == 4
    assert calls({}, n=9) == 4  # the images 0 to 8, of which seven are attacked
    assert calls({}, images=[0, 1, 2, 4]) == 2
    others = [{**image, "index": image["index"] + 1} for image in written["images"]]
    assert calls({"images": others}) == 4
    assert calls({}, seed=1) == 4
    assert calls({"seconds": 0}) == 2  # that was fast


def test_a_verdict_that_lacks_a_field_is_of_another_evaluation(
    linear: Linear, grays: Dataset, tmp_path: Path, clock: Any
) -> None:
    with pytest.raises(AttackError):
        judged(linear, grays, Varied(linear, clock(*[1] * 4), 2), batch_size=2, out=tmp_path)
    written = json.loads((tmp_path / "verdict.json").read_text())
    del written["attack_sha256"]
    (tmp_path / "verdict.json").write_text(json.dumps(written))
    attack = Varied(linear, clock(*[1] * 4))
    judged(linear, grays, attack, batch_size=2, out=tmp_path)
    assert attack.calls == 4


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}'])
def test_a_damaged_verdict_is_not_gone_on_with(
    linear: Linear, grays: Dataset, tmp_path: Path, text: str
) -> None:
    (tmp_path / "verdict.json").write_text(text)
    with pytest.raises(RunError, match=r"verdict\.json: damaged: "):
        judged(linear, grays, lambda d, x, y, t: x, out=tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "verdict.json"}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("finished", "expected finished to be true or false, found None"),
        ("index", "expected index to be an integer, found None"),
        ("reason", "expected reason to be text, found None"),
    ],
)
def test_a_verdict_of_the_same_evaluation_that_lacks_a_field_is_damaged(
    linear: Linear, grays: Dataset, tmp_path: Path, field: str, message: str
) -> None:
    with pytest.raises(AttackError):
        judged(linear, grays, Fragile(linear, _raise(ValueError())), batch_size=2, out=tmp_path)
    file = tmp_path / "verdict.json"
    written = json.loads(file.read_text())
    del (written if field in written else written["images"][4])[field]
    file.write_text(json.dumps(written))
    with pytest.raises(RunError) as caught:
        judged(linear, grays, Fragile(linear, None), batch_size=2, out=tmp_path)
    way_out = "Remove the folder, or evaluate anew with --force."
    assert str(caught.value) == f"{file}: damaged: {message}. {way_out}"


def test_an_unfinished_verdict_of_format_1_is_gone_on_with(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    attack = Fragile(linear, _raise(ValueError()))
    with pytest.raises(AttackError):
        judged(linear, grays, attack, batch_size=2, out=tmp_path)
    written = json.loads((tmp_path / "verdict.json").read_text())
    (tmp_path / "verdict.json").unlink()
    (tmp_path / "report.json").write_text(json.dumps({**written, "format": 1}))
    judged(linear, grays, attack, batch_size=2, out=tmp_path)
    assert attack.calls == 5  # two of the four batches were done
    assert {file.name for file in tmp_path.iterdir()} == {
        *(".lock", "adversarial.safetensors", "examples.svg", "verdict.html", "verdict.json")
    }


def test_warnings_from_before_an_interruption_are_kept(
    linear: Linear, grays: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, changed = driver._attack, iter([True, False, False, False])
    monkeypatch.setattr(driver, "_attack", lambda *rest: (real(*rest)[0], next(changed)))
    attack = Fragile(linear, _raise(ValueError()))
    with pytest.raises(AttackError):
        judged(linear, grays, attack, batch_size=2, out=tmp_path)
    verdict = judged(linear, grays, attack, batch_size=2, out=tmp_path)
    assert verdict.warnings == [CHANGED_INPUT]
    written = json.loads((tmp_path / "verdict.json").read_text())
    assert written["warnings"] == [CHANGED_INPUT.model_dump()]


def test_an_interruption_of_the_checks_keeps_the_images(
    linear: Linear, grays: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        asked.append(x.shape[0])
        return broken_by(linear, x)

    monkeypatch.setattr(checks, "look", lambda *_: _raise(KeyboardInterrupt())())
    with pytest.raises(KeyboardInterrupt):
        judged(linear, grays, attack, check=True, out=tmp_path)
    assert json.loads((tmp_path / "verdict.json").read_text())["finished"] is False
    monkeypatch.setattr(checks, "look", lambda *_: [])
    verdict = judged(linear, grays, attack, check=True, out=tmp_path)
    assert asked == [8]
    assert verdict.success_rate.value == 1


def test_an_empty_folder_is_taken(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    told: list[str] = []
    options = {"out": str(tmp_path), "progress": lambda done, total, text: told.append(text)}
    judged(linear, grays, lambda d, x, y, t: x, **options)
    assert told == ["attacking", "success 0.0 %"]
    assert {file.name for file in tmp_path.iterdir()} == {
        *(".lock", "adversarial.safetensors", "examples.svg", "verdict.html", "verdict.json")
    }


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
    ],
)
def test_batches_shrink_when_memory_is_short(
    linear: Linear, grays: Dataset, error: Exception
) -> None:
    sizes: list[int] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        sizes.append(x.shape[0])
        if x.shape[0] > 2:
            raise error
        return broken_by(linear, x)

    told: list[str] = []
    verdict = judged(
        *(linear, grays, attack), batch_size=7, progress=lambda *each: told.append(each[2])
    )
    assert sizes == [7, 3, 1] + [1] * 7
    assert verdict.warnings == [SHORT_OF_MEMORY]
    assert verdict.success_rate == Rate.of(np.ones(8))
    assert [text for text in told if "memory" in text] == [
        f"memory is short: going on with {size} images at a time" for size in (3, 1)
    ]

    def greedy(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        raise error

    with pytest.raises(AttackError, match=f"the attack greedy raised {type(error).__name__}"):
        judged(linear, grays, greedy)


def test_images_are_saved_before_the_verdict_that_tells_their_hash(
    linear: Linear, grays: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear.weights_sha256, linear.path = "weights", tmp_path / "run"
    order: list[str] = []
    for module, name in (
        *((verdicts, "write_tensors"), (verdicts, "write_atomically")),
        (records, "write_json"),
    ):
        real = getattr(module, name)

        def noting(path: Path, *rest: Any, real: Any = real) -> Any:
            order.append(path.name)
            return real(path, *rest)

        monkeypatch.setattr(module, name, noting)
    out = tmp_path / "v"
    verdict = judged(linear, grays, by_hand, out=out, seed=4, n=9)
    assert order == ["adversarial.safetensors", "verdict.json", "examples.svg"]
    arrays, about, sha256 = read_tensors(out / "adversarial.safetensors")
    text = (out / "verdict.json").read_text(encoding="utf-8")
    written = json.loads(text)
    values = json.loads(json.dumps(verdict.as_json()))
    about_the_file = {"finished": True, "checked": False, "label": "by_hand n=9 seed=4"}
    about_the_file |= {"threads": verdict.threads, "asked": []}
    assert written == {**values, **about_the_file, "adversarial_sha256": sha256}
    assert text.endswith("}\n")
    assert set(arrays) == {"adversarial", "index", "label"}
    np.testing.assert_array_equal(arrays["adversarial"], verdict.adversarial)
    assert arrays["index"].tolist() == list(range(9))
    assert arrays["label"].tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 1]
    info = json.loads(json.dumps(grays.info.as_json()))
    expected = {
        "defense": "linear",
        "run": str(tmp_path / "run"),
        "weights_sha256": "weights",
        "attack": "by_hand",
        "attack_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "threat": {"norm": "Linf", "eps": 0.1},
        "dataset": info,
        "seed": 4,
        "draws": 1,
        "backend": sparring.backend.name,
        "sparring": sparring.__version__,
        "isolation": "in-process",
    }
    assert about["about"] == expected
    assert verdict.about.model_dump(mode="json") == expected


def by_hand(defense: Any, x: Any, y: Any, threat: Any, steps: int = 1) -> Any:
    return x


# Pictures


def test_what_is_pictured(
    verdict: Verdict, grays: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Any, ...]] = []

    def examples(*arguments: Any) -> str:
        drawn.append(arguments)
        return "<svg/>"

    monkeypatch.setattr(pictures, "examples", examples)
    x = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    y = np.zeros(10, np.int32)
    data = Dataset("d", x, y, x, y, ("a", "b", "c", "d"))
    verdict.adversarial = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)

    def pictured(**options: Any) -> tuple[list[float], list[float], list[str], list[str], str]:
        assert verdict.picture(data, **options) == "<svg/>"
        images, adversarial, labels, answers, title = drawn[-1]
        shown = [round(float(value), 3) for value in images[:, 0, 0, 0] * 255]
        return shown, adversarial.ravel().tolist(), labels, answers, title

    verdict.answer[0] = 0
    title = "coin under L2 eps 0.3333: 50 % broken"
    # Broken in more than half of the draws is the first one alone, test image 2.
    assert pictured() == ([2], [0], ["a"], ["a"], title)
    verdict.success[2] = 0.75
    assert pictured() == ([2, 5], [0, 2], ["a", "c"], ["a", "invalid"], title.replace("50", "75"))
    assert pictured(columns=1)[0] == [2]
    # Where nothing is broken, the attacked ones.
    verdict.success[:] = 0.5
    assert pictured() == (*([2, 3, 5], [0, 1, 2], ["a", "b", "c"], ["a", "b", "invalid"]), title)
    assert pictured(columns=2)[0] == [2, 3]


def test_eight_examples_at_most_and_none_of_nothing(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    x = np.concatenate([grays.x_test, grays.x_test])
    y = np.ones(20, np.int32)
    data = Dataset("linear", x, y, x, y, ("a", "b"))
    evaluate(linear, by_hand, THREAT, data, 20, check=False, out=tmp_path / "v")
    assert (tmp_path / "v" / "examples.svg").read_text().count("<image") == 3 * 8
    evaluate(linear, by_hand, THREAT, grays, images=[3, 7], check=False, out=tmp_path / "none")
    assert {file.name for file in (tmp_path / "none").iterdir()} == {
        *(".lock", "adversarial.safetensors", "verdict.html", "verdict.json")
    }


# Checks


def test_checks_get_forty_attacked_images_and_the_defense_to_transfer_from(
    linear: Linear, grays: Dataset, monkeypatch: pytest.MonkeyPatch, clock: Any
) -> None:
    x = np.tile(grays.x_test, (5, 1, 1, 1))
    x[:, 0, 0, 0] = np.arange(50)
    y = np.ones(50, np.int32)
    y[[0, 45]] = 0
    data = Dataset("linear", grays.x_test, grays.y_test, x, y, ("a", "b"))
    looked: list[Any] = []
    other = Linear(linear.direction, linear.bias)
    running = clock(1, 2, 4)

    def look(*arguments: Any) -> list[EvaluationWarning]:
        looked.extend(arguments)
        running.tick()
        return [warning("seen", "it is seen")]

    def attack(defense: Any, images: Any, labels: Any, threat: Any) -> Any:
        running.tick()
        given = broken_by(linear, images)
        given[5:] = ops.convert_to_numpy(images)[5:]
        return given

    monkeypatch.setattr(checks, "look", look)
    options: dict[str, Any] = {"n": 50, "threat": Linf(0.2), "transfer_from": other}
    verdict = judged(linear, data, attack, check=True, **options)
    attempt, transfer_from = looked
    assert (repr(attempt.defense), attempt.attack) == (repr(linear), attack)
    assert (attempt.threat, transfer_from) == (Linf(0.2), other)
    np.testing.assert_array_equal(attempt.x, x[1:41].astype(np.float32) / 255)
    assert attempt.y.tolist() == [1] * 40
    assert attempt.success.tolist() == [1] * 5 + [0] * 35
    # Of 48 images 10 % are broken: the interval is about 2 x 8.6 points wide.
    assert [each.name for each in verdict.warnings] == ["seen"]
    assert verdict.seconds == 3
    assert judged(linear, data, attack, **{**options, "check": False}).warnings == []


def test_few_images_are_told_of_the_success_rate(
    linear: Linear, grays: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "look", lambda *_: [warning("seen", "it is seen")])
    verdict = judged(linear, grays, by_hand, check=True)
    # Of 8 images none: from 0 to 3.8415 / (8 + 3.8415).
    text = "8 attacked images leave an interval of 32 points; take more"
    assert verdict.warnings == [warning("seen", "it is seen"), warning("few-images", text)]


# Errors and limits


def test_an_attack_s_own_error_is_passed_on_and_others_are_told_with_their_place(
    linear: Linear, grays: Dataset
) -> None:
    def own(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        raise AttackError("this is mine")

    with pytest.raises(AttackError, match=r"^this is mine$"):
        judged(linear, grays, own)
    cause = ValueError("oops")
    attack = Fragile(linear, _raise(cause))
    attack.calls = 2
    with pytest.raises(AttackError) as caught:
        judged(linear, grays, attack)
    assert caught.value.__cause__ is cause
    fail = _raise(cause).__code__
    assert str(caught.value) == (
        f"the attack Fragile raised ValueError: oops ({__file__}, line {fail.co_firstlineno + 1})"
    )


def test_a_time_limit_leaves_the_alarm_as_it_was(linear: Linear, grays: Dataset) -> None:
    def mine(*_: Any) -> None:
        raise AssertionError

    seen: list[tuple[bool, float]] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        seen.append((signal.getsignal(signal.SIGALRM) is mine, signal.getitimer(0)[0]))
        if len(seen) == 3:
            raise ValueError
        return x

    before = signal.signal(signal.SIGALRM, mine)
    try:
        judged(linear, grays, attack)
        judged(linear, grays, attack, time_limit=60)
        with pytest.raises(AttackError):
            judged(linear, grays, attack, time_limit=60)
        assert signal.getsignal(signal.SIGALRM) is mine
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        # Outside the main thread nothing can be limited; it runs all the same.
        reports: list[Verdict] = []
        thread = threading.Thread(
            target=lambda: reports.append(judged(linear, grays, attack, time_limit=60))
        )
        thread.start()
        thread.join()
        assert len(reports) == 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [mine_ for mine_, _ in seen] == [True, False, False, True]
    assert seen[0][1] == 0
    assert 0 < seen[1][1] <= 60


# What is attacked with what


@dataclass(frozen=True)
class Twofold:
    """An attack with fields."""

    steps: int = 3
    word: str = "a"

    def __call__(self, defense: Any, x: Any, y: Any, threat: Any) -> Any:
        return x


def test_attacks_in_words_and_their_files(linear: Linear) -> None:
    assert driver.describe(by_hand) == "by_hand"
    assert driver.describe(partial(by_hand, steps=3)) == "by_hand(steps=3)"
    again = partial(partial(cast(Any, Twofold(word="b")), more=1), other="c")
    assert driver.describe(again) == "Twofold(steps=3, word='b')(more=1, other='c')"
    assert driver.describe(Fragile(linear, None)) == "Fragile"
    here = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    for attack in (by_hand, partial(by_hand, steps=3), Twofold(), Fragile(linear, None)):
        assert driver._source_hash(attack) == here
    pgd = hashlib.sha256((Path(attacks.__file__).parent / "pgd.py").read_bytes())
    assert driver._source_hash(PGD()) == pgd.hexdigest()
    # No file: written nowhere, or built in.
    namespace: dict[str, Any] = {}
    exec(compile("def attack(d, x, y, t): return x", "nowhere.py", "exec"), namespace)
    assert driver._source_hash(namespace["attack"]) is None
    assert driver._source_hash(cast(Any, 3)) is None


def test_names_are_looked_up(
    linear: Linear, grays: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def noting(answer: Any) -> Any:
        def note(*arguments: Any, **options: Any) -> Any:
            asked.append((arguments, options))
            return answer

        return note

    monkeypatch.setattr(driver, "load", noting(linear))
    monkeypatch.setattr(attacks, "get", noting(by_hand))
    monkeypatch.setattr(datasets, "load", noting(grays))
    options: dict[str, Any] = {"threat": THREAT, "check": False, "n": 10}
    verdict = evaluate("runs/linear", dataset="this.npz", data_dir="there", **options)
    assert asked[:2] == [((Path("runs/linear"), None), {}), (("pgd", {}, linear), {})]
    [((name, folder, resize, _), _)] = asked[2:]
    assert (name, folder, resize) == ("this.npz", Path("there"), None)
    assert verdict.about.attack == "by_hand"
    asked.clear()
    evaluate(linear, by_hand, **options)  # the defense's own data
    assert asked == [(("linear", None), {})]


def test_the_usual_eps_is_the_data_set_s(linear: Linear, grays: Dataset) -> None:
    mine = replace(grays, name="digits")  # a user's own file of that name
    with pytest.raises(SettingsError, match="digits has no usual eps for Linf; give one"):
        evaluate(linear, by_hand, dataset=mine, n=1, check=False)
    data = replace(mine, key="digits")
    verdict = evaluate(linear, by_hand, dataset=data, n=1, check=False)
    assert verdict.about.threat == ThreatRecord(norm="Linf", eps=0.15)  # of the digits
    assert verdict.index.tolist() == [0]
    assert evaluate(linear, by_hand, THREAT, data, images=[9], check=False).index.tolist() == [9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": True}, "n: expected an integer of 1 or more, got True"),
        ({"batch_size": 0}, "batch_size: expected an integer of 1 or more, got 0"),
        ({"draws": cast(int, 2.0)}, "draws: expected an integer of 1 to 1000000, got 2.0"),
        ({"images": [-1, 3]}, "images: expected indices from 0 to 9, got -1, 3"),
        ({"images": [10]}, "images: expected indices from 0 to 9, got 10"),
    ],
)
def test_more_wrong_use(linear: Linear, grays: Dataset, options: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        judged(linear, grays, PGD(), **options)
    assert str(caught.value) == message


def test_images_of_another_shape_alone_and_of_other_classes_alone_are_refused(
    linear: Linear, grays: Dataset
) -> None:
    x, y = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int32)
    for data, found in (
        (Dataset("colors", x, y, x, y, ("a", "b")), r"colors has \[8, 8, 3\] of 2$"),
        (Dataset("many", x[..., :1], y, x[..., :1], y, ("a", "b", "c")), r"\[8, 8, 1\] of 3$"),
    ):
        with pytest.raises(SettingsError, match=found):
            evaluate(linear, by_hand, THREAT, data)


def test_what_is_asked_for_by_default(
    linear: Linear, grays: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    coin = Coin(linear.direction, linear.bias)
    x = np.tile(grays.x_test, (11, 1, 1, 1))
    data = Dataset("linear", x, np.ones(110, np.int32), x, np.ones(110, np.int32), ("a", "b"))
    monkeypatch.setattr(checks, "look", lambda *_: [warning("seen", "it is seen")])
    verdict = evaluate(coin, by_hand, THREAT, data)
    assert len(verdict.index) == 100
    assert (verdict.about.draws, verdict.about.seed) == (20, 0)
    assert verdict.warnings[0].name == "seen"


class Lenient(Suspicious):
    """Rejects nothing, whatever its scores."""

    threshold = 1000.0


def test_rejected_is_what_is_above_the_defense_s_own_threshold(
    linear: Linear, grays: Dataset
) -> None:
    lenient = Lenient(linear.direction, linear.bias)
    verdict = judged(lenient, grays, lambda d, x, y, t: broken_by(linear, x))
    assert verdict.success_rate.value == 1
    black = np.zeros_like(grays.x_test)  # its score is 50
    known = Dataset(
        "linear", black, np.ones(10, np.int32), black, np.ones(10, np.int32), ("a", "b")
    )
    assert lenient.test(known)["rejected"] == 0
    assert Suspicious(linear.direction, linear.bias).test(known)["rejected"] == 1


def test_a_small_change_of_the_input_is_told_too(linear: Linear, grays: Dataset) -> None:
    if sparring.backend.name != "torch":
        pytest.skip("tensors of this framework cannot be changed")

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        given = broken_by(linear, x)
        x[0, 0, 0, 0] += 1e-4
        return given

    warnings = judged(linear, grays, attack).warnings
    assert [each.name for each in warnings] == ["changed-input"]
