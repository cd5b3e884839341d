"""Folders that are written beside their place and take it at once, whatever is there."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from sparring.errors import ConversionError

_ENDING = ".converting"


@contextmanager
def staged(target: Path, force: bool) -> Iterator[Path]:
    """Give an empty folder that takes a place at the end; on an error all stays as it was.

    What killed processes left beside the place is put right first.

    Args:
        target: the place.
        force: replace what is there.

    Raises:
        ConversionError: when something is there, or another process writes to this place.
    """
    if target.name in ("", ".."):  # a folder under another name, as "."
        target = target.resolve()
    if os.path.lexists(target) and not force:
        raise ConversionError(f"{target} exists; --force replaces it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConversionError(
            f"{target}: cannot be written: {error}; choose another folder with --out"
        ) from error
    for left in target.parent.glob(f".*{_ENDING}"):
        with suppress(filelock.Timeout), _held(left):
            pass
    stage = target.with_name(f".{target.name}{_ENDING}")
    try:
        with _held(stage):
            new = stage / "new"
            new.mkdir()
            yield new
            if os.path.lexists(target) and not _exchanged(new, target):
                target.rename(stage / "old")
            if new.exists() and not os.path.lexists(target):
                new.rename(target)
    except filelock.Timeout:
        raise ConversionError(
            f"{target}: another process converts to this place. Wait for it, or choose another "
            "folder with --out."
        ) from None


@contextmanager
def _held(stage: Path) -> Iterator[None]:
    """Hold a stage, which is made, against other processes; it is gone afterwards."""
    stage.mkdir(exist_ok=True)
    with filelock.FileLock(stage / ".lock", timeout=0):
        try:
            _clear(stage)
            yield
        finally:
            _clear(stage)
            shutil.rmtree(stage, ignore_errors=True)
    with suppress(OSError):  # Windows removes no file that is held
        stage.rmdir()


def _clear(stage: Path) -> None:
    """Empty a stage; what it was about to replace goes back where nothing took its place."""
    target = stage.with_name(stage.name.removesuffix(_ENDING)[1:])
    if os.path.lexists(stage / "old") and not os.path.lexists(target):
        (stage / "old").rename(target)
    for part in (stage / "old", stage / "new"):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths in one step, where the system can: at no moment is one missing."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
