"""Defenses: one file each, one line each in NAMES.

Which question it answers: what does each defense train, and how does it answer?

    defense.py      the class that all derive from
    model.py        anybody's model as a defense
    passes.py       how often it was asked
    facts.py        what a defense says of itself for other packages
    adversarial.py  settings that defenses trained on adversarial images share
    cell.py         a defense shown in a notebook, from cell.html.jinja
    exercise.py     an attack to fill in, for breaking a defense oneself
    reading.py      a defense's file to read, without what helps who tries to break it
    baseline.py     no defense at all; then one file for each other defense

How each does is in docs/results.md and docs/fast.md. Nothing here imports a framework until a
defense's class is asked for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.defenses.facts import Description
from sparring.errors import SettingsError, unknown_name

if TYPE_CHECKING:
    from sparring.defenses.defense import Defense

NAMES: tuple[str, ...] = (
    "baseline",
    "blur",
    "temperature",
    "labelsmooth",
    "jump",
    "mergebinary",
    "majority",
    "discretize",
    "randomneuron",
    "transform",
    "injection",
    "knn",
    "advtrain",
    "pgdtrain",
    "trades",
)
"""The names of all defenses, which are those of their files, in the order they are shown in."""

BASELINE = "baseline"
"""The defense that the others are measured against."""


def get(name: str) -> type[Defense]:
    """Import a defense's file and give its class.

    Args:
        name: one of NAMES.

    Returns:
        The one defense that the file defines.

    Raises:
        SettingsError: for any other name, listing the valid ones; nothing is imported then.
    """
    _expect_known(name)
    module = import_module(f"{__name__}.{name}")
    kind = import_module(f"{__name__}.defense").Defense
    classes = (value for value in vars(module).values() if isinstance(value, type))
    [defense] = [
        own for own in classes if issubclass(own, kind) and own.__module__ == module.__name__
    ]
    return defense


def describe(name: str) -> Description:
    """Read what a defense is from its source, without importing it or a framework.

    Args:
        name: one of NAMES.

    Returns:
        The class attributes named in Description; what the class leaves out is Defense's.

    Raises:
        SettingsError: for any other name, listing the valid ones.
    """
    _expect_known(name)
    literals = _literals("defense", None) | _literals(name, name)
    return Description(**{field.name: literals[field.name] for field in fields(Description)})


def _expect_known(name: str) -> None:
    if name not in NAMES:
        raise SettingsError(unknown_name("defense", name, NAMES))


@cache
def _literals(file: str, name: str | None) -> dict[str, Any]:
    """Class attributes with a literal value, of the class in a file that has this `name`."""
    source = Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef):
            literals = {}
            for line in statement.body:
                target = line.targets[0] if isinstance(line, ast.Assign) else line
                target = target.target if isinstance(target, ast.AnnAssign) else target
                value = getattr(line, "value", None)
                if isinstance(target, ast.Name) and value is not None:
                    try:
                        literals[target.id] = ast.literal_eval(value)
                    except ValueError:
                        continue  # no literal, so none that is asked for
            if literals.get("name") == name:
                return literals
    raise SettingsError(f"sparring/defenses/{file}.py: expected a class with name = {name!r}")


class _Registry(Mapping[str, "type[Defense]"]):
    """All defenses by name; each is imported when its class is asked for."""

    def __getitem__(self, name: str) -> type[Defense]:
        if name not in NAMES:
            raise KeyError(name)
        return get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


DEFENSES = _Registry()
"""All defenses: name to class."""
