"""EvaluationRequest: JSON both ways, what its names stand for, and where the verdict goes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import sparring
from sparring import EvaluationRequest, Linf, Verdict
from sparring.attacks import Noise
from sparring.data import load
from sparring.defenses.defense import Defense
from sparring.errors import RunError, SettingsError
from sparring.evaluation import checks


@pytest.fixture
def runs(digits_baseline: Defense, tmp_path: Path) -> Path:
    """A folder of runs with a baseline on the digits, and the same once more as `other`."""
    assert digits_baseline.path is not None
    for name in ("baseline", "other"):
        folder = tmp_path / "runs" / "digits" / name
        folder.mkdir(parents=True)
        for file in ("run.json", "weights.safetensors"):
            (folder / file).write_bytes((digits_baseline.path / file).read_bytes())
    return tmp_path / "runs"


def evaluated(*arguments: Any, **options: Any) -> Verdict:
    """A verdict on three images."""
    return sparring.evaluate(*arguments, **{"n": 3, "check": False, **options})


def test_it_is_json_both_ways() -> None:
    plain = EvaluationRequest("baseline")
    assert EvaluationRequest.from_json(json.loads(json.dumps(plain.as_json()))) == plain
    full = EvaluationRequest(
        Path("runs/digits/blur"), "mine.py", {"steps": 3}, data=Path("my.npz"), data_dir=Path("d"),
        norm="L2", eps="1/2", images=[4, 2], time_limit=1.5, transfer_from=Path("runs/x"),
        out=Path("v"), check=False,
    )  # fmt: skip
    values = full.as_json()
    assert values["defense"] == "runs/digits/blur"
    assert values["images"] == [4, 2]
    assert values["out"] == "v"
    assert set(values) == {field.name for field in fields(EvaluationRequest)}
    assert EvaluationRequest.from_json(json.loads(json.dumps(values))) == full
    with pytest.raises(SettingsError, match="unknown option of an evaluation 'drws'"):
        EvaluationRequest.from_json({"defense": "x", "drws": 3})


def test_a_tilde_is_the_home_folder() -> None:
    request = EvaluationRequest("baseline", runs=Path("~/runs"), out=Path("~/v"))
    assert (request.runs, request.out) == (Path.home() / "runs", Path.home() / "v")


def test_things_in_place_of_names_are_no_json(digits_baseline: Defense) -> None:
    for name, value in (("defense", digits_baseline), ("data", load("digits"))):
        values: dict[str, Any] = {name: value}
        request = replace(EvaluationRequest("x"), **values)
        with pytest.raises(SettingsError, match=f"{name}: expected a name or a path"):
            request.as_json()


def test_options_that_the_command_line_shows_say_what_they_are() -> None:
    shown = {field.name: field.metadata for field in fields(EvaluationRequest) if field.metadata}
    assert set(shown) == {field.name for field in fields(EvaluationRequest)} - {
        *("defense", "attack"),  # one argument, which takes several of both
        *("transfer", "transfer_from", "save", "wait", "chunks", "chunk", "apart"),
    }
    assert all(metadata["help"].endswith(".") for metadata in shown.values())
    assert shown["n"]["names"] == ("--n", "-n")


def test_no_framework_is_imported() -> None:
    code = (
        "import sys; from sparring.evaluation.request import EvaluationRequest as R\n"
        "R('baseline', eps=0.1).as_json()\n"
        "print({'keras', 'torch', 'tensorflow', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 0}, "n: expected an integer of 1 or more, got 0"),
        ({"draws": True}, "draws: expected an integer of 1 to 1000000, got True"),
        ({"batch_size": 1.5}, "batch_size: expected an integer of 1 or more, got 1.5"),
        (
            {"attack": Noise(), "options": {"draws": 2}},
            "options: expected none with an attack that is no name or file",
        ),
    ],
)
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        EvaluationRequest("baseline", **values)
    assert str(caught.value) == message


def test_a_name_is_a_run_on_the_data_set(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"runs": runs, "check": False, "n": 3}
    verdict = sparring.evaluate(EvaluationRequest("baseline", "noise", **options))
    run = runs / "digits/baseline"
    assert verdict.about.run == str(run)
    # In the run, by the attack's name, the data set's usual eps and what is not by default.
    assert verdict.folder == run / "attacks/noise-Linf-0.15-n=3"
    assert verdict.file == verdict.folder / "verdict.json"
    assert verdict.file.is_file()
    by_path = EvaluationRequest(run, "noise", norm="L2", eps=0.5, images=[1, 2], **options)
    assert sparring.evaluate(by_path).folder == run / "attacks/noise-L2-0.5-images=1,2"
    monkeypatch.chdir(runs.parent)
    assert evaluated("baseline", "noise").about.run == "runs/digits/baseline"
    with pytest.raises(SettingsError, match=r"unknown defense 'blru'\. Did you mean 'blur'"):
        evaluated("blru", "noise")
    with pytest.raises(RunError, match=r"nowhere/digits/baseline: no such run directory"):
        evaluated("nowhere/digits/baseline", "noise")


def test_python_writes_nothing_unless_told(runs: Path) -> None:
    run = runs / "digits/baseline"
    assert evaluated(run, "noise").file is None
    assert not (run / "attacks").exists()
    assert evaluated(run, Noise(draws=2), save=True).folder == (
        run / "attacks/noise-Linf-0.15-draws=2-n=3"
    )
    out = runs / "elsewhere"
    verdict = evaluated(run, "noise", Linf(0.3), options={"draws": 2}, out=out)
    assert verdict.folder == out
    assert verdict.about.attack == "Noise(draws=2, seed=0)"
    assert verdict.about.threat.eps == 0.3
    assert evaluated(run, "noise", out=runs / "unwritten", save=False).folder is None
    assert not (runs / "unwritten").exists()
    defense = sparring.load(run)
    defense.path = None
    with pytest.raises(SettingsError, match="out: expected a folder"):
        evaluated(defense, "noise", save=True)


def test_a_request_says_everything_but_progress(runs: Path) -> None:
    request = EvaluationRequest(runs / "digits/baseline", "noise", n=3, check=False, save=False)
    told: list[tuple[int, int, str]] = []
    sparring.evaluate(request, progress=lambda *each: told.append(each))
    assert told
    for options in ({"n": 4}, {"attack": "fgsm"}, {"draws": 3}):
        with pytest.raises(SettingsError, match="expected nothing but progress beside"):
            sparring.evaluate(request, **options)
    with pytest.raises(SettingsError, match="unknown option of an evaluation 'drws'") as caught:
        evaluated(runs / "digits/baseline", "noise", drws=4)
    assert "Did you mean 'draws'? Valid: defense, attack, " in str(caught.value)


def test_transfer_is_from_the_baseline_beside_the_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[Any] = []

    def look(attempt: Any, transfer_from: Any) -> list[Any]:
        sources.append(transfer_from and transfer_from.path)
        return []

    monkeypatch.setattr(checks, "look", look)
    other, baseline = sparring.load(runs / "digits/other"), runs / "digits/baseline"
    monkeypatch.setattr(other, "name", "other")
    for options in (
        {},
        {"transfer": True},
        {"transfer_from": str(runs / "digits/other")},
        {"transfer_from": other},
        {"transfer_from": other, "transfer": False},
    ):
        evaluated(other, "noise", check=True, **options)
    assert sources == [None, baseline, other.path, other.path, None]
    monkeypatch.setattr(other, "name", "baseline")
    evaluated(other, "noise", check=True, transfer=True)  # a baseline is no source for a baseline
    assert sources[-1] is None


def test_a_baseline_that_cannot_be_loaded_stops_nothing(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[Any] = []

    def look(attempt: Any, transfer_from: Any) -> list[Any]:
        sources.append(transfer_from)
        return []

    monkeypatch.setattr(checks, "look", look)
    other, baseline = sparring.load(runs / "digits/other"), runs / "digits/baseline"
    monkeypatch.setattr(other, "name", "other")
    record = json.loads((baseline / "run.json").read_text())
    told: list[str] = []
    for text in (json.dumps({**record, "status": "training"}), "{", "[]"):
        (baseline / "run.json").write_text(text)
        options: dict[str, Any] = {"check": True, "transfer": True}
        evaluated(other, "noise", progress=lambda *each: told.append(each[-1]), **options)
        with pytest.raises(RunError):  # asked for by name it has to be there
            evaluated(other, "noise", transfer_from=baseline, check=True)
    assert sources == [None] * 3
    notes = [text for text in told if text.startswith("The checks leave out images made for")]
    assert len(notes) == 3
    assert "its training is not finished" in notes[0]


def test_what_is_not_trained_is_told_with_the_command_that_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError) as caught:
        evaluated("blur", "noise")
    assert str(caught.value) == (
        "runs/digits/blur: no such run directory. Train it first: sparring train blur --data digits"
    )
    with pytest.raises(RunError, match=r"sparring train blur --data my\.npz --out there$"):
        evaluated("blur", "noise", dataset="my.npz", runs="there")
