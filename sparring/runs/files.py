"""Files written so that a kill at any moment loses nothing, and read so that nothing runs.

A file is written beside its final name, synced, and renamed. Tensor files are safetensors with a
hash of all they hold. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from sparring.errors import RunError

_METADATA = "sparring"
LARGEST_JSON = 32 << 20
"""Bytes that a JSON file may have; of ours, verdicts are by far the largest."""
_LONGEST_LINE, _MOST_LINES = 100_000, 1_000_000  # ours have 300 bytes, and one an epoch
_DEEPEST_JSON = 50  # lists and objects within one another; ours have six


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that after a crash either the old or the new contents are there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError the path where it has none, as one of a write on a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _sync_folder(folder: Path) -> None:
    # Only this makes the rename itself last through a power cut; Windows cannot open folders.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest(arrays: Mapping[str, np.ndarray], header: str) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray], about: dict[str, Any]) -> str:
    """Write arrays and a JSON value about them as a safetensors file.

    Returns:
        The SHA-256 of arrays and values.

    Raises:
        RunError: when a floating-point array holds NaN or infinity.
    """
    if bad := not_finite(arrays):
        raise RunError(f"{path}: refusing to save values that are not finite: {', '.join(bad)}")
    # Not ascontiguousarray, which makes a scalar an array of one.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = json.dumps(about, sort_keys=True)
    sha256 = _digest(arrays, header)
    # One key, because safetensors writes several in a changing order.
    metadata = {_METADATA: json.dumps({"about": header, "sha256": sha256})}
    write_atomically(path, safetensors.numpy.save(arrays, metadata=metadata))
    return sha256


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
    """Read and verify what `write_tensors` wrote.

    Returns:
        The arrays by name, the JSON value about them, and their SHA-256.

    Raises:
        RunError: when the file is missing, is no safetensors file of ours, or was changed.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: damaged, or no safetensors file: {error}") from error
    try:
        written = json.loads(metadata[_METADATA])
        header, expected = written["about"], str(written["sha256"])
        about, sha256 = dict(json.loads(header)), _digest(arrays, header)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path}: not written by Sparring, or damaged: its metadata has no {_METADATA!r}"
        ) from error
    if sha256 != expected:
        raise RunError(f"{path}: damaged: expected SHA-256 {expected:.80}, found {sha256}")
    return arrays, about, sha256


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """List the names of the floating-point arrays that hold NaN or infinity."""
    return [
        name
        for name, array in arrays.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: when it is none, names a value twice, or is larger or deeper than ours ever are.
    """
    expect_readable(path)
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged: {error!r:.200}") from error
    level = [value]
    for _ in range(_DEEPEST_JSON):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise RunError(f"{path}: damaged: expected at most {_DEEPEST_JSON} levels of nesting")
    return value


def expect_readable(path: Path) -> None:
    """Raise RunError for a file that is larger than ours ever are, and would take long to read."""
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise RunError(f"{path}: expected {LARGEST_JSON:,} bytes at most, found {size:,}")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object; ValueError where two of its values have one name."""
    values = dict(pairs)
    if len(values) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r:.40} is there twice")
    return values


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented for people."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # In a C locale, paths hold lone surrogates; escaped by Python they are JSON's escapes.
    write_atomically(path, f"{text}\n".encode(errors="backslashreplace"))


def read_json_lines(path: Path) -> list[Any]:
    """Read a file of JSON lines, or none.

    Returns:
        The values; None for a line that is no JSON, but for one at the end that a kill cut short.
    """
    if not path.is_file():
        return []
    values: list[Any] = []
    with path.open("rb") as file:
        while len(values) < _MOST_LINES and (line := file.readline(_LONGEST_LINE)):
            end = line
            while not end.endswith(b"\n") and (end := file.readline(_LONGEST_LINE)):
                line = b""  # too long to be one of ours
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError):
                if not end:
                    break
                values.append(None)
    return values


def write_json_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines atomically."""
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def append_json_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a file of JSON lines; not atomic: a kill may cut it short."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
