"""The run directory: what is in it, written so that a kill at any moment loses nothing.

    runs/<data set>/<defense>/
      run.json             what was trained, on what, how; results once finished
      metrics.jsonl        one line an epoch
      tensorboard/         the same as TensorBoard's event files, where they were asked for
      weights.safetensors  EMA weights of all networks, and the arrays that go with them
      state/               only while unfinished: what resuming needs, the last two epochs
      previous/            only while training anew over a finished run: that run

Files are written beside their final name, synced, and renamed. Tensor files carry a hash of all
they hold. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import safetensors
import safetensors.numpy

from sparring.errors import RunError

FORMAT = 1
"""Version of the run directory; a newer one is refused."""

_KEPT_STATES = 2
_METADATA = "sparring"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that after a crash either the old or the new contents are there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


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
    """Write arrays and a JSON value about them as a safetensors file; return their hash.

    Raises RunError when a floating-point array holds NaN or infinity.
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
    """Arrays, the JSON value about them, and their hash, all verified.

    Raises RunError when the file is missing, is no safetensors file of ours, or was changed.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        raise RunError(f"{path}: damaged, or no safetensors file: {error}") from error
    try:
        written = json.loads(metadata[_METADATA])
        header, expected = str(written["about"]), written["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path}: not written by Sparring, or damaged: its metadata has no {_METADATA!r}"
        ) from error
    found = _digest(arrays, header)
    if found != expected:
        raise RunError(f"{path}: damaged: expected SHA-256 {expected}, found {found}")
    return arrays, json.loads(header), found


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the floating-point arrays that hold NaN or infinity."""
    return [
        name
        for name, array in arrays.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]


class Run:
    """One run directory. It need not exist; `locked` creates it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def json_file(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def weights_file(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def tensorboard_folder(self) -> Path:
        return self.path / "tensorboard"

    @property
    def state_folder(self) -> Path:
        return self.path / "state"

    @property
    def previous_folder(self) -> Path:
        return self.path / "previous"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this directory against other processes; the lock ends with the process.

        Raises RunError when another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(self.path / ".lock", timeout=0):
                for leftover in self.path.rglob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
                yield
        except filelock.Timeout:
            raise RunError(
                f"{self.path}: another process is training here. Wait for it, or choose another "
                "folder with --out."
            ) from None

    def exists(self) -> bool:
        """Whether anything was trained here, finished or not."""
        return self.json_file.is_file()

    def read(self) -> dict[str, Any]:
        """run.json, checked for its format version. Raises RunError when it cannot be read."""
        if not self.path.is_dir():
            raise RunError(f"{self.path}: no such run directory")
        if not self.exists():
            raise RunError(f"{self.path}: not a run directory: it has no run.json")
        try:
            values = json.loads(self.json_file.read_bytes())
            version = values["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.json_file}: damaged: {error!r}") from error
        if version != FORMAT:
            raise RunError(
                f"{self.json_file}: expected format {FORMAT}, found {version}: written by "
                f"{'a newer' if version > FORMAT else 'another'} version of Sparring"
            )
        return dict(values)

    def write(self, values: Mapping[str, Any]) -> None:
        """Replace run.json."""
        text = json.dumps({"format": FORMAT, **values}, indent=2, ensure_ascii=False)
        write_atomically(self.json_file, f"{text}\n".encode())

    # Starting anew

    def clear(self) -> None:
        """Make room for training anew; a finished run is put aside into previous/ until done."""
        if self.weights_file.is_file():
            shutil.rmtree(self.previous_folder, ignore_errors=True)
            self.previous_folder.mkdir()
            # Weights first: run.json beside no weights is unfinished, never wrong.
            for part in (
                self.weights_file,
                self.metrics_file,
                self.json_file,
                self.tensorboard_folder,
            ):
                if part.exists():
                    part.replace(self.previous_folder / part.name)
        shutil.rmtree(self.state_folder, ignore_errors=True)
        shutil.rmtree(self.tensorboard_folder, ignore_errors=True)
        self.metrics_file.unlink(missing_ok=True)

    # Metrics

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch's line to metrics.jsonl."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All epochs' lines; a last line that a kill cut short is left out."""
        if not self.metrics_file.is_file():
            return []
        lines = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(dict(json.loads(line)))
            except ValueError:
                break
        return lines

    def trim_metrics(self, network: int, epoch: int) -> None:
        """Drop the lines of epochs after `epoch` of `network`, which are about to be repeated."""
        kept = [
            line for line in self.metrics() if (line["network"], line["epoch"]) <= (network, epoch)
        ]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.metrics_file, text.encode())

    # State of an unfinished run

    def save_state(self, network: int, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Save what resuming after `epoch` of `network` needs; the state before it is kept too."""
        self.state_folder.mkdir(exist_ok=True)
        name = f"network-{network:03d}-epoch-{epoch:06d}.safetensors"
        write_tensors(self.state_folder / name, arrays, {"network": network, "epoch": epoch})
        for old in self._states()[:-_KEPT_STATES]:
            old.unlink()

    def load_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]] | None:
        """The last state that is whole, or None when none was saved.

        The third value tells of damaged states that were passed over. Raises RunError when there
        are states and all are damaged.
        """
        damaged: list[str] = []
        for path in reversed(self._states()):
            try:
                arrays, about, _ = read_tensors(path)
            except RunError as error:
                damaged.append(str(error))
            else:
                return arrays, about, damaged
        if damaged:
            raise RunError(
                f"{self.path}: every saved state is damaged; --force trains anew. "
                + "; ".join(damaged)
            )
        return None

    def _states(self) -> list[Path]:
        pattern = re.compile(r"network-\d{3}-epoch-\d{6}\.safetensors")
        if not self.state_folder.is_dir():
            return []
        return sorted(path for path in self.state_folder.iterdir() if pattern.fullmatch(path.name))

    def finish(
        self,
        values: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
    ) -> None:
        """Save the weights and the final run.json, then drop what only resuming needed."""
        about = {"defense": values["defense"], "settings": values["settings"]}
        sha256 = write_tensors(self.weights_file, arrays, about)
        self.write({**values, "status": "finished", "weights_sha256": sha256})
        shutil.rmtree(self.state_folder, ignore_errors=True)
        shutil.rmtree(self.previous_folder, ignore_errors=True)
