"""Grading a class: who handed in what, what it is worth, and the grades that come of it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sparring
from sparring.cli import app
from sparring.defenses import describe
from sparring.defenses.defense import Defense
from sparring.errors import DataError, SettingsError, SparringError
from sparring.evaluation.submission import Contents
from sparring.grading import levels, page, submissions, tables
from sparring.grading.book import Book
from sparring.grading.jobs import jobs_of
from sparring.grading.plan import plan
from sparring.grading.record import GradesRecord
from sparring.grading.request import (
    TIME_LIMIT,
    GradePlan,
    GradeRequest,
    PlannedDefense,
    PlannedTask,
    Task,
)
from sparring.grading.submissions import Entry, Found
from sparring.grading.work import work
from sparring.runs.records import (
    AgreementRecord,
    EvaluationWarning,
    PortRecord,
    RateRecord,
    RatesRecord,
    ThreatRecord,
    VerdictRecord,
)

# Who handed in what


def made(folder: Path, *names: str) -> Path:
    """A folder with files of these names, a folder for each name that ends in a slash."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text(name)
    return folder


def entry(folder: Path, name: str) -> Entry:
    [found] = [each for each in submissions.entries(folder) if each.name == name]
    return found


def test_each_entry_is_a_student(tmp_path: Path) -> None:
    made(tmp_path, "bob.tar.gz", "alice.py", "carol/", ".hidden", "__pycache__/", "x.y.py", "d.txt")
    found = [each.name for each in submissions.entries(tmp_path)]
    assert found == ["alice", "bob", "carol", "d.txt", "x.y"]


def test_students_of_one_name_are_told_apart(tmp_path: Path) -> None:
    made(tmp_path, "al.py", "al.npz", "bo.py")
    assert [each.name for each in submissions.entries(tmp_path)] == ["al.npz", "al.py", "bo"]
    made(tmp_path / "odd", "a\nb.py", r"a\nb.py")
    names = [each.name for each in submissions.entries(tmp_path / "odd")]
    assert names == [r"a\nb (1)", r"a\nb (2)"]


def test_one_file_is_one_student_s(tmp_path: Path) -> None:
    [found] = submissions.entries(made(tmp_path, "alice.py") / "alice.py")
    assert found == Entry("alice", tmp_path / "alice.py")


def test_no_submissions_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found an empty folder"):
        submissions.entries(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        submissions.entries(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("names", "file", "attack", "beside"),
    [
        (["s.py"], "s.py", True, False),
        (["s.NPZ"], "s.NPZ", False, False),
        (["s/blur.py", "s/attack.py"], "s/blur.py", True, True),
        (["s/attack_blur.py", "s/helper.py"], "s/attack_blur.py", True, True),
        (["s/attack.py", "s/jump.py"], "s/attack.py", True, True),
        (["s/images.safetensors", "s/jump.npz"], "s/images.safetensors", False, False),
        (["s/blur.tgz"], "s/blur.tgz", False, False),
        (["s/blur/3.png"], "s/blur", False, False),
        (["s/3.png", "s/jump.py"], "s", False, False),
        (["s/blur/attack.py", "s/blur/mine.py"], "s/blur/attack.py", True, True),
    ],
)
def test_what_was_handed_in_against_a_defense(
    tmp_path: Path, names: list[str], file: str, attack: bool, beside: bool
) -> None:
    made(tmp_path, *names)
    found = submissions.find(entry(tmp_path, "s"), ["jump", "blur"], "blur")
    assert found is not None
    assert (found.path, found.attack) == (tmp_path / file, attack)
    assert found.folder == ((tmp_path / file).parent if beside else None)


def test_what_was_not_handed_in(tmp_path: Path) -> None:
    made(tmp_path, "s/jump.py")
    assert submissions.find(entry(tmp_path, "s"), ["jump", "blur"], "blur") is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["s/"], r"expected blur\.py, attack\.py, .* found nothing"),
        (["s/a.txt", "s/b.py"], r"found a\.txt, b\.py"),
        (["s/blur.py", "s/blur.npz"], r"expected one file for blur, found blur\.npz, blur\.py"),
        (["s/attack.py", "s/images.npz"], "expected one file for blur"),
        (["s/attack.zip", "s/blur.zip"], "found attack.zip, blur.zip"),
    ],
)
def test_what_cannot_be_understood_says_what_was_expected(
    tmp_path: Path, names: list[str], message: str
) -> None:
    made(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        submissions.find(entry(tmp_path, "s"), ["jump", "blur"], "blur")


def test_an_ending_that_is_none(tmp_path: Path) -> None:
    made(tmp_path, "s.zip")
    with pytest.raises(DataError, match=r"expected an attack \(\.py\) or images"):
        submissions.find(entry(tmp_path, "s.zip"), ["blur"], "blur")


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    made(tmp_path, "real.py", "folder/")
    (tmp_path / "link.py").symlink_to("real.py")
    (tmp_path / "folder" / "blur.py").symlink_to("../real.py")
    os.mkfifo(tmp_path / "pipe.py")
    for name, message in (("link", "a symbolic link"), ("folder", "a symb"), ("pipe", "a pipe")):
        with pytest.raises(DataError, match=message):
            submissions.find(entry(tmp_path, name), ["blur"], "blur")


def test_a_hash_is_of_all_that_lies_beside_an_attack(tmp_path: Path) -> None:
    folder = made(tmp_path, "s/attack.py", "s/deep/helper.py") / "s"
    found = Found(folder / "attack.py", True, folder)
    first = found.sha256()
    (folder / "deep" / "helper.py").write_text("other")
    second = found.sha256()
    (folder / "deep" / "helper.py").rename(folder / "deep" / "helped.py")
    third = found.sha256()
    (folder / "deep" / "link.py").symlink_to("/etc/hostname")
    assert len({first, second, third}) == 3
    assert found.sha256() == third
    alone = Found(folder / "attack.py", True)
    assert alone.sha256() != third


def test_a_copy_has_nothing_of_others(tmp_path: Path) -> None:
    made(tmp_path, "subs/alice.py", "subs/bob.py", "subs/carol/attack.py", "subs/carol/a/b.txt")
    (tmp_path / "subs/carol/link.py").symlink_to("../alice.py")
    made(tmp_path, "one/", "two/")
    copy = Found(tmp_path / "subs/alice.py", True).staged(tmp_path / "one")
    assert copy == tmp_path / "one/alice.py"
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["alice.py"]
    folder = tmp_path / "subs/carol"
    assert Found(folder / "attack.py", True, folder).staged(tmp_path / "two").is_file()
    files = sorted(path.name for path in (tmp_path / "two").rglob("*.*"))
    assert files == ["attack.py", "b.txt"]


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MOST_ATTACK", 10)
    folder = made(tmp_path, "s/attack.py", "s/b.py") / "s"
    for found in (Found(folder / "attack.py", True), Found(folder / "b.py", True, folder)):
        with pytest.raises(SparringError, match="expected at most"):
            found.sha256()


def test_the_hash_of_images_is_that_of_their_verdict(tmp_path: Path) -> None:
    made(tmp_path, "a.npz", "s/17.png", "s/3.png", "s/notes.txt")
    for path in (tmp_path / "a.npz", tmp_path / "s"):
        assert Contents.sha256_of(path) == Contents.of(path).sha256
    assert Contents.sha256_of(tmp_path / "s") != Contents.sha256_of(tmp_path / "a.npz")
    with pytest.raises(DataError, match="No such file"):
        Contents.sha256_of(tmp_path / "b.npz")


# Requests


def test_a_request_is_made_of_names_and_goes_through_json() -> None:
    request = GradeRequest.of("blur", "subs", n=5, images=[3, 4], goals={"blur": 90}, jobs=2)
    assert request.common.time_limit == TIME_LIMIT
    assert GradeRequest.from_json(json.loads(json.dumps(request.as_json()))) == request
    assert GradeRequest.of(["a", "b", "a"], "subs").defenses == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epss": 0.1}, "Did you mean 'eps'"),
        ({"attack": "pgd"}, "unknown option of a grading 'attack'"),
        ({"goals": {"": 0}}, "goal: expected a percentage above 0 and at most 100, got 0"),
        ({"goals": {"": float("nan")}}, "goal: expected a percentage"),
        ({"goals": {"jump": 9}}, "unknown defense with a goal 'jump'"),
        ({"n": 0}, "n: expected an integer of 1 or more"),
        ({"force": 1}, "force: expected True or False"),
        ({"out": ""}, "out: expected a path"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        GradeRequest.of("blur", "subs", **options)


def test_no_defense_is_refused() -> None:
    with pytest.raises(SettingsError, match="expected one name or more"):
        GradeRequest.of([], "subs")


# What a success is worth


def rate(value: float, n: int = 20) -> RateRecord:
    return RateRecord(value=value, n=n, low=max(0.0, value - 0.1), high=min(1.0, value + 0.1))


def verdict(success: float, robust: float = 0.5, **more: Any) -> VerdictRecord:
    rates = RatesRecord(
        clean_accuracy=rate(0.9),
        clean_rejected=rate(0),
        success_rate=rate(success),
        robust_accuracy=rate(robust),
    )
    about: dict[str, Any] = {
        "defense": "blur",
        "attack": "a.py",
        "threat": ThreatRecord(norm="Linf", eps=0.1),
        "dataset": {"name": "digits"},
        "seed": 0,
        "draws": 1,
        "backend": "torch",
        "sparring": "1",
        "isolation": "process",
    }
    base = {"warnings": [], "seconds": 3.0, "images": [], "finished": True}
    return VerdictRecord(**about, results=rates, **{**base, **more})


def defense(**more: Any) -> PlannedDefense:
    about: dict[str, Any] = {
        "label": "blur",
        "run": Path("runs/digits/blur"),
        "weights_sha256": "0",
        "dataset": "digits",
        "norm": "Linf",
        "eps": 0.1,
        "images": [1, 2],
        "draws": 1,
    }
    return PlannedDefense(**{**about, **more})


REFERENCES = {"noise": verdict(0.1), "pgd": verdict(0.6), "reference": verdict(0.8)}


@pytest.mark.parametrize(
    ("success", "reached", "level"),
    [
        (0.1, [], 0),
        (0.15, ["noise"], 3),
        (0.6, ["noise"], 3),
        (0.65, ["noise", "pgd"], 4),
        (0.8, ["noise", "pgd", "goal"], 5),
    ],
)
def test_levels_by_success(success: float, reached: list[str], level: int) -> None:
    marks = levels.marks(defense(), verdict(success), REFERENCES)
    assert marks[:2] == ["not asked"] * 2
    found = [name for name, mark in zip(levels.LEVELS, marks, strict=True) if mark == "reached"]
    assert found == reached
    assert levels.level(marks) == level


def test_who_breaks_all_has_beaten_what_breaks_all() -> None:
    references = {**REFERENCES, "noise": verdict(1.0), "pgd": verdict(1.0)}
    assert levels.marks(defense(), verdict(1.0), references)[2:4] == ["reached"] * 2
    assert levels.marks(defense(), verdict(0.9), references)[2:4] == ["missed"] * 2


def test_a_level_is_the_highest_that_is_reached() -> None:
    assert levels.level(["missed", "not asked", "reached", "missed", "missed"]) == 3
    assert levels.level(["reached", "missed", "missed", "missed", "missed"]) == 1
    assert levels.level(["missed"] * 5) == 0


def agreement(agree: int, of: int, problem: str = "") -> AgreementRecord:
    return AgreementRecord(agree=agree, of=of, problem=problem)


@pytest.mark.parametrize(
    ("port", "marks"),
    [
        (PortRecord(labels=agreement(99, 100)), ["reached", "not asked"]),
        (PortRecord(labels=agreement(98, 100)), ["missed", "not asked"]),
        (PortRecord(gradient=agreement(18, 20)), ["not asked", "reached"]),
        (PortRecord(gradient=agreement(17, 20)), ["not asked", "missed"]),
        (PortRecord(gradient=agreement(4, 4)), ["not asked", "not asked"]),
        (PortRecord(labels=agreement(100, 100, "raised")), ["missed", "not asked"]),
        (None, ["not asked", "not asked"]),
    ],
)
def test_levels_of_a_port(port: PortRecord | None, marks: list[str]) -> None:
    assert levels.marks(defense(), verdict(0, port=port), REFERENCES)[:2] == marks


def test_a_published_goal_counts_misclassified_images_as_broken() -> None:
    published = defense(goal=0.7, goal_from="published")
    # 0.5 of those attacked; of all images 0.7 are not robust.
    reached = verdict(0.5, robust=0.3)
    assert levels.marks(published, reached, REFERENCES)[4] == "reached"
    assert levels.gains(published, reached, REFERENCES)["goal"] == 0
    given = defense(goal=0.7, goal_from="given")
    assert levels.gains(given, reached, REFERENCES)["goal"] == -0.2


def test_what_is_not_known_is_not_asked() -> None:
    marks = levels.marks(defense(), verdict(0.9), {})
    assert marks == ["not asked"] * 5
    gained = levels.gains(defense(), verdict(0.9), {"noise": verdict(0.1)})
    assert gained == {"noise": 0.8, "pgd": None, "goal": None}


def test_the_published_success_is_for_one_data_set_and_threat_alone() -> None:
    described = describe("blur")
    assert described.published_for("cifar10", "Linf", 4 / 255) == 0.95
    assert described.published_for("cifar10", "Linf", 8 / 255) is None
    assert described.published_for("cifar10", "L2", 4 / 255) is None
    assert described.published_for("digits", "Linf", 4 / 255) is None
    assert describe("trades").published_for("cifar10", "Linf", 4 / 255) is None


def test_equal_successes_share_a_rank() -> None:
    ranks = levels.ranks({"a": 0.5, "b": 0.9, "c": 0.5, "d": 0.1})
    assert ranks == {"b": 1, "a": 2, "c": 2, "d": 4}


# The grades

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """Three students, one of a hostile name, against two defenses; two verdicts are there."""
    out = tmp_path / "grades"

    def planned(who: str, of: str, **more: Any) -> PlannedTask:
        where = out / "verdicts" / f"{who[:3]} {of}"
        return PlannedTask(who=who, defense=of, verdict=where, file=f"{who}.py", **more)

    labels = ["blur", "jump"]
    references = [planned(name, of) for of in labels for name in REFERENCES]
    plan = GradePlan(
        devices=["cpu"],
        defenses=[defense(label=of) for of in labels],
        students=["=1+1", HOSTILE, "zoe"],
        references=[replace(of, verdict=out / of.who / of.defense) for of in references],
        cells=[
            *(planned("=1+1", of) for of in labels),
            planned(HOSTILE, "blur"),
            planned(HOSTILE, "jump", status="failed", problem=f"{HOSTILE}\n\x1b[31m"),
            planned("zoe", "blur"),
            planned("zoe", "jump", status="not handed in"),
        ],
    )
    for of in plan.references:
        assert of.verdict is not None
        of.verdict.mkdir(parents=True)
        REFERENCES[of.who].write(of.verdict)
    warned = EvaluationWarning(name="few-images", text=HOSTILE)
    for cell, record in (
        (plan.cells[0], verdict(0.9, forward=100, backward=50)),
        (plan.cells[2], verdict(0.5, warnings=[warned])),
    ):
        assert cell.verdict is not None
        cell.verdict.mkdir(parents=True)
        record.write(cell.verdict)
    book = Book(plan, out, tmp_path / "subs")
    for task in (*plan.references, plan.cells[0], plan.cells[2]):
        assert task.verdict is not None
        book.done(task.verdict)
    return book


def cells(grades: GradesRecord, defense: str) -> Mapping[str, Any]:
    return dict(grades.of(defense))


def test_the_record_says_what_is_known(book: Book, tmp_path: Path) -> None:
    grades = book.record()
    assert not grades.finished
    blur, jump = cells(grades, "blur"), cells(grades, "jump")
    assert [name for name, _ in grades.of("blur")] == ["=1+1", HOSTILE, "zoe"]
    first = blur["=1+1"]
    assert (first.status, first.rank, first.level) == ("judged", 1, 5)
    assert first.gained == {"noise": 0.8, "pgd": 0.3, "goal": 0.1}
    assert (first.forward, first.backward, first.seconds) == (5.0, 2.5, 3.0)
    assert (blur[HOSTILE].rank, blur[HOSTILE].level) == (2, 3)
    assert blur["zoe"].status == jump["=1+1"].status == "waiting"
    assert jump["zoe"].status == "not handed in"
    assert jump[HOSTILE].status == "failed"
    assert jump[HOSTILE].problem == f"{HOSTILE} \\x1b[31m"
    assert grades.defenses[0].goal == 0.8
    file = grades.write(tmp_path)
    assert GradesRecord.read(file) == grades


def test_a_verdict_that_cannot_be_read_fails_alone(book: Book, tmp_path: Path) -> None:
    where = tmp_path / "grades" / "verdicts" / "zoe blur"
    book.done(where)
    assert "expected a verdict, found none" in cells(book.record(), "blur")["zoe"].problem
    where.mkdir()
    (where / "verdict.json").write_text("{}")
    book.done(where)
    assert cells(book.record(), "blur")["zoe"].status == "failed"
    book.failed(tmp_path / "grades" / "verdicts" / "=1+ jump", "it broke")
    grades = book.record()
    assert cells(grades, "jump")["=1+1"].problem == "it broke"
    assert grades.finished


def test_the_page_escapes_and_links(book: Book) -> None:
    text = page.html(book.record())
    assert HOSTILE not in text
    assert text.count("&lt;script&gt;") > 3
    assert '<a href="verdicts/%3D1%2B%20blur/verdict.html">=1+1</a>' in text
    assert "Not all is judged yet" in text
    assert "<script" not in text
    assert "http" not in text.replace('http-equiv="', "")
    assert text.count("<table>") == 4  # of blur two, of jump, where none is judged, one
    for shown in ("90.0 %", "+30.0", "level 5, rank 1", "5.0 + 2.5", "1- 2- 3✓ 4✗ 5✗"):
        assert shown in text


def test_the_csv_has_a_line_a_cell_and_no_formula(book: Book) -> None:
    lines = list(csv.DictReader(io.StringIO(page.table(book.record()))))
    assert len(lines) == 6
    by = {(line["student"], line["defense"]): line for line in lines}
    first = by["'=1+1", "blur"]
    assert (first["success"], first["over_pgd"], first["level"]) == ("0.9", "0.3", "5")
    assert by[HOSTILE, "blur"]["over_pgd"] == "-0.1"  # a number stays one
    assert by[HOSTILE, "blur"]["warnings"] == "few-images"
    assert by["zoe", "jump"]["success"] == ""


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", " =1", "\t=1"])
def test_no_text_is_a_formula(text: str) -> None:
    assert page._plain(text) == f"'{text}"
    assert page._plain("a=1") == "a=1"
    assert page._plain(-0.5) == -0.5


def test_files_are_written_and_an_unusable_folder_is_told(book: Book, tmp_path: Path) -> None:
    files = page.write(book.record(), tmp_path / "new" / "grades")
    assert [file.name for file in files] == ["grades.html", "grades.csv", "grades.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(SparringError, match="Name another folder with --out"):
        page.write(book.record(), tmp_path / "file")


def test_points_have_a_sign() -> None:
    assert [tables._points(gain) for gain in (0.123, -0.2, 0.0, -0.0, None)] == [
        *("+12.3", "-20.0", "0.0", "0.0"),
        None,
    ]


# With a defense

HONEST = """
from sparring.attacks import PGD

def attack(defense, x, y, threat):
    return PGD(steps=5)(defense, x, y, threat)
"""
KILLED = """
import os, signal

def attack(defense, x, y, threat):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def runs(digits_baseline: Defense, tmp_path: Path) -> Path:
    assert digits_baseline.path is not None
    shutil.copytree(digits_baseline.path, tmp_path / "runs" / "digits" / "baseline")
    return tmp_path / "runs"


@pytest.fixture
def handed_in(tmp_path: Path) -> Path:
    folder = made(tmp_path / "subs", "dave/helper.py", "notes.txt")
    (folder / "alice.py").write_text(HONEST)
    (folder / "bob.py").write_text(KILLED)
    (folder / "dave" / "attack.py").write_text("from helper import attack\n" + HONEST)
    (folder / "dave" / "helper.py").write_text("def attack(): pass\n")
    x = sparring.load_data("digits").x_test[:6].astype(np.float32) / 255
    np.savez(folder / "carol.npz", adversarial=1 - x)
    return folder


Asked = Callable[..., GradeRequest]


@pytest.fixture
def asked(runs: Path, handed_in: Path, tmp_path: Path) -> Asked:
    def request(**options: Any) -> GradeRequest:
        given = {"n": 6, "check": False, "eps": 0.15, "runs": runs, "out": tmp_path / "grades"}
        return GradeRequest.of("baseline", handed_in, **{**given, **options})

    return request


def states(plan: GradePlan) -> dict[str, str]:
    return {cell.who: cell.status for cell in plan.cells}


def test_what_is_judged_stays_until_something_changes(asked: Asked, handed_in: Path) -> None:
    first = plan(asked())
    new = {"alice": "new", "bob": "new", "carol": "new", "dave": "new", "notes.txt": "failed"}
    assert states(first) == new
    assert [of.who for of in first.references] == ["reference", "pgd", "noise"]
    assert [of.who for of in plan(asked(goals={"": 50})).references] == ["pgd", "noise"]
    folders = {cell.verdict for cell in first.cells if cell.verdict}
    assert len(folders) == 4
    by = {cell.who: cell for cell in first.cells}
    alice, carol, dave = (by[name].task for name in ("alice", "carol", "dave"))
    assert alice is not None
    assert carol is not None
    assert dave is not None
    judged = [work(task, lambda *_: None) for task in (alice, carol, dave)]
    assert judged[0].success.tolist() == judged[2].success.tolist()
    assert judged[1].about.isolation == "images"
    assert judged[0].about.isolation.startswith("process")
    done = {**new, "alice": "finished", "carol": "finished", "dave": "finished"}
    assert states(plan(asked())) == done
    assert len(jobs_of(plan(asked()), Path("grades"))) == 4  # bob and three references
    assert states(plan(asked(force=True))) == new
    assert states(plan(asked(n=5))) == new
    assert states(plan(asked(eps=0.1))) == new
    assert states(plan(asked(check=True))) == {**new, "carol": "finished"}
    (handed_in / "dave" / "helper.py").write_text("def attack(): return 1\n")
    assert states(plan(asked())) == {**done, "dave": "new"}
    (handed_in / "alice.py").write_text(HONEST + "\n")
    assert states(plan(asked())) == {**done, "dave": "new", "alice": "new"}
    with pytest.raises(SparringError, match=r"alice\.py: changed meanwhile"):
        work(alice, lambda *_: None)


def test_a_problem_does_not_say_where_a_copy_lay(asked: Asked, handed_in: Path) -> None:
    (handed_in / "alice.py").write_text("def attack(defense, x, y, threat): return 1 / 0")
    [cell] = [cell for cell in plan(asked()).cells if cell.who == "alice"]
    assert cell.task is not None
    with pytest.raises(SparringError) as raised:
        work(cell.task, lambda *_: None)
    assert "division by zero (alice.py, line 1)" in str(raised.value)
    assert isinstance(Task.from_json(json.loads(json.dumps(cell.task.as_json()))), Task)


def test_a_class_on_the_command_line(runs: Path, handed_in: Path, tmp_path: Path) -> None:
    shutil.rmtree(handed_in / "dave")
    out = tmp_path / "grades"
    words = ["grade", "baseline", handed_in, "-n", "6", "--no-check", "--eps", "0.15"]
    words += ["--runs", runs, "--out", out, "--jobs", "2", "--goal", "50"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert "goal 50.0 % (given)" in result.output
    grades = GradesRecord.read(out / "grades.json")
    assert grades.finished
    found = cells(grades, "baseline")
    assert {name: cell.status for name, cell in found.items()} == {
        "alice": "judged",
        "carol": "judged",
        "bob": "failed",
        "notes.txt": "failed",
    }
    assert "ended by SIGKILL" in found["bob"].problem
    assert found["alice"].level == 5
    assert found["alice"].rank == 1
    assert found["alice"].forward > 1
    assert found["carol"].success.value == 0  # too far away
    assert (out / found["alice"].verdict / "verdict.html").is_file()
    assert {path.name for path in out.iterdir()} == {
        *("grades.html", "grades.csv", "grades.json", "verdicts", "references", "logs"),
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["baselin", "subs"], "Did you mean 'baseline'"),
        (["baseline", "nowhere"], "nowhere: No such file or directory"),
        (["baseline", "subs", "--goal", "blur=x"], "unknown defense with a goal 'blur'"),
        (["baseline", "subs", "--goal", "x"], "goal: expected a percentage"),
        (["baseline", "subs", "--jobs", "0"], "jobs: expected a number of 1 or more, or auto"),
    ],
)
def test_wrong_commands_are_refused_at_once(
    words: list[str], told: str, runs: Path, handed_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    result = CliRunner().invoke(app, ["grade", *words, "-q"])
    assert result.exit_code == 1
    assert told in result.output
