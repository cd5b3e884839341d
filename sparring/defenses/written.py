"""Classes of defenses as their files have them: read, not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from sparring.defenses.facts import Description
from sparring.errors import DefenseError, shown


@dataclass(frozen=True)
class Written:
    """What a class says of itself in its file.

    Attributes:
        qualname: the class's name.
        literals: its attributes with a literal value, and those of its bases in the same file.
        assigned: the names of all attributes that it or these have a value for.
    """

    qualname: str
    literals: Mapping[str, Any]
    assigned: frozenset[str]

    @property
    def name(self) -> str | None:
        """What the defense is called; None of a class that is none by itself."""
        name = self.literals.get("name")
        return name if isinstance(name, str) and "idea" in self.literals else None

    def described(self) -> Description:
        """Give what it says of itself; what it leaves out is Defense's.

        Raises:
            DefenseError: its idea or its hints are no text.
        """
        values = {**_defaults(), **self.literals}
        hints = values["hints"]
        if not isinstance(values["idea"], str):
            raise DefenseError(f"{self.qualname}: idea: expected text, got {shown(values['idea'])}")
        if not isinstance(hints, tuple | list) or not all(isinstance(hint, str) for hint in hints):
            raise DefenseError(
                f"{self.qualname}: hints: expected a tuple of texts, got {shown(hints)}"
            )
        return Description(**{part.name: values[part.name] for part in fields(Description)})


@cache
def classes(source: bytes) -> dict[str, Written]:
    """Read all classes at the top level of a file.

    Args:
        source: what the file holds.

    Returns:
        They, by name.

    Raises:
        SyntaxError: it is no Python; as ValueError.
    """
    found: dict[str, Written] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef):
            literals: dict[str, Any] = {}
            assigned: set[str] = set()
            for base in reversed(statement.bases):
                if isinstance(base, ast.Name) and base.id in found:
                    literals |= found[base.id].literals
                    assigned |= found[base.id].assigned
            for name, value in _assignments(statement):
                assigned.add(name)
                try:
                    literals[name] = ast.literal_eval(value)
                except (ValueError, TypeError, RecursionError, MemoryError):
                    literals.pop(name, None)  # no literal, so none that is asked for
            found[statement.name] = Written(statement.name, literals, frozenset(assigned))
    return found


def _assignments(statement: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Names that a class's body gives a value, and that."""
    for line in statement.body:
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(line, ast.AnnAssign) and line.value is not None:
            pairs = [(line.target, line.value)]
        elif isinstance(line, ast.Assign):
            for target in line.targets:
                pairs.append((target, line.value))
                if isinstance(target, ast.Tuple) and isinstance(line.value, ast.Tuple):
                    pairs += zip(target.elts, line.value.elts, strict=False)
        yield from ((target.id, value) for target, value in pairs if isinstance(target, ast.Name))


@cache
def _defaults() -> Mapping[str, Any]:
    """The attributes of Defense with a literal value."""
    source = Path(__file__).with_name("defense.py").read_bytes()
    return classes(source)["Defense"].literals
