"""The program that counts the lines on the way of a command counts what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from benchmarks import path_lines

TEXT = '''"""A module."""


def decorator(function):
    return function  # entered on import only


@decorator
def outer(
    x,
):
    """Two lines
    of docstring."""
    # a comment

    def inner():
        """Another docstring."""
        return [y for y in (lambda: range(x))()]

    return inner()


def never():
    return 0


class Kind:
    """A class."""

    def method(self):
        return 1  # a comment beside code
'''


def test_lines_of_the_functions_that_are_entered(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(TEXT, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("module", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call() -> None:
        module.outer(3)
        module.Kind().method()

        exec(compile("def block(): pass\nblock()", tmp_path / "page.html.jinja", "exec"), {})

    entered = path_lines.follow(call, below=tmp_path)
    assert list(entered) == [file]
    outer, method = path_lines.functions(TEXT, entered[file])
    # The decorator, three lines of signature, two of inner and the return; docstrings, a comment,
    # and blank lines between.
    assert (outer.name, len(outer.code), len(outer.all)) == ("outer", 7, 13)
    assert (method.name, len(method.code), len(method.all)) == ("Kind.method", 2, 2)


def test_files_of_the_layers_that_carry_the_batch_are_on_the_way() -> None:
    layers = path_lines.carrying()
    assert layers[0] == "cli"
    assert layers[-1] == "runs"
    entered = path_lines.follow(lambda: path_lines.run(["sparring", "--version"]))
    lines = path_lines.table(entered, layers, named=True)
    assert any("`cli/" in line and " main " in line for line in lines)
    [total] = [line for line in lines if "on the way" in line]
    assert "(budget 700 in 6)" in total
    assert lines.index(total) > 2
