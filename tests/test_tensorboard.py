"""Logs for TensorBoard: the numbers of metrics.jsonl, and never the end of a training."""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import sparring
from sparring.cli import app
from sparring.data import Dataset
from sparring.errors import Diverged, SettingsError
from sparring.experiments.plan import plan
from sparring.experiments.request import PlanRequest, TrainingRequest
from sparring.runs.directory import Run
from sparring.training import tensorboard
from sparring.training.callbacks import EpochMetrics, Silent
from sparring.training.tensorboard import TAGS

pytest.importorskip("tensorboardX")

NOTHING = dict.fromkeys(TAGS)
SMALL: dict[str, Any] = {"filters": 4, "epochs": 4, "batch_size": 16}


class Recorder(Silent):
    """Remembers messages; interrupts after so many epochs when told to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.messages: list[str] = []
        self.calls: list[str] = []
        self.left = stop_after

    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        self.calls.append(f"begin {network}/{networks} {epoch}/{epochs} {steps}")

    def step(self, step: int, loss: float) -> None:
        self.calls.append(f"step {step}")

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self.calls.append(f"epoch {metrics.epoch}")
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    def message(self, text: str) -> None:
        self.messages.append(text)


def events(file: Path) -> Iterator[Any]:
    """The events of an event file."""
    from tensorboardX.proto.event_pb2 import Event

    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def logged(run: Run, repeated: int = 0) -> list[dict[str, Any]]:
    """What event files of a run come to, as lines of metrics.jsonl without seconds.

    As many epochs as expected are repeated, each after an event that takes back the earlier ones.
    """
    lines: list[dict[str, Any]] = []
    for network, folder in enumerate(sorted(run.tensorboard_folder.iterdir())):
        assert folder.name == f"network-{network + 1}"
        own: list[dict[str, Any]] = []
        for file in sorted(folder.glob("events.out.tfevents.*")):
            first, start, *rest = events(file)
            assert first.file_version == "brain.Event:2"
            assert start.session_log.status == start.session_log.START
            assert start.step == rest[0].step
            times = [event.wall_time for event in rest]
            assert times == sorted(times)
            kept = [line for line in own if line["epoch"] < start.step]
            repeated -= len(own) - len(kept)
            own = kept
            for event in rest:
                found = {value.tag: value.simple_value for value in event.summary.value}
                own.append({"network": network, "epoch": event.step, **NOTHING, **found})
        lines += own
    assert repeated == 0
    return lines


def expected(run: Run) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without seconds, in the precision of event files."""
    return [
        {
            name: float(np.float32(value)) if isinstance(value, float) else value
            for name, value in line.as_json().items()
            if name not in ("seconds", "threads")
        }
        for line in run.metrics()
    ]


@pytest.mark.backend
def test_event_files_hold_what_metrics_hold(dataset: Dataset, tmp_path: Path) -> None:
    recorder, plain = Recorder(), Recorder()
    for out, told, wanted in (("with", recorder, True), ("without", plain, False)):
        sparring.train(
            "majority", dataset, out=tmp_path / out, eval_every=3, tensorboard=wanted,
            progress=told, **SMALL,
        )  # fmt: skip
    run, other = (Run(tmp_path / out / "patterns" / "majority") for out in ("with", "without"))
    lines = logged(run)
    assert lines == expected(run)
    assert [line["epoch"] for line in lines] == 3 * [1, 2]  # majority takes half of the epochs
    assert run.weights_file.read_bytes() == other.weights_file.read_bytes()
    assert not other.tensorboard_folder.exists()
    assert recorder.messages == plain.messages
    assert recorder.calls == plain.calls


def test_epochs_without_a_test_have_no_test_accuracy(dataset: Dataset, tmp_path: Path) -> None:
    sparring.train("baseline", dataset, out=tmp_path, eval_every=3, tensorboard=True, **SMALL)
    run = Run(tmp_path / "patterns" / "baseline")
    lines = logged(run)
    assert lines == expected(run)
    assert [line["test_accuracy"] is None for line in lines] == [True, True, False, False]


@pytest.mark.backend
def test_a_library_on_torch_is_imported_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    there = "torch" in sys.modules
    for name in [name for name in sys.modules if name.startswith("tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    assert tensorboard.library().RecordWriter
    assert ("torch" in sys.modules) is there


# Resuming


@pytest.mark.parametrize(
    "sessions",
    [(True, True, True), (False, False, True), (True, False, True), (False, True, True)],
)
def test_a_resumed_run_repeats_and_leaves_out_nothing(
    dataset: Dataset, tmp_path: Path, sessions: tuple[bool, ...]
) -> None:
    run = Run(tmp_path / "patterns" / "majority")
    settings = {**SMALL, "epochs": 6}  # three each
    for wanted in sessions:
        # After epoch 2 of the first network, 1 of the second, 3 of the second.
        with pytest.raises(KeyboardInterrupt):
            sparring.train(
                "majority", dataset, out=tmp_path, tensorboard=wanted, progress=Recorder(2),
                **settings,
            )  # fmt: skip
    assert logged(run) == expected(run)
    assert len(run.metrics()) == 6
    sparring.train("majority", dataset, out=tmp_path, tensorboard=True, **settings)
    assert logged(run) == expected(run)
    assert [(line.network, line.epoch) for line in run.metrics()] == [
        (network, epoch) for network in range(3) for epoch in range(1, 4)
    ]


def _train_in_turns(dataset: Dataset, out: Path, *sessions: bool) -> Run:
    """Train the baseline, an epoch a session, with logs or without them."""
    for wanted in sessions:
        with pytest.raises(KeyboardInterrupt):
            sparring.train(
                "baseline", dataset, out=out, tensorboard=wanted, progress=Recorder(1), **SMALL
            )
    return Run(out / "patterns" / "baseline")


def test_epochs_that_were_not_logged_are_added(dataset: Dataset, tmp_path: Path) -> None:
    run = _train_in_turns(dataset, tmp_path, True, False)
    assert len(logged(run)) == 1
    sparring.train("baseline", dataset, out=tmp_path, tensorboard=True, **SMALL)
    assert logged(run) == expected(run)


def test_epochs_that_are_trained_again_take_the_place_of_the_first(
    dataset: Dataset, tmp_path: Path
) -> None:
    run = _train_in_turns(dataset, tmp_path, True, True, True)
    # The last state is damaged, and the training goes on from the one before.
    last = sorted(run.checkpoints(0).path.glob("epoch-*"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    sparring.train("baseline", dataset, out=tmp_path, tensorboard=True, **SMALL)
    assert logged(run, repeated=1) == expected(run)


def test_an_event_file_cut_short_by_a_kill(dataset: Dataset, tmp_path: Path) -> None:
    run = _train_in_turns(dataset, tmp_path, True, True)
    [_, last] = sorted((run.tensorboard_folder / "network-1").iterdir())
    whole = last.read_bytes()
    for size in (len(whole) - 1, 40, 7, 0):
        last.write_bytes(whole[:size])
        with tensorboard.TensorBoard(Silent(), run):
            pass
        [first, _, added] = sorted((run.tensorboard_folder / "network-1").iterdir())
        steps = [event.step for file in (first, added) for event in list(events(file))[1:]]
        assert steps == [1, 1, 2, 2]  # the epoch each file begins with, and the epoch itself
        added.unlink()


def test_a_finished_run_is_logged_from_its_metrics(dataset: Dataset, tmp_path: Path) -> None:
    run = Run(tmp_path / "patterns" / "baseline")
    sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    before = run.weights_file.stat().st_mtime_ns
    for _ in range(2):
        sparring.train("baseline", dataset, out=tmp_path, tensorboard=True, **SMALL)
        assert logged(run) == expected(run)
    assert len(list(run.tensorboard_folder.rglob("*tfevents*"))) == 1
    assert run.weights_file.stat().st_mtime_ns == before


def test_logs_go_with_their_run_when_it_is_trained_anew(dataset: Dataset, tmp_path: Path) -> None:
    run = Run(tmp_path / "patterns" / "baseline")
    sparring.train("baseline", dataset, out=tmp_path, tensorboard=True, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        sparring.train("baseline", dataset, out=tmp_path, force=True, progress=Recorder(1), **SMALL)
    assert not run.tensorboard_folder.exists()
    assert logged(Run(run.previous_folder)) == expected(Run(run.previous_folder))
    sparring.train("baseline", dataset, out=tmp_path, tensorboard=True, **SMALL)
    assert logged(run) == expected(run)
    assert len(run.metrics()) == 4


def test_a_restart_after_a_divergence_begins_its_logs_anew(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparring.training.loop import TrainLoop

    look = TrainLoop._look

    def sinking(self: TrainLoop, losses: Any, before: int) -> list[float]:
        if self.recipe.seed == 0 and self.recipe.network == 1:
            raise self._diverged("the loss became nan", before + 1)
        return look(self, losses, before)

    monkeypatch.setattr(TrainLoop, "_look", sinking)
    run = Run(tmp_path / "patterns" / "majority")
    arguments: dict[str, Any] = {"out": tmp_path, "tensorboard": True, **SMALL}
    with pytest.raises(Diverged):
        sparring.train("majority", dataset, **arguments)
    assert logged(run) == expected(run)
    assert len(run.metrics()) == 2
    sparring.train("majority", dataset, restarts=1, **arguments)
    assert logged(run) == expected(run)
    assert len(run.metrics()) == 6


# When it misbehaves


def _no_space(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def _bug(*_: Any, **__: Any) -> Any:
    raise TypeError("expected bytes")


def _full_after(calls: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, until it was called so often."""
    count = [0]

    def limited(*arguments: Any) -> Any:
        count[0] += 1
        return (real if count[0] <= calls else _no_space)(*arguments)

    return limited


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Dataset], bytes]:
    """The weights of a training without logs."""
    out = tmp_path_factory.mktemp("without")

    def train(dataset: Dataset) -> bytes:
        sparring.train("baseline", dataset, out=out, **SMALL)
        return Run(out / "patterns" / "baseline").weights_file.read_bytes()

    return train


@pytest.mark.parametrize("failing", ["__init__", "write", "flush", "close", "all", "later"])
def test_a_library_that_fails_ends_the_logs_alone(
    dataset: Dataset,
    tmp_path: Path,
    weights: Callable[[Dataset], bytes],
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    writer = tensorboard.library().RecordWriter
    if failing == "later":  # in the second epoch, after version, start and first epoch
        monkeypatch.setattr(writer, "write", _full_after(3, writer.write))
    close = writer.close

    def close_late(self: Any) -> None:
        close(self)
        _no_space()

    for method in ("__init__", "write", "flush", "close"):
        if failing in (method, "all"):
            monkeypatch.setattr(writer, method, close_late if method == "close" else _no_space)
    recorder = Recorder()
    sparring.train("baseline", dataset, out=tmp_path, tensorboard=True, progress=recorder, **SMALL)
    assert recorder.messages == [
        "TensorBoard logs end here, the training goes on without them: "
        "OSError: [Errno 28] No space left on device"
    ]
    run = Run(tmp_path / "patterns" / "baseline")
    assert run.weights_file.read_bytes() == weights(dataset)
    assert len(run.metrics()) == 4


def test_a_bug_in_the_library_ends_the_logs_alone(
    dataset: Dataset,
    tmp_path: Path,
    weights: Callable[[Dataset], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensorboard.library().proto.event_pb2, "Event", _bug)
    recorder = Recorder()
    sparring.train("baseline", dataset, out=tmp_path, tensorboard=True, progress=recorder, **SMALL)
    assert len(recorder.messages) == 1
    assert recorder.messages[0].endswith("without them: TypeError: expected bytes")
    run = Run(tmp_path / "patterns" / "baseline")
    assert run.weights_file.read_bytes() == weights(dataset)


def test_a_folder_that_cannot_be_made_ends_the_logs_alone(dataset: Dataset, tmp_path: Path) -> None:
    run = Run(tmp_path / "patterns" / "baseline")
    run.path.mkdir(parents=True)
    run.tensorboard_folder.touch()
    recorder = Recorder()
    sparring.train("baseline", dataset, out=tmp_path, tensorboard=True, progress=recorder, **SMALL)
    assert len(recorder.messages) == 1
    assert "NotADirectoryError" in recorder.messages[0]


@pytest.mark.parametrize("error", [None, _bug], ids=["missing", "broken"])
def test_a_library_that_cannot_be_imported_is_told_before_anything_is_done(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    if error is None:
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        monkeypatch.delitem(sys.modules, "tensorboardX.proto.event_pb2", raising=False)
    else:
        monkeypatch.setattr(tensorboard, "import_module", error)
    with pytest.raises(SettingsError, match=r"tensorboardX.*pip install 'sparring\[tensorboard\]'"):
        sparring.train("baseline", dataset, out=tmp_path, tensorboard=True, **SMALL)
    assert list(tmp_path.iterdir()) == []
    sparring.train("baseline", dataset, out=tmp_path, **SMALL)


# The command line


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs sparring train in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)
    small = ("--filters", "4", "--epochs", "2", "--limit-train", "64")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["train", *arguments, *small])

    return run


def test_the_option(call: Callable[..., Result]) -> None:
    answer = call("baseline", "--tensorboard")
    assert answer.exit_code == 0, answer.output
    assert "Logs      tensorboard --logdir runs/digits/baseline/tensorboard\n" in answer.output
    run = Run("runs/digits/baseline")
    assert logged(run) == expected(run)


def test_the_option_in_a_config_file(call: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("tensorboard: true\n", encoding="utf-8")
    answer = call("baseline", "--config", "c.yaml")
    assert answer.exit_code == 0, answer.output
    run = Run("runs/digits/baseline")
    assert logged(run) == expected(run)


def test_the_option_for_many(call: Callable[..., Result]) -> None:
    answer = call("randomneuron", "baseline", "majority", "--tensorboard", "--jobs", "2")
    assert answer.exit_code == 0, answer.output
    for name in ("baseline", "majority"):
        run = Run(Path("runs/digits") / name)
        assert logged(run) == expected(run)
    # It serves the baseline's weights, and nothing is trained.
    assert not Run("runs/digits/randomneuron").tensorboard_folder.exists()


def test_many_miss_the_library_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.delitem(sys.modules, "tensorboardX.proto.event_pb2", raising=False)
    common = TrainingRequest(defense="all", out=tmp_path, tensorboard=True)
    with pytest.raises(SettingsError, match=r"pip install 'sparring\[tensorboard\]'"):
        plan(PlanRequest(defenses=["all"], data=["digits"], common=common))
    assert list(tmp_path.iterdir()) == []
