"""Where a verdict is written: which folder, that one process alone does, and what stays there."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from sparring.errors import RunError
from sparring.runs.directory import Folder
from sparring.runs.records import IN_PROCESS, Evaluated, VerdictRecord

LOG = "attack.log"
"""What an attack printed that ran apart, beside its verdict."""

_WAY_OUT = "Choose another folder with --out (out=)"
_CHUNKS = ".chunks"


def chunk_folder(folder: Path, chunk: int, chunks: int) -> Path:
    """Give the folder, hidden in a verdict's, of one of the chunks that it is put together from.

    Args:
        folder: the verdict's.
        chunk: which one, counted from 0.
        chunks: of how many.
    """
    return folder / _CHUNKS / f"{chunk + 1}-of-{chunks}"


def chunk_of(folder: Path) -> tuple[int, int]:
    """Tell of the folder of a chunk which one it is, counted from 0, and of how many."""
    chunk, _, chunks = folder.name.partition("-of-")
    return int(chunk) - 1, int(chunks)


def chunks_in(
    folder: Path | None, about: Evaluated, index: np.ndarray
) -> dict[Path, VerdictRecord]:
    """Read the chunks of an evaluation that lie in its verdict's folder, finished or not.

    Args:
        folder: the verdict's; None for nowhere.
        about: what is evaluated.
        index: on which test images, int [N].

    Returns:
        Their records by their folders; without those that are damaged, or of another evaluation.
    """
    records = {}
    for place in sorted((folder / _CHUNKS).glob("*")) if folder is not None else ():
        if not re.fullmatch("[0-9]{1,9}-of-[0-9]{1,9}", place.name):
            continue
        with suppress(RunError):
            if (file := VerdictRecord.find(place)) is not None:
                record = VerdictRecord.read(file)
                if record.same(about, index.tolist()):
                    records[place] = record
    return records


def drop_chunks(folder: Path | None, but: Collection[Path] = ()) -> None:
    """Remove the chunks in a verdict's folder.

    Args:
        folder: the verdict's; None for nowhere.
        but: the folders of those that stay.
    """
    for place in (folder / _CHUNKS).glob("*") if folder is not None else ():
        if place not in but:
            shutil.rmtree(place, ignore_errors=True)
    if folder is not None and not but:
        shutil.rmtree(folder / _CHUNKS, ignore_errors=True)


def own_folder(usual: Path, about: Evaluated, index: np.ndarray, force: bool = False) -> Path:
    """Find the folder in a run for a verdict, so that no other's is replaced.

    Args:
        usual: the folder that the evaluation's options give.
        about: what is about to be evaluated.
        index: on which test images, int [N].
        force: whether a damaged verdict may be replaced.

    Returns:
        The usual one; or, if it holds the verdict of another evaluation, as of other weights or of
        an attack's file with other contents, the one of `other_folder`.
    """
    file = VerdictRecord.find(usual)
    try:
        if file is None or _read(file).same(about, index.tolist()):
            return usual
    except RunError:
        if not force:
            raise
        return usual
    return other_folder(usual, about, index)


def other_folder(usual: Path, about: Evaluated, index: np.ndarray) -> Path:
    """Give a folder like the usual one that has a hash of the evaluation in its name.

    Args:
        usual: the folder that the evaluation's options give.
        about: what is evaluated.
        index: on which test images, int [N].
    """
    # As it was before there were others.
    usual_ones = {"isolation"} if about.isolation == IN_PROCESS else set[str]()
    values = about.model_dump(mode="json", exclude={"run", *usual_ones})
    said = json.dumps([values, index.tolist()], sort_keys=True)
    return usual.with_name(f"{usual.name}-{hashlib.sha256(said.encode()).hexdigest()[:8]}")


class _Held(Folder):
    _busy = "another process is writing a verdict here"


@contextmanager
def held(folder: Path | None, wait: float = 0) -> Iterator[None]:
    """Hold a verdict's folder, which is made, against other processes.

    Args:
        folder: the folder; None for nowhere.
        wait: seconds to wait for another process that holds it.

    Raises:
        RunError: it is a symbolic link or somebody else's, cannot be written, or another process
            holds it for longer.
    """
    if folder is None:
        yield
        return
    try:
        if folder.is_symlink():
            raise RunError(f"{folder}: expected a folder, found a symbolic link. {_WAY_OUT}.")
        files = folder.iterdir() if folder.is_dir() and VerdictRecord.find(folder) is None else ()
        if any(not path.name.startswith(".") and path.name != LOG for path in files):
            raise RunError(f"{folder}: expected an empty folder or one with a verdict. {_WAY_OUT}.")
        lock = ExitStack()
        lock.enter_context(_Held(folder).locked(wait))
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}. {_WAY_OUT}.") from error
    with lock:
        yield


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
        RunError: the folder holds another verdict that is not to be replaced, or is damaged.
    """
    if folder is None or force or (file := VerdictRecord.find(folder)) is None:
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
