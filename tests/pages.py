"""Follow a page of docs to the letter, in a copy of the repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_COPIED = ("sparring", "tests", "benchmarks", "docs", "website")
_BLOCK = re.compile(r"^```(python|diff|toml)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def copy(folder: Path) -> None:
    """Copy the repository into an empty folder, as far as tests and tools need it."""
    for name in _COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for file in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(file, folder)


def follow(page: str, folder: Path) -> list[str]:
    """Make the edits of a page and run its commands; fail where one cannot be made or fails.

    A Python block is a new file, named in the line before it; a diff block goes into the file that
    was named last, where its lines of context are; a TOML block goes to the end of one. Then ruff
    looks at the files, and indented lines that begin with sparring or pytest are run, in order.

    Args:
        page: name of a file in docs.
        folder: an empty folder for the copy.

    Returns:
        What the commands printed, in their order.
    """
    return [run(command, folder) for command in make(page, folder)]


def make(page: str, folder: Path) -> list[str]:
    """Make the edits of a page as `follow` does, in a copy; its commands, not run."""
    copy(folder)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    name, end, written = "", 0, []
    for block in _BLOCK.finditer(text):
        named = re.findall(r"`([\w./-]+\.\w+)`", text[end : block.start()].rstrip().split("\n")[-1])
        name, end = (named or [name])[0], block.end()
        assert name, f"{page}: no file is named before a block"
        _edit(folder / name, block[1], block[2])
        written += [name] if name.endswith(".py") else []
    commands = re.findall(r"^    ((?:sparring|pytest) .*)$", _BLOCK.sub("", text), re.MULTILINE)
    for lint in ("ruff check", "ruff format --check"):
        run(f"{lint} {' '.join(written)}", folder)
    return commands


def run(command: str, folder: Path) -> str:
    """Run a Python program in a folder; its output. Fails with it."""
    program, *arguments = shlex.split(command)
    options = ["-q", "-p", "no:cacheprovider"] if program == "pytest" else []
    result = subprocess.run(
        [sys.executable, "-m", program, *options, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def _edit(path: Path, kind: str, code: str) -> None:
    """Make a new file of a Python block, or put a diff or TOML block into a file."""
    if kind == "python":
        assert not path.exists(), path
        path.write_text(code, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    if kind == "toml":
        path.write_text(f"{text}\n{code}", encoding="utf-8")
        return
    lines = code.splitlines()
    assert {line[0] for line in lines} <= {" ", "+"}, code
    old = "".join(f"{line[1:]}\n" for line in lines if line[0] == " ")
    new = "".join(f"{line[1:]}\n" for line in lines)
    assert text.count(old) == 1, f"{path}: expected once\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")
