"""Mutants: single edits that break Sparring on purpose, and the tests that have to notice them.

The tables are the .toml files beside this one. Libraries for mutation testing were looked at and
left: mutmut and Cosmic Ray make their own edits of every operator and constant, thousands here, and
cannot be held to ones that mean something ("the loss is taken on the clean images").
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLES = sorted(Path(__file__).parent.glob("*.toml"))


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One edit.

    Attributes: `file`, relative to the repository; `what` the edit means; `old`, text that occurs
    in the file once, and the `new` text in its place; `tests`, pytest's arguments, which have to
    notice it; `backend`, the framework they run on.
    """

    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]
    backend: str = "torch"

    @property
    def area(self) -> str:
        """The file as `--only` takes it: defenses/trades of sparring/defenses/trades.py."""
        return self.file.removeprefix("sparring/").removesuffix(".py")

    def applied(self, text: str) -> str:
        """The file's text with the edit. Raises ValueError unless `old` occurs once in it."""
        if (times := text.count(self.old)) != 1:
            raise ValueError(f"{self.file}: expected {self.old!r} once, found it {times} times")
        return text.replace(self.old, self.new)


def table() -> list[Mutant]:
    """All mutants, by file. Raises ValueError, naming the entry, for one that is not complete."""
    mutants = []
    for file in TABLES:
        for number, entry in enumerate(tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]):
            try:
                mutants.append(Mutant(**{**entry, "tests": tuple(entry["tests"])}))
            except (TypeError, KeyError) as error:
                raise ValueError(f"{file.name}, entry {number + 1}: {error}") from error
    return sorted(mutants, key=lambda mutant: mutant.file)
