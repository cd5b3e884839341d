"""Many trainings at once: which jobs there are, where they run, and what becomes of them.

A job is one network of one defense with one seed on one data set, in a process of its own; once an
ensemble's networks are trained, one more job puts them together and tests the defense. The
scheduler holds no framework: what there is to do it asks a process that does.

Processes are started here, on this machine's cores or GPUs, or by Ray on a cluster whose machines
share the folder of runs. A job that is killed goes on from its last checkpoint; one that fails is
reported while the others finish; when the scheduler stops, its jobs stop too, and the same call
goes on from where they were.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from sparring.errors import RunError, SettingsError, SparringError
from sparring.experiments import machine
from sparring.runs.checkpoint import Run

KILLED_AT_MOST = 3
"""How often a job whose process is killed is started again."""

MEMORY_OF_A_JOB = 2 << 30
"""Bytes that `--jobs auto` reckons with for each job on a CPU: a framework and a data set."""

_STOPPED_BY_SIGNAL = {130, 137, 143}
_SECONDS_TO_STOP = 60
_SECONDS_BETWEEN_LOOKS = 0.1
_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")


@dataclass(eq=False)
class Job:
    """One process's work.

    Attributes: `title`, for people; `run`, its run directory; `network`, the one it trains, or None
    for the whole defense; `epochs` it trains, 0 where nothing is left to train; `work`, how long it
    takes beside others; `request`, what `sparring job` is told; `needs`, jobs that have to be done
    before; `state`: waiting, running, done, failed; `message`, why it failed; `killed`, how often
    its process was; `seconds` its processes ran.
    """

    title: str
    run: Path
    network: int | None
    epochs: int
    work: float
    request: dict[str, Any]
    needs: list[Job] = field(default_factory=list)
    state: str = "waiting"
    message: str = ""
    killed: int = 0
    seconds: float = 0.0

    @property
    def log(self) -> Path:
        """Where what it prints goes."""
        name = "defense" if self.network is None else f"network-{self.network:03d}"
        return self.run / "logs" / f"{name}.log"

    def last_lines(self, count: int = 12) -> list[str]:
        """The end of its log."""
        if not self.log.is_file():
            return []
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]

    def progress(self) -> dict[str, Any]:
        """The last epoch's metrics of what it trains, empty before the first."""
        run = Run(self.run)
        lines = (
            run.checkpoints(self.network).metrics() if self.network is not None else run.metrics()
        )
        return lines[-1] if lines else {}


class Process(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""

    def stop(self, *, now: bool) -> None:
        """Ask it to stop, or `now` leave it no choice."""


class Workers(Protocol):
    """Where jobs run."""

    def start(self, job: Job) -> Process | None:
        """Start a job; None while there is no room."""

    def close(self) -> None:
        """Nothing more will be started."""


class Watcher(Protocol):
    """Who is told what becomes of the jobs."""

    def begin(self, jobs: Sequence[Job]) -> None:
        """These are all."""

    def change(self, job: Job, what: str) -> None:
        """A job was started, is done, is to be tried again, or failed."""

    def look(self) -> None:
        """Time went by."""


# What there is to do


def plan(
    request: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What `api.plan` gives, from a process of its own, which has a framework and this has not.

    Raises SparringError with its message.
    """
    answer = subprocess.run(
        _command({"do": "plan", **request}),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **(environment or {})},
    )
    if answer.returncode:
        text = answer.stderr.strip()
        raise SparringError(text.rpartition("sparring: ")[2] or f"exit code {answer.returncode}")
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def jobs_of(plan: Mapping[str, Any], options: Mapping[str, Any]) -> list[Job]:
    """The jobs of a plan's runs that are not finished, in the order of the plan."""
    jobs: list[Job] = []
    last: dict[str, Job] = {}
    for entry in plan["runs"]:
        path, several = Path(entry["path"]), entry["networks"] > 1
        if entry["status"] == "finished":
            continue
        request = {**options, **entry["request"]}
        title, epochs, work = entry["title"], entry["epochs"], entry["work"]
        whole = Job(title, path, None, epochs, work, {"do": "train", **request})
        if several:
            whole.title, whole.epochs = f"{title}, all networks", 0
            whole.needs = [
                Job(
                    f"{title}, network {network + 1}",
                    *(path, network, epochs, work),
                    {"do": "network", **request, "network": network},
                )
                for network in range(entry["networks"])
            ]
        if (needed := last.get(entry["needs"])) is not None:
            whole.needs.append(needed)
        if entry["error"]:
            whole.state, whole.message, whole.needs = "failed", entry["error"], []
        last[entry["path"]] = whole
        jobs += [*(each for each in whole.needs if each.run == whole.run), whole]
    return jobs


# Where jobs run


def _command(request: Mapping[str, Any]) -> list[str]:
    return [sys.executable, "-m", "sparring", "job", json.dumps(request)]


def _start(job_request: Mapping[str, Any], log: Path, environment: Mapping[str, str]) -> Any:
    """A process that works on a request, and stops when this process ends, however it ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            _command(job_request),
            # Its end of this pipe closes with the process that holds ours.
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            # Ctrl-C goes to the scheduler, which stops its jobs in order.
            start_new_session=True,
        )


class _Local:
    """A process on this machine, which gives its place back when it ends."""

    def __init__(self, process: Any, give_back: Callable[[], None]) -> None:
        self._process, self._give_back = process, give_back
        self._ended = False

    def poll(self) -> int | None:
        code: int | None = self._process.poll()
        if code is not None and not self._ended:
            self._ended = True
            self._process.stdin.close()
            self._give_back()
        return code

    def stop(self, *, now: bool) -> None:
        if self.poll() is None:
            self._process.kill() if now else self._process.terminate()


class Processes:
    """Processes on this machine, one for each place; a place is what its environment adds."""

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        self._free = list(reversed(places))

    def start(self, job: Job) -> Process | None:
        if not self._free:
            return None
        place = self._free.pop()
        return _Local(_start(job.request, job.log, place), lambda: self._free.append(place))

    def close(self) -> None:
        """Nothing is left behind."""


def places(jobs: str | int, devices: Sequence[str], work: int) -> list[dict[str, str]]:
    """One environment for each process that is to run at a time.

    Args:
        jobs: how many, or "auto": one for each GPU, else as many as cores and memory allow.
        devices: of the backend, as `backend.devices` names them.
        work: how many jobs there are; more places are of no use.

    Each gets its GPU, or its share of the cores as threads. Raises SettingsError.
    """
    gpus = [device.partition(":")[2] for device in devices if device.startswith("gpu")]
    if gpus and (visible := os.environ.get("CUDA_VISIBLE_DEVICES")):
        gpus = visible.split(",")
    cores = max(1, int(machine.cores()[0]))
    if jobs == "auto":
        free = machine.memory()[1] or cores * MEMORY_OF_A_JOB  # None where it is not known
        count = len(gpus) or min(cores, max(1, free // MEMORY_OF_A_JOB))
    else:
        try:
            count = int(jobs)
        except ValueError:
            count = 0
        if count < 1:
            raise SettingsError(f"jobs: expected a number of 1 or more, or auto, got {jobs!r}")
    count = max(1, min(count, work))
    threads = str(max(1, cores // count))
    made = []
    for place in range(count):
        environment = dict.fromkeys(_THREADS, threads) if count > 1 else {}
        if gpus and count > 1:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
        made.append(environment)
    return made


class Cluster:
    """Tasks of a Ray cluster, each of which runs one job's process on its machine.

    Args:
        address: of the cluster, or "local" for one on this machine that ends with this program.
        environment: what every job's is to have.
        threads: CPUs of a job where the cluster has no GPU.

    Machines need Sparring with the backend, and the folder of runs and the data at the same path.
    Raises SettingsError without Ray and RunError when the cluster is not there.
    """

    def __init__(
        self, address: str, environment: Mapping[str, str] | None = None, threads: int = 1
    ) -> None:
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
        gpus = 1 if self._ray.cluster_resources().get("GPU") else 0
        shares = {} if gpus else dict.fromkeys(_THREADS, str(threads))
        added = {**(environment or {}), **shares}
        # A job that was killed is started again by the scheduler, which counts.
        kind: Any = self._ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)
        remote = kind(_work)
        self._submit: Callable[[Job], Any] = lambda job: remote.remote(
            job.request, str(job.log), added
        )

    def start(self, job: Job) -> Process | None:
        return _Task(self._ray, self._submit(job))

    def close(self) -> None:
        self._ray.shutdown()


def _expect_somebody(address: str) -> None:
    """OSError unless something listens at HOST:PORT; Ray itself tries for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _work(request: Mapping[str, Any], log: str, environment: Mapping[str, str]) -> int:
    """What a Ray worker does: run one job's process to its end."""
    process = _start(request, Path(log), environment)
    try:
        return int(process.wait())
    finally:
        with contextlib.suppress(OSError):
            process.terminate()
        process.stdin.close()
        process.wait()


class _Task:
    """A task of Ray as a Process."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def poll(self) -> int | None:
        if not self._ray.wait([self._reference], timeout=0)[0]:
            return None
        try:
            return int(self._ray.get(self._reference))
        except (self._ray.exceptions.TaskCancelledError, KeyboardInterrupt):
            return 143
        except (self._ray.exceptions.RayError, OSError):
            # The worker, its machine or the cluster went away; what it ran stopped with it.
            return -9

    def stop(self, *, now: bool) -> None:
        self._ray.cancel(self._reference, force=now)


# The scheduler


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """Jobs in the order that ends soonest where several run at a time.

    A long one begun last would run alone; five zoos on 8 devices end 30 % sooner.
    """
    return sorted(jobs, key=lambda job: -job.work)


def run(jobs: Sequence[Job], workers: Workers, watcher: Watcher) -> None:
    """Bring every job to its end, done or failed; on any exception stop those that run.

    Jobs are started in this order, each once those it needs are done.
    """
    running: dict[Job, tuple[Process, float]] = {}
    watcher.begin(jobs)
    for job in jobs:
        if job.state == "failed":
            watcher.change(job, f"failed: {job.message}")
    try:
        while running or any(job.state == "waiting" for job in jobs):
            for job in _ready(jobs, watcher):
                if (process := workers.start(job)) is None:
                    break
                running[job] = process, time.monotonic()
                job.state = "running"
                watcher.change(job, "started")
            for job, (process, begun) in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[job]
                    job.seconds += time.monotonic() - begun
                    _ended(job, code, watcher)
            watcher.look()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    except BaseException:
        _stop([process for process, _ in running.values()])
        raise
    finally:
        workers.close()


def _ready(jobs: Sequence[Job], watcher: Watcher) -> Iterator[Job]:
    """Jobs that can be started; those that never can become failed."""
    for job in jobs:
        if job.state != "waiting":
            continue
        if failed := [each for each in job.needs if each.state == "failed"]:
            job.state, job.message = "failed", f"needs {failed[0].title}, which failed"
            watcher.change(job, job.message)
        elif all(each.state == "done" for each in job.needs):
            yield job


def _ended(job: Job, code: int, watcher: Watcher) -> None:
    """What becomes of a job whose process ended."""
    if code == 0:
        job.state = "done"
        watcher.change(job, "done")
    elif (code < 0 or code in _STOPPED_BY_SIGNAL) and job.killed < KILLED_AT_MOST:
        job.killed += 1
        job.state = "waiting"
        watcher.change(job, f"killed (exit code {code}); it goes on from its last checkpoint")
    else:
        errors = [line for line in job.last_lines(50) if line.startswith("sparring: ")]
        job.state = "failed"
        job.message = errors[-1].removeprefix("sparring: ") if errors else f"exit code {code}"
        watcher.change(job, f"failed: {job.message}")


def _stop(processes: Sequence[Process]) -> None:
    """Stop processes: politely, and at a second signal or after a while at once."""
    try:
        for process in processes:
            process.stop(now=False)
        deadline = time.monotonic() + _SECONDS_TO_STOP
        while time.monotonic() < deadline:
            if all(process.poll() is not None for process in processes):
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        for process in processes:
            process.stop(now=True)
