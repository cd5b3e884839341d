"""Hashes of the judge's part of a task, as sha256sum writes them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sparring.errors import RunError

FILE = "SHA256SUMS"


def write(folder: Path) -> str:
    """Write the hashes of all files of a folder.

    Returns:
        The SHA-256 of the list, which stands for all of them.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / FILE).write_text("".join(lines), encoding="utf-8")
    return _sha256(folder / FILE)


def check(folder: Path, sha256: str | None) -> None:
    """Compare the files of a folder with the list, and that with its hash.

    Args:
        folder: the judge's part.
        sha256: of the list, as `write` gave it; None believes the list.

    Raises:
        RunError: a file is missing, or not as it was written.
    """
    list_file = folder / FILE
    if not list_file.is_file():
        raise RunError(f"{folder}: expected the judge's part of a task, found no {FILE}")
    if sha256 is not None and (found := _sha256(list_file)) != sha256:
        raise RunError(f"{list_file}: expected SHA-256 {sha256:.80}, found {found}")
    for line in list_file.read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{list_file}: expected names of files in {folder}, found {name!r:.80}")
        if not file.is_file():
            raise RunError(f"{file}: missing of the judge's part")
        if (found := _sha256(file)) != expected:
            raise RunError(f"{file}: expected SHA-256 {expected:.80}, found {found}")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
