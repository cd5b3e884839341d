"""A user's own Python files: running one, and where in them an error came from."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from sparring.errors import SparringError, told


class _AsItStands(SourceFileLoader):
    """Compiles a file each time: Python's cache misses edits within a second that keep the size."""

    source: bytes | None = None

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path) if self.source is None else self.source
        return self.source_to_code(source, self.path)


def run(
    path: Path, what: str, wrong: type[SparringError], source: bytes | None = None
) -> ModuleType:
    """Run a Python file as it stands.

    Args:
        path: of the file.
        what: it is to be for, a word in its module's name.
        wrong: the error to raise.
        source: what it holds, where that was read already; so that it is what was hashed.

    Returns:
        Its module.

    Raises:
        SparringError: of the kind that is given, when it raises, with the place.
    """
    name = module_name(path, what)
    loader = _AsItStands(name, str(path))
    loader.source = source
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # its own, SystemExit, ...
        sys.modules.pop(name, None)
        raise wrong(f"{path}: {told(error)}{where(error, False)}") from error
    return module


def find_beside(path: Path) -> None:
    """Let a file import what lies beside it, but nothing there in place of what is installed.

    Args:
        path: of the file.
    """
    folder = str(path.parent.absolute())
    if folder not in sys.path:
        sys.path.append(folder)


def module_name(path: Path, what: str) -> str:
    """Give the name of the module that `run` makes of a file; arguments are those of `run`."""
    return f"sparring_{what}_{path.stem}"


def where(error: BaseException, at_least: bool = True) -> str:
    """Tell where in the user's own code an error came from, as " (FILE, line 3)".

    Args:
        error: one that was raised.
        at_least: whether to tell the last place of all where none is the user's own.

    Returns:
        The last place outside of Sparring, of Python and of what is installed, if there is one; of
        a SyntaxError none, which says it itself.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame)]
    if isinstance(error, SyntaxError) or not (own or (at_least and frames)):
        return ""
    frame = (own or frames)[-1]
    return f" ({frame.filename}, line {frame.lineno})"


def _is_own(frame: traceback.FrameSummary) -> bool:
    file, installed = frame.filename, sysconfig.get_paths()
    folders = [installed[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders.append(str(Path(__file__).parent))
    if file == "<string>" and frame.name.startswith("__"):  # made by dataclasses
        return False
    generated = ("<frozen ", "<__array_function__", "<attrs", "<eval_with_key>")
    return not (
        file.startswith((*(folder + os.sep for folder in folders), *generated))
        or "__autograph_generated_file" in file
    )
