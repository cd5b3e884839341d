"""Many evaluations: chunks that make one verdict, plans, jobs in processes, and with Ray."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import sparring
from sparring import EvaluationRequest, Verdict, attacks, defenses
from sparring.attacks import adapters
from sparring.cli import app
from sparring.errors import AttackError, SettingsError
from sparring.evaluation import folder
from sparring.evaluation.jobs import EvaluationJob, jobs_of
from sparring.evaluation.plan import plan
from sparring.evaluation.request import EvaluationPlan, EvaluationPlanRequest, PlannedVerdict
from sparring.reports.gather import gather
from sparring.runs.records import VerdictRecord

NAMES = ("baseline", "transform")  # transform answers at random
EPS = 0.15  # PGD breaks some of the images, which leave it early, and some never


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of patterns, and runs on it."""
    from tests.conftest import patterns

    home = tmp_path_factory.mktemp("many")
    arrays: dict[str, Any] = {}
    for name, images, seed in (("train", 40, 0), ("test", 16, 1)):
        arrays[f"x_{name}"], arrays[f"y_{name}"] = patterns(images, seed=seed)
    np.savez(home / "patterns.npz", **arrays)
    for name in NAMES:
        sparring.train(
            *(name, str(home / "patterns.npz")), out=home / "runs", filters=4, epochs=20,
            batch_size=8, eval_every=0,
        )  # fmt: skip
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to write into, which is the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def requested(home: Path, name: str = "baseline", attack: str = "pgd", **more: Any) -> Any:
    """A request for sixteen images in batches of three."""
    values = {"n": 16, "batch_size": 3, "eps": EPS, "draws": 4, "threads": 1, **more}
    run = str(home / "runs" / "patterns" / name)
    return EvaluationRequest(run, attack, data=str(home / "patterns.npz"), **values)


def files(place: Path) -> tuple[dict[str, Any], bytes]:
    """What is in a verdict's files, but for how long it took."""
    record = json.loads((place / "verdict.json").read_text())
    del record["seconds"]
    return record, (place / "adversarial.safetensors").read_bytes()


# Chunks


def cut(asked: EvaluationRequest, chunks: int, place: Path) -> Verdict:
    """The verdict of a request in chunks, which are attacked one after the other, last first."""
    for chunk in reversed(range(chunks)):
        sparring.evaluate(replace(asked, out=place, chunk=chunk, chunks=chunks))
    assert not (place / "verdict.json").exists()
    told: list[tuple[int, int, str]] = []
    merged = sparring.evaluate(
        replace(asked, out=place, chunks=chunks), progress=lambda *each: told.append(each)
    )
    total = int(merged.attacked.sum())
    assert told[1] == (total, total, "attacking")  # nothing was left
    assert not (place / ".chunks").exists()
    return merged


@pytest.mark.backend
@pytest.mark.parametrize("name", NAMES)
def test_chunks_come_to_the_verdict_of_one_process(home: Path, name: str) -> None:
    asked = requested(home, name, check=False)
    whole = sparring.evaluate(replace(asked, out=home / "whole"))
    assert 0 < whole.success_rate.value < 1
    cut(asked, 4, home / "cut")
    assert files(home / "cut") == files(home / "whole")
    pictures = [(home / name / "examples.svg").read_bytes() for name in ("whole", "cut")]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("name", NAMES)
def test_what_the_checks_know_of_the_attack_goes_through_chunks(home: Path, name: str) -> None:
    whole = sparring.evaluate(requested(home, name, out=home / "whole"))
    merged = cut(requested(home, name), 9, home / "cut")  # more than there are batches
    assert files(home / "cut") == files(home / "whole")
    warned = [[warning.name for warning in each.warnings] for each in (whole, merged)]
    assert warned[0] == warned[1]
    assert ("not-averaged" in warned[0]) == (name == "transform")


def test_a_chunk_attacks_whole_batches_of_its_own(home: Path) -> None:
    (home / "sizes.py").write_text(
        "def attack(defense, x, y, threat):\n"
        "    with open('sizes', 'a') as sizes:\n"
        "        sizes.write(f'{len(x)} ')\n"
        "    x += 0.01\n"
        "    return x + 2\n"
    )
    asked = requested(home, attack="sizes.py", out=home / "v", check=False)
    seen = []
    for chunk in range(4):
        (home / "sizes").write_text("")
        sparring.evaluate(replace(asked, chunk=chunk, chunks=4))
        seen.append((home / "sizes").read_text())
    assert seen == ["3 3 ", "3 3 ", "3 ", "1 "]  # six batches of sixteen images
    # One that lacks is attacked with the rest, in the same batches.
    shutil.rmtree(folder.chunk_folder(home / "v", 1, 4))
    (home / "sizes").write_text("")
    merged = sparring.evaluate(replace(asked, chunks=4))
    assert (home / "sizes").read_text() == "3 3 "
    sparring.evaluate(replace(asked, out=home / "whole"))
    assert files(home / "v") == files(home / "whole")
    assert [warning.name for warning in merged.warnings] == ["changed-input"]


def test_one_process_goes_on_with_chunks_but_not_where_it_is_to_begin_anew(home: Path) -> None:
    asked = requested(home, out=home / "v", check=False)
    first = sparring.evaluate(replace(asked, chunk=0, chunks=2))
    assert first.folder is not None
    told: list[tuple[int, int, str]] = []
    sparring.evaluate(asked, progress=lambda *each: told.append(each))
    assert told[0][2].startswith("Going on with")
    assert told[1] == (9, 16, "attacking")  # three of six batches were done
    sparring.evaluate(replace(asked, chunk=0, chunks=2))
    told.clear()
    sparring.evaluate(replace(asked, force=True), progress=lambda *each: told.append(each))
    assert told[0] == (0, 16, "attacking")
    # A plan's are new where a finished verdict is to be replaced: it removes older ones.
    for chunk in range(2):
        sparring.evaluate(replace(asked, chunk=chunk, chunks=2))
    told.clear()
    sparring.evaluate(
        replace(asked, force=True, chunks=2), progress=lambda *each: told.append(each)
    )
    assert told[1] == (16, 16, "attacking")


def test_chunks_of_another_evaluation_or_damaged_ones_are_passed_over(home: Path) -> None:
    asked = requested(home, out=home / "v", check=False)
    for chunk, seed in ((0, 1), (1, 0), (2, 0)):
        sparring.evaluate(replace(asked, chunk=chunk, chunks=3, seed=seed))
    (folder.chunk_folder(home / "v", 1, 3) / "verdict.json").write_text("{")
    told: list[tuple[int, int, str]] = []
    sparring.evaluate(asked, progress=lambda *each: told.append(each))
    assert told[1] == (4, 16, "attacking")  # the last chunk's four images


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chunks": 0}, "chunks: expected an integer of 1 or more, got 0"),
        ({"chunk": 2, "chunks": 2}, "chunk: expected an integer of 0 to 1, got 2"),
        ({"chunk": True}, "chunk: expected an integer of 0 to 0, got True"),
        ({"wait": -1}, "wait: expected a number of seconds, got -1"),
    ],
)
def test_wrong_chunks(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        EvaluationRequest("baseline", **values)


# Plans


def planned(home: Path, names: list[str], by: list[str], **more: Any) -> EvaluationPlan:
    """What a plan finds, through JSON as between processes."""
    eps, seeds = more.pop("eps", []), more.pop("seeds", [])
    common = replace(requested(home, **more), defense=names[0], runs=Path("runs"))
    asked = EvaluationPlanRequest(defenses=names, attacks=by, eps=eps, seeds=seeds, common=common)
    asked = EvaluationPlanRequest.from_json(json.loads(json.dumps(asked.as_json())))
    return EvaluationPlan.from_json(json.loads(json.dumps(plan(asked).as_json())))


def titles(plan: EvaluationPlan, places: int) -> list[str]:
    return [job.title for job in jobs_of(plan, places)]


def test_a_plan_becomes_jobs(home: Path) -> None:
    found = planned(home, ["baseline", "transform"], ["pgd", "noise"], eps=["0.1", "1/20"])
    assert titles(found, 2) == [
        f"{attack} on {name}, eps {eps}"
        for name in ("baseline", "transform")
        for attack in ("pgd", "noise")
        for eps in ("0.1", "1/20")
    ]
    first = found.verdicts[0]
    run = home / "runs" / "patterns" / "baseline"
    assert first.folder == run / "attacks" / "pgd-Linf-0.1-n=16-draws=4"
    assert first.request == requested(
        home, eps="0.1", out=first.folder, runs=home / "runs", threads=1
    )
    assert first.batches == 6
    # The longest first: PGD takes forty steps, noise one.
    works = {verdict.title: verdict.work for verdict in found.verdicts}
    assert works["pgd on baseline, eps 0.1"] > works["noise on baseline, eps 0.1"]
    assert not (run / "attacks").exists()  # planning writes nothing
    every = planned(home, ["all"], ["pgd"])
    assert [verdict.run.name for verdict in every.verdicts] == ["baseline", "transform"]


def test_what_is_finished_is_no_job_and_what_is_asked_for_twice_is_one(home: Path) -> None:
    (home / "mine.py").write_text("def attack(defense, x, y, threat):\n    return x\n")
    (home / "other").mkdir()
    (home / "other" / "mine.py").write_text(
        "def attack(defense, x, y, threat):\n    return x + 0\n"
    )
    by = ["mine.py", "./mine.py", "other/mine.py"]
    found = planned(home, ["baseline"], by, eps=["0.1", "1/10"], check=False)
    assert len(found.verdicts) == 2
    one, other = (verdict.folder.name for verdict in found.verdicts)
    assert one == "mine-Linf-0.1-n=16-draws=4"
    assert other.startswith(f"{one}-")  # another file of that name
    sparring.evaluate(found.verdicts[0].request)
    assert len(jobs_of(planned(home, ["baseline"], by, eps=["0.1"], check=False), 1)) == 1
    # Where it is to be checked too, or anew, there is something left.
    assert len(jobs_of(planned(home, ["baseline"], by[:1], eps=["0.1"]), 1)) == 1
    again = planned(home, ["baseline"], by[:1], eps=["0.1"], check=False, force=True)
    assert [job.request.force for job in jobs_of(again, 1)] == [True]  # type: ignore[attr-defined]


def test_verdicts_are_cut_where_places_would_be_idle(home: Path) -> None:
    found = planned(home, ["baseline"], ["pgd"])
    assert titles(found, 1) == ["pgd on baseline, eps 0.15"]
    jobs = jobs_of(found, 2)
    assert [job.title for job in jobs] == [
        "pgd on baseline, eps 0.15, chunk 1 of 2",
        "pgd on baseline, eps 0.15, chunk 2 of 2",
        "pgd on baseline, eps 0.15, all chunks",
    ]
    assert jobs[2].needs == jobs[:2]
    assert len({job.log for job in jobs}) == 3
    assert len(jobs_of(found, 100)) == 6 + 1  # no more than there are batches
    both = planned(home, ["baseline", "transform"], ["pgd"])
    assert len(jobs_of(both, 3)) == 2
    assert len(jobs_of(both, 4)) == 6
    # What was cut stays so, and with as many threads; finished chunks are no jobs.
    sparring.evaluate(jobs[1].request)  # type: ignore[arg-type]
    again = planned(home, ["baseline"], ["pgd"], threads=None)
    assert titles(again, 6) == [jobs[0].title, jobs[2].title]
    assert [job.request.threads for job in jobs_of(again, 6)] == [1, 1]  # type: ignore[attr-defined]
    # Anew, a verdict is replaced, and its chunks are made without regard to older ones.
    anew = jobs_of(planned(home, ["baseline"], ["pgd"], force=True), 2)
    assert [job.request.force for job in anew] == [False, False, True]  # type: ignore[attr-defined]
    chunks = found.verdicts[0].folder / ".chunks"
    assert not chunks.exists()
    # What one process began is not cut.
    with pytest.raises(AttackError, match="ran past its limit"):
        sparring.evaluate(replace(found.verdicts[0].request, time_limit=1e-6))
    (home / "half.py").write_text(
        "def attack(defense, x, y, threat, calls=[]):\n"
        "    calls.append(1)\n"
        "    return x if len(calls) < 3 else 1 / 0\n"
    )
    half = planned(home, ["baseline"], ["half.py"])
    with pytest.raises(AttackError, match="ZeroDivisionError"):
        sparring.evaluate(half.verdicts[0].request)
    assert len(jobs_of(planned(home, ["baseline"], ["half.py"]), 2)) == 1


def test_what_cannot_be_evaluated_fails_alone(home: Path) -> None:
    found = planned(home, ["baseline", "blur"], ["pgd", "none.py"])
    jobs = jobs_of(found, 1)
    assert [job.state for job in jobs] == ["waiting", "failed", "failed", "failed"]
    assert "none.py: no such file" in jobs[1].message
    assert "no such run directory. Train it first: " in jobs[2].message


def test_what_keeps_all_from_beginning_is_told_once(home: Path) -> None:
    with pytest.raises(SettingsError, match="unknown option of the attack 'stepz'"):
        planned(home, ["baseline"], ["pgd", "pgd"], options={"stepz": "3"})
    # None of these is there, but each for its own reason.
    assert [bool(one.error) for one in planned(home, ["blur", "jump"], ["pgd"]).verdicts] == [
        True
    ] * 2


def test_seeds_are_folders_of_runs(home: Path) -> None:
    for seed in (0, 2):
        shutil.copytree(home / "runs" / "patterns", home / "runs" / f"seed-{seed}" / "patterns")
    found = planned(home, ["baseline"], ["pgd"], seeds=[0, 2])
    assert [verdict.run.relative_to(home) for verdict in found.verdicts] == [
        Path(f"runs/seed-{seed}/patterns/baseline") for seed in (0, 2)
    ]
    assert [verdict.title for verdict in found.verdicts] == [
        f"pgd on baseline, eps 0.15, seed {seed}" for seed in (0, 2)
    ]


# The command line


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, ["attack", *words])


OPTIONS = ("--data", "patterns.npz", "-n", "16", "--batch-size", "3", "--threads", "1")


def test_words_are_told_apart() -> None:
    names = {*attacks.NAMES, *attacks.LIBRARIES}
    assert not names & {*defenses.NAMES, "all"}
    for name in attacks.LIBRARIES.values():
        assert issubclass(getattr(adapters, name), adapters.Adapter) or name == "AutoAttack"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["baseline", "all"], "all: expected it alone in place of defenses"),
        (["all", "blur"], "attacks are named one by one. Got all, blur"),
        (["pgd"], "expected the name of a defense before the attack 'pgd', got none"),
        (["blur", "pgd", "jump"], "after the attack 'pgd', got the defense 'jump'"),
        (["blur", "blrr", "pgd"], "unknown defense 'blrr'. Did you mean 'blur'?"),
        (["blur", "pgd", "fgms"], "unknown attack 'fgms'. Did you mean 'fgsm'?"),
        (["blur", "auto-attack"], "unknown attack 'auto-attack'. Did you mean 'autoattack'?"),
        (["blur", "--eps", "0.1,,1"], "--eps: expected radii as 0.01,8/255, got '0.1,,1'"),
        (["all", "--eps", "0.1,O.2"], "eps: expected a number such as 4/255, got 'O.2'"),
        (["blur", "--seeds", "2-1"], "expected the smaller seed first"),
        (["runs/patterns/baseline", "--seeds", "0"], "--seeds: expected names of defenses"),
        (["blur", "--jobs", "none"], "jobs: expected a number from 1, or auto, got 'none'"),
        (["blur", "--jobs", "2", "--cluster", "local"], "give one"),
        (["blur", "jump", "--out", "v"], "--out goes with a single defense"),
        (["blur", "fgsm", "pgd", "--traceback"], "--traceback goes with a single defense"),
        (["all"], "expected trained defenses, found none. Train them first: sparring train all"),
    ],
)
def test_wrong_use(call: Callable[..., Result], words: list[str], message: str) -> None:
    answer = call(*words)
    assert answer.exit_code in (1, 2)
    assert message in answer.output
    assert "Traceback" not in answer.output


def test_many_go_on_past_failures_and_are_skipped_once_finished(
    call: Callable[..., Result], home: Path
) -> None:
    (home / "bad.py").write_text("def attack(defense, x, y, threat):\n    return x[0] / []\n")
    words = ("all", "noise", "bad.py", *OPTIONS, "--eps", "0.05,0.1", "--draws", "4")
    answer = call(*words, "--jobs", "2")
    assert answer.exit_code == 1, answer.output
    assert "4 of 8 jobs failed: bad on baseline, eps 0.05" in answer.output
    assert "the attack attack raised TypeError" in answer.output
    assert "Traceback" not in answer.output
    table = [
        re.split("  +", line) for line in answer.output.splitlines() if "/verdict.json" in line
    ]
    assert [row[:3] for row in table] == [
        [f"runs/patterns/{name}", "noise n=16 draws=4", f"Linf {eps}"]
        for name in NAMES
        for eps in ("0.05", "0.1")
    ]
    for *_, clean, success, warnings, file in table:
        record = VerdictRecord.read(Path(file))
        assert clean == f"{100 * record.results.clean_accuracy.value:.1f} %"
        assert success.startswith(f"{100 * record.results.success_rate.value:.1f} % (95 % interval")
        names = ", ".join(warning.name for warning in record.warnings)
        assert warnings == (names or "none")
    paths = sorted((home / "runs").rglob("verdict.json"))
    assert len(paths) == 4
    before = [path.stat().st_mtime_ns for path in paths]
    answer = call("all", "noise", *OPTIONS, "--eps", "0.05,0.1", "--draws", "4")
    assert answer.exit_code == 0, answer.output
    assert "0 jobs\n" in answer.output
    assert answer.output.count("/verdict.json") == 4
    assert [path.stat().st_mtime_ns for path in paths] == before
    # One process gives the same.
    alone = call("transform", "noise", *OPTIONS, "--eps", "0.1", "--draws", "4", "--out", "alone")
    assert alone.exit_code == 0, alone.output
    folders = home / "runs" / "patterns" / "transform" / "attacks"
    assert files(folders / "noise-Linf-0.1-n=16-draws=4") == files(home / "alone")
    # And the report shows each radius.
    [section] = gather(home / "runs").sections
    shown = [[one.first.threat for one in group.attacks] for group in section.groups]
    assert shown == [["Linf(0.05)", "Linf(0.1)"]] * 2


SLOW = """
import os, pathlib, time
from sparring.attacks import PGD


def attack(defense, x, y, threat):
    place = pathlib.Path("started")
    place.mkdir(exist_ok=True)
    (place / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.05)
    return PGD()(defense, x, y, threat)
"""


def _scheduler(*more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sparring", "attack", "transform", "slow.py", *OPTIONS]
    command += ["--in-process"]  # it writes files, by which it is followed
    return subprocess.Popen(
        [*command, "--eps", str(EPS), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )


def _started(count: int, known: set[str] = frozenset()) -> set[str]:  # type: ignore[assignment]
    """Process numbers of the attacks that began, once there are so many new ones."""
    deadline = time.monotonic() + 120
    while True:
        numbers = {path.name.partition("-")[0] for path in Path("started").glob("*")} - known
        if len(numbers) >= count:
            return numbers
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("cluster", [False, True], ids=["processes", "ray"])
def test_a_killed_chunk_is_started_again(home: Path, cluster: bool) -> None:
    if cluster:
        pytest.importorskip("ray")
    (home / "slow.py").write_text(SLOW)
    process = _scheduler(*(["--cluster", "local"] if cluster else ["--jobs", "2"]))
    begun = _started(2)
    os.kill(int(min(begun)), signal.SIGKILL)
    _started(1, known=begun)
    (home / "go").touch()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "killed (exit code -9); it goes on from what it saved" in output
    [verdict] = (home / "runs" / "patterns" / "transform" / "attacks").iterdir()
    assert VerdictRecord.read(verdict / "verdict.json").finished
    sparring.evaluate(requested(home, "transform", "slow.py", draws=20, out=home / "whole"))
    assert files(verdict) == files(home / "whole")


def test_a_job_shows_the_last_line_of_its_log(home: Path) -> None:
    verdict = PlannedVerdict(
        request=requested(home), run=home / "run", folder=home / "run" / "attacks" / "v", title="t"
    )
    [job] = jobs_of(EvaluationPlan(["cpu:0"], [verdict]), 1)
    assert isinstance(job, EvaluationJob)
    assert job.standing() is None
    assert job.log == home / "run" / "logs" / "v.log"
    job.log.parent.mkdir(parents=True)
    job.log.write_text("starting\n3/16 images, success 50.0 %\n")
    standing = job.standing()
    assert standing is not None
    assert standing.done == "3/16 images, success 50.0 %"


# The report


def test_the_report_has_seeds_and_radii(trained: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        place = tmp_path / "runs" / f"seed-{seed}"
        sparring.train(
            *("baseline", str(trained / "patterns.npz")), out=place, filters=4, epochs=4, seed=seed,
            batch_size=8, eval_every=0,
        )  # fmt: skip
        for eps in (0.02, 0.05):
            run = str(place / "patterns" / "baseline")
            sparring.evaluate(EvaluationRequest(run, "noise", n=16, eps=eps, check=False))
    [section] = gather(tmp_path / "runs").sections
    [group] = section.groups
    assert [(one.first.threat, [each.seed for each in one.verdicts]) for one in group.attacks] == [
        ("Linf(0.02)", [0, 1]),
        ("Linf(0.05)", [0, 1]),
    ]
