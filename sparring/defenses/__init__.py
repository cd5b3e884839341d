"""Defenses: one file each, one line each in NAMES; and those of packages and of users' files.

Which question it answers: what does each defense train, and how does it answer?

    defense.py      the class that all derive from
    model.py        anybody's model as a defense
    passes.py       how often it was asked
    facts.py        what a defense says of itself for other packages
    written.py      the same, read from a file that does not run
    sources.py      where classes come from that are not here
    adversarial.py  settings that defenses trained on adversarial images share
    cell.py         a defense shown in a notebook, from cell.html.jinja
    exercise.py     an attack to fill in, for breaking a defense oneself
    reading.py      a defense's file to read, without what helps who tries to break it
    baseline.py     no defense at all; then one file for each other defense

How each does is in docs/results.md and docs/fast.md. Nothing here imports a framework until a
defense's class is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.defenses import sources
from sparring.defenses.facts import Description
from sparring.defenses.sources import BuiltIn, InFile, Source
from sparring.errors import DefenseError, SettingsError, SparringError, unknown_name

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
"""The defenses here, by the names of their files, in the order they are shown in."""

BASELINE = "baseline"
"""The defense that the others are measured against."""


def find(named: str) -> Source:
    """Find what a user names; nothing of it runs.

    Args:
        named: one of NAMES; a name that an installed package brings; a Python file, as
            "mydefense.py", or a class in it, as "mydefense.py:MyDefense"; or the name of the
            defense in NAME.py in the current folder. The first that there is is taken.

    Returns:
        Where the class is.

    Raises:
        SettingsError: for any other name, listing the valid ones.
        DefenseError: for a name that several packages bring.
    """
    if named in NAMES:
        return BuiltIn(named)
    if (file := InFile.of(named)) is not None:
        return file
    if len(found := sources.installed().get(named, [])) > 1:
        places = ", ".join(each.place for each in found)
        raise DefenseError(f"{named}: several packages have a defense of this name: {places}")
    if found:
        return found[0]
    if (file := InFile.here(named)) is not None:
        return file
    valid = [*listed(), "a file.py with its class"]
    raise SettingsError(unknown_name("defense", named, valid))


def get(named: str | Path | type[Defense]) -> type[Defense]:
    """Import or run a defense's file and give its class.

    Args:
        named: what `find` takes, or a class.

    Returns:
        The class. One that is not Sparring's says in `origin` where it came from.

    Raises:
        SettingsError: for an unknown name, listing the valid ones; nothing is imported then.
        DefenseError: there is no class of a defense, it cannot be imported or run, or its name
            is taken.
    """
    if isinstance(named, type):
        kind = sources.of_class(named)
        if kind.origin is not None:
            _expect_free(str(kind.origin), kind.name)
        return kind
    if not isinstance(named, str | Path):
        raise DefenseError(
            f"expected a defense's name, a file as mydefense.py, or a class, got {named!r:.80}"
        )
    source = find(str(named))
    if not isinstance(source, BuiltIn):
        _described(source)
    return source.load()


def describe(named: str) -> Description:
    """Read what a defense is from its source, without importing it or a framework.

    Args:
        named: what `find` takes.

    Returns:
        The class attributes named in Description; what the class leaves out is Defense's.

    Raises:
        SettingsError: for an unknown name, listing the valid ones.
        DefenseError: there is no class of a defense, or its name is taken.
    """
    return _described(find(named))


def names() -> list[str]:
    """List the defenses that "all" stands for: Sparring's own, then those of installed packages."""
    return [*NAMES, *(name for name, problem in others().items() if not problem)]


def others() -> dict[str, str]:
    """List what installed packages bring, by name: why it cannot be used, empty where it can."""
    problems = {}
    for name, found in sources.installed().items():
        try:
            if name in NAMES:
                _expect_free(", ".join(each.place for each in found), name)
            describe(name)
        except SparringError as error:
            problems[name] = str(error)
        else:
            problems[name] = ""
    return problems


def here() -> list[str]:
    """List what names the defenses in the Python files of the current folder; none of them runs."""
    listed, taken = [], {*NAMES, *sources.installed()}
    for path in sorted(Path().glob("*.py")):
        for each in InFile(path).each():
            by_name = path.stem not in taken and InFile.here(path.stem) == each
            listed.append(path.stem if by_name else f"{path}:{each.qualname}")
    return listed


def listed() -> list[str]:
    """List all that can be named in this folder: `names`, then `here`."""
    return [*names(), *here()]


def is_known(named: str) -> bool:
    """Say whether a word names a class of a defense; nothing of it runs."""
    try:
        find(named)
    except SparringError:
        return False
    return True


def is_installed(name: str) -> bool:
    """Say whether a name is that of one of NAMES, or of a defense that an installed package brings.

    No file is looked at that is not installed.
    """
    return name in NAMES or name in sources.installed()


def is_in_file(word: str) -> bool:
    """Say whether a word names a Python file that a class of a defense is written in."""
    file = InFile.of(word)
    return file is not None and file.holds_a_defense


def anywhere(named: str) -> str:
    """Give what names in any folder what is named in this one; unknown names stay as they are."""
    try:
        return find(named).word
    except SparringError:
        return named


def _described(source: Source) -> Description:
    described = source.written().described()
    if not isinstance(source, BuiltIn):
        _expect_free(source.place, described.name)
    return described


def _expect_free(whose: str, name: str) -> None:
    """Refuse a name that is Sparring's own or no name for a folder."""
    if name in NAMES:
        raise DefenseError(
            f"{whose}: expected a name of its own, got {name!r}, a defense of Sparring's"
        )
    if not sources.is_name(name):
        raise DefenseError(
            f"{whose}: expected a name of up to 80 letters, digits, - and _ that begins with a "
            f"letter and is not 'all', got {name!r:.100}"
        )


class _Registry(Mapping[str, "type[Defense]"]):
    """The defenses here by name; each is imported when its class is asked for."""

    def __getitem__(self, name: str) -> type[Defense]:
        if name not in NAMES:
            raise KeyError(name)
        return get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


DEFENSES = _Registry()
"""The defenses here: name to class."""
