"""Where classes of defenses come from: Sparring, an installed package, or a file that is named.

What is asked of a source is read from files and runs nothing, but for `load`. No framework is
imported before that.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sparring.defenses import written
from sparring.defenses.facts import Origin
from sparring.defenses.written import Written
from sparring.errors import DefenseError, SparringError, kind_of, shown, told
from sparring.usercode import find_beside, run, where

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from sparring.defenses.defense import Defense

GROUP = "sparring.defenses"
"""The entry points by which an installed package brings defenses: NAME = "module:Class"."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,79}")
_LARGEST = 10 << 20  # bytes of a Python file that is read
_MODULES: set[str] = set()


class Source(ABC):
    """What names a class."""

    @property
    @abstractmethod
    def word(self) -> str:
        """What names it in any folder."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where to read how it works, for people."""

    @abstractmethod
    def written(self) -> Written:
        """Read what the class says of itself; DefenseError where it cannot be read."""

    @abstractmethod
    def load(self) -> type[Defense]:
        """Import or run its file, and give the class."""


@dataclass(frozen=True)
class BuiltIn(Source):
    """A defense of Sparring's own."""

    name: str

    @property
    @override
    def word(self) -> str:
        return self.name

    @property
    @override
    def place(self) -> str:
        return f"sparring/defenses/{self.name}.py"

    @override
    def written(self) -> Written:
        source = Path(__file__).with_name(f"{self.name}.py").read_bytes()
        [own] = [each for each in written.classes(source).values() if each.name == self.name]
        return own

    @override
    def load(self) -> type[Defense]:
        module = import_module(f"sparring.defenses.{self.name}")
        classes = (value for value in vars(module).values() if isinstance(value, type))
        [own] = [
            each
            for each in classes
            if issubclass(each, _base()) and each.__module__ == module.__name__
        ]
        return own


@dataclass(frozen=True)
class InFile(Source):
    """A class in a Python file, which is run when it is loaded.

    Attributes:
        path: of the file.
        qualname: which class; empty for the only one.
    """

    path: Path
    qualname: str = ""

    @classmethod
    def of(cls, word: str) -> InFile | None:
        """Take "mydefense.py" or "mydefense.py:MyDefense"; None for another word."""
        file, colon, qualname = word.rpartition(":")
        if colon and file.endswith(".py"):
            return cls(Path(file).expanduser(), qualname)
        return cls(Path(word).expanduser()) if word.endswith(".py") else None

    @classmethod
    def here(cls, name: str) -> InFile | None:
        """Find the defense of a name in NAME.py in the current folder, as `python -m` would."""
        path = Path(f"{name}.py")
        if not is_name(name) or not path.is_file():
            return None
        try:
            defenses = cls(path)._defenses(cls(path)._source())
        except DefenseError:
            return None
        own = [each.qualname for each in defenses.values() if each.name == name]
        return cls(path, own[0]) if len(own) == 1 else None

    @property
    @override
    def word(self) -> str:
        path = str(self.path.absolute())
        return f"{path}:{self.qualname}" if self.qualname else path

    @property
    @override
    def place(self) -> str:
        return str(self.path)

    @property
    def shown(self) -> str:
        """What names it as one would type it in the current folder, where it lies below it."""
        path, here = self.path.absolute(), Path.cwd()
        file = path.relative_to(here) if path.is_relative_to(here) else path
        return str(file) if len(list(self.each())) == 1 else f"{file}:{self.qualname}"

    @property
    def holds_a_defense(self) -> bool:
        """Whether such a class is written there."""
        try:
            defenses = self._defenses(self._source())
        except DefenseError:
            return False
        return self.qualname in defenses if self.qualname else bool(defenses)

    def each(self) -> Iterator[InFile]:
        """List the classes of the file; none where it cannot be read."""
        try:
            source = self._source()
            # Which is written in each of them; others need not be looked through.
            defenses = self._defenses(source) if b"idea" in source else {}
        except DefenseError:
            return
        for qualname in defenses:
            yield InFile(self.path, qualname)

    @override
    def written(self) -> Written:
        return self._chosen(self._source())

    @override
    def load(self) -> type[Defense]:
        source = self._source()
        chosen = self._chosen(source)
        module = _module(self.path.absolute(), source)
        kind = _checked(vars(module).get(chosen.qualname), str(self.path), str(chosen.name))
        return _with_origin(
            kind,
            Origin(
                qualname=chosen.qualname,
                file=str(self.path.absolute()),
                sha256=hashlib.sha256(source).hexdigest(),
            ),
        )

    def _source(self) -> bytes:
        path = self.path
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise DefenseError(f"{path}: {found}; expected a Python file with a defense's class")
        try:
            if path.stat().st_size > _LARGEST:
                raise DefenseError(f"{path}: expected a Python file of at most {_LARGEST:,} bytes")
            return path.read_bytes()
        except OSError as error:
            raise DefenseError(f"{path}: {error.strerror}") from error

    def _defenses(self, source: bytes) -> dict[str, Written]:
        """Classes of the file that are defenses, as far as can be told without running it."""
        try:
            classes = written.classes(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise DefenseError(f"{self.path}: {told(error)}") from error
        return {name: each for name, each in classes.items() if each.name is not None}

    def _chosen(self, source: bytes) -> Written:
        defenses = self._defenses(source)
        if self.qualname in defenses:
            return defenses[self.qualname]
        if not self.qualname and len(defenses) == 1:
            return next(iter(defenses.values()))
        listed = ", ".join(f"{self.path}:{name}" for name in defenses)
        if not defenses:
            raise DefenseError(
                f"{self.path}: expected a class derived from Defense with name = ... and "
                "idea = ... written as text in it, found none (docs/your-own-defense.md)"
            )
        expected = f"a class {shown(self.qualname)}" if self.qualname else "one defense"
        raise DefenseError(
            f"{self.path}: expected {expected} in it, found {len(defenses)}; name one: {listed}"
        )


@dataclass(frozen=True)
class Installed(Source):
    """A class that an installed package brings."""

    entry: EntryPoint

    @property
    @override
    def word(self) -> str:
        return self.entry.name

    @property
    @override
    def place(self) -> str:
        return f"{self.entry.value}, of {self.package}"

    @property
    def package(self) -> str:
        """Name and version of the package."""
        distribution = self.entry.dist
        if distribution is None:
            return "an installed package"
        return f"the package {distribution.name} {distribution.version}"

    @override
    def written(self) -> Written:
        file = _file_of(self.entry.module)
        if file is None:
            raise DefenseError(f"{self._who}: the module's file cannot be found")
        try:
            classes = written.classes(file.read_bytes())
        except (OSError, SyntaxError, ValueError) as error:
            raise DefenseError(f"{self._who}: {file}: {told(error)}") from error
        own = classes.get(self.entry.attr)
        if own is None or own.name != self.entry.name:
            found = "no such class" if own is None else f"name = {shown(own.literals.get('name'))}"
            raise DefenseError(
                f"{self._who}: expected a class {self.entry.attr} with name = "
                f"{self.entry.name!r} and idea = ... written as text in {file}, found {found}"
            )
        return own

    @override
    def load(self) -> type[Defense]:
        try:
            loaded = self.entry.load()
        except (SparringError, KeyboardInterrupt):
            raise
        except BaseException as error:  # its own, SystemExit, ...
            raise DefenseError(f"{self._who}: {told(error)}{where(error, False)}") from error
        kind = _checked(loaded, self._who, self.entry.name)
        return _with_origin(kind, _of_entry(self.entry))

    @property
    def _who(self) -> str:
        return f"{self.entry.name} ({self.place})"


def is_name(text: str) -> bool:
    """Say whether a defense of one's own may be called so; it is a folder's name, too."""
    return text != "all" and _NAME.fullmatch(text) is not None


def installed() -> Mapping[str, list[Installed]]:
    """List what installed packages bring, by name, in the order of the names."""
    from importlib.metadata import entry_points  # takes time that most commands need not spend

    found: dict[str, list[Installed]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        found.setdefault(entry.name, []).append(Installed(entry))
    return found


def of_class(kind: Any) -> type[Defense]:
    """Take a class that is there already, and note where it came from.

    Raises:
        DefenseError: it is none of a defense.
    """
    _checked(kind, f"{kind_of(kind) if not isinstance(kind, type) else kind.__name__}", None)
    if "origin" in vars(kind) or kind.__module__.startswith("sparring.defenses."):
        return kind
    value = f"{kind.__module__}:{kind.__qualname__}"
    for entry in (each.entry for same in installed().values() for each in same):
        if f"{entry.module}:{entry.attr}" == value:
            return _with_origin(kind, _of_entry(entry))
    origin = Origin(qualname=kind.__qualname__, module=kind.__module__)
    with suppress(TypeError, OSError):  # of one typed into a prompt or a notebook
        path = Path(inspect.getfile(kind)).absolute()
        origin = replace(origin, file=str(path), sha256=_hash_of(path))
    return _with_origin(kind, origin)


def standing(origin: Origin) -> str:
    """Say what became of the file or the package that a class came from; nothing of it runs."""
    if origin.distribution is not None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return f"of which {version(origin.distribution)} is installed"
        except (PackageNotFoundError, ValueError):
            return "which is not installed"
    if origin.file is None:
        return "which was in the memory of a process"
    file = Path(origin.file)
    try:
        if not file.is_file():
            return "which is gone"
        if file.stat().st_size <= _LARGEST and _hash_of(file) == origin.sha256:
            return "which is there, unchanged"
    except (OSError, ValueError):
        return "which cannot be read"
    return "which has changed since"


def is_of_own_code(error: BaseException) -> bool:
    """Say whether an error came out of the code of a class that is not Sparring's."""
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_globals.get("__name__") in _MODULES:
            return True
        place = place.tb_next
    return False


@cache
def _module(path: Path, source: bytes) -> ModuleType:
    """Run a file once for what it holds, so that a class stays the same one."""
    find_beside(path)
    return run(path, "defense", DefenseError, source)


def _checked(kind: Any, whose: str, name: str | None) -> type[Defense]:
    """Expect a class of a defense, of a name where one is given."""
    base = _base()
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise DefenseError(
            f"{whose}: expected a class derived from sparring.Defense, got {shown(kind)}"
        )
    own = getattr(kind, "name", None)
    if not isinstance(own, str) or not isinstance(getattr(kind, "idea", None), str):
        raise DefenseError(f"{whose}: expected a class with name = ... and idea = ..., found none")
    if name is not None and own != name:
        raise DefenseError(f"{whose}: expected the defense's name to be {name!r}, found {own!r}")
    return kind


def _with_origin(kind: type[Defense], origin: Origin) -> type[Defense]:
    _MODULES.add(kind.__module__)
    kind.origin = origin
    return kind


def _of_entry(entry: EntryPoint) -> Origin:
    distribution, file = entry.dist, _file_of(entry.module)
    return Origin(
        qualname=entry.attr,
        module=entry.module,
        sha256=None if file is None else _hash_of(file),
        distribution=None if distribution is None else distribution.name,
        version=None if distribution is None else distribution.version,
    )


def _hash_of(file: str | Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _file_of(module: str) -> Path | None:
    """The Python file of a module, found without importing it or a package that it is in."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
        called = first
        for part in rest:
            called = f"{called}.{part}"
            places = None if spec is None else spec.submodule_search_locations
            spec = None if places is None else PathFinder.find_spec(called, list(places))
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _base() -> type[Defense]:
    from sparring.defenses.defense import Defense

    return Defense
