"""The command line: thin, and the only place that prints and exits.

Which question it answers: what does `sparring VERB` do?

    program.py  exit codes, errors and signals
    config.py   values and config files in YAML
    options.py  options made of dataclasses
    columns.py  texts in columns
    display.py  bars, lines and tables
    many.py     many jobs, and what is told of those that fail

One file a verb: train.py, attack.py, judge.py, grade.py, report.py, list.py, exercise.py, hint.py,
task.py, reward.py, convert.py, doctor.py; and job.py, which a schedule calls. The program imports
the one that is asked for, and all of them for --help.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from sparring.cli import program

if TYPE_CHECKING:
    import typer
    from typer.models import CommandInfo

    app: typer.Typer

VERBS = (
    "list",
    "train",
    "attack",
    "judge",
    "grade",
    "convert",
    "exercise",
    "hint",
    "task",
    "reward",
    "doctor",
    "report",
    "job",
)
"""The verbs, each the name of its file, in the order of --help."""


def main() -> None:
    """Run the command line; the process ends with one of the codes of program.py."""
    verbs = set(sys.argv[1:2]).intersection(VERBS) or VERBS
    _register(verbs)
    program.main()


def __getattr__(name: str) -> typer.Typer:
    """Give `app`, the program with all its verbs."""
    if name != "app":
        raise AttributeError(f"module 'sparring.cli' has no attribute {name!r}")
    _register(VERBS)
    return program.app


def _register(verbs: Iterable[str]) -> None:
    """Import verbs, each of which registers itself, and bring all that are known into order."""
    for verb in verbs:
        import_module(f"sparring.cli.{verb}")
    program.app.registered_commands.sort(key=lambda known: VERBS.index(_name(known)))


def _name(command: CommandInfo) -> str:
    return command.name or str(getattr(command.callback, "__name__", ""))
