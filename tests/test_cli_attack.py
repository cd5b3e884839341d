"""sparring attack and sparring exercise on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import sparring
from sparring.cli import app
from sparring.data import Dataset
from sparring.defenses import describe
from sparring.defenses.defense import Defense


@pytest.fixture
def runs(digits_baseline: Defense, tmp_path: Path) -> Path:
    """A folder of runs that holds a baseline on digits, for tests to write into."""
    assert digits_baseline.path is not None
    folder = tmp_path / "runs" / "digits" / "baseline"
    folder.mkdir(parents=True)
    for name in ("run.json", "weights.safetensors"):
        (folder / name).write_bytes((digits_baseline.path / name).read_bytes())
    return tmp_path / "runs"


@pytest.fixture
def call(tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_an_attack_by_name(call: Callable[..., Result], runs: Path) -> None:
    answer = call("attack", "baseline", "pgd", "-o", "steps=10", "--n", "20", "--eps", "0.1")
    assert answer.exit_code == 0, answer.output
    assert "attack success" in answer.output
    assert "PGD(steps=10" in answer.output
    verdict = runs / "digits" / "baseline" / "attacks" / "pgd-Linf-0.1-steps=10-n=20"
    written = json.loads((verdict / "verdict.json").read_text())
    assert written["finished"]
    assert len(written["images"]) == 20
    # What it prints for the failed images is a command that works.
    [line] = [line for line in answer.output.splitlines() if line.startswith("Failed")]
    failed = line.rpartition("--images ")[2]
    again = call("attack", "baseline", "noise", "--images", failed, "--eps", "0.1", "--no-check")
    assert again.exit_code == 0, again.output
    assert f"n = {len(failed.split(','))})" in again.output
    assert written == json.loads((verdict / "verdict.json").read_text())


def test_a_run_of_data_of_ones_own_needs_an_eps_whatever_its_name(
    call: Callable[..., Result], dataset: Dataset, tmp_path: Path
) -> None:
    arrays = {name: getattr(dataset, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "digits.npz", **arrays)
    mine = str(tmp_path / "digits.npz")
    sparring.train("baseline", mine, out=tmp_path / "own", filters=4, epochs=1, batch_size=16)
    command = ("attack", "own/digits/baseline", "noise", "--data", mine, "--n", "8", "--no-check")
    answer = call(*command)
    assert answer.exit_code == 1
    assert "digits has no usual eps for Linf; give one" in answer.output
    assert call(*command, "--eps", "0.1").exit_code == 0
    # It is remembered where its file is; the built-in data set of that name is not taken for it.
    without = ("attack", "own/digits/baseline", "noise", "--eps", "0.1", "--n", "8")
    assert call(*without).exit_code == 0
    (tmp_path / "digits.npz").unlink()
    answer = call(*without)
    assert answer.exit_code == 1
    assert "a data set of your own called digits" in answer.output


def test_an_exercise_from_beginning_to_end(call: Callable[..., Result], tmp_path: Path) -> None:
    answer = call("exercise", "baseline")
    assert answer.exit_code == 0, answer.output
    file = tmp_path / "attack_baseline.py"
    text = file.read_text()
    assert "Goal: 97 %" in text
    assert "spoiler" not in text.lower()
    graded = call("attack", "baseline", "attack_baseline.py", "--n", "30")
    assert graded.exit_code == 0, graded.output
    assert "attack success   0.0 %" in graded.output
    assert "docs/warnings.md#unlimited" in graded.output
    file.write_text(text.replace("+ 0 *", "+ threat.eps / 4 *"))
    graded = call("attack", "baseline", "attack_baseline.py", "--n", "30")
    assert "attack success   0.0 %" not in graded.output
    assert call("exercise", "baseline").exit_code == 1
    assert "0 *" not in file.read_text()
    assert call("exercise", "baseline", "--force").exit_code == 0
    assert file.read_text() == text


def test_hints_come_one_at_a_time(call: Callable[..., Result]) -> None:
    hints = describe("jump").hints
    answers = [call("hint", "jump", *number) for number in ([], ["2"], ["3"])]
    for number, answer in enumerate(answers, 1):
        assert answer.exit_code == 0
        assert answer.output.startswith(f"Hint {number} of 3: {hints[number - 1]}\n")
        others = {*hints} - {hints[number - 1]}
        assert not any(other in answer.output for other in others)
    assert "hint jump 2" in answers[0].output
    assert "attack jump reference" in answers[2].output
    assert "attack jump reference" not in answers[1].output
    for outside in ("0", "4"):
        wrong = call("hint", "jump", outside)
        assert wrong.exit_code == 1
        assert f"number: expected one from 1 to 3, got {outside}" in wrong.output
    assert "Did you mean 'jump'?" in call("hint", "jmp").output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["blur"], 1, "blur: no such run directory"),
        (["blru"], 1, "unknown defense 'blru'. Did you mean 'blur'?"),
        (["baseline", "pdg"], 1, "unknown attack 'pdg'. Did you mean 'pgd'?"),
        (["baseline", "mine.py"], 1, "mine.py: no such file"),
        (["baseline", "pgd", "--eps", "4"], 1, "Did you mean 4/255?"),
        (["baseline", "pgd", "--norm", "L1"], 1, "unknown norm 'L1'. Valid: Linf, L2."),
        (["baseline", "pgd", "-o", "steps"], 2, "expected NAME=VALUE, got 'steps'"),
        (["baseline", "pgd", "-o", "steps=many"], 1, "steps: expected an integer of 1 or more"),
        (["baseline", "pgd", "-o", "step_size=nan"], 1, "step_size: expected a number above 0"),
        (["baseline", "pgd", "-o", "loss=hinge"], 1, "Valid: ce, margin, dlr."),
        (["baseline", "noise", "-o", "draws=0"], 1, "draws: expected an integer of 1 or more"),
        (["baseline", "pgd", "--eps", "1e99999999"], 1, "eps: expected a number above 0, got inf"),
        (["baseline", "pgd", "-o", "stps=3"], 1, "unknown option of the attack 'stps'"),
        (["baseline", "pgd", "--images", "3,x"], 2, "expected numbers as 3,17,52"),
        (["baseline", "pgd", "--images", "3,999"], 1, "expected indices from 0 to 359"),
        (["baseline", "pgd", "-n", "361"], 1, "expected at most 360"),
    ],
)
def test_wrong_use(
    call: Callable[..., Result], runs: Path, arguments: list[str], code: int, message: str
) -> None:
    answer = call("attack", *arguments)
    assert answer.exit_code == code, answer.output
    assert message in answer.output
    assert "Traceback" not in answer.output
    assert not (runs / "digits" / "baseline" / "attacks").exists()


def test_an_attack_that_raises(call: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def attack(defense, x, y, threat):\n    return x[0] / []\n")
    answer = call("attack", "baseline", "bad.py")
    assert answer.exit_code == 1
    assert "the attack attack raised TypeError" in answer.output
    assert "bad.py, line 2)" in answer.output
    assert "Traceback" not in answer.output
    told = call("attack", "baseline", "bad.py", "--traceback")
    assert told.exit_code == 1
    assert "Traceback (most recent call last)" in told.output
    assert "return x[0] / []" in told.output
    assert "bad.py, line 2)" in told.output
    # An attack's exit code is not Sparring's.
    (tmp_path / "bad.py").write_text("import sys\nsys.exit(3)\n")
    answer = call("attack", "baseline", "bad.py")
    assert answer.exit_code == 1
    assert "bad.py: SystemExit: 3 (" in answer.output


def test_interrupted_it_goes_on(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ndef attack(defense, x, y, threat):\n"
        "    open('asked', 'a').write('.')\n    time.sleep(0.5)\n    return x\n"
    )
    command = [sys.executable, "-m", "sparring", "attack", "baseline", "slow.py"]
    command += ["--batch-size", "5", "--no-check", "--n", "40", "--in-process"]
    file = runs / "digits" / "baseline" / "attacks" / "slow-Linf-0.15-n=40" / "verdict.json"
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        # A test started in the background of a shell inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    asked = tmp_path / "asked"
    deadline = time.monotonic() + 60
    while not asked.exists() or len(asked.read_text()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"The same command goes on with the images that are left" in errors
    written = json.loads(file.read_text())
    assert not written["finished"]
    left = sum(image["attacked"] and not image["reason"] for image in written["images"])
    assert 0 < left < 40
    asked.write_text("")
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert len(asked.read_text()) == -(-left // 5)
    assert json.loads(file.read_text())["finished"]
