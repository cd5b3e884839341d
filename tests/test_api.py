"""train and load: running, going on, refusing, and what is on disk."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import sparring
from sparring.data import Dataset
from sparring.errors import DataError, Diverged, RunError, SettingsError
from sparring.experiments import train as api
from sparring.runs import files as run_files
from sparring.runs.directory import Run
from sparring.training.callbacks import EpochMetrics, Silent
from sparring.training.recipe import Recipe

SMALL: dict[str, Any] = {"filters": 4, "epochs": 3, "batch_size": 16}


class Stop(BaseException):
    """What a test interrupts a training with."""


class Recorder(Silent):
    """Remembers messages and epochs; interrupts after an epoch when told to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.messages: list[str] = []
        self.epochs: list[EpochMetrics] = []
        self.begun: list[tuple[int, ...]] = []
        self.stop_after = stop_after

    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        self.begun.append((network, networks, epoch, epochs, steps))

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self.epochs.append(metrics)
        assert seconds_left >= 0
        if metrics.epoch == self.stop_after:
            raise Stop

    def message(self, text: str) -> None:
        self.messages.append(text)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_a_run_from_before_there_were_presets_is_the_course_s(
    dataset: Dataset, tmp_path: Path
) -> None:
    path = sparring.train("baseline", dataset, out=tmp_path, filters=4, epochs=1).path
    assert path is not None
    values = json.loads((path / "run.json").read_text())
    del values["preset"]
    for name in ("optimizer", "schedule", "initializer", "precision"):
        del values["settings"][name]
    (path / "run.json").write_text(json.dumps(values))
    again = sparring.train("baseline", dataset, out=tmp_path, filters=4, epochs=1)
    assert again.results["finished"] == values["results"]["finished"]
    with pytest.raises(RunError, match="preset is 'course' there, 'fast' here"):
        sparring.train("baseline", dataset, preset="fast", out=tmp_path, filters=4, epochs=1)


def test_presets_are_kept_apart(dataset: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": tmp_path, "filters": 4, "epochs": 1}
    fast = sparring.train("baseline", dataset, preset="fast", **options)
    assert fast.path is not None
    run = json.loads((fast.path / "run.json").read_text())
    assert run["preset"] == "fast"
    assert run["settings"]["optimizer"] == "muon"
    with pytest.raises(RunError, match="preset is 'fast' there, 'course' here"):
        sparring.train("baseline", dataset, **options)
    message = "were trained with preset fast; got preset course"
    with pytest.raises(SettingsError, match=message):
        sparring.train("randomneuron", dataset, out=tmp_path)
    served = sparring.train("randomneuron", dataset, preset="fast", out=tmp_path)
    assert served.path is not None
    assert json.loads((served.path / "run.json").read_text())["preset"] == "fast"
    with pytest.raises(SettingsError, match=r"unknown preset 'slow'. Valid: course, fast\."):
        sparring.train("blur", dataset, preset="slow", out=tmp_path)


@pytest.mark.backend
def test_a_finished_run_on_disk(dataset: Dataset, tmp_path: Path) -> None:
    recorder = Recorder()
    defense = sparring.train("baseline", dataset, out=tmp_path, progress=recorder, seed=7, **SMALL)
    folder = tmp_path / "patterns" / "baseline"
    assert defense.path == folder
    assert files(folder) == {"run.json", "metrics.jsonl", "weights.safetensors"}
    assert recorder.begun == [(0, 1, 0, 3, 3)]

    run = json.loads((folder / "run.json").read_text())
    assert run["status"] == "finished"
    assert (run["defense"], run["seed"], run["preset"]) == ("baseline", 7, "course")
    assert run["backend"] == keras.backend.backend()
    assert run["dataset"]["sha256"] == dataset.sha256
    assert run["settings"] == {
        **SMALL,
        "head_size": 1,
        "optimizer": "sgd",
        "schedule": "cosine",
        "initializer": "glorot",
        "precision": "float32",
        "learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "ema_decay": 0.999,
        "flip": False,
    }
    assert {"sparring", "python", "keras", "numpy", run["backend"]} == set(run["versions"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(0 <= line["test_accuracy"] <= 1 for line in lines)
    right = defense.classify(dataset.x_test).argmax(axis=1) == dataset.y_test
    assert run["results"]["test_accuracy"] == lines[-1]["test_accuracy"] == right.mean()
    assert defense.results == run["results"]
    assert run["results"]["rejected"] == 0


@pytest.mark.backend
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_run_goes_on_bit_for_bit(
    dataset: Dataset, tmp_path: Path, stop: int
) -> None:
    for name in ("whole", "parts"):
        recorder = Recorder(stop if name == "parts" else None)
        arguments: dict[str, Any] = {"out": tmp_path / name, "seed": 3, "flip": True, **SMALL}
        try:
            sparring.train("baseline", dataset, progress=recorder, **arguments)
        except Stop:
            folder = tmp_path / "parts" / "patterns" / "baseline"
            assert (folder / "state").is_dir()
            assert not (folder / "weights.safetensors").exists()
            with pytest.raises(RunError, match=r"training is not finished.*same sparring train"):
                sparring.load(folder)
            recorder = Recorder()
            sparring.train("baseline", dataset, progress=recorder, **arguments)
            assert f"after epoch {stop} of network 1" in recorder.messages[0]
            assert [line.epoch for line in recorder.epochs] == list(range(stop + 1, 4))
    weights, lines = zip(
        *(
            (
                (tmp_path / name / "patterns/baseline/weights.safetensors").read_bytes(),
                Run(tmp_path / name / "patterns/baseline").metrics(),
            )
            for name in ("whole", "parts")
        ),
        strict=True,
    )
    assert weights[0] == weights[1]
    for whole, parts in zip(*lines, strict=True):
        for key in ("epoch", "loss", "accuracy", "test_accuracy", "learning_rate"):
            assert getattr(whole, key) == getattr(parts, key)


def test_a_damaged_state_falls_back_to_the_one_before(dataset: Dataset, tmp_path: Path) -> None:
    whole = sparring.train("baseline", dataset, out=tmp_path / "whole", **SMALL)
    with pytest.raises(Stop):
        sparring.train("baseline", dataset, out=tmp_path, progress=Recorder(2), **SMALL)
    states = sorted((tmp_path / "patterns/baseline/state/network-000").glob("epoch-*"))
    states[-1].write_bytes(states[-1].read_bytes()[:-1])
    recorder = Recorder()
    resumed = sparring.train("baseline", dataset, out=tmp_path, progress=recorder, **SMALL)
    assert "Passed over" in recorder.messages[0]
    assert "after epoch 1" in recorder.messages[1]
    assert whole.path is not None
    assert resumed.path is not None
    name = "weights.safetensors"
    assert (whole.path / name).read_bytes() == (resumed.path / name).read_bytes()
    assert [line.epoch for line in Run(resumed.path).metrics()] == [1, 2, 3]


def test_a_finished_run_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    first = sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    assert first.path is not None
    before = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    recorder = Recorder()
    again = sparring.train("baseline", dataset, out=tmp_path, progress=recorder, **SMALL)
    assert "finished already; --force" in recorder.messages[0]
    assert recorder.epochs == []
    assert again.results == first.results
    for path, changed in before.items():
        assert path.name == ".lock" or path.stat().st_mtime_ns == changed


def test_other_settings_are_refused_and_named(
    make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = make_dataset()
    with pytest.raises(Stop):
        sparring.train("baseline", dataset, out=tmp_path, progress=Recorder(1), **SMALL)
    folder = tmp_path / "patterns/baseline"
    state = {path: path.read_bytes() for path in (folder / "state").glob("*/*.*")}
    assert len(state) >= 2
    changed: dict[str, Any] = {**SMALL, "epochs": 4, "momentum": 0.8}
    with pytest.raises(RunError) as caught:
        sparring.train("baseline", dataset, out=tmp_path, seed=1, **changed)
    for difference in (
        "settings.epochs is 3 there, 4 here",
        "settings.momentum is 0.9 there, 0.8 here",
        "seed is 0 there, 1 here",
    ):
        assert difference in str(caught.value)
    with pytest.raises(RunError, match=r"dataset.train_images is 40 there, 39 here.*sha256"):
        sparring.train("baseline", dataset, out=tmp_path, limit_train=39, **SMALL)
    assert {path: path.read_bytes() for path in (folder / "state").glob("*/*.*")} == state
    sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    with pytest.raises(RunError, match="epochs is 3 there"):
        sparring.train("baseline", dataset, out=tmp_path, **changed)


def test_force_keeps_the_finished_run_until_the_new_one_is(
    dataset: Dataset, tmp_path: Path
) -> None:
    first = sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    assert first.path is not None
    other = {**SMALL, "filters": 5}
    with pytest.raises(Stop):
        sparring.train("baseline", dataset, out=tmp_path, force=True, progress=Recorder(1), **other)
    with pytest.raises(RunError, match=r"the finished run before it is in .*previous"):
        sparring.load(first.path)
    x = dataset.x_test
    previous = sparring.load(first.path / "previous")
    np.testing.assert_array_equal(previous.classify(x), first.classify(x))
    second = sparring.train("baseline", dataset, out=tmp_path, **other)
    assert second.settings.filters == 5
    assert files(first.path) == {"run.json", "metrics.jsonl", "weights.safetensors"}


class Sinking(Recipe):
    """Diverges in the second epoch with every seed below 2."""

    def on_progress(self, net: Any, progress: Any) -> None:
        self.progress = progress

    def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
        loss, hits = super().loss(net, x, y)
        bad = math.nan if self.seed < 2 else 1.0
        return loss * ops.where(self.progress > 0.4, bad, 1.0), hits


@pytest.fixture
def sinking(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.defenses.baseline import Baseline

    monkeypatch.setattr(
        Baseline,
        "recipes",
        classmethod(lambda cls, info, settings, seed: [Sinking(info, settings, seed)]),
    )


@pytest.mark.usefixtures("sinking")
def test_divergence_keeps_the_good_state(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Diverged) as caught:
        sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    assert (caught.value.defense, caught.value.epoch, caught.value.seed) == ("baseline", 2, 0)
    run = Run(tmp_path / "patterns/baseline")
    assert run.read().status == "diverged"
    assert files(run.path) == {"run.json", "state"}
    state = run.checkpoints(0).load()
    assert state is not None
    assert state[1] == 1
    # Going on meets the same end; more restarts may be given then.
    with pytest.raises(Diverged):
        sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    defense = sparring.train("baseline", dataset, out=tmp_path, restarts=2, **SMALL)
    assert defense.results["seeds_used"] == [2]


@pytest.mark.usefixtures("sinking")
def test_restarts_go_on_with_the_next_seeds(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Diverged) as caught:
        sparring.train("baseline", dataset, out=tmp_path / "few", restarts=1, **SMALL)
    assert caught.value.seed == 1
    recorder = Recorder()
    defense = sparring.train(
        "baseline", dataset, out=tmp_path, restarts=3, progress=recorder, **SMALL
    )
    assert "Beginning anew with seed 2." in recorder.messages
    run = Run(tmp_path / "patterns/baseline").read()
    assert run.seed == 0
    assert [(entry.seed, entry.epoch) for entry in run.diverged or ()] == [(0, 2), (1, 2)]
    assert [line.epoch for line in Run(tmp_path / "patterns/baseline").metrics()] == [1, 2, 3]
    # The weights are those that seed 2 gives by itself.
    alone = sparring.train("baseline", dataset, out=tmp_path / "alone", seed=2, **SMALL)
    np.testing.assert_array_equal(alone.classify(dataset.x_test), defense.classify(dataset.x_test))


@pytest.mark.usefixtures("sinking")
def test_a_restarted_run_that_is_interrupted_goes_on_with_its_seed(
    dataset: Dataset, tmp_path: Path
) -> None:
    class StopInSeedTwo(Recorder):
        def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
            if metrics.epoch == 2:
                raise Stop

    with pytest.raises(Diverged):
        sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    with pytest.raises(Stop):
        sparring.train(
            "baseline", dataset, out=tmp_path, restarts=2, progress=StopInSeedTwo(), **SMALL
        )
    assert Run(tmp_path / "patterns/baseline").read().status == "training"
    recorder = Recorder()
    sparring.train("baseline", dataset, out=tmp_path, restarts=2, progress=recorder, **SMALL)
    assert [line.epoch for line in recorder.epochs] == [3]
    assert Run(tmp_path / "patterns/baseline").read().as_json()["results"]["seeds_used"] == [2]


@pytest.mark.backend
def test_networks_trained_apart_are_the_same(dataset: Dataset, tmp_path: Path) -> None:
    settings = {**SMALL, "epochs": 6}  # half of them for each network
    whole = sparring.train("majority", dataset, out=tmp_path / "whole", **settings)
    arguments: dict[str, Any] = {"out": tmp_path / "apart", **settings}
    recorder = Recorder()
    sparring.train_network("majority", 2, dataset, progress=recorder, **arguments)
    assert recorder.begun == [(2, 3, 0, 3, 3)]
    with pytest.raises(Stop):
        sparring.train_network("majority", 0, dataset, progress=Recorder(2), **arguments)
    sparring.train_network("majority", 2, dataset, progress=recorder, **arguments)
    assert len(recorder.epochs) == 3  # not trained twice
    recorder = Recorder()
    apart = sparring.train("majority", dataset, progress=recorder, **arguments)
    assert [(line.network, line.epoch) for line in recorder.epochs] == [
        (0, 3),
        (1, 1),
        (1, 2),
        (1, 3),
    ]
    assert whole.path is not None
    assert apart.path is not None
    weights = [(path / "weights.safetensors").read_bytes() for path in (whole.path, apart.path)]
    assert weights[0] == weights[1]
    lines = [(line.network, line.epoch) for line in Run(apart.path).metrics()]
    assert lines == [(network, epoch) for network in range(3) for epoch in (1, 2, 3)]
    sparring.train_network("majority", 1, dataset, **arguments)  # all is finished
    assert files(apart.path) == {"run.json", "metrics.jsonl", "weights.safetensors"}


def test_a_network_that_is_none_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="majority trains 3 networks; there is no network 4"):
        sparring.train_network("majority", 3, dataset, out=tmp_path, **SMALL)
    sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    with pytest.raises(SettingsError, match="serves the weights of baseline and trains none"):
        sparring.train_network("randomneuron", 0, dataset, out=tmp_path)
    with pytest.raises(RunError, match="epochs is 3 there, 4 here"):
        sparring.train_network("baseline", 0, dataset, out=tmp_path, **{**SMALL, "epochs": 4})
    with pytest.raises(SettingsError, match="force: trains all networks of a run anew; for net"):
        sparring.train_network("baseline", 0, dataset, out=tmp_path, force=True, **SMALL)
    assert Run(tmp_path / "patterns/baseline").status() == "finished"


def test_only_the_network_that_diverged_begins_anew(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparring.defenses.majority import Majority

    original = Majority.recipes.__func__  # type: ignore[attr-defined]

    def one_sinks(cls: Any, info: Any, settings: Any, seed: int) -> list[Recipe]:
        recipes: list[Recipe] = original(cls, info, settings, seed)
        recipes[1] = Sinking(info, recipes[1].settings, seed, 1)
        return recipes

    monkeypatch.setattr(Majority, "recipes", classmethod(one_sinks))
    recorder = Recorder()
    arguments: dict[str, Any] = {"restarts": 2, **SMALL, "epochs": 6}
    defense = sparring.train("majority", dataset, out=tmp_path, progress=recorder, **arguments)
    assert defense.results["seeds_used"] == [0, 2, 0]
    trained = [(line.network, line.epoch) for line in recorder.epochs]
    assert trained == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 1),
        (1, 1),
        *((n, e) for n in (1, 2) for e in (1, 2, 3)),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed: expected an integer of 0 or more, got -1"),
        ({"seed": 1.5}, "seed: expected an integer of 0 or more, got 1.5"),
        ({"restarts": -1}, "restarts: expected"),
        ({"eval_every": -2}, "eval_every: expected"),
        ({"device": "tpu"}, "unknown device of .* 'tpu'.* Valid: .*cpu"),
        ({"epoch": 3}, "unknown setting 'epoch'. Did you mean 'epochs'"),
        ({"limit_train": 41}, "expected 1 to 40"),
    ],
)
def test_wrong_arguments_write_nothing(
    dataset: Dataset, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        sparring.train("baseline", dataset, out=tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingsError, match="unknown defense"):
        sparring.train("nothing", dataset, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_on_the_cpu_by_name(dataset: Dataset, tmp_path: Path) -> None:
    sparring.train("baseline", dataset, out=tmp_path, device="cpu", **SMALL)
    assert Run(tmp_path / "patterns/baseline").read().device == "cpu"


# Loading


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import patterns

    x, y = patterns(16)
    dataset = Dataset("patterns", x, y, x, y, tuple("abcd"))
    path = sparring.train("baseline", dataset, out=tmp_path_factory.mktemp("r"), **SMALL).path
    assert path is not None
    return path


def _edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((run / "run.json").read_text())
    change(values)
    (run / "run.json").write_text(json.dumps(values))


def _rewrite(run: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Other weights, saved as ours and recorded, as a wrong program would."""
    arrays, about, _ = run_files.read_tensors(run / "weights.safetensors")
    change(arrays)
    sha256 = run_files.write_tensors(run / "weights.safetensors", arrays, about)
    _edit(run, lambda values: values.update(weights_sha256=sha256))


WRONG_RUNS: list[tuple[Callable[[Path], object], str]] = [
    (lambda run: shutil.rmtree(run), "no such run directory"),
    (lambda run: (run / "run.json").unlink(), "has no run.json"),
    (lambda run: (run / "run.json").write_text("{}"), "run.json: damaged"),
    (lambda run: _edit(run, lambda v: v.update(format=9)), "expected format 1 to 2, found 9"),
    (lambda run: _edit(run, lambda v: v.pop("settings")), "run.json: damaged.*settings"),
    (lambda run: _edit(run, lambda v: v["settings"].update(filters="x")), "run.json: damaged"),
    (lambda run: _edit(run, lambda v: v.update(defense="other")), "unknown defense 'other'"),
    (
        lambda run: _rewrite(run, lambda a: a.update({"0/conv_0_kernel": a["0/conv_1_kernel"]})),
        r"conv_0_kernel: expected float32 \[3, 3, 1, 4\], found float32 \[3, 3, 4, 8\]",
    ),
    (lambda run: (run / "weights.safetensors").unlink(), "weights.safetensors: no such file"),
    (lambda run: (run / "weights.safetensors").write_bytes(b"x" * 99), "no safetensors file"),
    (
        lambda run: _edit(run, lambda v: v.update(weights_sha256="0" * 64)),
        "expected the weights of this run with SHA-256 0000",
    ),
    (lambda run: _rewrite(run, lambda a: a.pop("0/head_bias")), "missing 0/head_bias"),
    (
        lambda run: _rewrite(run, lambda a: a.update({"0/head_bias": np.zeros(4)})),
        "expected float32.*found float64",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG_RUNS)
def test_wrong_runs_are_refused(
    finished: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    sparring.load(run)
    spoil(run)
    with pytest.raises(RunError, match=message):
        sparring.load(run)


def test_weights_that_are_not_finite_are_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    with monkeypatch.context() as patched:
        patched.setattr(run_files, "not_finite", lambda arrays: [])
        _rewrite(run, lambda a: a.update({"0/head_bias": np.full(4, np.nan, np.float32)}))
    with pytest.raises(RunError, match="NaN or infinity in 0/head_bias"):
        sparring.load(run)


def test_a_run_by_its_name_needs_a_path() -> None:
    with pytest.raises(DataError, match="no such file"):
        api.train("baseline", "nowhere.npz")


@pytest.mark.parametrize("name", ["majority", "mergebinary"])
def test_networks_answer_in_the_order_they_were_trained_in(
    dataset: Dataset, tmp_path: Path, name: str
) -> None:
    defense = sparring.train(name, dataset, out=tmp_path, filters=4, epochs=2, eval_every=0)
    assert defense.path is not None
    arrays, _, _ = run_files.read_tensors(Run(defense.path).weights_file)
    for number, net in enumerate(defense.nets):
        kernel = ops.convert_to_numpy(net.head[0].value)
        np.testing.assert_array_equal(kernel, arrays[f"{number}/head_kernel"])


def test_a_run_says_whose_weights_it_serves(dataset: Dataset, tmp_path: Path) -> None:
    small: dict[str, Any] = {"out": tmp_path, "filters": 4, "epochs": 1}
    lender = sparring.train("baseline", dataset, **small)
    run = sparring.train("randomneuron", dataset, out=tmp_path)
    assert run.path is not None
    lent = {"defense": "baseline", "sha256": lender.weights_sha256}
    assert Run(run.path).read().as_json()["weights_from"] == lent
