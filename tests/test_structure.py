"""The structure of the package: its signatures, its tables of contents, what starting costs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring import cli, defenses

PACKAGE = Path(__file__).parent.parent / "sparring"
SOURCES = sorted(PACKAGE.rglob("*.py"))

MOST_PARAMETERS = 7
MAY_HAVE_MORE = 2
FRAMEWORKS = ("keras", "torch", "tensorflow", "jax")
LIBRARIES = ("numpy", "safetensors", "rich", "matplotlib", "jinja2", "yaml")  # typer has pydantic


def functions(source: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many parameters a function has besides self and cls."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names += [each.arg for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return len([name for name in names if name not in ("self", "cls")])


def test_few_functions_have_many_parameters() -> None:
    many = [
        f"{source.relative_to(PACKAGE)}: {function.name} has {parameters(function)}"
        for source in SOURCES
        for function in functions(source)
        if parameters(function) > MOST_PARAMETERS
    ]
    assert len(many) <= MAY_HAVE_MORE, "\n".join(many)


def test_modules_are_documented_by_their_packages() -> None:
    """Each package's table of contents names every file in it."""
    for package in sorted({source.parent for source in SOURCES}):
        if package in (PACKAGE, PACKAGE / "attacks" / "reference"):
            continue  # the public names; one file a defense
        contents = ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8"))) or ""
        names = {source.name for source in package.glob("*.py")} - {"__init__.py"}
        names -= {f"{name}.py" for name in defenses.NAMES}  # one file each
        assert {name for name in names if name not in contents} == set(), package.name


# Starting


def started(code: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=home,
        env={**environment, "PYTHONPATH": str(PACKAGE.parent)},
        timeout=120,
    )


_COMMAND = """
import atexit, json, sys
from sparring.cli import main
atexit.register(
    lambda: print("\\n" + json.dumps([name for name in sys.modules if sys.modules[name]]))
)
sys.argv[0] = "sparring"
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--help"], 0, "Train adversarial-example defenses"),
        (["--version"], 0, "sparring "),
        (["list"], 0, "baseline"),
        (["exercise", "blur"], 0, "attack_blur.py"),
        (["hint", "blur"], 0, "Hint 1 of 3"),
        (["exercise", "blurr"], 1, "Did you mean 'blur'?"),
        (["train", "blurr"], 1, "Did you mean 'blur'?"),
        (["train", "blur", "--data", "digit"], 1, "Did you mean 'digits'?"),
        (["train", "blur", "--preset", "fats"], 1, "Did you mean 'fast'?"),
        (["attack", "blurr"], 1, "Did you mean 'blur'?"),
        (["report"], 1, "no such folder of runs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_small_questions_need_no_framework(
    arguments: list[str], code: int, told: str, tmp_path: Path
) -> None:
    answer = started(_COMMAND, *arguments, home=tmp_path)
    assert told in answer.stdout + answer.stderr
    assert answer.returncode == code
    assert _imported(answer) & {*FRAMEWORKS} == set()


def _imported(answer: subprocess.CompletedProcess[str]) -> set[str]:
    """The modules that a command had imported at its end."""
    return {*json.loads(answer.stdout.splitlines()[-1])}


@pytest.mark.parametrize("words", [["list"], ["exercise", "blur"], ["hint", "blur"]], ids=" ".join)
def test_what_beginners_ask_needs_no_library(words: list[str], tmp_path: Path) -> None:
    answer = started(_COMMAND, *words, home=tmp_path)
    assert answer.returncode == 0, answer.stderr
    imported = _imported(answer)
    assert imported & {*FRAMEWORKS, *LIBRARIES} == set()
    verbs = {name for name in cli.VERBS if f"sparring.cli.{name}" in imported}
    assert verbs == {words[0]}


def test_help_needs_none_that_draws(tmp_path: Path) -> None:
    answer = started(_COMMAND, "--help", home=tmp_path)
    assert _imported(answer) & {"rich", "matplotlib", "jinja2", "yaml"} == set()


def test_every_verb_is_known(tmp_path: Path) -> None:
    files = (PACKAGE / "cli").glob("*.py")
    verbs = {path.stem for path in files if "\n@app.command" in path.read_text(encoding="utf-8")}
    assert verbs == {*cli.VERBS}
    # Whichever verb was imported before, they stand in the order of --help.
    code = """
import typer
from sparring.cli import report, app
print(*typer.main.get_command(app).commands)
"""
    assert started(code, home=tmp_path).stdout.split() == [*cli.VERBS]


def test_public_names_are_listed_before_they_are_used(tmp_path: Path) -> None:
    code = "import sparring; assert {*sparring.__all__} <= {*dir(sparring)}"
    answer = started(code, home=tmp_path)
    assert answer.returncode == 0, answer.stderr


def test_importing_changes_no_environment(tmp_path: Path) -> None:
    code = """
import os
before = dict(os.environ)
import sparring
assert dict(os.environ) == before
sparring.Linf(0.1)
sparring.Defense
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
"""
    answer = started(code, home=tmp_path)
    assert answer.returncode == 0, answer.stderr
