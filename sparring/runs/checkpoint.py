"""The run directory: what is in it, written so that a kill at any moment loses nothing.

    runs/<data set>/<defense>/
      run.json             what was trained, on what, how; results once finished
      metrics.jsonl        one line an epoch
      tensorboard/         the same as TensorBoard's event files, where they were asked for
      weights.safetensors  EMA weights of all networks, and the arrays that go with them
      previous/            only while training anew over a finished run: that run
      state/               only while unfinished: what resuming needs, by network
        network-000/
          epoch-000007.safetensors  everything after that epoch; the last two are kept
          metrics.jsonl             its lines so far
          diverged.json             seeds that were given up
          finished.safetensors      what it came to, once it is trained

Files are written beside their final name, synced, and renamed. Tensor files carry a hash of all
they hold. Nothing is pickled. The run and each network have a lock of their own, so that processes
may train the networks of an ensemble side by side.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import safetensors
import safetensors.numpy

from sparring.errors import RunError

FORMAT = 1
"""Version of the run directory; a newer one is refused."""

_KEPT_EPOCHS = 2
_METADATA = "sparring"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that after a crash either the old or the new contents are there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _naming(path):
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
def _naming(path: Path) -> Iterator[None]:
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
    except (KeyError, TypeError, ValueError, RecursionError) as error:
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


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The values of a file of JSON lines, up to the first that cannot be read."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            break
    return lines


def _write_json_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


@contextmanager
def _locked(folder: Path, wait: float, busy: str) -> Iterator[None]:
    """Hold a folder, which is made, against other processes; what killed writes left goes."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock", timeout=wait):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            yield
    except filelock.Timeout:
        raise RunError(
            f"{folder}: {busy}. Wait for it, or choose another folder with --out."
        ) from None


class Checkpoints:
    """What is kept of one network's training until the whole run is finished.

    `of` in its methods says which training that is, as JSON values; files of another are refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def finished_file(self) -> Path:
        return self.path / "finished.safetensors"

    @property
    def diverged_file(self) -> Path:
        return self.path / "diverged.json"

    @contextmanager
    def locked(self, wait: float = 0) -> Iterator[None]:
        """As `Run.locked`, for this network alone."""
        with _locked(self.path, wait, "another process is training this network"):
            yield

    # Metrics

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch's line to metrics.jsonl."""
        with _naming(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All epochs' lines; a last line that a kill cut short is left out."""
        return _json_lines(self.metrics_file)

    def trim_metrics(self, epoch: int) -> None:
        """Drop the lines of epochs after `epoch`, which are about to be repeated."""
        kept = [line for line in self.metrics() if line["epoch"] <= epoch]
        _write_json_lines(self.metrics_file, kept)

    # Epochs

    def save(
        self, epoch: int, arrays: Mapping[str, np.ndarray], of: Mapping[str, Any] | None = None
    ) -> None:
        """Save what resuming after `epoch` needs; the epoch before it is kept too."""
        about = {"epoch": epoch, "of": of}
        write_tensors(self.path / f"epoch-{epoch:06d}.safetensors", arrays, about)
        for old in self._epochs()[:-_KEPT_EPOCHS]:
            old.unlink()

    def load(
        self, of: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], int, list[str]] | None:
        """Arrays and number of the last epoch that is whole, or None when none was saved.

        The third value tells of damaged ones that were passed over. Raises RunError when epochs
        were saved and all are damaged.
        """
        damaged: list[str] = []
        for path in reversed(self._epochs()):
            try:
                arrays, about = _read_of(path, of)
            except RunError as error:
                damaged.append(str(error))
            else:
                return arrays, int(about["epoch"]), damaged
        if damaged:
            raise RunError(
                f"{self.path}: every saved epoch is damaged; --force trains anew. "
                + "; ".join(damaged)
            )
        return None

    def _epochs(self) -> list[Path]:
        return sorted(self.path.glob("epoch-[0-9][0-9][0-9][0-9][0-9][0-9].safetensors"))

    # Divergence

    def diverged(self) -> list[dict[str, Any]]:
        """The attempts that were given up: seed, network, epoch, step. Raises RunError."""
        if not self.diverged_file.is_file():
            return []
        try:
            return [dict(each) for each in json.loads(self.diverged_file.read_bytes())]
        except (ValueError, TypeError) as error:
            raise RunError(f"{self.diverged_file}: damaged: {error!r}") from error

    def give_up(self, attempt: Mapping[str, Any]) -> None:
        """Note an attempt that diverged and drop its epochs."""
        attempts = [*self.diverged(), dict(attempt)]
        # First, so that after a kill the next attempt never goes on from this one's epochs.
        self.drop()
        write_atomically(self.diverged_file, json.dumps(attempts).encode())

    def drop(self) -> None:
        """Drop what was saved of the epochs, and their metrics."""
        for path in self._epochs():
            path.unlink()
        self.metrics_file.unlink(missing_ok=True)

    # The end

    def finish(self, arrays: Mapping[str, np.ndarray], of: Mapping[str, Any] | None = None) -> None:
        """Save what the training came to, then drop what only resuming needed."""
        write_tensors(self.finished_file, arrays, {"of": of})
        for path in self._epochs():
            path.unlink()

    def finished(self, of: Mapping[str, Any] | None = None) -> dict[str, np.ndarray] | None:
        """What the training came to, or None before its end; RunError when it is damaged."""
        if not self.finished_file.is_file():
            return None
        try:
            return _read_of(self.finished_file, of)[0]
        except RunError as error:
            raise RunError(f"{error}; --force trains anew") from error


def _read_of(
    path: Path, of: Mapping[str, Any] | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and what is said about them; RunError when another training wrote them."""
    arrays, about, _ = read_tensors(path)
    found = about.get("of")
    if found is not None and of is not None and found != of:
        raise RunError(f"{path}: of another training: expected {dict(of)}, found {found}")
    return arrays, about


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

    def checkpoints(self, network: int) -> Checkpoints:
        """Those of one network's training."""
        return Checkpoints(self.state_folder / f"network-{network:03d}")

    def networks(self) -> list[Checkpoints]:
        """Checkpoints of all networks whose training began, while the run is unfinished."""
        folders = sorted(self.state_folder.glob("network-[0-9][0-9][0-9]"))
        return [Checkpoints(folder) for folder in folders]

    @contextmanager
    def locked(self, wait: float = 0) -> Iterator[None]:
        """Hold this directory against other processes; the lock ends with the process.

        Raises RunError when another process holds it for longer than `wait` seconds.
        """
        with _locked(self.path, wait, "another process is training here"):
            yield

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
            newer = version > FORMAT
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"{self.json_file}: damaged: {error!r}") from error
        if version != FORMAT:
            raise RunError(
                f"{self.json_file}: expected format {FORMAT}, found {version}: written by "
                f"{'a newer' if newer else 'another'} version of Sparring"
            )
        return dict(values)

    def write(self, values: Mapping[str, Any]) -> None:
        """Replace run.json."""
        text = json.dumps({"format": FORMAT, **values}, indent=2, ensure_ascii=False)
        # In a C locale, paths hold lone surrogates; escaped by Python they are JSON's escapes.
        write_atomically(self.json_file, f"{text}\n".encode(errors="backslashreplace"))

    def clear(self) -> None:
        """Make room for training anew; a finished run is put aside into previous/ until done.

        Raises RunError while a process trains one of its networks.
        """
        with ExitStack() as locks:
            for network in self.networks():
                locks.enter_context(network.locked())
            shutil.rmtree(self.state_folder, ignore_errors=True)
            if self._is_finished():
                # Copied aside whole and renamed, so that one of the two is whole at any moment.
                aside = self.state_folder / "previous"
                aside.mkdir(parents=True)
                for part in (self.weights_file, self.metrics_file, self.json_file):
                    if part.exists():
                        write_atomically(aside / part.name, part.read_bytes())
                if self.tensorboard_folder.exists():
                    shutil.copytree(self.tensorboard_folder, aside / self.tensorboard_folder.name)
                shutil.rmtree(self.previous_folder, ignore_errors=True)
                aside.replace(self.previous_folder)
            # run.json first: what is left without it is nobody's.
            for part in (self.json_file, self.weights_file, self.metrics_file):
                part.unlink(missing_ok=True)
            shutil.rmtree(self.state_folder, ignore_errors=True)
            shutil.rmtree(self.tensorboard_folder, ignore_errors=True)

    def _is_finished(self) -> bool:
        """Whether a whole training is here, be it damaged."""
        try:
            return self.weights_file.is_file() and self.read().get("status") == "finished"
        except RunError:
            return False

    def metrics(self) -> list[dict[str, Any]]:
        """All epochs' lines, by network and epoch; a line that a kill cut short is left out."""
        if self.metrics_file.is_file():  # written once all networks are trained
            return _json_lines(self.metrics_file)
        return [line for network in self.networks() for line in network.metrics()]

    def finish(
        self,
        values: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
    ) -> None:
        """Save the weights and the final run.json, then drop what only resuming needed."""
        about = {"defense": values["defense"], "settings": values["settings"]}
        if lines := self.metrics():
            _write_json_lines(self.metrics_file, lines)
        sha256 = write_tensors(self.weights_file, arrays, about)
        self.write({**values, "status": "finished", "weights_sha256": sha256})
        self.tidy()

    def tidy(self) -> None:
        """Drop what only an unfinished run needs."""
        shutil.rmtree(self.state_folder, ignore_errors=True)
        shutil.rmtree(self.previous_folder, ignore_errors=True)
