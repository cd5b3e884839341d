"""Who handed in what: the entries of a folder, each a student's, of which nothing is believed.

An entry is a file, for all defenses, or a folder:

    alice.py                  an attack
    bob.npz                   adversarial images (.npz, .safetensors, .tar, .tar.gz or .tgz)
    carol/blur.py             an attack on blur alone; attack_blur.py is the same
    carol/baseline.npz        images for the baseline alone
    dave/attack.py            an attack on all defenses that have no file of their own
    erin/images.npz           images for all of them
    frank/17.png              images as PNG, for all of them
    grace/blur/17.png         images as PNG for blur alone
    heidi/blur/attack.py      an attack on blur alone, with a folder of its own

Hidden entries are passed over, links and what is neither file nor folder are not followed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparring.errors import AttackError, DataError, printable
from sparring.evaluation.submission import Contents, is_numbered

IMAGES = (".npz", ".safetensors", ".tar", ".tar.gz", ".tgz")
"""What the names of files of images end in."""

MOST_ATTACK = 256 << 20
"""Bytes that an attack and all that lies beside it may have."""

_MOST_FILES = 10_000
_ATTACK = ".py"
_SHARED_ATTACK, _SHARED_IMAGES = "attack", "images"
_PASSED_OVER = ("__pycache__",)
_LONGEST_LIST = 5


@dataclass(frozen=True)
class Entry:
    """What one student handed in.

    Attributes:
        name: of the student.
        path: of the file or folder.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Found:
    """What a student handed in against one defense.

    Attributes:
        path: of the file, or of the folder of PNG.
        attack: whether it is an attack; else images.
        folder: the student's folder, if what lies beside the file belongs to it.
    """

    path: Path
    attack: bool
    folder: Path | None = None

    def sha256(self) -> str:
        """Give the hash of it, with what lies beside an attack.

        Raises:
            SparringError: it cannot be read, or is too large.
        """
        if not self.attack:
            return Contents.sha256_of(self.path)
        if self.folder is None:
            return _hash_of([(self.path.name, self.path)])
        return _hash_of(
            [(str(path.relative_to(self.folder)), path) for path in _below(self.folder)]
        )

    def staged(self, folder: Path) -> Path:
        """Copy an attack, and what lies beside it, to where no other student's is.

        Args:
            folder: an empty folder.

        Returns:
            The path of the copy of the attack.
        """
        for path in [self.path] if self.folder is None else _below(self.folder):
            copy = folder / path.relative_to(self.folder or self.path.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy, follow_symlinks=False)
        return folder / self.path.relative_to(self.folder or self.path.parent)


def entries(submissions: Path) -> list[Entry]:
    """List the students and what they handed in.

    Args:
        submissions: a folder with an entry a student; or one file, which then is one student's.

    Returns:
        The entries by name: that of the file without its ending, with it where two are the same.

    Raises:
        DataError: there is no such folder, or it is empty.
    """
    try:
        paths = [submissions] if submissions.is_file() else _visible(submissions)
    except OSError as error:
        raise DataError(
            f"{submissions}: {error.strerror}; expected a folder with what students handed in"
        ) from error
    if not paths:
        raise DataError(f"{submissions}: expected what students handed in, found an empty folder")
    counts = Counter(_stem(path) for path in paths)
    names = [printable(path.name if counts[_stem(path)] > 1 else _stem(path)) for path in paths]
    return [
        # What prints alike is told apart by its place.
        Entry(name if names.count(name) == 1 else f"{name} ({place + 1})", path)
        for place, (name, path) in enumerate(zip(names, paths, strict=True))
    ]


def find(entry: Entry, defenses: Sequence[str], defense: str) -> Found | None:
    """Find what a student handed in against a defense.

    Args:
        entry: what the student handed in.
        defenses: the names of all defenses that are graded.
        defense: the name of the one.

    Returns:
        It; None where the student handed in nothing against this defense.

    Raises:
        DataError: what is there cannot be understood.
    """
    mode = _kind(entry.path)
    if stat.S_ISREG(mode):
        return Found(entry.path, _is_attack(entry.path))
    inside = _visible(entry.path)
    own = [path for path in inside if _stem(path) in (defense, f"attack_{defense}")]
    if not own:
        own = [path for path in inside if _stem(path) in (_SHARED_ATTACK, _SHARED_IMAGES)]
    if len(own) > 1:
        raise DataError(f"expected one file for {defense}, found {_listed(own)}")
    if own:
        return _in_folder(own[0], entry.path, defense)
    if any(is_numbered(path.name) for path in inside):
        return Found(entry.path, attack=False)
    names = {name for of in defenses for name in (of, f"attack_{of}")}
    if not any(_stem(path) in names for path in inside):
        raise DataError(
            f"expected {defense}.py, attack.py, {defense}.npz, images.npz or PNG named by their "
            f"index, found {_listed(inside)}"
        )
    return None


def _in_folder(path: Path, folder: Path, defense: str) -> Found:
    """What an entry of a student's folder is: a file, a folder with an attack, or one of PNG."""
    if stat.S_ISREG(_kind(path)):
        attack = _is_attack(path)
        return Found(path, attack, folder if attack else None)
    inside = [
        each for each in _visible(path) if _stem(each) in (_SHARED_ATTACK, f"attack_{defense}")
    ]
    if len(inside) == 1 and stat.S_ISREG(_kind(inside[0])) and _is_attack(inside[0]):
        return Found(inside[0], attack=True, folder=path)
    return Found(path, attack=False)


def _kind(path: Path) -> int:
    """The mode of a file or folder; DataError for anything else, a link above all."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise DataError("expected a file or a folder, found a symbolic link, which is not followed")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError("expected a file or a folder, found a pipe, a socket or a device")
    return mode


def _is_attack(path: Path) -> bool:
    """Whether a file is an attack, or images; DataError where it is neither."""
    if path.name.endswith(_ATTACK):
        return True
    if path.name.lower().endswith(IMAGES):
        return False
    raise DataError(
        f"expected an attack ({_ATTACK}) or images ({', '.join(IMAGES)}), found "
        f"{printable(path.name)[:80]}"
    )


def _stem(path: Path) -> str:
    """The name without the ending of a submission; a folder's is whole."""
    name = path.name
    endings = sorted([_ATTACK, *IMAGES], key=len, reverse=True)
    ending = next((of for of in endings if name.lower().endswith(of) and name.lower() != of), "")
    return name[: len(name) - len(ending)]


def _visible(folder: Path) -> list[Path]:
    """The entries of a folder that are not hidden, by name."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted((path for path in paths if path.name not in _PASSED_OVER), key=lambda p: p.name)


def _listed(paths: Sequence[Path]) -> str:
    names = ", ".join(printable(path.name)[:80] for path in paths[:_LONGEST_LIST])
    return (names or "nothing") + ", ..." * (len(paths) > _LONGEST_LIST)


def _below(folder: Path) -> Iterator[Path]:
    """The files below a student's folder, in order; no links, and nothing hidden."""
    files, size = 0, 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _PASSED_OVER)
        for path in (Path(place) / name for name in sorted(names)):
            about = path.lstat()
            if not stat.S_ISREG(about.st_mode):
                continue
            files, size = files + 1, size + about.st_size
            if files > _MOST_FILES or size > MOST_ATTACK:
                raise AttackError(
                    f"expected at most {_MOST_FILES:,} files of {MOST_ATTACK:,} bytes in all, "
                    "found more"
                )
            yield path


def _hash_of(files: Sequence[tuple[str, Path]]) -> str:
    """The hash of files and of their names."""
    digest = hashlib.sha256()
    for name, path in files:
        if (size := path.lstat().st_size) > MOST_ATTACK:
            raise AttackError(f"expected at most {MOST_ATTACK:,} bytes, found {size:,}")
        data = path.read_bytes()
        digest.update(f"\n{name} {len(data)}\n".encode(errors="surrogateescape") + data)
    return digest.hexdigest()
