"""Where a verdict is written: which folder, that one process alone does, and what stays there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import numpy as np

from sparring.errors import RunError
from sparring.runs.records import Evaluated, VerdictRecord

_WAY_OUT = "Choose another folder with --out (out=)"
_LOCK = ".lock"


def own_folder(usual: Path, about: Evaluated, index: np.ndarray, force: bool = False) -> Path:
    """Find the folder in a run for a verdict, so that no other's is replaced.

    Args:
        usual: the folder that the evaluation's options give.
        about: what is about to be evaluated.
        index: on which test images, int [N].
        force: whether a damaged verdict may be replaced.

    Returns:
        The usual one; or, if it holds the verdict of another evaluation, as of other weights or of
        an attack's file with other contents, one that has a hash in its name.
    """
    file = VerdictRecord.find(usual)
    try:
        if file is None or _read(file).same(about, index.tolist()):
            return usual
    except RunError:
        if not force:
            raise
        return usual
    values = about.model_dump(mode="json", exclude={"run"})
    said = json.dumps([values, index.tolist()], sort_keys=True)
    return usual.with_name(f"{usual.name}-{hashlib.sha256(said.encode()).hexdigest()[:8]}")


@contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Hold a verdict's folder, which is made, against other processes; an empty one goes again.

    Raises:
        RunError: it is a symbolic link, cannot be written, or another process holds it.
    """
    if folder is None:
        yield
        return
    try:
        if folder.is_symlink():
            raise RunError(f"{folder}: expected a folder, found a symbolic link. {_WAY_OUT}.")
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / _LOCK)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(
            f"{folder}: another process is writing a verdict here. Wait for it. {_WAY_OUT}."
        ) from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}. {_WAY_OUT}.") from error
    try:
        yield
    finally:
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # which it is where anything is in it
            folder.rmdir()


def earlier(
    folder: Path | None, about: Evaluated, index: np.ndarray, force: bool, repeatable: bool
) -> VerdictRecord | None:
    """Read the verdict of the same evaluation that is in a folder already.

    Args:
        folder: the folder, held; None for nowhere.
        about: what is about to be evaluated.
        index: on which test images, int [N].
        force: whether a finished verdict in the folder may be replaced.
        repeatable: whether what is known of the attack tells it from any other.

    Returns:
        The record, or None where the evaluation begins anew.

    Raises:
        RunError: the folder holds something else that is not to be replaced, or is damaged.
    """
    if folder is None:
        return None
    if (file := VerdictRecord.find(folder)) is None:
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise RunError(f"{folder}: expected an empty folder or one with a verdict. {_WAY_OUT}.")
        return None
    if force:
        return None
    before = _read(file)
    if before.same(about, index.tolist()) and (
        repeatable or not (before.finished or about.attack_sha256 is None)
    ):
        return before
    if before.finished:
        raise RunError(
            f"{folder}: holds the finished verdict on {before.attack} of {len(before.images)} "
            f"images. {_WAY_OUT}, or replace it with --force (force=True)."
        )
    return None


def _read(file: Path) -> VerdictRecord:
    """Read a verdict; the error says the way out."""
    try:
        return VerdictRecord.read(file)
    except RunError as error:
        raise RunError(f"{error}. Remove the folder, or evaluate anew with --force.") from error
