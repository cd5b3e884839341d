"""Processes that work on one job after the other: answers, ends, and who replaces them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sparring.experiments import kept
from sparring.experiments.kept import Kept
from sparring.experiments.request import Answer, Request
from sparring.experiments.schedule import Job, Standing


@dataclass(frozen=True)
class Wrong(Request):
    """What no job can do, which its answer tells; it needs no framework."""

    word: str


@dataclass(eq=False)
class FakeJob(Job):
    verb: ClassVar[str] = "grade"

    def standing(self) -> Standing | None:
        return None


@pytest.fixture
def workers() -> Iterator[Kept]:
    workers = Kept([{"KERAS_BACKEND": "torch"}])
    yield workers
    workers.close()


def job(tmp_path: Path, word: str) -> FakeJob:
    return FakeJob(word, tmp_path, Wrong(word), tmp_path / "logs" / f"{word}.log", 1.0)


def answered(workers: Kept, job: Job) -> Answer:
    started = workers.start(job)
    assert started is not None
    assert workers.start(job) is None  # its one place is taken
    return started.result(timeout=60)


def process(workers: Kept) -> Any:
    return workers._all[0]._process


def test_one_process_works_on_several_jobs(workers: Kept, tmp_path: Path) -> None:
    first = answered(workers, job(tmp_path, "first"))
    pid = process(workers).pid
    second = answered(workers, job(tmp_path, "second"))
    assert process(workers).pid == pid
    for answer, word in ((first, "first"), (second, "second")):
        assert answer.code == 1
        assert answer.message.startswith("Task: ")
        log = (tmp_path / "logs" / f"{word}.log").read_text()
        assert answer.message in log
    assert "word" in second.message


def test_a_process_that_ends_is_the_end_of_its_job_alone(workers: Kept, tmp_path: Path) -> None:
    answered(workers, job(tmp_path, "first"))
    before = process(workers)
    before.kill()
    before.wait()
    assert answered(workers, job(tmp_path, "second")).code == -9
    assert answered(workers, job(tmp_path, "third")).message.startswith("Task: ")
    assert process(workers).pid != before.pid


def test_a_job_is_stopped(workers: Kept, tmp_path: Path) -> None:
    started = workers.start(job(tmp_path, "first"))
    assert started is not None
    workers.stop(started, now=True)
    assert started.result(timeout=60).code == -9
    workers.stop(started, now=False)  # once it is done, nothing


def test_a_process_does_its_share(
    workers: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_JOBS", 2)
    pids = []
    for word in ("first", "second", "third"):
        answered(workers, job(tmp_path, word))
        pids.append(process(workers).pid)
    assert pids[0] == pids[1] != pids[2]


def test_what_waits_ends_with_its_workers(workers: Kept, tmp_path: Path) -> None:
    answered(workers, job(tmp_path, "first"))
    waiting = process(workers)
    begun = time.monotonic()
    workers.close()
    assert time.monotonic() - begun < 30
    assert waiting.returncode is not None
    assert process(workers) is None
