"""The registry: what is known of defenses without a framework, and that nothing else knows them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from sparring import defenses
from sparring.defenses import BASELINE, DEFENSES, NAMES, describe, get
from sparring.errors import SettingsError
from sparring.networks.allconv import HOOKS, AllConv

PACKAGE = Path(defenses.__file__).parent.parent


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_of_the_source_is_what_the_class_says(name: str) -> None:
    described = asdict(describe(name))
    assert described == {key: getattr(get(name), key) for key in described}


@pytest.mark.parametrize("name", NAMES)
def test_hints_lead_from_a_question_to_the_way(name: str) -> None:
    hints = describe(name).hints
    assert len(hints) == 3
    assert "?" in hints[0] or "before you look" in hints[0]
    for hint in hints:
        assert hint[0].isupper()
        assert hint[-1] in ".?"
        assert "  " not in hint
        assert not ({*NAMES} - {name}) & {*hint.split()}


def test_names_are_those_of_the_files() -> None:
    helpers = {"__init__", "defense", "model", "passes", "facts", "exercise", "adversarial"}
    helpers |= {"reading", "cell", "written", "sources"}
    assert {file.stem for file in (PACKAGE / "defenses").glob("*.py")} - helpers == set(NAMES)
    assert list(DEFENSES) == list(NAMES)
    assert BASELINE in NAMES
    assert "none" not in DEFENSES
    with pytest.raises(KeyError):
        DEFENSES["none"]


ALONE = """
import sys, time
from sparring import defenses
from sparring.defenses import exercise
from sparring.errors import SettingsError
import pathlib, json

ideas = [defenses.describe(name).idea for name in defenses.NAMES]
exercise.write("blur", pathlib.Path("."))
for ask in (defenses.get, defenses.describe):
    try:
        ask("blurr")
    except SettingsError as error:
        told = str(error)
assert not {"keras", "torch", "tensorflow", "jax", "pydantic"} & set(sys.modules)
print(json.dumps([ideas, told, time.process_time()]))
"""


def test_without_a_framework_defenses_are_described(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    ideas, told, seconds = json.loads(answer.stdout)
    assert ideas == [defense.idea for defense in DEFENSES.values()]
    assert told.startswith("unknown defense 'blurr'. Did you mean 'blur'? Valid: baseline, blur")
    assert seconds < 0.5
    assert (tmp_path / "attack_blur.py").is_file()


def _names_in(source: str) -> Iterator[str]:
    """What a module names: strings that are no docstrings, identifiers and parts of imports."""
    tree = ast.parse(source)
    documentation: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documentation.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documentation:
                yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = f".{getattr(node, 'module', '') or ''}"
            for alias in node.names:
                yield from f"{module}.{alias.name}".split(".")


def test_what_a_module_names() -> None:
    source = '"""blur"""\nimport a.jump\nfrom a.knn import b\nx = trades, "advtrain", y.injection\n'
    assert {"jump", "knn", "trades", "advtrain", "injection"} <= set(_names_in(source))
    assert "blur" not in set(_names_in(source))


# transform is the name of a network's hook, too.
ONLY_OF_DEFENSES = set(NAMES) - {name for name in HOOKS if hasattr(AllConv, name)}
CLASSES = {defense.__name__ for defense in DEFENSES.values()}


def test_no_other_file_names_a_defense() -> None:
    named: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        if not place.startswith(("defenses/", "attacks/reference/")):
            words = set(_names_in(file.read_text(encoding="utf-8")))
            named[place] = words & (ONLY_OF_DEFENSES | CLASSES)
    assert len(named) > 40
    assert {place: names for place, names in named.items() if names} == {}


def test_an_unknown_name_is_refused_before_anything_is_imported() -> None:
    with pytest.raises(SettingsError, match="unknown defense 'os'"):
        get("os")
    with pytest.raises(SettingsError, match="unknown defense 'defense'"):
        describe("defense")
