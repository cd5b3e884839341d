"""Many jobs at once: where they run, and what becomes of them.

A job is a request that a process of its own works on, as the training of one network (`jobs`) or
one evaluation (`sparring.evaluation.jobs`); it may need others. The scheduler imports no framework:
what there is to do it asks a process that does.

Processes are started here, on this machine's cores or GPUs, or by Ray on a cluster whose machines
share the folder of runs; either way a job that was started is a future of its process's `Answer`.
A job that is killed goes on from what it saved; one that fails is reported while the others finish;
when the scheduler stops, its jobs stop too, and the same call goes on from where they were.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from graphlib import TopologicalSorter
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from sparring.errors import RunError, SettingsError, SparringError
from sparring.experiments import machine
from sparring.experiments.request import Answer, Request

KILLED_AT_MOST = 3
"""How often a job whose process is killed is started again."""

MEMORY_OF_A_JOB = 2 << 30
"""Bytes that `--jobs auto` reckons with for each job on a CPU: a framework and a data set."""

_STOPPED_BY_SIGNAL = {130, 137, 143}
_SECONDS_TO_STOP = 60
_SECONDS_BETWEEN_LOOKS = 0.1
_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")


class Standing(NamedTuple):
    """How far a job is, in words."""

    done: str
    """How much of it is done."""
    figures: str = ""
    """What it came to so far."""
    seconds_left: float | None = None
    """The time it still takes; None while nobody knows."""


@dataclass(eq=False)
class Job(ABC):
    """One process's work."""

    verb: ClassVar[str]
    """What `sparring job` calls it."""
    title: str
    """What people know it by."""
    folder: Path
    """Where what comes of it is written."""
    request: Request
    """What the process is given, as JSON."""
    log: Path
    """The file that what it prints goes to."""
    work: float
    """How long it takes beside other jobs."""
    needs: list[Job] = field(default_factory=list)
    """Jobs that have to be done before."""
    state: str = "waiting"
    """waiting, running, done or failed."""
    message: str = ""
    """Why it failed."""
    killed: int = 0
    """How often its process was."""
    seconds: float = 0.0
    """How long its processes ran."""

    @property
    def task(self) -> dict[str, Any]:
        """What `sparring job` is asked for, as JSON values."""
        return {self.verb: self.request.as_json()}

    def last_lines(self, count: int = 12) -> list[str]:
        """Read the end of its log, for people."""
        if not self.log.is_file():
            return []
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]

    @abstractmethod
    def standing(self) -> Standing | None:
        """Read from its files how far it is; None where there is nothing to say."""


class Workers(Protocol):
    """Where jobs run."""

    def start(self, job: Job) -> Future[Answer] | None:
        """Start a job; None while there is no room."""

    def stop(self, started: Future[Answer], *, now: bool) -> None:
        """Ask a job that was started to stop, or `now` leave it no choice."""

    def close(self) -> None:
        """Called once nothing more will be started."""


class Watcher(Protocol):
    """Who is told what becomes of the jobs."""

    def begin(self, jobs: Sequence[Job]) -> None:
        """Called once with every job before the first starts."""

    def change(self, job: Job, what: str) -> None:
        """Called when a job was started, is done, is to be tried again, or failed."""

    def look(self) -> None:
        """Called about ten times a second while jobs run."""


# Processes


def _process(task: Mapping[str, Any], added: Mapping[str, str] | None) -> dict[str, Any]:
    """What subprocess takes for a process that works on a task."""
    return machine.python(["-m", "sparring", "job", json.dumps(task)], added or {})


def ask(task: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Any:
    """Ask a process that has a framework, which this one has not.

    Args:
        task: what `sparring job` is asked for, as JSON values.
        environment: what the process's is to have besides.

    Returns:
        What it answers, as JSON values.

    Raises:
        SparringError: with the process's message.
    """
    process = subprocess.run(
        **_process(task, environment), capture_output=True, text=True, encoding="utf-8"
    )
    answer = Answer.from_line(process.stdout, process.returncode)
    if answer.code:
        raise SparringError(answer.message or process.stderr.strip())
    return answer.result


def _start(
    task: Mapping[str, Any], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process that works on a task, and stops when this one ends, however it ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            **_process(task, {"PYTHONUNBUFFERED": "1", **environment}),
            # Its end of this pipe closes with the process that holds ours.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # its answer, and nothing else
            stderr=output,
            # Ctrl-C goes to the scheduler, which stops its jobs in order.
            start_new_session=True,
        )


def _answer_of(process: subprocess.Popen[bytes]) -> Answer:
    """Wait for a process to end, and read what it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.read().decode(errors="replace")
    code = process.wait()
    process.stdin.close()
    return Answer.from_line(line, code)


class Processes:
    """Processes on this machine, one at a time for each place.

    Args:
        places: what the environment of a process has besides, one for each that runs at a time.
    """

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        """Start nothing yet."""
        self._free = list(reversed(places))
        self._threads = ThreadPoolExecutor(len(places))  # each waits for a process
        self._running: dict[Future[Answer], subprocess.Popen[bytes]] = {}

    def start(self, job: Job) -> Future[Answer] | None:
        """Start a job's process; None while all places are taken."""
        if not self._free:
            return None
        place = self._free.pop()
        process = _start(job.task, job.log, place)

        def answer() -> Answer:
            try:
                return _answer_of(process)
            finally:
                self._free.append(place)

        started = self._threads.submit(answer)
        self._running[started] = process
        return started

    def stop(self, started: Future[Answer], *, now: bool) -> None:
        """Send SIGTERM, or SIGKILL `now`."""
        process = self._running[started]
        process.kill() if now else process.terminate()

    def close(self) -> None:
        """Wait for nothing: what was started ends by itself or was stopped."""
        self._threads.shutdown(wait=False)


def places(jobs: str | int, devices: Sequence[str], work: int) -> list[dict[str, str]]:
    """Share this machine among processes.

    Args:
        jobs: how many run at a time, or "auto": one for each GPU, else as many as cores and memory
            allow.
        devices: of the backend, as `sparring.backend.devices` names them.
        work: how many jobs there are; more places are of no use.

    Returns:
        One environment for each process, with its GPU, or its share of the cores as threads.

    Raises:
        SettingsError: when `jobs` is no number of 1 or more.
    """
    gpus = [device.partition(":")[2] for device in devices if device.startswith("gpu")]
    if gpus and (visible := os.environ.get("CUDA_VISIBLE_DEVICES")):
        gpus = visible.split(",")
    cores = max(1, int(machine.cores()[0]))
    if jobs == "auto":
        free = machine.memory()[1] or cores * MEMORY_OF_A_JOB  # None where it is not known
        count = len(gpus) or min(cores, max(1, free // MEMORY_OF_A_JOB))
    else:
        if (count := int(jobs) if str(jobs).strip().isdecimal() else 0) < 1:
            raise SettingsError(f"jobs: expected a number of 1 or more, or auto, got {jobs!r}")
    count = max(1, min(count, work))
    threads = str(max(1, cores // count))
    if count == 1:
        return [{}]
    shares = [dict.fromkeys(_THREADS, threads) for _ in range(count)]
    for share, gpu in zip(shares, cycle(gpus)) if gpus else ():
        share["CUDA_VISIBLE_DEVICES"] = gpu
    return shares


# Ray


class Cluster:
    """Tasks of a Ray cluster, each of which runs one job's process on its machine.

    Machines need Sparring with the backend, and the folder of runs and the data at the same path.

    Args:
        address: of the cluster, or "local" for one on this machine that ends with this program.
        environment: what every job's is to have.
        threads: CPUs of a job where the cluster has no GPU.

    Attributes:
        places: how many jobs the cluster as it is has room for at a time.

    Raises:
        SettingsError: without Ray.
        RunError: when the cluster is not there.
    """

    def __init__(
        self, address: str, environment: Mapping[str, str] | None = None, threads: int = 1
    ) -> None:
        """Connect to the cluster, or start a local one."""
        try:
            self._ray: Any = import_module("ray")
        except ImportError as error:
            raise SettingsError(
                f"--cluster needs Ray: pip install 'sparring[ray]' ({error})"
            ) from error
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _expect_somebody(address)
            self._ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(f"--cluster {address}: no Ray cluster answers there: {error}") from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place
        resources = self._ray.cluster_resources()
        gpus = 1 if resources.get("GPU") else 0
        self.places = max(1, int(resources["GPU"] if gpus else resources.get("CPU", 1) / threads))
        shares = {} if gpus else dict.fromkeys(_THREADS, str(threads))
        self._environment = {**(environment or {}), **shares}
        # A job that was killed is started again by the scheduler, which counts.
        kind: Any = self._ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)
        self._task = kind(_work)
        self._references: dict[Future[Answer], Any] = {}

    def start(self, job: Job) -> Future[Answer] | None:
        """Hand a job to Ray, which starts it once there is room."""
        reference = self._task.remote(job.task, str(job.log), self._environment)
        started: Future[Answer] = Future()
        self._references[started] = reference
        reference.future().add_done_callback(lambda task: started.set_result(self._answer(task)))
        return started

    def _answer(self, task: Future[Any]) -> Answer:
        """Read what a task came to; without an answer, how it ended as an exit code."""
        try:
            return Answer(**task.result())
        except (self._ray.exceptions.TaskCancelledError, KeyboardInterrupt):
            return Answer(code=143)
        except (self._ray.exceptions.RayError, OSError):
            # The worker, its machine or the cluster went away; what it ran stopped with it.
            return Answer(code=-9)
        except Exception as error:
            return Answer(message=f"{type(error).__name__}: {error}", code=1)

    def stop(self, started: Future[Answer], *, now: bool) -> None:
        """Cancel a job's task."""
        self._ray.cancel(self._references[started], force=now)

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self._ray.shutdown()


def _expect_somebody(address: str) -> None:
    """Raise OSError unless something listens at HOST:PORT; Ray itself tries for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _work(task: Mapping[str, Any], log: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one job's process to its end; what a Ray worker does."""
    process = _start(task, Path(log), environment)
    try:
        return asdict(_answer_of(process))
    finally:
        with contextlib.suppress(OSError):
            process.terminate()
        process.wait()


# The scheduler


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """Put jobs in the order that ends soonest where several run at a time.

    A long one begun last would run alone.
    """
    return sorted(jobs, key=lambda job: -job.work)


def run(jobs: Sequence[Job], workers: Workers, watcher: Watcher) -> None:
    """Bring every job to its end, done or failed; on any exception stop those that run.

    Args:
        jobs: started in this order, each once those it needs are done.
        workers: where they run.
        watcher: told what becomes of them.
    """
    watcher.begin(jobs)
    for job in jobs:
        if job.state == "failed":
            watcher.change(job, f"failed: {job.message}")
    order = TopologicalSorter({job: job.needs for job in jobs})
    order.prepare()
    places = {job: place for place, job in enumerate(jobs)}
    ready: list[Job] = []
    running: dict[Future[Answer], tuple[Job, float]] = {}
    try:
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=lambda job: places[job])
            for job in list(ready):
                if _cannot_start(job, watcher):
                    order.done(job)
                elif (started := workers.start(job)) is None:
                    break
                else:
                    running[started] = job, time.monotonic()
                    job.state = "running"
                    watcher.change(job, "started")
                ready.remove(job)
            ended, _ = wait(running, timeout=_SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
            for answered in ended:
                job, begun = running.pop(answered)
                job.seconds += time.monotonic() - begun
                _end(job, answered.result(), watcher)
                ready.append(job) if job.state == "waiting" else order.done(job)
            watcher.look()
    except BaseException:
        _stop(list(running), workers)
        raise
    finally:
        workers.close()


def _cannot_start(job: Job, watcher: Watcher) -> bool:
    """Whether a job failed before it could start; one whose need failed becomes failed."""
    failed = [need for need in job.needs if need.state == "failed"]
    if failed and job.state == "waiting":
        job.state, job.message = "failed", f"needs {failed[0].title}, which failed"
        watcher.change(job, job.message)
    return job.state == "failed"


def _end(job: Job, answer: Answer, watcher: Watcher) -> None:
    """Note what becomes of a job whose process ended."""
    code = answer.code
    if code == 0:
        job.state = "done"
        watcher.change(job, "done")
    elif (code < 0 or code in _STOPPED_BY_SIGNAL) and job.killed < KILLED_AT_MOST:
        job.killed += 1
        job.state = "waiting"
        watcher.change(job, f"killed (exit code {code}); it goes on from what it saved")
    else:
        job.state, job.message = "failed", answer.message or f"exit code {code}"
        watcher.change(job, f"failed: {job.message}")


def _stop(running: Sequence[Future[Answer]], workers: Workers) -> None:
    """Stop jobs: politely, and at a second signal or after a while at once."""
    try:
        for started in running:
            workers.stop(started, now=False)
        wait(running, timeout=_SECONDS_TO_STOP)
    finally:
        for started in running:
            if not started.done():
                workers.stop(started, now=True)
