"""Runs that are damaged, hostile or changed by hand; and who worked on a run, and where."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

import sparring
from sparring.cli import app
from sparring.data import Dataset, load
from sparring.defenses import NAMES
from sparring.errors import RunError, SettingsError, SparringError
from sparring.experiments import machine, schedule
from sparring.experiments.request import PlanRequest, TrainingRequest
from sparring.runs.directory import Checkpoints, Run
from sparring.runs.files import read_json, read_tensors, write_tensors
from sparring.runs.records import EpochMetrics
from sparring.training.callbacks import Silent
from sparring.training.loop import guessing
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings
from tests.conftest import Recorder, Stop, patterns

SMALL: dict[str, Any] = {"filters": 4, "epochs": 3, "batch_size": 16}


def tiny() -> Dataset:
    x, y = patterns(16)
    return Dataset("patterns", x, y, x, y, tuple("abcd"), mirror=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it."""
    path = sparring.train("baseline", tiny(), out=tmp_path_factory.mktemp("r"), **SMALL).path
    assert path is not None
    return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one that was stopped after its second epoch of three."""
    out = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stop):
        sparring.train("baseline", tiny(), out=out, progress=Recorder(2), **SMALL)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "runs"))


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((run / "run.json").read_text())
    change(values)
    (run / "run.json").write_text(json.dumps(values))


# run.json does not decide alone what a run is


@pytest.mark.parametrize("name", [name for name in NAMES if name != "baseline"])
def test_another_defense_in_run_json_is_refused(run: Path, name: str) -> None:
    edit(run, lambda values: values.update(defense=name))
    with pytest.raises(RunError, match=r"run\.json: "):
        sparring.load(run)


CHANGES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("settings.filters is 4 there, 5 here", lambda v: v["settings"].update(filters=5)),
    ("settings.flip is False there, True here", lambda v: v["settings"].update(flip=True)),
    ("settings.momentum is 0.7 there, 0.9 here", lambda v: v["settings"].pop("momentum")),
    ("seed is 0 there, 1 here", lambda v: v.update(seed=1)),
    ("preset is 'course' there, 'fast' here", lambda v: v.update(preset="fast")),
    ("dataset.name is 'patterns' there, 'p' here", lambda v: v["dataset"].update(name="p")),
    ("dataset.mirror is False there, True here", lambda v: v["dataset"].update(mirror=True)),
    ("dataset.sha256 is ", lambda v: v["dataset"].update(sha256="0" * 64)),
    ("dataset.class_names is ", lambda v: v["dataset"]["class_names"].reverse()),
    ("dataset.shape is ", lambda v: v["dataset"].update(shape=[8, 9, 1])),
    ("dataset.test_images is 16 there", lambda v: v["dataset"].update(test_images=17)),
    ("backend is ", lambda v: v.update(backend="other")),
]


@pytest.mark.parametrize(("told", "change"), CHANGES)
def test_what_the_weights_say_otherwise_is_refused(
    tmp_path: Path, told: str, change: Callable[[dict[str, Any]], object]
) -> None:
    options = {**SMALL, "epochs": 1, "momentum": 0.7}
    path = sparring.train("baseline", tiny(), out=tmp_path, **options).path
    assert path is not None
    edit(path, change)
    with pytest.raises(RunError) as caught:
        sparring.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}/run.json: expected what weights.safetensors says of itself: ")
    assert told in text
    assert "--force" in text


def test_the_weights_of_a_run_from_before_still_load(run: Path) -> None:
    file = run / "weights.safetensors"
    arrays, about, _ = read_tensors(file)
    assert about.keys() > {"defense", "settings", "dataset", "seed", "preset", "backend"}
    about = {name: about[name] for name in ("defense", "settings")}
    sha256 = write_tensors(file, arrays, about)
    edit(run, lambda values: values.update(weights_sha256=sha256))
    assert sparring.load(run).name == "baseline"
    edit(run, lambda values: values.update(defense="blur"))
    with pytest.raises(RunError, match="defense is 'baseline' there, 'blur' here"):
        sparring.load(run)


@pytest.mark.parametrize("about", ['{"a": "\ud800"}', "3", '{"a"', '{"seed": ' + "9" * 5000 + "}"])
def test_what_the_weights_say_cannot_be_read(run: Path, about: str) -> None:
    file = run / "weights.safetensors"
    arrays, _, _ = read_tensors(file)
    metadata = {"sparring": json.dumps({"about": about, "sha256": "0"})}
    file.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))
    with pytest.raises(RunError, match=r"not written by Sparring, or damaged"):
        sparring.load(run)


def test_a_run_on_a_file_cannot_say_that_it_is_of_a_built_in_data_set(run: Path) -> None:
    edit(run, lambda values: values["dataset"].update(key="digits"))
    with pytest.raises(RunError, match=r"dataset\.key is None there, 'digits' here"):
        sparring.load(run)


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**12, 10**400, 0.5, -0.5, 1e308),
    *(math.nan, math.inf, -math.inf, "", "x", "..", "../../x", "a/b", "\0", "\ud800", "x" * 10**5),
    *([], {}, [[]], [None], [1, 2], [8, 8, 1], [10**9, 10**9, 3], ["a", 1], {"a": {"b": []}}),
    *([math.inf, 8, 1], [8, 8, 2], [8.5, 8, 1], ["8", "8", "1"], ["a"] * 10**5, "888", "abcd"),
]
"""Values that come in the place of others."""


def places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in JSON values."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutated(values: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Copy JSON values with one or two of them changed, gone or doubled."""
    values = copy.deepcopy(values)
    for _ in range(draw.choice((1, 1, 2))):
        *path, last = draw.choice(list(places(values)))
        inner: Any = values
        for key in path:
            inner = inner[key]
        action = draw.random()
        if action < 0.1:
            del inner[last]
        elif action < 0.2 and isinstance(inner, list):
            inner.append(inner[last])
        elif action < 0.3 and isinstance(inner, dict):
            inner[draw.choice(("seed", "self", "name", "filters", ""))] = inner[last]
        else:
            inner[last] = draw.choice(ODD)
    return values


def test_every_change_of_run_json_is_refused_or_of_no_consequence(
    run: Path, recwarn: pytest.WarningsRecorder
) -> None:
    honest = sparring.load(run)
    x = tiny().x_test
    expected, values = honest.classify(x), json.loads((run / "run.json").read_text())
    draw, refused = random.Random(0), list[str]()
    for _ in range(400):
        (run / "run.json").write_text(json.dumps(mutated(values, draw)))
        try:
            loaded = sparring.load(run)
        except SparringError as error:
            refused.append(str(error))
        else:
            assert (loaded.name, loaded.info) == (honest.name, honest.info)
            assert loaded.settings == honest.settings
            np.testing.assert_array_equal(loaded.classify(x), expected)
    assert len(refused) > 200
    assert all(text.startswith(str(run)) and len(text) < 2000 for text in refused)


def test_every_bit_of_run_json(run: Path) -> None:
    honest = sparring.load(run)
    good = (run / "run.json").read_bytes()
    draw = random.Random(1)
    for place in draw.sample(range(8 * len(good)), 200):
        damaged = bytearray(good)
        damaged[place // 8] ^= 1 << place % 8
        (run / "run.json").write_bytes(damaged)
        try:
            loaded = sparring.load(run)
        except SparringError:
            continue
        assert (loaded.name, loaded.info) == (honest.name, honest.info)
        assert loaded.settings == honest.settings


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "damaged"),
        ('{"a":' * 900 + "1" + "}" * 900, "levels of nesting|damaged"),
        ('{"format": 2, "format": 2}', "'format' is there twice"),
        ('{"format": ' + "9" * 5000 + "}", "damaged"),
        ('{"format": 1e400}', "an integer 'format'"),
        ("NaN", "an integer 'format'"),
        ("\ufeff{}", "damaged"),
    ],
)
def test_json_that_is_none_of_ours(run: Path, text: str, told: str) -> None:
    (run / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=told):
        sparring.load(run)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with path.open("wb") as file:
        file.truncate(10**12)  # of which nothing is on the disk
    with pytest.raises(RunError, match=r"expected 33,554,432 bytes at most, found 1,0"):
        read_json(path)


def test_no_memory_is_taken_for_a_network_that_is_not_there(run: Path) -> None:
    # As if another program had written both files: each says what the other says.
    for value, message in (
        (4000, "expected the weights of a network 4000 filters"),
        (10**7, "filters: expected from 1 to 4096, got 10000000"),
        (2**63, "filters: expected from 1 to 4096"),
    ):
        arrays, about, _ = read_tensors(run / "weights.safetensors")
        about["settings"]["filters"] = value
        sha256 = write_tensors(run / "weights.safetensors", arrays, about)
        change = {"weights_sha256": sha256, "settings": about["settings"]}
        edit(run, lambda values, change=change: values.update(change))  # type: ignore[misc]
        with pytest.raises(RunError, match=message):
            sparring.load(run)


@pytest.mark.parametrize("wrong", [None, 3, b"runs", ["runs"], math.nan])
def test_load_takes_a_path(wrong: Any) -> None:
    with pytest.raises(SettingsError, match="expected the path of a run directory"):
        sparring.load(wrong)


# Going on with a damaged run


def states(out: Path) -> list[Path]:
    return sorted((out / "patterns/baseline/state/network-000").glob("epoch-*"))


def resumed(out: Path) -> tuple[Path, list[str]]:
    recorder = Recorder()
    path = sparring.train("baseline", tiny(), out=out, progress=recorder, **SMALL).path
    assert path is not None
    return path, recorder.messages


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda arrays, about: arrays.pop("losses"), "tensor losses: expected"),
        (lambda arrays, about: arrays.update(losses=np.zeros(3)), "tensor losses: expected"),
        (lambda arrays, about: arrays.pop("net/head_bias"), "missing net/head_bias"),
        (lambda arrays, about: about.pop("epoch"), "expected epoch 2, found None"),
        (lambda arrays, about: about.update(epoch="2"), "expected epoch 2, found '2'"),
        (lambda arrays, about: about.update(epoch=1), "expected epoch 2, found 1"),
        (lambda arrays, about: about.update(identity=3), "of another training"),
        (lambda arrays, about: about.pop("identity"), "of another training"),
    ],
)
def test_a_state_that_lacks_something_is_passed_over(
    finished: Path, out: Path, change: Callable[..., object], told: str
) -> None:
    last = states(out)[-1]
    arrays, about, _ = read_tensors(last)
    change(arrays, about)
    write_tensors(last, arrays, about)
    path, messages = resumed(out)
    assert messages[0].startswith(f"Passed over {last}: ")
    assert told in messages[0]
    assert "after epoch 1 of network 1" in messages[1]
    name = "weights.safetensors"
    assert (path / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "3", "[3]", '[{"seed": "x"}]', '[{"seed": 1e999}]', '{"a": 1}']
)
def test_damaged_notes_of_divergence_are_refused(out: Path, text: str) -> None:
    (out / "patterns/baseline/state/network-000/diverged.json").write_text(text)
    with pytest.raises(RunError, match=r"diverged\.json: damaged"):
        resumed(out)


LINES: list[str] = [
    "{", "", "3", "[]", "null", "[" * 100_000, '{"network": 0}', '{"epoch": 1, "network": "x"}',
    '{"network": 0, "epoch": -1}', '{"a": {}}', "\x00", '"epoch"', "9" * 5000,
    '{"network": 0, "epoch": 0}', "x" * (33 << 20),
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_damaged_line_of_metrics_loses_itself_alone(out: Path, line: str) -> None:
    file = out / "patterns/baseline/state/network-000/metrics.jsonl"
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{line}\n{second}\n")
    path, messages = resumed(out)
    assert [metrics.epoch for metrics in Run(path).metrics()] == [1, 2, 3]
    assert f"Passed over {file}: line 2 without the figures of an epoch" in messages


@pytest.mark.parametrize(
    "name", ["loss", "accuracy", "test_accuracy", "learning_rate", "images_per_second", "seconds"]
)
@pytest.mark.parametrize("value", [None, "x", math.nan, 10**400, [1], -1e90])
def test_an_odd_figure_never_fails_a_training(
    out: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    file = out / "patterns/baseline/state/network-000/metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0].pop(name) if value is None else lines[0].update({name: value})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path, _ = resumed(out)
    assert Run(path).read().finished
    assert [metrics.epoch for metrics in Run(path).metrics()] == [1, 2, 3]


def test_lines_out_of_order_are_put_in_order_and_negative_times_left_out(out: Path) -> None:
    file = out / "patterns/baseline/state/network-000/metrics.jsonl"
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    file.write_text("".join(json.dumps(line) + "\n" for line in (second, first | {"seconds": -9})))
    path, _ = resumed(out)
    assert [metrics.epoch for metrics in Run(path).metrics()] == [1, 2, 3]
    results = Run(path).read().results
    assert results is not None
    assert results.seconds is None


def test_many_lines_of_nothing_are_read_in_seconds(out: Path) -> None:
    file = out / "patterns/baseline/state/network-000/metrics.jsonl"
    good = file.read_text()
    file.write_text(good + "\n" * 4_000_000)
    begun = time.monotonic()
    assert [metrics.epoch for metrics in Checkpoints(file.parent).metrics()] == [1, 2]
    assert time.monotonic() - begun < 10


def test_a_flipped_bit_in_the_first_line_of_metrics(out: Path) -> None:
    file = out / "patterns/baseline/state/network-000/metrics.jsonl"
    good = file.read_bytes()
    length = good.index(b"\n")
    checkpoints = Run(out / "patterns/baseline").checkpoints(0)
    for place in random.Random(2).sample(range(8 * length), 60):
        damaged = bytearray(good)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        told = checkpoints.trim_metrics(2)
        epochs = [metrics.epoch for metrics in checkpoints.metrics()]
        assert 2 in epochs
        assert told or len(epochs) == 2 or b'"epoch": 1,' not in damaged


def test_a_finished_network_without_its_arrays_or_with_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sparring.experiments.train.Training.finish", _stop)
        with pytest.raises(Stop):
            sparring.train("knn", tiny(), out=tmp_path, **SMALL)
    file = Run(tmp_path / "patterns/knn").checkpoints(0).finished_file
    arrays, about, _ = read_tensors(file)
    shape = list(arrays["0/embeddings"].shape)
    for name, wrong, told in (
        ("0/embeddings", None, "expected an array '0/embeddings', found none"),
        ("0/embeddings", np.float32(1), f"expected float32 {[0, shape[1]]}, found float32 []"),
        ("0/embeddings", np.zeros((0, shape[1]), np.float32), "found float32 "),
        ("0/embeddings", np.zeros(shape), f"expected float32 {shape}, found float64 {shape}"),
        ("0/labels", np.zeros(3, np.int32), f"expected int32 {shape[:1]}, found int32 [3]"),
        ("0/labels", np.full(shape[0], 4, np.int32), "expected labels from 0 to 3, found 4 to 4"),
    ):
        others = {key: array for key, array in arrays.items() if key != name}
        if wrong is not None:
            others[name] = np.asarray(wrong)
        write_tensors(file, others, about)
        with pytest.raises(RunError, match=re.escape(told)):
            sparring.train("knn", tiny(), out=tmp_path, **SMALL)


def _stop(*_: Any) -> None:
    raise Stop


# Who worked on a run


def test_every_session_is_listed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Run(out / "patterns/baseline")
    [first] = file.read().sessions or []
    monkeypatch.setattr("sys.argv", ["sparring", "train", "again"])
    monkeypatch.setattr("sparring.experiments.train.__version__", "9.9")
    path, _ = resumed(out)
    record = Run(path).read()
    assert record.sessions is not None
    before, last = record.sessions
    assert before == first
    assert last.command == "sparring train again"
    assert last.versions["sparring"] == "9.9"
    assert {*before.versions} == {*last.versions}
    assert (record.command, record.versions) == (first.command, first.versions)
    written = json.loads(file.json_file.read_text())
    assert [session["device"] for session in written["sessions"]] == [first.device, last.device]
    resumed(out)  # finished: nobody works on it
    assert len(Run(path).read().sessions or []) == 2


def test_a_run_from_before_keeps_its_first_session(out: Path) -> None:
    path = out / "patterns/baseline"
    edit(path, lambda values: [values.pop("sessions"), values.update(command="of old")])
    resumed(out)
    sessions = Run(path).read().sessions or []
    assert [session.command == "of old" for session in sessions] == [True, False]


def test_a_plan_is_no_session(out: Path) -> None:
    from sparring.experiments.plan import plan

    np.savez(
        out / "patterns.npz",
        **{name: getattr(tiny(), name) for name in ("x_train", "y_train", "x_test", "y_test")},
    )
    common = TrainingRequest(defense="baseline", out=out / "new", settings=SMALL)
    request = PlanRequest(defenses=["baseline"], data=[str(out / "patterns.npz")], common=common)
    with pytest.raises(Stop):
        sparring.train(replace(common, data=request.data[0]), progress=Recorder(1))
    before = Run(out / "new/patterns/baseline").read()
    plan(request)
    assert Run(out / "new/patterns/baseline").read() == before
    plan(replace(request, common=replace(common, force=True)))
    forced = Run(out / "new/patterns/baseline").read()
    assert (forced.sessions, forced.started) == (None, None)


# A training that learned nothing


def test_test_accuracy_at_chance_is_told(dataset: Dataset) -> None:
    info = replace(dataset.info, class_names=tuple("abcdefghij"))
    recipe = Recipe(info, Settings(filters=4), 0)
    line = EpochMetrics(0, 1, 0.1, 0.99, 0.08, 0.03, 1.0, 1.0)
    text = guessing(recipe, recipe.net(), line)
    assert "hardly better than guessing: in its last epoch 8.00% of the test images" in text
    assert "training" not in text
    assert guessing(recipe, recipe.net(), replace(line, test_accuracy=0.12)) == ""
    assert guessing(recipe, recipe.net(), replace(line, test_accuracy=None)) == ""


def _shuffled(tmp_path: Path) -> Path:
    """A data set whose test labels are all wrong."""
    digits = load("digits").limit(200, 50)
    path = tmp_path / "shuffled.npz"
    np.savez(
        *(path,),
        x_train=digits.x_train, y_train=digits.y_train,
        x_test=digits.x_test, y_test=(digits.y_test + 1) % 10,
    )  # fmt: skip
    return path


def test_learning_nothing_is_recorded_and_told_when_quiet(tmp_path: Path) -> None:
    words = ["train", "baseline", "--data", str(_shuffled(tmp_path)), "--preset", "fast", "-q"]
    options = ["--filters", "8", "--epochs", "5", "--out", str(tmp_path / "runs")]
    answer = CliRunner().invoke(app, [*words, *options])
    assert answer.exit_code == 0, answer.output
    assert "sparring: warning: Network 1 is hardly better than guessing" in answer.stderr
    assert "guessing" not in answer.stdout
    results = Run(tmp_path / "runs/shuffled/baseline").read().results
    assert results is not None
    assert results.warnings is not None
    assert "of the test images were right" in results.warnings[0]
    assert sparring.load(tmp_path / "runs/shuffled/baseline").results["warnings"]


# Arguments


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"out": 3}, "out: expected a path, got 3"),
    ({"out": None}, "out: expected a path, got None"),
    ({"out": ""}, "out: expected a path, got ''"),
    ({"out": "a\0b"}, "out: expected a path"),
    ({"data_dir": 3}, "data_dir: expected a path, got 3"),
    ({"epochs": 1.5}, "epochs: expected .*, got 1.5"),
    ({"epochs": True}, "epochs: expected .*, got True"),
    ({"epochs": math.nan}, "epochs: expected .*, got nan"),
    ({"epochs": "3"}, "epochs: expected .*, got '3'"),
    ({"seed": True}, "seed: expected an integer of 0 or more, got True"),
    ({"seed": np.float64(1)}, "seed: expected an integer of 0 or more, got 1.0"),
    ({"seed": np.int64(-1)}, "seed: expected an integer of 0 or more, got -1"),
    ({"seed": None}, "seed: expected an integer of 0 or more, got None"),
    ({"preset": None}, "preset: expected a name, got None"),
    ({"device": 3}, "device: expected a name as 'cpu' or 'gpu:1', or None, got 3"),
    ({"force": "no"}, "force: expected True or False, got 'no'"),
    ({"wait": "x"}, "wait: expected a number of seconds, got 'x'"),
    ({"settings": 3}, "settings: expected settings by name, got 3"),
    ({"settings": [("epochs", 1)]}, "settings: expected settings by name"),
    ({"settings": {"epochs": 1}, "epochs": 2}, "epochs: given in settings and by itself"),
    ({"seed": 10**30}, "seed: expected an integer below 2.63, got a larger one"),
    ({"seed": 10**5000}, "seed: expected an integer below 2.63, got a larger one"),
    ({"progress": True}, "progress: expected a .*Callback, got True without begin, step, epoch"),
    ({"name": None}, "expected a defense's name or a TrainingRequest, got None"),
    ({"name": 3}, "expected a defense's name or a TrainingRequest, got 3"),
]


@pytest.mark.parametrize(("wrong", "told"), WRONG)
def test_wrong_arguments_are_refused(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    arguments = {"name": "baseline", "data": tiny(), "out": tmp_path / "runs", **wrong}
    with pytest.raises(SettingsError, match=told):
        sparring.train(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    request = TrainingRequest(
        defense="baseline", out=str(tmp_path), seed=np.int64(1), restarts=np.uint8(2),  # type: ignore[arg-type]
        force=np.bool_(True), settings={"epochs": np.int64(3), "momentum": np.float64(0.5)},  # type: ignore[arg-type]
    )  # fmt: skip
    assert (request.seed, request.restarts, request.force) == (1, 2, True)
    assert request.settings == {"epochs": 3, "momentum": 0.5}
    assert type(request.settings["epochs"]) is int
    assert TrainingRequest.from_json(json.loads(json.dumps(request.as_json()))) == request


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-s", "epochs=4", "--epochs", "3"], "--epochs and --set epochs=... are one"),
        (["-s", "batch-size=4", "--batch-size", "3"], "--batch-size and --set batch_size=..."),
        (["--seeds", "0-1", "--seed", "3"], "--seeds says all seeds: give it without --seed"),
    ],
)
def test_what_is_given_twice_is_refused(tmp_path: Path, words: list[str], told: str) -> None:
    answer = CliRunner().invoke(app, ["train", "baseline", "--out", str(tmp_path), *words])
    assert answer.exit_code == 2
    assert told in " ".join(answer.output.split())
    assert list(tmp_path.iterdir()) == []


def test_one_network_is_no_networks(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="baseline trains 1 network; there is no network 4"):
        sparring.train_network("baseline", 3, tiny(), out=tmp_path, **SMALL)


def test_an_imported_run_was_not_tested(run: Path) -> None:
    from sparring.cli.train import summary

    edit(run, lambda values: values.update(results={}))
    request = TrainingRequest(defense="baseline")
    assert "baseline on patterns: not tested" in summary(sparring.load(run), request)


# Folders


def test_a_training_stays_where_it_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    class Wanderer(Silent):
        def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
            os.chdir(tmp_path / "there")

    trained = sparring.train("baseline", tiny(), out="runs", progress=Wanderer(), **SMALL)
    assert trained.path == tmp_path / "here/runs/patterns/baseline"
    assert list((tmp_path / "there").iterdir()) == []
    monkeypatch.chdir(tmp_path / "here")
    loaded = sparring.load("runs/patterns/baseline")
    monkeypatch.chdir(tmp_path)
    assert loaded.path == trained.path


def test_processes_import_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("random", "queue", "keras", "typer", "sparring"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from here')\n")
    monkeypatch.chdir(tmp_path)
    command = machine.python(["-m", "sparring", "--version"], {})
    answer = subprocess.run(**command, capture_output=True, text=True)
    assert answer.stdout == f"sparring {sparring.__version__}\n", answer.stderr
    job = schedule._process({"plan": {}}, {"A": "b"})
    assert job["args"][:5] == [sys.executable, "-P", "-m", "sparring", "job"]
    assert job["env"]["A"] == "b"


def test_a_checkout_that_is_not_installed_finds_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(sparring.__file__).parent.parent)
    monkeypatch.setattr("sys.path", ["", "/usr/lib/python"])
    monkeypatch.chdir(root)
    assert machine.python(["-c", ""], {"PYTHONPATH": "/a"})["env"]["PYTHONPATH"] == f"/a:{root}"
    monkeypatch.setattr("sys.path", ["/usr/lib/python", root])
    started = machine.python(["-c", ""], {"PYTHONPATH": "/a"})
    assert started["env"]["PYTHONPATH"] == "/a"
    assert started["args"][1] == "-P"
