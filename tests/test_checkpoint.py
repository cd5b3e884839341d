"""The run directory's files: atomic writes, verified reads."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from sparring.errors import RunError
from sparring.runs.directory import Checkpoints, Run
from sparring.runs.files import read_tensors, write_atomically, write_tensors
from sparring.runs.records import Attempt, EpochMetrics, RunRecord

ARRAYS = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7, np.int32)}


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    # A transposed array is not contiguous; its values count, not its memory.
    arrays = {**ARRAYS, "t": ARRAYS["a/kernel"].T}
    sha256 = write_tensors(path, arrays, {"epoch": 3})
    found, about, found_sha256 = read_tensors(path)
    assert about == {"epoch": 3}
    assert found_sha256 == sha256
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_equal_tensors_make_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_tensors(tmp_path / name, ARRAYS, {"b": 1, "a": 2})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_saved(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, ARRAYS, {})
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"not finite: c"):
        write_tensors(path, {**ARRAYS, "c": np.array([1, bad], np.float32)}, {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, ARRAYS, {"epoch": 3})
    good = path.read_bytes()
    for index in range(len(good)):
        damaged = bytearray(good)
        damaged[index] ^= 1 << index % 8
        path.write_bytes(damaged)
        try:
            arrays, about, _ = read_tensors(path)
        except RunError:
            continue
        # A space in the padding of the header may become another blank; nothing else may pass.
        assert about == {"epoch": 3}
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(RunError, match="no such file"):
        read_tensors(path)
    write_tensors(path, ARRAYS, {})
    good = path.read_bytes()
    for size in (0, 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(RunError, match="damaged"):
            read_tensors(path)
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(RunError, match="no safetensors file"):
        read_tensors(path)
    path.write_bytes(safetensors.numpy.save(ARRAYS))
    with pytest.raises(RunError, match="not written by Sparring"):
        read_tensors(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


# Runs

RECORD = RunRecord(
    defense="baseline", dataset={"name": "digits"}, settings={}, seed=0, backend="torch",
    status="training",
)  # fmt: skip


def metrics(network: int, epoch: int) -> EpochMetrics:
    return EpochMetrics(network, epoch, 0.5, 0.5, None, 0.03, 100.0, 1.0)


def attempt(seed: int) -> Attempt:
    return Attempt(seed=seed, network=1, epoch=2, step=3)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "digits" / "baseline")
    with run.locked():
        run.write(RECORD)
    return run


def test_run_json(run: Run) -> None:
    assert run.read() == RECORD
    assert json.loads(run.json_file.read_text()) == {"format": 2, **RECORD.as_json()}
    for contents, message in (
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": "1"}', "damaged"),
        ('{"format": 2}', "damaged: expected defense to be text, found None"),
        ('{"format": 3}', "expected format 1 to 2, found 3: written by a newer version"),
        ('{"format": 0}', "expected format 1 to 2, found 0: written by another version"),
    ):
        run.json_file.write_text(contents)
        with pytest.raises(RunError, match=message):
            run.read()
    run.json_file.unlink()
    with pytest.raises(RunError, match=re.escape("not a run directory: it has no run.json")):
        run.read()
    with pytest.raises(RunError, match="no such run directory"):
        Run(run.path / "other").read()


@pytest.fixture
def checkpoints(run: Run) -> Iterator[Checkpoints]:
    with run.checkpoints(1).locked():
        yield run.checkpoints(1)


def test_metrics_are_trimmed_and_a_torn_line_is_dropped(run: Run, checkpoints: Checkpoints) -> None:
    for epoch in (1, 2, 3):
        checkpoints.append_metrics(metrics(1, epoch))
    with checkpoints.metrics_file.open("a") as file:
        file.write('{"network": 1, "ep')
    checkpoints.trim_metrics(2)
    kept = [json.loads(line) for line in checkpoints.metrics_file.read_text().splitlines()]
    assert [line["epoch"] for line in kept] == [1, 2]
    with run.checkpoints(0).locked():
        run.checkpoints(0).append_metrics(metrics(0, 7))
    assert [(line.network, line.epoch) for line in run.metrics()] == [(0, 7), (1, 1), (1, 2)]


def test_the_last_two_epochs_are_kept_and_a_damaged_one_passed_over(
    checkpoints: Checkpoints,
) -> None:
    assert checkpoints.load() is None
    for epoch in (1, 9, 10):
        checkpoints.save(epoch, {"value": np.array([epoch])})
    files = sorted(checkpoints.path.glob("epoch-*"))
    assert [file.name for file in files] == [
        f"epoch-0000{epoch}.safetensors" for epoch in ("09", 10)
    ]
    found = checkpoints.load()
    assert found is not None
    arrays, epoch, damaged = found
    assert (arrays["value"].tolist(), epoch, damaged) == ([10], 10, [])

    files[1].write_bytes(b"")
    found = checkpoints.load()
    assert found is not None
    arrays, epoch, damaged = found
    assert (arrays["value"].tolist(), epoch) == ([9], 9)
    assert len(damaged) == 1
    assert "epoch-000010" in damaged[0]

    files[0].write_bytes(b"")
    with pytest.raises(RunError, match="every saved epoch is damaged; --force trains anew"):
        checkpoints.load()


def test_what_is_given_up_is_remembered(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, ARRAYS)
    checkpoints.append_metrics(metrics(1, 1))
    checkpoints.give_up(attempt(3))
    assert checkpoints.load() is None
    assert checkpoints.metrics() == []
    checkpoints.give_up(attempt(4))
    assert checkpoints.diverged() == [attempt(3), attempt(4)]
    checkpoints.diverged_file.write_text("{")
    with pytest.raises(RunError, match=r"diverged\.json: damaged"):
        checkpoints.diverged()


def test_a_finished_network_keeps_its_arrays_alone(checkpoints: Checkpoints) -> None:
    assert checkpoints.finished() is None
    checkpoints.save(1, {"raw": np.array([1])})
    checkpoints.finish(ARRAYS)
    assert not list(checkpoints.path.glob("epoch-*"))
    found = checkpoints.finished()
    assert found is not None
    np.testing.assert_array_equal(found["a/kernel"], ARRAYS["a/kernel"])


def test_a_run_is_not_cleared_while_a_network_is_trained(run: Run) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold_network, args=(run.path, ready, done))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(RunError, match="network-001: another process is training this network"):
        run.clear()
    assert run.exists()
    done.set()
    holder.join()
    run.clear()
    assert not run.state_folder.exists()


def test_clear_puts_a_finished_run_aside_until_the_next_is_finished(run: Run) -> None:
    with run.locked():
        run.finish(RECORD, ARRAYS)
        assert run.read().status == "finished"
        assert not run.state_folder.exists()
        first = run.weights_file.read_bytes()
        run.clear()
        assert not run.exists()
        assert (run.previous_folder / "weights.safetensors").read_bytes() == first
        run.write(RECORD)
        run.clear()  # an unfinished run must not push the finished one out
        assert (run.previous_folder / "weights.safetensors").read_bytes() == first
        run.finish(RECORD, ARRAYS)
        assert not run.previous_folder.exists()


def _hold(path: Path, ready: Any, done: Any) -> None:
    with Run(path).locked():
        ready.set()
        done.wait()


def _hold_network(path: Path, ready: Any, done: Any) -> None:
    with Run(path).checkpoints(1).locked():
        ready.set()
        done.wait()


def test_a_second_process_is_refused_until_the_first_ends(run: Run) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(run.path, ready, done))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(RunError, match="another process is training here"), run.locked():
        pass
    done.set()
    holder.join()
    with run.locked():
        pass


def test_leftovers_of_a_killed_write_are_removed(run: Run) -> None:
    for held in (run, run.checkpoints(1)):
        held.path.mkdir(parents=True, exist_ok=True)
        leftover = held.path / ".something.123.tmp"
        leftover.write_bytes(b"half")
        with held.locked():
            assert not leftover.exists()
