"""Decoded images kept by what they were decoded from, so that the second time takes no decoding."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparring.data.dataset import check_images
from sparring.data.reading import cache_folder
from sparring.errors import DataError

MOST_BYTES = 8 * 2**30
"""Bytes that all of them may have; those unused for longest make room."""
_LONGEST_HEADER = 2**16


def folder() -> Path:
    """Say where they are kept: beside the downloads."""
    return cache_folder() / "sparring-decoded"


def find(key: str) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Read the images that `keep` kept, if their hash is right.

    Args:
        key: the hash that they were kept by, in hexadecimal digits.

    Returns:
        Images, uint8 [N, H, W, C], and notes; None where there are none, or damaged ones.
    """
    path = folder() / key
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(_LONGEST_HEADER))
            shape, notes = tuple(header["shape"]), tuple(header["notes"])
            check_images(key, np.broadcast_to(np.uint8(0), shape))
            if file.tell() + np.prod(shape, dtype=object) != path.stat().st_size:
                return None  # before memory is taken for it
            images = np.empty(shape, np.uint8)
            file.readinto(images.reshape(-1).data)
        if header["sha256"] != _sha256(key, images, notes):
            return None
        os.utime(path)  # was used now
    except (OSError, ValueError, TypeError, KeyError, DataError):
        return None
    return images, notes


def keep(key: str, images: np.ndarray, notes: Sequence[str]) -> str:
    """Keep images, as far as there is room, and remove those unused for longest.

    Args:
        key: a hash of all that they were decoded from, in hexadecimal digits.
        images: uint8 [N, H, W, C].
        notes: sentences about them.

    Returns:
        Why they could not be kept; empty where they were.
    """
    if images.nbytes > MOST_BYTES:
        return f"they have {images.nbytes:,} bytes, and at most {MOST_BYTES:,} are kept"
    header = {"shape": images.shape, "notes": notes, "sha256": _sha256(key, images, notes)}
    place = folder() / key
    # Not synced, as runs are: what a power cut leaves is known by its hash.
    temporary = place.with_name(f".{key}.{os.getpid()}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                file.write(images.reshape(-1).data)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        _make_room()
    except OSError as error:
        return str(error)
    return ""


def _make_room() -> None:
    """Remove those unused for longest until all together are small enough."""
    kept = [(entry.stat(), entry.path) for entry in os.scandir(folder()) if entry.is_file()]
    room = MOST_BYTES
    for about, path in sorted(kept, key=lambda item: item[0].st_mtime, reverse=True):
        room -= about.st_size
        if room < 0:
            Path(path).unlink(missing_ok=True)


def _sha256(key: str, images: np.ndarray, notes: Sequence[str]) -> str:
    about = json.dumps([key, images.shape, list(notes)])
    digest = hashlib.sha256(about.encode())
    digest.update(images.reshape(-1).data)
    return digest.hexdigest()
