"""The table of benchmarks/mutants: that each edit can be made, and that its tests are there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutants import ROOT, Mutant, table
from sparring.defenses import NAMES
from tests.conftest import KNOWN

MUTANTS = table()


def test_there_are_a_hundred_and_more_in_every_part_that_defends_attacks_or_judges() -> None:
    assert len(MUTANTS) >= 100
    files = {mutant.file for mutant in MUTANTS}
    for folder in ("defenses", "attacks", "attacks/reference"):
        for path in (ROOT / "sparring" / folder).glob("*.py"):
            # A package's table of contents, and attacks made of options alone, have no term of
            # their own; what the options are is pinned in tests/test_reference_attacks.py.
            known = path.stem in KNOWN or path.stem not in NAMES
            if known and path.name != "__init__.py" and path.read_text("utf-8").count("def ") > 0:
                assert str(path.relative_to(ROOT)) in files
    assert {
        "sparring/evaluation/evaluate.py",
        "sparring/evaluation/checks.py",
        "sparring/evaluation/judge.py",
        "sparring/evaluation/verdict.py",
        "sparring/runs/records.py",
        "sparring/threat.py",
    } <= files
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


def _problem(mutant: Mutant) -> str:
    """Why an edit cannot be made or noticed; "" when it can."""
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    try:
        edited = ast.parse(mutant.applied(text))
    except (ValueError, SyntaxError) as error:
        return str(error)
    if ast.dump(edited) == ast.dump(ast.parse(text)):
        return "changes nothing"
    for test in mutant.tests:
        file, _, name = test.partition("::")
        if not (ROOT / file).is_file():
            return f"{file}: no such file"
        if name and f"def {name.partition('[')[0]}(" not in (ROOT / file).read_text("utf-8"):
            return f"{test}: no such test"
    return "" if mutant.tests else "no tests"


def test_every_edit_can_be_made_and_its_tests_are_there() -> None:
    problems = [(mutant.area, mutant.what, _problem(mutant)) for mutant in MUTANTS]
    assert [problem for problem in problems if problem[2]] == []


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.mutants", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )


def test_an_area_that_is_not_there_is_refused() -> None:
    answer = _run("--only", "defenses/blru")
    assert answer.returncode == 2
    assert "no mutants of 'defenses/blru'. Valid: " in answer.stderr
    assert "defenses/blur" in answer.stderr


def test_an_edit_that_occurs_twice_or_not_at_all_is_refused() -> None:
    mutant = Mutant(file="sparring/threat.py", what="", old="eps", new="", tests=("tests",))
    with pytest.raises(ValueError, match="expected 'eps' once, found it 2 times"):
        mutant.applied("eps * eps")
    with pytest.raises(ValueError, match="found it 0 times"):
        mutant.applied("")


def test_survivors_are_told_and_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.mutants import __main__ as runner

    (tmp_path / "tests").mkdir()
    (tmp_path / "sparring").mkdir()
    (tmp_path / "sparring/__init__.py").write_text("")
    (tmp_path / "sparring/sums.py").write_text("def total(a, b):\n    return a + b\n")
    (tmp_path / "tests/__init__.py").write_text("")
    (tmp_path / "tests/test_sums.py").write_text(
        "from sparring.sums import total\n\ndef test_total():\n    assert total(2, 2) == 4\n"
    )
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    minus, times, syntax = (
        Mutant(
            file="sparring/sums.py", what=new, old="a + b", new=new, tests=("tests/test_sums.py",)
        )
        for new in ("a - b", "a * b", "a +")
    )
    told: list[str] = []
    monkeypatch.setattr("builtins.print", lambda text, **options: told.append(text))
    assert runner._run_all([minus], 1) == 0
    assert any(line.startswith("[1/1] noticed: sums: a - b") for line in told)
    told.clear()
    assert runner._run_all([minus, times, syntax], 2) == 1
    assert "survived: sums: a * b" in told
    assert "| all | 3 | 1 |" in told
    assert any("ERROR, pytest's exit code" in line for line in told)
    told.clear()
    (tmp_path / "sparring/sums.py").write_text("def total(a, b):\n    return a + b + 1\n")
    assert runner._run_all([minus], 1) == 1
    assert told[0].startswith("The tests fail without any edit:")
