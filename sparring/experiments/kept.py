"""Kept: processes that work on one job after the other, so that each loads its framework once.

A process that ends is the end of the job that it worked on; its place gets a new one. For jobs that
take seconds, as many verdicts do: a framework takes as long.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from sparring.experiments import machine
from sparring.experiments.request import Answer
from sparring.experiments.schedule import Job

MOST_JOBS = 25
"""How many jobs a process works on, so that what it may leave behind does not add up."""


class Kept:
    """Processes on this machine, one for each place, each of which takes job after job.

    Args:
        places: what the environment of a process has besides, one for each that runs at a time.
    """

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        """Start nothing yet."""
        self._free = [_Place(place) for place in reversed(places)]
        self._all = list(self._free)
        self._threads = ThreadPoolExecutor(len(places))  # each waits for a process
        self._running: dict[Future[Answer], _Place] = {}

    def start(self, job: Job) -> Future[Answer] | None:
        """Give a job to a process; None while all are busy."""
        if not self._free:
            return None
        place = self._free.pop()
        place.give(job)

        def answer() -> Answer:
            try:
                return place.answer()
            finally:
                self._free.append(place)

        started = self._threads.submit(answer)
        self._running[started] = place
        return started

    def stop(self, started: Future[Answer], *, now: bool) -> None:
        """Send SIGTERM, or SIGKILL `now`."""
        if not started.done():
            self._running[started].stop(now)

    def close(self) -> None:
        """End the processes that wait for a job; what was started ends by itself or was stopped."""
        self._threads.shutdown(wait=False)
        for place in self._free:
            place.end()


class _Place:
    """A place, and the process there."""

    def __init__(self, added: Mapping[str, str]) -> None:
        self._added = added
        self._process: subprocess.Popen[bytes] | None = None
        self._given = 0

    def give(self, job: Job) -> None:
        """Give a job to the process, to a new one where it is none or has done its share."""
        if self._process is not None and self._given >= MOST_JOBS:
            self.end()
        if self._process is None:
            self._process, self._given = self._started(), 0
        self._given += 1
        job.log.parent.mkdir(parents=True, exist_ok=True)
        task = {"log": str(job.log), "task": job.task}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended meanwhile, which its answer tells
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()

    def _started(self) -> subprocess.Popen[bytes]:
        added = {"PYTHONUNBUFFERED": "1", **self._added}
        return subprocess.Popen(
            **machine.python(["-m", "sparring", "job", "-"], added),
            # Its end of this pipe closes with the process that holds ours.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # its answers, and nothing else
            stderr=subprocess.DEVNULL,  # until it has a job, and so a log
            # Ctrl-C goes to the scheduler, which stops its jobs in order.
            start_new_session=True,
        )

    def answer(self) -> Answer:
        """Wait for the answer to the job; the end of the process is one too."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode(errors="replace")
        if line.endswith("\n"):
            answer = Answer.from_line(line, 0)
            return Answer(answer.result, answer.message, 1 if answer.message else 0)
        code = self._process.wait()
        self.end()
        # One that ends before its answer is no success, whatever it says itself.
        return Answer.from_line(line, code or 1)

    def stop(self, now: bool) -> None:
        """Stop the process, and so its job."""
        if self._process is not None:
            self._process.kill() if now else self._process.terminate()

    def end(self) -> None:
        """Let the process end; there is none afterwards."""
        if (process := self._process) is None:
            return
        self._process = None
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        process.wait()
