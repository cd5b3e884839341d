"""Many jobs at once: the scheduler alone, trainings in real processes, and with Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import sparring
from sparring.cli import app, display
from sparring.data import load
from sparring.errors import RunError, SettingsError, SparringError
from sparring.experiments import machine
from sparring.experiments import schedule as jobs
from sparring.experiments.jobs import TrainingJob, jobs_of
from sparring.experiments.jobs import plan as ask_for_plan
from sparring.experiments.plan import plan
from sparring.experiments.request import Answer, Plan, PlanRequest, TrainingRequest
from sparring.experiments.schedule import Job
from sparring.runs.directory import Run
from sparring.runs.records import EpochMetrics, RunRecord

TINY = ["--filters", "4", "--epochs", "2", "--limit-train", "64"]
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "torch"}


# The scheduler alone: processes that end as they are told


class FakeWorkers:
    """Room for so many; the n-th start of a job gives its n-th answer, a code of 0 after the last.

    A job ends at the watcher's next look.
    """

    def __init__(self, room: int, answers: dict[str, list[Answer]] | None = None) -> None:
        self.room, self.answers = room, answers or {}
        self.running: dict[Future[Answer], Answer] = {}
        self.order: list[str] = []
        self.stopped: dict[Future[Answer], list[bool]] = {}
        self.most, self.closed = 0, False

    def start(self, job: Job) -> Future[Answer] | None:
        if len(self.running) >= self.room:
            return None
        answers = self.answers.get(job.title, [])
        started: Future[Answer] = Future()
        self.running[started] = answers.pop(0) if answers else Answer()
        self.stopped[started] = []
        self.most = max(self.most, len(self.running))
        self.order.append(job.title)
        return started

    def end(self) -> None:
        """Whatever runs comes to its end."""
        while self.running:
            started, answer = self.running.popitem()
            started.set_result(answer)

    def stop(self, started: Future[Answer], *, now: bool) -> None:
        self.stopped[started].append(now)
        if not started.done():
            self.running.pop(started, None)
            started.set_result(Answer(code=143))

    def close(self) -> None:
        self.closed = True


def killed(code: int) -> Answer:
    return Answer(code=code)


class Told:
    """A watcher that remembers, and lets jobs end at every look."""

    def __init__(self, workers: FakeWorkers, stop_at: str = "") -> None:
        self.lines: list[str] = []
        self.workers, self.stop_at = workers, stop_at

    def begin(self, jobs: Sequence[Job]) -> None:
        pass

    def change(self, job: Job, what: str) -> None:
        self.lines.append(f"{job.title}: {what}")
        if self.stop_at and self.stop_at in self.lines[-1]:
            raise KeyboardInterrupt

    def look(self) -> None:
        self.workers.end()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_SECONDS_BETWEEN_LOOKS", 0.001)


def make(title: str, *needs: Job, out: Path = Path("none")) -> TrainingJob:
    request = TrainingRequest(defense=title)
    log = out / title / "logs" / "defense.log"
    return TrainingJob(title, out / title, request, log, 1.0, list(needs), epochs=1)


def test_order_and_room() -> None:
    first, second = make("first"), make("second")
    last = make("last", first, second)
    workers = FakeWorkers(2)
    jobs.run([last, first, second], workers, Told(workers))
    assert workers.order == ["first", "second", "last"]
    assert workers.most == 2
    assert workers.closed
    assert {job.state for job in (first, second, last)} == {"done"}


def test_the_longest_come_first_and_equals_in_order() -> None:
    first, second, third = make("first"), make("second"), make("third")
    third.work = 2.0
    assert jobs.longest_first([first, second, third]) == [third, first, second]


def test_what_fails_takes_with_it_what_needs_it_and_nothing_else(tmp_path: Path) -> None:
    bad, good = make("bad", out=tmp_path), make("good")
    after = make("after", bad)
    last = make("last", after)
    diverged = Answer(message="bad diverged: the loss became nan", code=3)
    workers = FakeWorkers(1, {"bad": [diverged]})
    jobs.run([bad, after, last, good], workers, Told(workers))
    assert [job.state for job in (bad, after, last, good)] == ["failed", "failed", "failed", "done"]
    assert bad.message == "bad diverged: the loss became nan"
    assert after.message == "needs bad, which failed"
    assert last.message == "needs after, which failed"


@pytest.mark.parametrize("code", [-9, -15, 137, 143])
def test_a_killed_job_is_started_again_but_not_for_ever(code: int) -> None:
    once, always = make("once"), make("always")
    workers = FakeWorkers(1, {"once": [killed(code)], "always": [killed(code)] * 9})
    told = Told(workers)
    jobs.run([once, always], workers, told)
    assert once.state == "done"
    assert workers.order.count("once") == 2
    assert any(
        "once: killed" in line and "goes on from what it saved" in line for line in told.lines
    )
    assert always.state == "failed"
    assert workers.order.count("always") == 1 + jobs.KILLED_AT_MOST
    assert always.message == f"exit code {code}"


def test_when_the_scheduler_stops_its_jobs_stop() -> None:
    workers = FakeWorkers(2)
    with pytest.raises(KeyboardInterrupt):
        jobs.run([make("first"), make("second")], workers, Told(workers, "second: started"))
    assert list(workers.stopped.values()) == [[False], [False]]
    assert workers.closed


def test_a_second_signal_leaves_no_choice() -> None:
    class Stubborn(FakeWorkers):
        def stop(self, started: Future[Answer], *, now: bool) -> None:
            self.stopped[started].append(now)
            if not now:
                raise KeyboardInterrupt  # while being waited for

    workers = Stubborn(1)
    started = workers.start(make("stubborn"))
    assert started is not None
    with pytest.raises(KeyboardInterrupt):
        jobs._stop([started], workers)
    assert workers.stopped[started] == [False, True]


# Places


def test_places_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: (8.0, 8))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert jobs.places(1, ["cpu:0"], 9) == [{}]
    shares = jobs.places("3", ["cpu:0"], 9)
    assert [share["OMP_NUM_THREADS"] for share in shares] == ["2", "2", "2"]
    assert len(jobs.places(6, ["cpu:0"], 4)) == 4  # no more than there is work
    gpus = jobs.places("auto", ["gpu:0", "gpu:1", "cpu:0"], 9)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in gpus] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    gpus = jobs.places(3, ["gpu:0", "gpu:1", "cpu:0"], 9)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in gpus] == ["5", "7", "5"]
    monkeypatch.setattr(machine, "memory", lambda: (9 << 30, 5 << 30))
    assert len(jobs.places("auto", ["cpu:0"], 9)) == 2  # of 2 GiB each
    for wrong in ("0", "-1", "two"):
        with pytest.raises(SettingsError, match="jobs: expected a number of 1 or more, or auto"):
            jobs.places(wrong, ["cpu:0"], 9)


# Planning


def planned(names: list[str], seeds: list[int], out: Path, **settings: Any) -> list[TrainingJob]:
    """The jobs of a plan, which goes through JSON as it does between processes."""
    common = TrainingRequest(defense=names[0], out=out, settings=settings)
    request = PlanRequest(defenses=names, data=["digits"], seeds=seeds, common=common)
    request = PlanRequest.from_json(json.loads(json.dumps(request.as_json())))
    return jobs_of(Plan.from_json(json.loads(json.dumps(plan(request).as_json()))))


def test_a_plan_becomes_jobs(tmp_path: Path) -> None:
    names = ["randomneuron", "majority", "baseline"]
    todo = planned(names, seeds=[0, 3], out=tmp_path, filters=4, epochs=2)
    titles = [job.title for job in todo if job.title.endswith("seed 3") or "seed 3," in job.title]
    assert titles == [
        "majority on digits, seed 3, network 1",
        "majority on digits, seed 3, network 2",
        "majority on digits, seed 3, network 3",
        "majority on digits, seed 3, all networks",
        "baseline on digits, seed 3",
        "randomneuron on digits, seed 3",
    ]
    by_title = {job.title: job for job in todo}
    lent = by_title["randomneuron on digits, seed 3"]
    assert [job.title for job in lent.needs] == ["baseline on digits, seed 3"]
    assert lent.folder == tmp_path / "seed-3" / "digits" / "randomneuron"
    part = by_title["majority on digits, seed 0, network 2"]
    assert part.request == TrainingRequest(
        defense="majority", data="digits", seed=0, out=tmp_path / "seed-0", network=1,
        settings={"filters": 4, "epochs": 2},
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []  # planning writes nothing

    dataset = load("digits")
    sparring.train("baseline", dataset, out=tmp_path / "seed-0", filters=4, epochs=2)
    todo = planned(names, seeds=[0], out=tmp_path, filters=4, epochs=2)
    assert "baseline on digits, seed 0" not in [job.title for job in todo]
    assert todo[-1].needs == []  # randomneuron's lender is there
    [refused] = planned(["baseline"], seeds=[0], out=tmp_path, filters=5)
    assert refused.state == "failed"
    assert "filters is 4 there, 5 here" in refused.message


def test_a_plan_that_cannot_be_made_says_why() -> None:
    with pytest.raises(SparringError, match=r"unknown defense 'basline'\. Did you mean"):
        ask_for_plan(
            PlanRequest(
                defenses=["basline"], data=["digits"], common=TrainingRequest(defense="basline")
            ),
            {"KERAS_BACKEND": "torch"},
        )


# Real processes


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_train_many_goes_on_past_failures_and_resumes(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "my rüns"  # a space and a letter beyond ASCII
    busy = Run(out / "digits" / "blur")
    options = ("train", "majority", "blur", "randomneuron", "baseline", *TINY, "--out", out)
    with busy.locked():
        busy.write(
            RunRecord(
                defense="blur",
                dataset={"name": "digits"},
                settings={},
                seed=0,
                backend="torch",
                status="training",
            )
        )
        answer = call(*options, "--jobs", "2")
    assert answer.exit_code == 1, answer.output
    assert "1 of 7 jobs failed: blur on digits" in answer.output
    assert "blur on digits: failed" in answer.output
    for name in ("majority", "randomneuron", "baseline"):
        assert Run(out / "digits" / name).read().status == "finished"
    logs = {path.name for path in (out / "digits" / "majority" / "logs").iterdir()}
    assert logs == {"defense.log", *(f"network-{number:03d}.log" for number in range(3))}
    assert "Traceback" not in answer.output

    before = (out / "digits" / "baseline" / "run.json").stat().st_mtime_ns
    busy.json_file.unlink()
    answer = call(*options)
    assert answer.exit_code == 0, answer.output
    assert "1 job\n" in answer.output
    assert (out / "digits" / "baseline" / "run.json").stat().st_mtime_ns == before

    whole = sparring.train(
        "majority", load("digits").limit(64), out=tmp_path / "whole", filters=4, epochs=2
    )
    assert whole.path is not None
    weights = [
        (path / "weights.safetensors").read_bytes()
        for path in (whole.path, out / "digits" / "majority")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["all", "--jobs", "none"], 1, "jobs: expected a number from 1, or auto"),
        (["all", "--seeds", "a-b"], 2, "expected seeds as 0-4 or 0,2,5, got 'a-b'"),
        (["all", "--seeds", "3-1"], 2, "expected the smaller seed first, got '3-1'"),
        (["all", "--network", "1"], 2, "--network goes with a single defense"),
        (["all", "--jobs", "2", "--cluster", "local"], 2, "give one"),
        (["baseline", "blrr"], 1, "unknown defense 'blrr'. Did you mean 'blur'?"),
        (["all", "--epochs", "0"], 1, "epochs: expected at least 1, got 0"),
        (["majority", "--network", "4"], 1, "majority trains 3 networks; there is no network 4"),
    ],
)
def test_wrong_use(
    call: Callable[..., Result], tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    answer = call("train", *arguments)
    assert answer.exit_code == code, answer.output
    assert message in answer.output
    assert "Traceback" not in answer.output
    assert list(tmp_path.iterdir()) == []


LONG = ["--filters", "8", "--epochs", "60", "--limit-train", "200", "--eval-every", "0"]


def _scheduler(out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sparring", "train", "majority", *LONG, "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def _wait_for(condition: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def _workers(out: Path) -> dict[int, str]:
    """Process numbers and commands of the jobs that train into a folder."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text().replace("\0", " ")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if "sparring job" in command and str(out) in command and state != "Z":
            found[int(folder.name)] = command
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopping_the_scheduler_stops_its_jobs_and_all_goes_on(tmp_path: Path, number: int) -> None:
    out = tmp_path / "runs"
    run = Run(out / "digits" / "majority")
    process = _scheduler(out, "--jobs", "2")
    # Two are under way, and one of them is killed: it goes on by itself.
    _wait_for(lambda: all(len(run.checkpoints(n).metrics()) > 2 for n in (0, 1)))
    if number == signal.SIGTERM:
        victim = next(pid for pid, command in _workers(out).items() if '"network": 1' in command)
        os.kill(victim, signal.SIGKILL)
        seen = len(run.checkpoints(1).metrics())
        _wait_for(lambda: len(run.checkpoints(1).metrics()) > seen + 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == {int(signal.SIGTERM): 143, int(signal.SIGINT): 130}.get(number, -9)
    _wait_for(lambda: not _workers(out))
    assert "Traceback" not in output
    if number == signal.SIGTERM:
        assert "network 2: killed (exit code -9); it goes on from what it saved" in output
        log = (run.path / "logs" / "network-001.log").read_text()
        assert "Resuming" in log
        # Nothing was lost: the same command brings it to the same bits.
        again = _scheduler(out)
        output, _ = again.communicate(timeout=300)
        assert again.returncode == 0, output
        whole = sparring.train(
            "majority",
            load("digits").limit(200),
            out=tmp_path / "whole",
            filters=8,
            epochs=60,
            eval_every=0,
        )
        assert whole.path is not None
        theirs = (whole.path / "weights.safetensors").read_bytes()
        assert run.weights_file.read_bytes() == theirs


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_the_scheduler_holds_no_framework(tmp_path: Path) -> None:
    """Under 200 MB, it and all it imports."""
    code = (
        "import sys\n"
        "from sparring import cli\n"
        "from sparring.cli import display\n"
        "from sparring.experiments import schedule\n"
        "try:\n    cli.app(sys.argv[1:], standalone_mode=False)\n"
        "finally:\n"
        "    print(sorted({'keras', 'torch', 'tensorflow', 'jax'} & set(sys.modules)),\n"
        "          *(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))\n"
    )
    command = [sys.executable, "-c", code, "train", "baseline", *TINY, "--jobs", "1"]
    answer = subprocess.run(
        [*command, "--out", str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True
    )
    frameworks, _, kilobytes = answer.stdout.splitlines()[-1].rpartition(" ")
    assert frameworks == "[]", answer.stdout + answer.stderr
    assert int(kilobytes) * 1024 < 200e6


# The display


def test_lines_and_the_live_display_of_many(tmp_path: Path) -> None:
    done, running = make("done", out=tmp_path), make("running", out=tmp_path)
    done.state, running.state = "done", "running"
    running.request, running.epochs = TrainingRequest(defense="running", network=0), 8
    checkpoints = Run(running.folder).checkpoints(0)
    with checkpoints.locked():
        checkpoints.append_metrics(EpochMetrics(0, 2, 0.5, 0.5, 0.875, 0.03, 100.0, 10.0))
    console = Console(force_terminal=True, width=150, record=True)
    with display.ManyLive(console) as live:
        live.begin([done, running])
        live.change(done, "started")
        live.change(running, "killed (exit code -9)")
        live.look()
        live._drawn.refresh()  # type: ignore[union-attr]
    text = console.export_text()
    assert "1/2 done, 1 running" in text
    assert "running: epoch 2/8, loss 0.5000, test 87.50%, 1:00 left" in text
    assert "running: killed (exit code -9)" in text
    assert "done: started" not in text
    console = Console(width=150, record=True)
    lines = display.ManyLines(console)
    lines.begin([done, running])
    lines.change(done, "done")
    assert console.export_text().splitlines() == ["2 jobs", "done: done after 0:00"]


# Ray


@pytest.fixture(scope="module")
def ray_module() -> Any:
    return pytest.importorskip("ray")


def test_without_ray_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"--cluster needs Ray: pip install 'sparring\[ray\]'"):
        jobs.Cluster("local")


@pytest.mark.usefixtures("ray_module")
def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(RunError, match="--cluster nowhere:1: no Ray cluster answers there"):
        jobs.Cluster("nowhere:1")


@pytest.mark.usefixtures("ray_module")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_on_a_ray_cluster_whose_worker_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    run = Run(out / "digits" / "majority")
    process = _scheduler(out, "--cluster", "local")
    _wait_for(lambda: len(run.checkpoints(0).metrics()) > 2)
    victim = next(pid for pid, command in _workers(out).items() if '"network": 0' in command)
    status = Path(f"/proc/{victim}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    os.kill(int(fields["PPid"]), signal.SIGKILL)  # Ray's worker, not the training
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "network 1: killed (exit code -9); it goes on from what it saved" in output
    log = (run.path / "logs" / "network-000.log").read_text()
    assert "Terminated" in log  # the training went with its worker
    assert "Resuming" in log
    epochs = [(line.network, line.epoch) for line in run.metrics()]
    assert epochs == [(network, epoch) for network in range(3) for epoch in range(1, 31)]
    assert json.loads(run.json_file.read_text())["status"] == "finished"
