"""A defense's file to read, without what helps who tries to break it."""

from __future__ import annotations

import ast
from pathlib import Path

from sparring import defenses

SPOILERS = ("hints", "published_success", "expected", "course_files", "differentiable")
"""Class attributes that say how a defense is broken, how far, or where it was published."""

_ROOT = Path(__file__).parents[1]
_ALONGSIDE = ("sparring.networks.", "sparring.randomness", "sparring.defenses.")
_LEFT_OUT = ("sparring.defenses.defense", "sparring.defenses.facts")


def sources(name: str) -> dict[str, str]:
    """Give the source of a defense, and of what it computes with, to read.

    Comments, the file's docstring, which tells how the defense is broken, and SPOILERS are left
    out. Nothing is imported.

    Args:
        name: of a defense.

    Returns:
        Python by the file's name, the defense's own first.

    Raises:
        SettingsError: for an unknown defense.
    """
    defenses.describe(name)
    files: dict[str, str] = {}
    left = [f"sparring.defenses.{name}"]
    while left:
        module = left.pop(0)
        file = _ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        if file.name in files or not file.is_file():
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        left += [
            statement.module
            for statement in tree.body
            if isinstance(statement, ast.ImportFrom)
            and statement.module is not None
            and statement.module.startswith(_ALONGSIDE)
            and statement.module not in _LEFT_OUT
        ]
        files[file.name] = ast.unparse(_without_spoilers(tree)) + "\n"
    return files


def _without_spoilers(tree: ast.Module) -> ast.Module:
    """Drop a file's docstring, what is imported for spoilers alone, and these."""
    if ast.get_docstring(tree) is not None:
        del tree.body[0]
    tree.body = [
        statement
        for statement in tree.body
        if not (isinstance(statement, ast.ImportFrom) and statement.module in _LEFT_OUT[1:])
    ]
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            kept = [line for line in statement.body if not _is_spoiler(line)]
            statement.body = kept or [ast.Pass()]
    return tree


def _is_spoiler(line: ast.stmt) -> bool:
    return isinstance(line, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id in SPOILERS for target in line.targets
    )
