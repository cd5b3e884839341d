"""Standard streams that are closed, full or read no further; completion in a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SPARRING = f"{sys.executable} -m sparring"


def shell(command: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    before = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-c", command.replace("SPARRING", SPARRING)],
        cwd=tmp_path,
        env={**before, "PYTHONPATH": str(Path(__file__).parent.parent), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("SPARRING list >&-", 0, ""),
        ("SPARRING list <&- >&- 2>&-", 0, ""),
        ("SPARRING train nope >&- 2>&-", 1, ""),
        ("SPARRING train nope 2>/dev/full", 1, ""),
        ("SPARRING list >/dev/full", 4, "No space left on device"),
        ("SPARRING --help >/dev/full", 4, "No space left on device"),
        ("SPARRING list | true; exit ${PIPESTATUS[0]}", 141, ""),
    ],
)
def test_streams_that_take_nothing(command: str, code: int, told: str, tmp_path: Path) -> None:
    answer = shell(command, tmp_path)
    assert answer.returncode == code, answer.stderr
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "Exception ignored" not in answer.stderr
    assert len(answer.stderr.splitlines()) <= 1, answer.stderr


def test_a_terminal_that_can_do_nothing(tmp_path: Path) -> None:
    answer = shell("SPARRING list", tmp_path, TERM="dumb", NO_COLOR="1", COLUMNS="40")
    assert answer.returncode == 0
    assert "baseline" in answer.stdout
    assert "\x1b" not in answer.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sparring tr", ["train"]),
        ("sparring train bas", ["baseline"]),
        ("sparring attack baseline p", ["pgdtrain", "pgd"]),  # another defense, or an attack
        ("sparring train baseline --ep", ["--epochs"]),
        ("sparring train baseline --preset f", ["fast"]),
        ("sparring train baseline --data fash", ["fashion-mnist"]),
    ],
)
def test_words_are_completed(
    words: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "import sys, atexit; sys.argv[0] = 'sparring'\nfrom sparring.cli import main\n"
    code += "atexit.register(lambda: print([n for n in ('torch', 'keras') if n in sys.modules]))\n"
    environment = {
        **os.environ,
        "_SPARRING_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    answer = subprocess.run(
        [sys.executable, "-c", f"{code}main()"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.stdout.split("\n")[:-1] == [*expected, "[]"], answer.stderr
