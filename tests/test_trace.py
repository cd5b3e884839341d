"""Traces: every step of an attack beside what numpy computes; and that verdicts stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops

import sparring
from sparring.attacks import (
    ATTACKS,
    EOT,
    PGD,
    InTurn,
    Noise,
    Square,
    Strong,
    Transfer,
    cross_entropies,
    gradient,
    margins,
)
from sparring.attacks.watching import watched
from sparring.data import Dataset
from sparring.errors import AttackError, RunError
from sparring.evaluation import trace as tracing
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.judge import Judge
from sparring.evaluation.trace import FILE, Trace, Tracer
from sparring.evaluation.verdict import Verdict
from sparring.randomness import Chance
from sparring.runs.records import TraceRecord
from sparring.threat import L2, Linf, ThreatModel
from tests.conftest import Linear

SIGNS = np.where(np.indices((8, 8, 1)).sum(axis=0) % 2, 1.0, -1.0)
AWAY = np.array([0, -6, -10, 5, 0, -6])
"""How many levels of 255 each image lies along the direction of `linear`; two are there twice."""
EPS = 0.05


@pytest.fixture
def data() -> Dataset:
    """Six images of class 1, nearer and farther from the hyperplane of `linear`."""
    x = (128 + AWAY[:, None, None, None] * SIGNS).astype(np.uint8)
    y = np.ones(6, np.int32)
    return Dataset("linear", x, y, x, y, ("a", "b"))


def margins_of(images: np.ndarray) -> np.ndarray:
    """Class b has the logit w.x + 4, class a has 0."""
    return np.asarray(-(images.astype(np.float64) * SIGNS).sum(axis=(1, 2, 3)) - 4)


def originals(data: Dataset) -> np.ndarray:
    return data.x_test.astype(np.float32) / 255


def traced(defense: Any, attack: Any, data: Dataset, **options: Any) -> Trace:
    threat = options.pop("threat", Linf(EPS))
    options = {"check": False, "n": 6, "trace": True, **options}
    verdict = evaluate(defense, attack, threat, data, **options)
    assert verdict.trace is not None
    return verdict.trace


def loop(defense: Any, x: Any, y: Any, threat: Any, steps: int = 5) -> Any:
    """An attack of a user's own, which steps by no search."""
    x_adv = x
    for _ in range(steps):
        slope = gradient(lambda images: margins(y, defense.logits(images)), x_adv)
        x_adv = threat.project(x_adv + threat.eps / steps * threat.direction(slope), x)
    return x_adv


# What is noted


@pytest.mark.backend
@pytest.mark.parametrize("loss", ["margin", "ce"])
def test_every_step_of_pgd_on_a_hyperplane(linear: Linear, data: Dataset, loss: str) -> None:
    # A step of a quarter of eps in every pixel, against the direction: the margin rises by 64 times
    # that. An image leaves once it is above 0, and after four steps it has the last point.
    attack = PGD(steps=4, step_size=0.25, loss=loss, random_start=False)
    trace = traced(linear, attack, data)
    assert trace.index.tolist() == [0, 1, 2, 3, 4, 5]
    [way] = trace.ways
    assert (way.name, way.restart, way.aim) == ("PGD", 0, None)
    assert way.loss == {"margin": "margin", "ce": "cross entropy"}[loss]
    assert way.attack == repr(attack)
    assert (np.diff(trace.points["step"]) >= 0).all()  # in the order of time
    first = margins_of(originals(data))
    lasted = []
    for image, margin in enumerate(first):
        points = trace.of(image)
        expected = margin + 64 * EPS / 4 * np.arange(5)
        kept = min([*np.flatnonzero(expected > 0).tolist(), 4]) + 1
        lasted.append(kept)
        expected = expected[:kept]
        assert points["step"].tolist() == list(range(kept))
        # Sums of 64 floats of about a half: a millionth of each.
        np.testing.assert_allclose(points["margin"], expected, atol=64e-6)
        losses = expected if loss == "margin" else np.log1p(np.exp(expected))
        np.testing.assert_allclose(points["loss"], losses, atol=64e-6)
        np.testing.assert_allclose(points["distance"], EPS / 4 * np.arange(kept), atol=1e-6)
        assert points["answer"].tolist() == [0 if margin > 0 else 1 for margin in expected]
        assert points["broken"].tolist() == [float(margin > 0) for margin in expected]
        assert (points["target"] == -1).all()
        assert (points["rejected"] == 0).all()
    assert (min(lasted), max(lasted)) == (3, 5)  # some leave, some do not


@pytest.mark.parametrize("name", sorted({*ATTACKS}))
def test_every_attack_can_be_watched_to_its_end(linear: Linear, data: Dataset, name: str) -> None:
    signed = np.concatenate([originals(data), originals(data) - np.float32(0.2 * SIGNS)])
    x = np.round(255 * signed).astype(np.uint8)
    y = (margins_of(x / 255) < 0).astype(np.int32)
    both = Dataset("linear", x, y, x, y, ("a", "b"))
    options: dict[str, Any] = {"options": {"steps": 5}}
    if name in ("noise", "square"):
        options = {"options": {"draws" if name == "noise" else "queries": 20}}
    elif name == "fgsm":
        options = {}
    elif name == "strong":
        options = {"options": {"steps": 5, "queries": 20}}
    attack: Any = name
    if name == "transfer":
        other = Linear(-SIGNS, -4.0)
        attack, options = Transfer(other, PGD(steps=5)), {}
    verdict = evaluate(linear, attack, Linf(EPS), both, n=12, check=False, trace=True, **options)
    trace = verdict.trace
    assert trace is not None
    assert (trace.problem, len(trace.index)) == ("", 10)
    for image in trace.index:
        points = trace.of(image)
        assert len(points)
        # What came of it, is the last point but where an earlier attempt was as good.
        adversarial = verdict.adversarial[image].astype(np.float64)
        logit = (adversarial * SIGNS).sum() + 4
        margin = -logit if verdict.label[image] else logit
        if name != "matching":  # which goes by the whole batch, and this one is another
            assert np.abs(points["margin"] - margin).min() < 64e-6
        assert (points["distance"] <= EPS + 1e-6).all()
    usual = {"fgsm": {"PGD"}, "transfer": {"", "PGD"}, "strong": {"APGD", "Square"}}
    told = {way.name for way in trace.ways}
    assert told == (usual[name] if name in usual else {type(ATTACKS[name]()).__name__})


@pytest.mark.backend
def test_what_each_attack_rises_along_is_told(linear: Linear, data: Dataset) -> None:
    square = traced(linear, Square(queries=5), data)
    assert [way.loss for way in square.ways] == ["margin"]
    np.testing.assert_allclose(square.points["loss"], square.points["margin"], atol=64e-6)
    noise = traced(linear, Noise(draws=3), data)
    assert [way.loss for way in noise.ways] == [""]
    assert np.isnan(noise.points["loss"]).all()

    @dataclass(frozen=True)
    class Doubled(PGD):
        def objective(self, defense: Any, x: Any, y: Any) -> Any:
            logits = defense.logits(x)
            return 2 * margins(y, logits), margins(y, logits) > 0

    own = traced(linear, Doubled(steps=2), data)
    assert [way.loss for way in own.ways] == ["a loss of its own"]
    np.testing.assert_allclose(own.points["loss"], 2 * own.points["margin"], atol=128e-6)


class Pixels(Linear):
    """Four classes, whose logits are the first four pixels."""

    def __init__(self, data: Dataset) -> None:
        super().__init__(np.ones((8, 8, 1)), 0.0)
        self.info = data.info

    def logits(self, x: Any, chance: Any = None) -> Any:
        return x[:, 0, :4, 0]


@pytest.mark.backend
def test_restarts_and_targets_are_told_apart() -> None:
    x, y = np.full((2, 8, 8, 1), 100, np.uint8), np.zeros(2, np.int32)
    x[:, 0, :4, 0] = [[200, 60, 120, 90], [200, 130, 10, 20]]
    data = Dataset("pixels", x, y, x, y, tuple("abcd"))
    attack = PGD(steps=2, restarts=2, targets=2, loss="margin")
    trace = traced(Pixels(data), attack, data, threat=Linf(0.01), n=2)
    assert [(way.restart, way.aim) for way in trace.ways] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # The most promising classes are those with the largest pixels.
    for image, targets in ((0, (2, 3)), (1, (1, 3))):
        points = trace.of(image)
        assert points["way"].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
        assert points["step"].tolist() == [0, 1, 2] * 4
        assert points["target"].tolist() == 2 * (3 * [targets[0]] + 3 * [targets[1]])
        best = points[points["target"] == targets[0]]
        np.testing.assert_allclose(best["loss"], best["margin"], atol=1e-6)
        second = points[points["target"] == targets[1]]
        assert (second["loss"] < second["margin"] - 0.05).all()


def test_parts_in_turn_go_on_with_what_is_left(linear: Linear, data: Dataset) -> None:
    first = PGD(steps=2, step_size=0.5, loss="margin", random_start=False)
    trace = traced(linear, InTurn((first, Square(queries=3))), data)
    assert [way.name for way in trace.ways] == ["PGD", "Square"]
    left = {
        image
        for image in range(6)
        if trace.of(image)["broken"][trace.of(image)["way"] == 0][-1] == 0
    }
    assert 0 < len(left) < 6
    assert set(trace.points["image"][trace.points["way"] == 1].tolist()) == left


@pytest.mark.backend
def test_an_attack_without_searches_is_seen_by_what_it_asks(linear: Linear, data: Dataset) -> None:
    trace = traced(linear, loop, data)
    assert [way.name for way in trace.ways] == [""]
    for image, margin in enumerate(margins_of(originals(data))):
        points = trace.of(image)
        # Five points that it asked about, and the one that it gave.
        np.testing.assert_allclose(
            points["margin"], margin + 64 * EPS / 5 * np.arange(6), atol=64e-6
        )
        assert points["step"].tolist() == [0, 1, 2, 3, 4, 5]
        assert np.isnan(points["loss"]).all()


@pytest.mark.backend
def test_questions_in_any_form_are_seen(linear: Linear, data: Dataset) -> None:
    images = originals(data)

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        one = np.array(ops.convert_to_numpy(x))
        defense.classify(data.x_test[2] - SIGNS.astype(np.int8).view(np.uint8))  # one, as bytes
        moved = one - np.float32(0.002 * SIGNS)
        some = moved[[3, 1]]
        defense.probabilities(ops.convert_to_tensor(some))  # some, in another order
        some[:] = 0  # what was noted is not what lies there later
        defense.logits(ops.concatenate([x, x]))  # copies, as for several draws
        with pytest.raises(sparring.DataError):
            defense.classify(np.zeros((2, 3, 3, 1)))  # nothing of this data set
        defense.detect(one)
        return x

    trace = traced(linear, attack, data)
    expected = margins_of(images)[2] + np.array([64 / 255, 0])
    np.testing.assert_allclose(trace.of(2)["margin"], expected, atol=64e-6)
    for image in (0, 4, 5):  # once, however often it is asked about
        np.testing.assert_allclose(
            trace.of(image)["margin"], margins_of(images)[[image]], atol=64e-6
        )
    for image in (1, 3):
        expected = margins_of(images)[image] + np.array([0.128, 0])
        np.testing.assert_allclose(trace.of(image)["margin"], expected, atol=64e-6)
    assert len(trace.points) == 9


def test_points_that_are_no_images_have_no_answer(linear: Linear, data: Dataset) -> None:
    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        defense.logits(x - 0.6)
        return x

    points = traced(linear, attack, data).of(0)
    assert points["answer"].tolist() == [-1, 1]
    assert np.isnan(points["margin"]).tolist() == [True, False]
    assert points["broken"].tolist() == [0, 0]


@pytest.mark.backend
def test_in_wrappers_steps_are_noted_once(linear: Linear, data: Dataset) -> None:
    plain = traced(linear, PGD(steps=3), data)
    wrapped = traced(EOT(linear, 2), PGD(steps=3), data)
    np.testing.assert_allclose(wrapped.points["margin"], plain.points["margin"], atol=64e-6)

    def within(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        return PGD(steps=3)(EOT(defense, 2), x, y, threat)

    inside = traced(linear, within, data)
    assert [way.name for way in inside.ways] == ["PGD"]
    np.testing.assert_allclose(inside.points["margin"], plain.points["margin"], atol=64e-6)


def test_nothing_of_the_watcher_stays_with_the_defense(linear: Linear, data: Dataset) -> None:
    traced(linear, PGD(steps=2), data)
    keys = [key for key in linear._compiled if key[0] in ("ascent", "losses")]
    # Of the attack itself the defense keeps what was compiled; none of it knows of a watcher.
    assert [key[0] for key in keys] == ["ascent"]
    assert not hasattr(linear, "watcher")


def test_a_watcher_that_has_ended_notes_nothing(linear: Linear, data: Dataset) -> None:
    x, y = originals(data), np.ones(6, np.int32)
    tracer = Tracer(Judge.of(linear, Linf(EPS), 1, 0), np.arange(6), x, y)
    defense = watched(linear, tracer)
    attack = PGD(steps=2)
    before = tracer.trace()
    assert before.problem.startswith("the attack takes no steps that can be watched")
    attack(defense, ops.convert_to_tensor(x), ops.convert_to_tensor(y), Linf(EPS))
    assert len(tracer.trace().points) == 0


class Drawing(Linear):
    """Its bias is drawn, from 0 to 4 lower; asked for several draws it is broken in some."""

    stochastic = True

    def logits(self, x: Any, chance: Any = None) -> Any:
        chance = Chance(x, 0) if chance is None else chance
        drawn = 4 * ops.reshape(chance.uniform(1), (-1,))
        along = ops.sum(x * ops.convert_to_tensor(self.direction), axis=(1, 2, 3)) - self.bias
        return ops.stack([ops.zeros_like(along), along - drawn], axis=-1)


def test_random_answers_are_averaged_over_draws(data: Dataset) -> None:
    defense = Drawing(SIGNS, -5.0)
    attack = PGD(steps=3, step_size=0.3, loss="margin", random_start=False)
    trace = traced(defense, attack, data, draws=8)
    judge = Judge.of(defense, Linf(EPS), 8, 0)
    seeds = judge.seeds[:5]
    shares = set()
    for image in trace.index:
        points = trace.of(image)
        # All pixels move by as much: by which the point is known.
        x = originals(data)[image] - points["distance"][:, None, None, None] * SIGNS
        x = ops.convert_to_tensor(x.astype(np.float32))
        leads = []
        for seed in seeds:
            logits = np.array(ops.convert_to_numpy(defense.logits(x, Chance(x, seed))))
            leads.append(logits[:, 0] - logits[:, 1])
        # The draws follow from the pixels' bits, which this x does not have; the means are near.
        assert np.abs(points["margin"] - np.mean(leads, axis=0)).max() < 4
        shares |= set(points["broken"].tolist())
    assert shares <= {0, 0.2, 0.4, 0.6, 0.8, 1}
    assert shares - {0, 1}


@pytest.mark.backend
def test_one_draw_and_five_give_their_mean(data: Dataset) -> None:
    defense, x = Drawing(SIGNS, -5.0), originals(data)
    judge = Judge.of(defense, Linf(EPS), 20, 3)
    means = tracing.margins_of(Judge(defense, Linf(EPS), judge.seeds[:5]), x, np.ones(6, np.int32))
    leads = []
    for seed in judge.seeds[:5]:
        tensor = ops.convert_to_tensor(x)
        logits = np.array(ops.convert_to_numpy(defense.logits(tensor, Chance(tensor, seed))))
        leads.append(logits[:, 0] - logits[:, 1])
    np.testing.assert_allclose(means, np.mean(leads, axis=0), atol=64e-6)
    assert np.ptp(np.array(leads)[:, 0]) > 0.1  # the draws differ


class Suspicious(Linear):
    """Rejects whatever is not answered as class b."""

    detects = True

    def scores(self, x: Any, chance: Any = None) -> Any:
        along = ops.sum(x * ops.convert_to_tensor(self.direction), axis=(1, 2, 3)) - self.bias
        return ops.cast(along < 0, "float32")


def test_what_is_rejected_is_not_broken(data: Dataset) -> None:
    attack = PGD(steps=4, step_size=0.3, loss="margin", random_start=False)
    points = traced(Suspicious(SIGNS, -4.0), attack, data).of(2)
    assert points["answer"].tolist() == [1, 1, 0, 0, 0]
    assert points["rejected"].tolist() == [0, 0, 1, 1, 1]
    assert points["broken"].tolist() == [0, 0, 0, 0, 0]


# What stays as it is


@dataclass(frozen=True)
class Counted:
    """PGD that counts the images that it is given."""

    steps: int = 3
    given: ClassVar[list[int]] = []

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        self.given.append(x.shape[0])
        return PGD(steps=self.steps)(defense, x, y, threat)


@pytest.fixture
def counted() -> Counted:
    """One that counts from now on."""
    Counted.given.clear()
    return Counted()


@pytest.mark.parametrize("threat", [Linf(EPS), L2(0.3)])
def test_the_verdict_is_the_same_with_and_without(
    linear: Linear, data: Dataset, threat: ThreatModel
) -> None:
    plain, other = (
        evaluate(linear, PGD(steps=4), threat, data, 6, trace=trace) for trace in (False, True)
    )
    assert plain.trace is None
    assert other.trace is not None
    assert repr(other.trace).startswith("<Trace: ")
    assert plain.as_json() | {"seconds": 0} == other.as_json() | {"seconds": 0}
    np.testing.assert_array_equal(plain.adversarial, other.adversarial)
    assert plain.margin is None  # what is not shown anywhere is not asked for
    assert other.margin is not None
    np.testing.assert_allclose(other.margin, margins_of(other.adversarial), atol=64e-6)


def test_the_first_ten_of_the_attacked_images_are_traced(linear: Linear, counted: Counted) -> None:
    x = np.full((14, 8, 8, 1), 128, np.uint8)
    y = np.ones(14, np.int32)
    y[[0, 5]] = 0  # answered wrongly
    many = Dataset("linear", x, y, x, y, ("a", "b"))
    attack = counted
    trace = traced(linear, attack, many, n=14)
    assert attack.given == [12, 10]
    assert trace.index.tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    # Equal images, of which each has points of its own.
    assert {len(trace.of(image)) for image in trace.index} == {4}


def test_a_trace_is_added_to_a_finished_verdict_once(
    linear: Linear, data: Dataset, tmp_path: Path, counted: Counted
) -> None:
    linear.weights_sha256 = "weights"
    attack = counted

    def judged(**options: Any) -> Verdict:
        return evaluate(linear, attack, Linf(EPS), data, 6, check=False, out=tmp_path, **options)

    judged()
    before = (tmp_path / "verdict.json").read_bytes()
    assert attack.given == [6]
    assert not (tmp_path / FILE).exists()
    assert "--trace" in (tmp_path / "verdict.html").read_text()
    first = judged(trace=True).trace
    assert attack.given == [6, 6]
    assert (tmp_path / "verdict.json").read_bytes() == before
    page = (tmp_path / "verdict.html").read_text()
    assert "<polyline" in page
    # It is read back from now on, asked for or not, and the page stays.
    for options in ({"trace": True}, {}):
        again = judged(**options).trace
        assert attack.given == [6, 6]
        assert first is not None
        assert again is not None
        assert again.ways == first.ways
        for name in first.points.dtype.names or ():
            np.testing.assert_allclose(again.points[name], first.points[name], rtol=1e-5)
        assert (tmp_path / "verdict.html").read_text().count("<polyline") == page.count("<polyline")
    # Evaluated anew without one, it has none.
    assert judged(force=True).trace is None
    assert not (tmp_path / FILE).exists()


def _cut(values: dict[str, Any]) -> None:
    values["points"]["margin"].pop()


def _foreign(values: dict[str, Any]) -> None:
    values["points"]["image"][0] = 77


def _lost(values: dict[str, Any]) -> None:
    values["ways"] = []


def _other(values: dict[str, Any]) -> None:
    values["evaluated"]["attack"] = "another"


def _fewer(values: dict[str, Any]) -> None:
    values["images"].append(7)


def _newer(values: dict[str, Any]) -> None:
    values["format"] = 2


def _text(values: dict[str, Any]) -> None:
    values["points"]["loss"][0] = "1"


def _share(values: dict[str, Any]) -> None:
    values["points"]["broken"][0] = 1.5


@pytest.mark.parametrize("damage", [_cut, _foreign, _lost, _other, _fewer, _newer, _text, _share])
def test_a_trace_that_is_damaged_or_another_s_is_made_anew(
    linear: Linear,
    data: Dataset,
    tmp_path: Path,
    counted: Counted,
    damage: Callable[[dict[str, Any]], None],
) -> None:
    attack = counted
    options: dict[str, Any] = {"check": False, "out": tmp_path, "trace": True}
    first = evaluate(linear, attack, Linf(EPS), data, 6, **options).trace
    values = json.loads((tmp_path / FILE).read_text())
    damage(values)
    (tmp_path / FILE).write_text(json.dumps(values))
    if damage not in (_other, _fewer):
        with pytest.raises(RunError, match="damaged"):
            TraceRecord.read(tmp_path / FILE)
    again = evaluate(linear, attack, Linf(EPS), data, 6, **options).trace
    assert attack.given == [6, 6, 6]
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(again.points, first.points)
    TraceRecord.read(tmp_path / FILE)


def test_numbers_of_no_sense_are_not_known(linear: Linear, data: Dataset, tmp_path: Path) -> None:
    linear.weights_sha256 = "weights"
    options: dict[str, Any] = {"check": False, "out": tmp_path, "trace": True}
    evaluate(linear, PGD(steps=3), Linf(EPS), data, 6, **options)
    values = json.loads((tmp_path / FILE).read_text())
    values["points"]["loss"][:3] = [1e308, -1e308, float("inf")]
    values["points"]["margin"][:2] = [1e308, None]
    (tmp_path / FILE).write_text(json.dumps(values))
    trace = evaluate(linear, PGD(steps=3), Linf(EPS), data, 6, **options).trace
    assert trace is not None
    assert np.isnan(trace.points["loss"]).tolist() == [True] * 3 + [False] * (len(trace.points) - 3)
    assert np.isnan(trace.points["margin"]).sum() == 2
    assert "<polyline" in (tmp_path / "verdict.html").read_text()


def test_points_that_are_too_many_are_counted(
    linear: Linear, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "MOST_POINTS", 3)
    attack = PGD(steps=4, step_size=0.01, random_start=False)
    trace = traced(linear, attack, data)
    assert trace.points["step"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert trace.omitted == 12
    monkeypatch.setattr(tracing, "MOST_WAYS", 1)

    def twice(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        PGD(steps=1, step_size=0.01)(defense, x, y, threat)
        return PGD(steps=1, step_size=0.01, seed=1)(defense, x, y, threat)

    trace = traced(linear, twice, data)
    assert len(trace.ways) == 1
    assert trace.omitted == 12


def test_points_are_measured_a_part_at_a_time(
    linear: Linear, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = traced(linear, PGD(steps=4), data)
    monkeypatch.setattr(tracing, "_VALUES_AT_ONCE", 64 * 7)
    np.testing.assert_array_equal(traced(linear, PGD(steps=4), data).points, whole.points)


def test_an_attack_that_cannot_take_so_few_images_leaves_the_verdict(
    linear: Linear, data: Dataset
) -> None:
    many = Dataset(
        *("linear", data.x_test, data.y_test, np.tile(data.x_test, (2, 1, 1, 1))),
        *(np.ones(12, np.int32), ("a", "b")),
    )

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        if x.shape[0] < 12:
            raise ValueError("<b>too few</b>")
        return x

    trace = traced(linear, attack, many, n=12)
    told = "on these images alone, the attack attack raised ValueError: <b>too few</b>"
    assert trace.problem.startswith(told)
    assert len(trace.points) == 0

    def nothing(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        return None

    assert "takes no steps that can be watched" in traced(linear, nothing, data).problem


def test_an_attack_that_changes_the_defense_while_it_is_traced_is_told(
    linear: Linear, data: Dataset
) -> None:
    calls: list[int] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            linear.direction = -linear.direction
        return x

    trace = traced(linear, attack, data)
    assert "changed the defense that judges it" in trace.problem
    np.testing.assert_array_equal(linear.direction, SIGNS)


def test_nobody_is_traced_where_nothing_is_attacked(
    linear: Linear, data: Dataset, counted: Counted
) -> None:
    wrong = Dataset(
        "linear", data.x_test, 1 - data.y_test, data.x_test, 1 - data.y_test, ("a", "b")
    )
    attack = counted
    trace = traced(linear, attack, wrong)
    assert attack.given == []
    assert len(trace.index) == len(trace.points) == 0


def test_strong_is_traced_on_a_random_defense(data: Dataset) -> None:
    # It puts EOT around what answers at random, and looks for one that is there.
    trace = traced(Drawing(SIGNS, -5.0), Strong(steps=2, queries=3, draws=2), data, draws=4)
    assert {way.name for way in trace.ways} <= {"APGD", "PGD", "Square"}
    assert len(trace.points)


def test_losses_are_those_of_the_cross_entropy(linear: Linear, data: Dataset) -> None:
    trace = traced(linear, PGD(steps=1), data)
    x, y = ops.convert_to_tensor(originals(data)), np.ones(6, np.int32)
    clean = np.array(ops.convert_to_numpy(cross_entropies(y, linear.logits(x))))
    np.testing.assert_allclose(np.log1p(np.exp(margins_of(originals(data)))), clean, rtol=1e-4)
    margin = trace.points["margin"]
    np.testing.assert_allclose(trace.points["loss"], np.log1p(np.exp(margin)), rtol=1e-4)


def test_an_error_of_the_attack_itself_is_still_one(linear: Linear, data: Dataset) -> None:
    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        raise ValueError("always")

    with pytest.raises(AttackError, match="always"):
        traced(linear, attack, data)
