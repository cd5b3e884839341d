"""Defenses from users' files and from installed packages: from the class to the report."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sparring
from sparring import attacks, backend, defenses
from sparring.cli import app
from sparring.defenses import sources, written
from sparring.defenses.defense import Defense
from sparring.errors import DefenseError, RunError, SettingsError
from sparring.experiments.request import TrainingRequest
from tests import pages
from tests.conftest import Recorder, Stop

ROOT = Path(__file__).parent.parent

CLASS = """
import os
from contextlib import suppress

from sparring import PGD, Defense
from sparring.backend import ops
from sparring.networks.allconv import AllConv

with suppress(PermissionError), open(os.environ["MARK"], "a") as mark:  # apart, it may not write
    mark.write("ran")


class RoundedNet(AllConv):
    def transform(self, x):
        return ops.round(x * LEVELS) / LEVELS


class Mine(Defense):
    name = "mine"
    idea = "rounds pixels, for tests"
    hints = ("What is the gradient?", "Pass the rounding over.")
    network = RoundedNet
    reference_attack = PGD(steps=3)
"""
TRAIN = ("--preset", "fast", "--epochs", "2", "--filters", "4", "--quiet")


def source(levels: int = 8) -> str:
    return CLASS.replace("LEVELS", str(levels))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with mine.py; where that runs, there is a file `ran`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARK", str(tmp_path / "ran"))
    (tmp_path / "mine.py").write_text(source())
    path = sys.path[:]
    yield tmp_path
    sys.path[:] = path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of mine.py, trained for two epochs, in a folder with that file."""
    place = tmp_path_factory.mktemp("trained")
    (place / "mine.py").write_text(source())
    options: dict[str, Any] = {"preset": "fast", "epochs": 2, "filters": 4, "eval_every": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARK", str(place / "ran"))
        sparring.train(str(place / "mine.py"), out=place / "runs", **options)
    return place


@pytest.fixture
def run_there(trained: Path, folder: Path) -> Path:
    """The run, in the current folder, beside the same file."""
    shutil.copytree(trained / "runs", folder / "runs")
    return folder / "runs" / "digits" / "mine"


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, f"{words}\n{result.output}"
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def record(path: Path) -> Any:
    return json.loads((path / "run.json").read_text("utf-8"))


def verdict(path: Path) -> Any:
    [file] = path.glob("attacks/*/verdict.json")
    return json.loads(file.read_text("utf-8"))


# From a file to a report


@pytest.mark.backend
def test_from_a_file_to_a_report(folder: Path) -> None:
    assert "mine 1 no no - rounds pixels" in run("list")
    assert not (folder / "ran").exists()
    printed = run("train", "mine.py", *TRAIN)
    path = folder / "runs" / "digits" / "mine"
    sha256 = hashlib.sha256((folder / "mine.py").read_bytes()).hexdigest()
    file = str(folder / "mine.py")
    assert record(path)["code"] == {"qualname": "Mine", "file": file, "sha256": sha256}
    assert "attack runs/digits/mine --code mine.py" in printed
    assert "sparring.load('runs/digits/mine', 'mine.py')" in printed
    assert "is finished already" in run("train", "mine", *TRAIN[:-1])

    for words in (["mine"], ["runs/digits/mine", "--code", "mine.py:Mine"]):
        assert "attack success" in run("attack", *words, "noise", "-n", "8", "--no-check")
    about = verdict(path)  # one of both
    assert (about["defense"], about["code_sha256"]) == ("mine", sha256)
    assert not about.get("model")
    loaded = sparring.load(path, file)
    assert type(loaded).name == "mine"
    assert not loaded.remarks

    pytest.importorskip("torch")
    run("convert", "runs/digits/mine", "--to", "torch", "--code", "mine.py")
    proof = json.loads((path / "torch" / "conversion.json").read_text("utf-8"))
    difference = proof["networks"]["network-0"]
    assert difference["largest_difference"] < 1e-4 * difference["largest_logit"]
    assert "mine" in run("report", "runs")
    report = json.loads((folder / "runs" / "report.json").read_text("utf-8"))
    assert sha256 in json.dumps(report)
    assert "its class is not Sparring's: mine.py" in json.dumps(report)
    assert "its class, SHA-256" in next(path.glob("attacks/*/verdict.html")).read_text("utf-8")


@pytest.mark.backend
def test_a_stopped_training_goes_on_with_the_same_code_alone(folder: Path) -> None:
    def train(out: str, stop_after: int | None = None) -> Defense:
        return sparring.train(
            "mine.py",
            preset="fast",
            epochs=2,
            filters=4,
            limit_train=64,
            limit_test=16,
            out=folder / out,
            progress=Recorder(stop_after),
        )

    whole = train("whole")
    with pytest.raises(Stop):
        train("stopped", stop_after=1)
    (folder / "mine.py").write_text(source(levels=4))
    with pytest.raises(RunError, match=r"holds a run with other settings: code\.sha256 is"):
        train("stopped")
    (folder / "moved").mkdir()
    (folder / "mine.py").write_text(source())
    shutil.move(folder / "mine.py", folder / "moved" / "mine.py")
    os.chdir(folder / "moved")  # where a file lies does not matter
    assert train("stopped").weights_sha256 == whole.weights_sha256


def test_states_of_other_code_are_passed_over(folder: Path) -> None:
    """Of a run whose record was changed by hand, too."""
    request = TrainingRequest(
        defense="mine.py", preset="fast", settings={"epochs": 2, "filters": 4}, limit_train=64
    )
    with pytest.raises(Stop):
        sparring.train(request, progress=Recorder(1))
    path = folder / "runs" / "digits" / "mine"
    (folder / "mine.py").write_text(source(levels=4))
    changed = record(path)
    changed["code"]["sha256"] = hashlib.sha256((folder / "mine.py").read_bytes()).hexdigest()
    (path / "run.json").write_text(json.dumps(changed))
    with pytest.raises(RunError, match="of another training"):
        sparring.train(request)


def test_an_edited_file_is_warned_of_in_the_verdict(run_there: Path, folder: Path) -> None:
    words = ("attack", "mine", "noise", "-n", "8", "--no-check")
    assert "other-code" not in run(*words)
    before = verdict(run_there)
    (folder / "mine.py").write_text(source(levels=2))
    sha256 = hashlib.sha256((folder / "mine.py").read_bytes()).hexdigest()
    printed = run(*words, "--out", "other")
    assert "docs/warnings.md#other-code" in printed
    now = json.loads((folder / "other" / "verdict.json").read_text("utf-8"))
    assert now["code_sha256"] == sha256 != before["code_sha256"]
    assert before["code_sha256"][:12] in now["warnings"][0]["text"]
    assert sha256[:12] in now["warnings"][0]["text"]
    # One of other code is another evaluation, which is not taken for finished.
    run(*words)
    assert len(list(run_there.glob("attacks/*/verdict.json"))) == 2
    np.savez("images.npz", adversarial=sparring.load_data("digits").x_test[:8] / 255)
    assert "other-code" in run("judge", "mine", "images.npz", "-n", "8")
    assert "warning: mine was trained as" in run(
        *("convert", "runs/digits/mine", "--to", "torch", "--code", "mine.py")
    )


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda file: None, "which is there, unchanged"),
        (lambda file: file.write_text("changed"), "which has changed since"),
        (lambda file: file.unlink(), "which is gone"),
    ],
    ids=["there", "changed", "gone"],
)
def test_a_run_says_what_is_missing(run_there: Path, edit: Any, told: str) -> None:
    file = Path("was.py").absolute()
    shutil.move("mine.py", file)
    about = record(run_there)
    about["code"]["file"] = str(file)
    (run_there / "run.json").write_text(json.dumps(about))
    sha256 = about["code"]["sha256"]
    edit(file)
    for words in (["mine"], ["runs/digits/mine"]):
        printed = run("attack", *words, "noise", code=1)
        assert f"it was {file}:Mine, SHA-256 {sha256[:12]}, {told}" in printed
        assert "--code FILE.py" in printed
    with pytest.raises(DefenseError, match=told):
        sparring.load(run_there)


def test_the_class_has_to_be_that_of_the_run(run_there: Path, folder: Path) -> None:
    with pytest.raises(DefenseError, match="expected the class of mine, got that of blur"):
        sparring.load(run_there, "blur")
    text = (folder / "mine.py").read_text().replace('"mine"', '"other"')
    (folder / "other.py").write_text(text)
    printed = run("attack", "runs/digits/mine", "noise", "--code", "other.py", code=1)
    assert "expected the class of mine, got that of other" in printed
    with pytest.raises(DefenseError, match=r"expected a defense's name, a file .* got 3"):
        sparring.load(run_there, 3)  # type: ignore[arg-type]


# Nothing that a run says makes code run


def hostile(folder: Path, trained: Path) -> Path:
    """A folder from somebody else: its run names a file that lies in it, with the right hash."""
    shutil.copytree(trained / "runs", folder / "runs")
    path = folder / "runs" / "digits" / "mine"
    evil = source()
    for place in (folder, path, path.parent):
        (place / "mine.py").write_text(evil)
    about = record(path)
    about["code"] |= {
        "file": str(folder / "mine.py"),
        "sha256": hashlib.sha256(evil.encode()).hexdigest(),
    }
    (path / "run.json").write_text(json.dumps(about))
    return path


@pytest.mark.backend
def test_a_folder_of_others_runs_no_code(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, place = tmp_path / "ran", tmp_path / "downloaded"
    place.mkdir()
    path = hostile(place, trained)
    monkeypatch.chdir(place)
    monkeypatch.setenv("MARK", str(mark))
    np.savez("images.npz", adversarial=np.zeros((1, 8, 8, 1), np.float32))
    run_words = "runs/digits/mine"
    for words in (
        ["attack", run_words, "pgd"],
        ["attack", str(path), "pgd"],
        ["attack", run_words, "pgd", "noise"],
        ["attack", "all", "pgd"],
        ["judge", run_words, "images.npz"],
        ["convert", run_words, "--to", "torch"],
        ["task", run_words, "--out", "task"],
    ):
        run(*words, code=1)
        assert not mark.exists(), words
    for quiet in (["report", "runs"], ["list"], ["hint", "mine"], ["exercise", "mine.py"]):
        run(*quiet)
        assert not mark.exists(), quiet
    for python in (
        lambda: sparring.load(path),
        lambda: sparring.evaluate(path, "pgd", n=1),
        lambda: sparring.evaluate(path, "mine.py", n=1, apart=True),
        lambda: sparring.judge(path, "images.npz", n=1),
    ):
        with pytest.raises(DefenseError, match="A run makes no code run"):
            python()
        assert not mark.exists()
    sparring.load(path, "mine.py")  # named, so it runs: the mark is one
    assert mark.exists()


@pytest.mark.parametrize("odd", [{"file": "\x1b[2J\n"}, {"qualname": "x" * 200}, {"sha256": ""}])
def test_what_a_record_says_of_code_is_only_shown(run_there: Path, odd: dict[str, str]) -> None:
    about = record(run_there)
    about["code"] |= odd
    (run_there / "run.json").write_text(json.dumps(about))
    with pytest.raises(DefenseError, match="A run makes no code run") as raised:
        sparring.load(run_there)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("odd", ["mine.py", 3, {"qualname": 3}, {"file": "x" * 20_000}])
def test_a_record_of_code_that_is_none_is_damaged(run_there: Path, odd: Any) -> None:
    about = record(run_there)
    about["code"] = odd
    (run_there / "run.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="damaged"):
        sparring.load(run_there, "mine.py")


def test_a_record_that_lost_its_code_is_told_of_by_the_weights(run_there: Path) -> None:
    about = record(run_there)
    del about["code"]
    (run_there / "run.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="unknown defense 'mine'"):
        sparring.load(run_there)


# What is named


WRONG = {
    "nothing = 1": "expected a class derived from Defense with name = ... and idea = ...",
    "class A:\n    name, idea = 'x', 'y'": "derived from sparring.Defense, got <class",
    "from sparring import Defense\nclass A(Defense):\n    name, idea = 'blur', 'y'": (
        "expected a name of its own, got 'blur', a defense of Sparring's"
    ),
    "from sparring import Defense\nclass A(Defense):\n    name, idea = '../x', 'y'": (
        "expected a name of up to 80 letters, digits, - and _ that begins with a letter"
    ),
    "from sparring import Defense\nclass A(Defense):\n    name, idea = 'all', 'y'": "is not 'all'",
    "from sparring import Defense\nclass A(Defense):\n    name, idea = 'x', 3": "idea: expected te",
    "from sparring import Defense\nclass A(Defense):\n    name, idea, hints = 'x', 'y', 'z'": (
        "hints: expected a tuple of texts, got 'z'"
    ),
    "class A:\n    name, idea = 'x', 'y'\nclass B:\n    name, idea = 'z', 'y'": (
        "expected one defense in it, found 2; name one: wrong.py:A, wrong.py:B"
    ),
    "class A(:": "wrong.py: SyntaxError: invalid syntax",
    "1 / 0\nclass A:\n    name, idea = 'x', 'y'": "ZeroDivisionError: division by zero (",
    "raise SystemExit\nclass A:\n    name, idea = 'x', 'y'": "wrong.py: SystemExit",
    "from sparring import Defense\nclass A(Defense):\n    name, idea = 'x', 'y'\nA.name = 'z'": (
        "expected the defense's name to be 'x', found 'z'"
    ),
    "from sparring import Defense\nclass A(Defense):\n    name, idea = 'x', 'y'\n"
    "    settings_table = {('fast', 'digits'): {'epoch': 3}}": "SettingsError: ",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_file_that_is_wrong_is_refused(folder: Path, text: str) -> None:
    Path("wrong.py").write_text(text + "\n")
    printed = run("train", "wrong.py", *TRAIN, code=1)
    assert WRONG[text] in printed, printed
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("none.py", "none.py: no such file; expected a Python file with a defense's class"),
        ("mine.py:Other", "expected a class 'Other' in it, found 1; name one: mine.py:Mine"),
        ("there.py", "there.py: a folder"),
        ("mime", "unknown defense 'mime'. Did you mean"),
    ],
)
def test_what_is_not_there_is_refused(folder: Path, word: str, told: str) -> None:
    Path("there.py").mkdir()
    assert told in run("train", word, code=1)
    assert not (folder / "ran").exists()


def test_what_the_words_of_an_attack_are(run_there: Path, folder: Path) -> None:
    (folder / "attack.py").write_text("def attack(defense, x, y, threat):\n    return x\n")
    (folder / "pgd.py").write_text("def attack(defense, x, y, threat):\n    return x\n")
    usual = ("-n", "4", "--no-check", "--quiet")
    assert "attack.py, Linf" in run("attack", "mine.py", "attack.py", *usual)
    assert "attack.py, Linf" in run("attack", "mine", "attack.py", *usual)
    told = "expected names of attacks after the attack 'noise', got the defense 'mine.py'"
    assert told in run("attack", "mine", "noise", "mine.py", code=1)
    assert "found none" in run("attack", "attack.py", "noise", code=1)
    assert "as attack.py:build" in run("attack", "attack.py", "noise", code=1)


def test_classes_are_read_as_they_are_written() -> None:
    text = b"""
class Base:
    idea = "one"
    odd = {[]: 1}
    threshold: float = 0.25
    reference_attack = made()

class Mine(Base):
    name = "mine"
    networks, step_cost = "two", 3.0
    hints = ("a", other)

class Typed(Mine):
    idea: str
    name: str = "typed"
"""
    found = written.classes(text)
    assert [each.name for each in found.values()] == [None, "mine", "typed"]
    described = found["Mine"].described()
    assert (described.idea, described.threshold, described.networks) == ("one", 0.25, "two")
    assert described.step_cost == 3.0
    assert described.hints == ()  # no literal
    assert not described.stochastic  # Defense's
    assert "reference_attack" in found["Typed"].assigned
    assert found["Typed"].described().idea == "one"


def test_sparrings_own_come_first_and_names_are_those_of_this_folder(folder: Path) -> None:
    (folder / "blur.py").write_text(source().replace('"mine"', '"blur"'))
    assert defenses.get("blur").__module__ == "sparring.defenses.blur"
    assert defenses.find("mine").word == f"{folder / 'mine.py'}:Mine"
    assert defenses.anywhere("mine.py") == str(folder / "mine.py")
    assert defenses.anywhere("blur") == "blur"
    assert "blur.py:Mine is left out: blur.py: expected a name of its own" in run("list")
    assert not (folder / "ran").exists()
    (folder / "deeper").mkdir()
    os.chdir(folder / "deeper")
    with pytest.raises(SettingsError, match="unknown defense 'mine'"):
        defenses.get("mine")


def test_a_file_is_run_once_for_what_it_holds(folder: Path) -> None:
    first = defenses.get("mine.py")
    assert defenses.get("mine") is first
    assert (folder / "ran").read_text() == "ran"
    (folder / "mine.py").write_text(source(levels=3))
    assert defenses.get("mine") is not first


def test_what_lies_beside_a_file_is_found(folder: Path) -> None:
    text = "import helper_of_own_defense\n" + source()
    (folder / "deeper").mkdir()
    (folder / "deeper" / "mine.py").write_text(text)
    (folder / "deeper" / "helper_of_own_defense.py").write_text("")
    assert defenses.get("deeper/mine.py").name == "mine"
    del sys.modules["helper_of_own_defense"]


def test_exercise_and_hints(folder: Path) -> None:
    assert "attack mine.py" in run("exercise", "mine.py")
    text = (folder / "attack_mine.py").read_text()
    assert "sparring train mine.py" in text
    assert "stands in mine.py." in text
    assert "Hint 1 of 2: What is the gradient?" in run("hint", "mine")
    assert "Spoiler" in run("hint", "mine.py", "2")
    bare = source().replace("    reference_attack = PGD(steps=3)\n", "")
    (folder / "mine.py").write_text(bare)
    assert "Spoiler" not in run("hint", "mine.py", "2")
    assert not (folder / "ran").exists()


def test_texts_of_a_file_stay_within_an_exercise(folder: Path) -> None:
    evil = '"""\nimport os\nos.mkdir("ran")\n"""'
    (folder / "mine.py").write_text(source().replace('"rounds pixels', repr(evil)))
    text = (folder / "mine.py").read_text()
    (folder / "mine.py").write_text(text.replace(', for tests"', ""))
    run("exercise", "mine.py")
    compile((folder / "attack_mine.py").read_text(), "attack", "exec")
    assert "os.mkdir" in (folder / "attack_mine.py").read_text().split('"""')[1]


def test_the_reference_attack(run_there: Path, folder: Path) -> None:
    loaded = sparring.load(run_there, "mine.py")
    assert attacks.get("reference", {"steps": 2}, loaded) == sparring.PGD(steps=2)
    assert "PGD(steps=3" in run("attack", "mine", "reference", "-n", "4", "--no-check")
    bare = source().replace("    reference_attack = PGD(steps=3)\n", "")
    (folder / "mine.py").write_text(bare)
    printed = run("attack", "mine", "reference", code=1)
    assert "no reference attack on 'mine': its class has no reference_attack" in printed


def test_what_its_code_raises_is_told_with_its_place(folder: Path) -> None:
    text = source().replace("ops.round(x * 8) / 8", "x.no_such_thing")
    (folder / "mine.py").write_text(text)
    printed = run("train", "mine.py", *TRAIN, code=1)
    assert "no_such_thing" in printed
    assert "mine.py, line" in printed


def test_a_task_takes_sparrings_own_alone(run_there: Path) -> None:
    if backend.name != "torch":
        pytest.skip("needs PyTorch")
    told = "task: expected a defense of Sparring's own, whose code the judge has, got mine"
    assert told in run("task", "mine", "--out", "task", code=1)
    assert told in run("task", "mine", "--out", "task", "--fresh", "1", code=1)


# In other processes


def test_jobs_find_the_class(folder: Path) -> None:
    ensemble = "    @classmethod\n    def network_settings(cls, info, settings):\n"
    ensemble += "        return [settings, settings]\n"
    (folder / "mine.py").write_text(source() + ensemble)
    (folder / "attack.py").write_text("def attack(defense, x, y, threat):\n    return 1 - x\n")
    environment = {**os.environ, "KERAS_BACKEND": backend.name}
    for words in (
        "train mine.py --jobs 2 --preset fast --epochs 1 --filters 2",
        "attack mine noise attack.py --jobs 2 -n 4 --no-check",
    ):
        result = subprocess.run(
            [sys.executable, "-m", "sparring", *shlex.split(words)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
    path = folder / "runs" / "digits" / "mine"
    assert len(record(path)["networks"]) == 2
    assert len(list(path.glob("attacks/*/verdict.json"))) == 2
    request = TrainingRequest(defense="mine").from_anywhere()
    assert request.as_json()["defense"] == f"{folder / 'mine.py'}:Mine"


# Classes in Python


class InMemory(Defense):
    name = "inmemory"
    idea = "a class, for tests"


@pytest.mark.backend
def test_a_class_is_trained_and_loaded(tmp_path: Path, dataset: Any) -> None:
    options: dict[str, Any] = {"epochs": 1, "filters": 2, "out": tmp_path}
    trained = sparring.train(InMemory, dataset, **options)
    path = tmp_path / "patterns" / "inmemory"
    code = record(path)["code"]
    assert (code["module"], code["qualname"]) == (__name__, "InMemory")
    assert code["sha256"] == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    loaded = sparring.load(path, InMemory)
    assert loaded.weights_sha256 == trained.weights_sha256
    told = rf"it was the class {__name__}.InMemory, SHA-256 \w+, which is there, unchanged"
    with pytest.raises(DefenseError, match=told):
        sparring.load(path)
    with pytest.raises(DefenseError, match="another process cannot find the class"):
        TrainingRequest(defense=InMemory).as_json()
    with pytest.raises(DefenseError, match="another process cannot find the class"):
        loaded.code()
    sparring.train(sparring.TrainingRequest(defense=InMemory, data=dataset), **options)


def test_a_class_without_a_file_has_no_hash(tmp_path: Path, dataset: Any) -> None:
    names: dict[str, Any] = {"__name__": "typed_into_a_prompt"}
    exec("from sparring import Defense\nclass A(Defense):\n    name, idea = 'a', 'b'", names)
    kind = names["A"]
    trained = sparring.train(kind, dataset, epochs=1, filters=2, out=tmp_path)
    assert record(tmp_path / "patterns" / "a")["code"] == {
        "qualname": "A",
        "module": "typed_into_a_prompt",
    }
    assert not trained.told_apart  # so that no verdict on it is taken for finished
    with pytest.raises(DefenseError, match="which was in the memory of a process"):
        sparring.load(tmp_path / "patterns" / "a")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (int, "expected a class derived from sparring.Defense, got <class 'int'>"),
        (Defense, "expected a class with name = ... and idea = ..., found none"),
        (type("B", (Defense,), {"name": "blur", "idea": "x"}), "expected a name of its own"),
    ],
)
def test_a_class_that_is_none_of_a_defense(tmp_path: Path, kind: Any, told: str) -> None:
    with pytest.raises(DefenseError, match=re.escape(told)):
        sparring.train(kind, out=tmp_path)


# Installed packages


def install(
    place: Path, entries: dict[str, str], version: str = "1.0", name: str = "my-defenses"
) -> None:
    """Make a distribution of what lies in a folder, as an installer would."""
    about = place / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{entry} = {value}" for entry, value in entries.items()]
    (about / "entry_points.txt").write_text("\n".join(["[sparring.defenses]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an installed package, and another one to work in."""
    place = tmp_path / "site"
    package = place / "own_defenses_for_tests"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not asked for')\n")
    (package / "mine.py").write_text(source())
    install(place, {"mine": "own_defenses_for_tests.mine:Mine"})
    monkeypatch.syspath_prepend(place)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("MARK", str(tmp_path / "ran"))
    yield place
    for name in [name for name in sys.modules if name.startswith("own_defenses_for_tests")]:
        del sys.modules[name]


def test_an_installed_defense_is_listed_without_being_imported(site: Path) -> None:
    assert defenses.names() == [*defenses.NAMES, "mine"]
    assert list(defenses.DEFENSES) == list(defenses.NAMES)
    assert defenses.describe("mine").idea == "rounds pixels, for tests"
    assert "mine 1 no no - rounds pixels" in run("list")
    assert "Hint 1 of 2" in run("hint", "mine")
    with pytest.raises(DefenseError, match=r"mine \(.* package my-defenses 1\.0\): ImportError"):
        defenses.get("mine")
    assert not (site.parent / "ran").exists()


def test_an_installed_defense_is_trained_and_loaded_by_name(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "own_defenses_for_tests" / "__init__.py").write_text("")
    (Path.cwd() / "mine.py").write_text("raise Exception('the installed one comes first')\n")
    run("train", "mine", *TRAIN)
    path = Path.cwd() / "runs" / "digits" / "mine"
    module = site / "own_defenses_for_tests" / "mine.py"
    assert record(path)["code"] == {
        "qualname": "Mine",
        "module": "own_defenses_for_tests.mine",
        "sha256": hashlib.sha256(module.read_bytes()).hexdigest(),
        "distribution": "my-defenses",
        "version": "1.0",
    }
    assert "attack success" in run("attack", "runs/digits/mine", "noise", "-n", "4", "--no-check")
    monkeypatch.setenv("PYTHONPATH", str(site))  # of the jobs
    assert "1 job" in run("attack", "all", "noise", "-n", "4", "--eps", "0.1", "--no-check")
    loaded = sparring.load(path)
    assert loaded.code() is None
    assert not loaded.remarks
    assert defenses.get(type(loaded)) is type(loaded)

    # Another version is other code.
    shutil.rmtree(site / "my_defenses-1.0.dist-info")
    install(site, {"mine": "own_defenses_for_tests.mine:Mine"}, version="1.1")
    monkeypatch.syspath_prepend(site)
    printed = run("train", "mine", *TRAIN, code=1)
    assert "code.version is '1.0' there, '1.1' here" in printed
    [remark] = sparring.load(path).remarks
    assert "my-defenses 1.0" in remark
    assert "my-defenses 1.1" in remark

    # Not installed anymore.
    shutil.rmtree(site / "my_defenses-1.1.dist-info")
    monkeypatch.syspath_prepend(site)
    (Path.cwd() / "mine.py").unlink()
    printed = run("attack", "mine", "noise", code=1)
    assert "it was own_defenses_for_tests.mine:Mine of the package my-defenses 1.0" in printed
    assert "which is not installed" in printed


def test_a_package_that_is_wrong_is_left_out_and_said_why(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = "own_defenses_for_tests"
    wrong = {
        "blur": (f"{package}.mine:Mine", "expected a name of its own, got 'blur'"),
        "other": (f"{package}.mine:Mine", "expected a class Mine with name = 'other'"),
        "lacking": (f"{package}.mine:None", "found no such class"),
        "nowhere": ("no_such_module_at_all:Mine", "the module's file cannot be found"),
    }
    install(site, {name: value for name, (value, _) in wrong.items()}, name="wrong")
    monkeypatch.syspath_prepend(site)
    assert defenses.names() == [*defenses.NAMES, "mine"]
    printed = run("list")
    for name, (_, told) in wrong.items():
        assert f"{name} is left out: " in printed
        assert told in printed
        if name != "blur":
            with pytest.raises(DefenseError, match=re.escape(told)):
                defenses.get(name)
    assert defenses.get("blur").__module__ == "sparring.defenses.blur"


def test_a_name_of_two_packages_is_refused(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, {"mine": "own_defenses_for_tests.mine:Mine"}, name="second")
    monkeypatch.syspath_prepend(site)
    with pytest.raises(DefenseError, match="mine: several packages have a defense of this name"):
        defenses.get("mine")
    assert "mine is left out: mine: several packages" in run("list")


# The page


def test_the_page_is_followed_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend.name != "torch":
        pytest.skip("follows the page with PyTorch, as it says")
    page = (ROOT / "docs" / "your-own-defense.md").read_text("utf-8")
    code, python = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mydefense.py").write_text(code)
    pages.run(
        "ruff check --select D,E,F,I --ignore D203,D213 --line-length 100 mydefense.py", tmp_path
    )
    pages.run("ruff format --check --line-length 100 mydefense.py", tmp_path)
    commands = re.findall(r"^    (sparring .*)$", page, re.MULTILINE)
    trained, pgd, reference, converted, report = [pages.run(each, tmp_path) for each in commands]
    assert "mydefense on digits: test accuracy" in trained
    share = [float(re.findall(r"attack success +([\d.]+) %", text)[0]) for text in (pgd, reference)]
    assert share[0] < 50 < 80 < share[1]
    assert "docs/warnings.md#zero-gradients" in pgd
    assert "largest difference" in converted
    assert "mydefense" in report

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(python, "your-own-defense.md", "exec"), names)
    [table] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    entries = tomllib.loads(table)["project"]["entry-points"][sources.GROUP]
    install(tmp_path, entries)
    monkeypatch.syspath_prepend(tmp_path)
    assert sparring.load("runs/digits/mydefense").code() is None
    assert "mydefense" in defenses.names()
    sys.modules.pop("mydefense", None)
