"""How much code there is to read to follow one training, and one attack, to the disk.

    KERAS_BACKEND=torch python -m benchmarks.path_lines              # by file
    KERAS_BACKEND=torch python -m benchmarks.path_lines --functions  # each function too

Runs `sparring train baseline --data digits` and then `sparring attack baseline pgd`, both small, in
this process, through the command line's own entry, and notes every function of the package that is
entered, in any thread. All modules are imported beforehand: what runs on import does not count.

A function's lines are those from its first decorator to its end, signature included, without blank
lines, comments and docstrings; the second number has these too. What is defined within a function
is part of it.

*On the way* are the functions of the layers from cli down to runs, in pyproject.toml's order: they
carry the request and the batch, and the budgets are for them. *Beside it* are the layers below
(networks, data, threat, backend and the leaves), each of which answers a question of its own.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import os
import pkgutil
import sys
import tempfile
import threading
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import sparring
from benchmarks.mutants import ROOT

PACKAGE = Path(sparring.__file__).parent
LINES, FILES = 700, 6
WALKS = {
    "the command line to weights on disk": (
        *("sparring", "train", "baseline", "--data", "digits"),
        *("--epochs", "2", "--filters", "4"),
    ),
    "the command line to a verdict on disk": ("sparring", "attack", "baseline", "pgd", "-n", "20"),
}


@dataclass(frozen=True)
class Function:
    """A function of a file: `code`, the numbers of its lines of code, and `all` of them."""

    name: str
    code: frozenset[int]
    all: frozenset[int]


def main() -> None:
    """Print a table of files for each walk, with the totals against the budget."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.path_lines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--functions", action="store_true", help="name the functions too")
    arguments = parser.parse_args()
    import_all()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for title, command in WALKS.items():
            entered = follow(lambda command=command: run(command))  # type: ignore[misc]
            print(f"\nFrom {title}: `{' '.join(command)}`\n")
            print("\n".join(table(entered, carrying(), arguments.functions)))


def import_all() -> None:
    """Import every module of the package, so that nothing runs on import later."""
    for module in pkgutil.walk_packages(sparring.__path__, "sparring."):
        # Of the three backends one is running, and __main__ runs the command line.
        if not module.name.startswith("sparring.backend.") and module.name != "sparring.__main__":
            importlib.import_module(module.name)


def run(command: Sequence[str]) -> None:
    """Run a command of the command line here, without its output; raise if it fails."""
    from sparring import cli

    output = io.StringIO()
    before, sys.argv = sys.argv, list(command)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            cli.main()
    except SystemExit as end:
        if end.code:
            message = f"{' '.join(command)}: exit code {end.code}\n{output.getvalue()}"
            raise RuntimeError(message) from end
    finally:
        sys.argv = before


def follow(call: Callable[[], Any], below: Path = PACKAGE) -> dict[Path, set[int]]:
    """Make a call; the functions entered in files below a folder, by file and first line."""
    entered: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            entered.add(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    lines: dict[Path, set[int]] = defaultdict(set)
    for code in entered:
        file = Path(code.co_filename)
        # Lambdas and comprehensions belong to the function that holds them; templates have none.
        python = file.suffix == ".py" and not code.co_name.startswith("<")
        if python and file.is_relative_to(below):
            lines[file].add(code.co_firstlineno)
    return lines


def functions(text: str, first_lines: Iterable[int]) -> list[Function]:
    """The functions of a file's text that begin in these lines; of nested ones the outermost."""
    lines, wanted = text.splitlines(), set(first_lines)
    chosen: list[Function] = []

    def visit(node: ast.AST, path: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = path
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{path}.{child.name}".lstrip(".")
                first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                if first in wanted and not isinstance(child, ast.ClassDef):
                    span = frozenset(range(first, (child.end_lineno or first) + 1))
                    documented = _docstrings(child)
                    code = {
                        number
                        for number in span - documented
                        if (line := lines[number - 1].strip()) and not line.startswith("#")
                    }
                    chosen.append(Function(name, frozenset(code), span))
                    continue
            visit(child, name)

    visit(ast.parse(text), "")
    return chosen


def _docstrings(function: ast.AST) -> set[int]:
    """The lines of all strings that stand alone within a function."""
    return {
        number
        for node in ast.walk(function)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def carrying() -> list[str]:
    """The layers that carry the request and the batch: those above networks."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers: list[str] = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return layers[: layers.index("networks")]


@dataclass(frozen=True)
class Row:
    """What of one file was entered."""

    path: Path
    functions: list[Function]

    @property
    def lines(self) -> tuple[int, int]:
        """How many lines of code, and how many of all kinds; one of two functions counts once."""
        code, every = (
            len(frozenset().union(*(getattr(function, kind) for function in self.functions)))
            for kind in ("code", "all")
        )
        return code, every


def table(entered: dict[Path, set[int]], layers: Sequence[str], named: bool) -> list[str]:
    """The lines of a Markdown table: files on the way, their total, then those beside it."""
    on_the_way: list[Row] = []
    beside: list[Row] = []
    for file in sorted(entered):
        path = file.relative_to(PACKAGE)
        row = Row(path, functions(file.read_text(encoding="utf-8"), entered[file]))
        (on_the_way if path.parts[0] in layers else beside).append(row)
    on_the_way.sort(key=lambda row: layers.index(row.path.parts[0]))
    lines = ["| file | functions | lines | with comments and docstrings |", "| --- " * 4 + "|"]
    for title, rows, shown in (
        (f"on the way (budget {LINES} in {FILES})", on_the_way, True),
        ("beside it", beside, named),
    ):
        for row in rows if shown else []:
            names = (f"{function.name} {len(function.code)}" for function in row.functions)
            what = ", ".join(names) if named else len(row.functions)
            lines.append(f"| `{row.path}` | {what} | {row.lines[0]} | {row.lines[1]} |")
        code, every = (sum(row.lines[kind] for row in rows) for kind in (0, 1))
        number = sum(len(row.functions) for row in rows)
        lines.append(f"| **{title}: {len(rows)} files** | {number} | **{code}** | {every} |")
    return lines


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
