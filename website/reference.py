"""The reference: a page for each package, of its docstrings, and one for the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe
import typer
from typer.testing import CliRunner

from sparring import defenses
from sparring.cli import app

ROOT = Path(__file__).parent.parent
FOLDER = "reference"

_LEFT_OUT = {"cli", *(f"defenses.{name}" for name in defenses.NAMES), "attacks.reference"}
"""Modules without a place here: the command line and defenses have pages of another kind."""


@cache
def _sparring() -> griffe.Module:
    """The package as it stands in its files; nothing is imported."""
    package = griffe.load("sparring", search_paths=[str(ROOT)])
    assert isinstance(package, griffe.Module)
    return package


@cache
def _names() -> tuple[str, ...]:
    """The packages and leaves of Sparring, from the top down."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = project["tool"]["importlinter"]["contracts"]
    named = [name for layer in contract["layers"] for name in layer.split(" | ")]
    return tuple(name for name in named if name not in _LEFT_OUT)


def places() -> list[str]:
    """List where the pages are in the site's sources, but the index, in their order."""
    return [f"{FOLDER}/{name}.md" for name in ("command-line", *_names())]


def pages() -> dict[str, str]:
    """Write the pages.

    Returns:
        What each file holds, by its place in the site's sources.
    """
    written = {
        f"{FOLDER}/index.md": "\n".join(_index()),
        f"{FOLDER}/command-line.md": "\n".join(_command_line()),
    }
    for name in _names():
        written[f"{FOLDER}/{name}.md"] = "\n".join(_package(name))
    return written


def _index() -> Iterator[str]:
    """The public names, by the package that each is of."""
    package = _sparring()
    yield "# API reference\n"
    yield "::: sparring\n    options:\n      members: false\n"
    by_home: dict[str, list[str]] = {}
    for name in package.exports or []:
        home = package[str(name)].target_path.split(".")[1]
        by_home.setdefault(home, []).append(str(name))
    for home in sorted(by_home, key=_names().index):
        yield f"\n## {home}\n\n| name | what it is |\n| --- | --- |"
        for name in by_home[home]:
            target = package[name].final_target
            text = target.docstring.value.partition("\n\n")[0] if target.docstring else ""
            yield f"| [`sparring.{name}`][{target.canonical_path}] | {' '.join(text.split())} |"


def _package(name: str) -> Iterator[str]:
    """A package's own members, then those of its files in reading order."""
    module = _sparring()[name]
    assert isinstance(module, griffe.Module)
    yield f"---\ntitle: {name}\n---\n"
    own = [each.name for each in module.members.values() if _has_its_place_here(each)]
    yield from _documented(module, own)
    contents = module.docstring.value if module.docstring else ""
    files = [each for each in module.modules.values() if not each.is_private]
    for file in sorted(files, key=lambda file: contents.find(f"{file.name}.py")):
        if f"{name}.{file.name}" not in _LEFT_OUT:
            yield from _documented(file)


def _documented(module: griffe.Module, members: list[str] | None = None) -> Iterator[str]:
    """The docstrings of a module and its members; a package's heading is the page's."""
    level = 2 if members is None else 1
    yield f"\n::: {module.canonical_path}\n    options:\n      heading_level: {level}"
    if members is not None:
        yield f"      members: {members}"


def _has_its_place_here(member: griffe.Object | griffe.Alias) -> bool:
    """Whether a member of a package is public, and of the package itself, not of a file in it."""
    hidden = member.is_private or member.is_special
    return not (hidden or member.is_alias or member.is_module)


def _command_line() -> Iterator[str]:
    """What `--help` says of each verb."""
    yield "# Command line\n"
    group: Any = typer.main.get_command(app)
    for verb in ("", *group.commands):
        words = [verb, "--help"] if verb else ["--help"]
        result = CliRunner().invoke(app, words, prog_name="sparring", terminal_width=80)
        assert result.exit_code == 0, result.output
        yield f"\n## sparring {verb}".rstrip() + f"\n\n```text\n{result.output.strip()}\n```"
