"""The run directory: what is in it, and in which order it is written.

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

A kill at any moment loses nothing (`files` has how). The run and each network have a lock of their
own, so that processes may train the networks of an ensemble side by side.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import filelock
import numpy as np
from pydantic import TypeAdapter, ValidationError

from sparring.errors import RunError
from sparring.runs.files import (
    append_json_line,
    read_json,
    read_json_lines,
    read_tensors,
    write_atomically,
    write_json,
    write_json_lines,
    write_tensors,
)
from sparring.runs.records import Attempt, EpochMetrics, RunRecord, problem

Identity = Mapping[str, Any]
"""JSON values that name the training of one network, and no other."""

_KEPT_EPOCHS = 2
_ATTEMPTS = TypeAdapter(list[Attempt])


class Folder:
    """A folder that one process at a time may write to; nothing is read or made yet."""

    _busy: ClassVar[str]

    def __init__(self, path: str | Path) -> None:
        """Name the files."""
        # Absolute, for whoever changes the current folder in between.
        self.path = Path(path).absolute()
        self.metrics_file = self.path / "metrics.jsonl"

    @property
    def shown(self) -> Path:
        """The path as one would type it in the current folder, where it lies below it."""
        here = Path.cwd()
        return self.path.relative_to(here) if self.path.is_relative_to(here) else self.path

    @contextmanager
    def locked(self, wait: float = 0) -> Iterator[None]:
        """Hold the folder, which is made, against other processes; the lock ends with the process.

        What killed writes left there is removed.

        Raises:
            RunError: when another process holds it for longer than `wait` seconds.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(self.path / ".lock", timeout=wait):
                for leftover in self.path.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
                yield
        except filelock.Timeout:
            raise RunError(
                f"{self.path}: {self._busy}. Wait for it, or choose another folder with --out "
                "(out=)."
            ) from None


class Checkpoints(Folder):
    """Epoch states of one network, kept until the whole run is finished.

    `identity` in its methods names the training they belong to; a file with another identity is
    refused, unless None is asked for.
    """

    _busy = "another process is training this network"

    def __init__(self, path: Path) -> None:
        """Name the files."""
        super().__init__(path)
        self.finished_file = self.path / "finished.safetensors"
        self.diverged_file = self.path / "diverged.json"

    # Metrics

    def append_metrics(self, metrics: EpochMetrics) -> None:
        """Add one epoch's line to metrics.jsonl."""
        append_json_line(self.metrics_file, metrics.as_json())

    def metrics(self) -> list[EpochMetrics]:
        """Read the lines of all epochs; what is no such line is left out."""
        return _read_metrics(self.metrics_file)[0]

    def trim_metrics(self, epoch: int) -> str:
        """Drop the lines of epochs after `epoch`, which are about to be repeated.

        Returns:
            What is wrong with other lines, which are dropped too; nothing where all are right.
        """
        lines, damaged = _read_metrics(self.metrics_file)
        kept = {line.epoch: line.as_json() for line in lines if line.epoch <= epoch}
        write_json_lines(self.metrics_file, [kept[epoch] for epoch in sorted(kept)])
        return f"{self.metrics_file}: {damaged} without the figures of an epoch" if damaged else ""

    # Epochs

    def save(
        self, epoch: int, arrays: Mapping[str, np.ndarray], identity: Identity | None = None
    ) -> None:
        """Save the arrays that resuming after `epoch` needs; the epoch before it is kept too."""
        about = {"epoch": epoch, "identity": identity}
        write_tensors(self.path / f"epoch-{epoch:06d}.safetensors", arrays, about)
        for old in self._epochs()[:-_KEPT_EPOCHS]:
            old.unlink()

    def load(
        self,
        identity: Identity | None = None,
        use: Callable[[dict[str, np.ndarray], int], None] = lambda arrays, epoch: None,
    ) -> tuple[dict[str, np.ndarray], int, list[str]] | None:
        """Read the last epoch that is whole.

        Args:
            identity: of the training.
            use: takes the arrays and the epoch; raises RunError for what it cannot use.

        Returns:
            Its arrays, its number, and what is wrong with later ones that were passed over; None
            when no epoch was saved.

        Raises:
            RunError: when epochs were saved and all are damaged, or of another training.
        """
        damaged: list[str] = []
        for path in reversed(self._epochs()):
            try:
                arrays, about = _read_of(path, identity)
                epoch = int(path.stem.rpartition("-")[2])
                if about.get("epoch") != epoch:
                    raise RunError(f"expected epoch {epoch}, found {about.get('epoch')!r:.40}")
                use(arrays, epoch)
                return arrays, epoch, damaged
            except RunError as error:
                text = str(error).removeprefix(f"{path}: ")
                damaged.append(f"{path}: {text}")
        if damaged:
            raise RunError(
                f"{self.path}: every saved epoch is damaged; --force trains anew. "
                + "; ".join(damaged)
            )
        return None

    def _epochs(self) -> list[Path]:
        return sorted(self.path.glob(f"epoch-{'[0-9]' * 6}.safetensors"))

    # Divergence

    def diverged(self) -> list[Attempt]:
        """Read the attempts that were given up; RunError when the file is damaged."""
        if not self.diverged_file.is_file():
            return []
        try:
            return _ATTEMPTS.validate_python(read_json(self.diverged_file))
        except ValidationError as error:
            raise RunError(
                f"{self.diverged_file}: damaged: {problem(error)}; --force trains anew"
            ) from error

    def give_up(self, attempt: Attempt) -> None:
        """Note an attempt that diverged and drop its epochs and metrics."""
        attempts = [*self.diverged(), attempt]
        # First, so that after a kill the next attempt never goes on from this one's epochs.
        for path in (*self._epochs(), self.metrics_file):
            path.unlink(missing_ok=True)
        write_json(self.diverged_file, [given_up.as_json() for given_up in attempts])

    # The end

    def finish(self, arrays: Mapping[str, np.ndarray], identity: Identity | None = None) -> None:
        """Save the arrays that the training came to, then drop what only resuming needed."""
        write_tensors(self.finished_file, arrays, {"identity": identity})
        for path in self._epochs():
            path.unlink()

    def finished(self, identity: Identity | None = None) -> dict[str, np.ndarray] | None:
        """Read the arrays that the training came to, None before its end.

        Raises:
            RunError: when they are damaged, or of another training.
        """
        if not self.finished_file.is_file():
            return None
        try:
            return _read_of(self.finished_file, identity)[0]
        except RunError as error:
            raise RunError(f"{error}; --force trains anew") from error


def _read_metrics(path: Path) -> tuple[list[EpochMetrics], str]:
    """Read the lines of a metrics.jsonl, and say which are none of an epoch, as "line 3"."""
    lines, damaged = [], []
    for number, values in enumerate(read_json_lines(path), start=1):
        try:
            lines.append(EpochMetrics.from_json(values))
        except ValueError:
            damaged.append(number)
    numbers = ", ".join(map(str, damaged[:5])) + ", ..." * (len(damaged) > 5)
    return lines, f"line{'s' * (len(damaged) > 1)} {numbers}" if damaged else ""


def _read_of(path: Path, identity: Identity | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read arrays and what is said about them; RunError when another training wrote them."""
    arrays, about, _ = read_tensors(path)
    written = about.get("identity", about.get("of"))  # as format 1 called it
    if identity not in (None, written):
        found = f"{written!r:.1000}"
        raise RunError(f"{path}: of another training: expected {identity}, found {found}")
    return arrays, about


class Run(Folder):
    """One run directory, whose files are above. It need not exist; `locked` creates it."""

    _busy = "another process is training here"

    def __init__(self, path: str | Path) -> None:
        """Name the files."""
        super().__init__(path)
        self.json_file = self.path / "run.json"
        self.weights_file = self.path / "weights.safetensors"
        self.tensorboard_folder = self.path / "tensorboard"
        self.state_folder = self.path / "state"
        self.previous_folder = self.path / "previous"

    def checkpoints(self, network: int) -> Checkpoints:
        """Give the checkpoints of one network, counted from 0."""
        return Checkpoints(self.state_folder / f"network-{network:03d}")

    def networks(self) -> list[Checkpoints]:
        """List those of all networks whose training began, while the run is unfinished."""
        return [Checkpoints(path) for path in sorted(self.state_folder.glob("network-[0-9]*"))]

    def exists(self) -> bool:
        """Whether anything was trained here, finished or not."""
        return self.json_file.is_file()

    def read(self, clean: Callable[[Any], Any] = lambda values: values) -> RunRecord:
        """Read run.json; RunError when it is missing, damaged, or of a newer version.

        Args:
            clean: is applied to the JSON values before they are checked; may raise ValueError.
        """
        if not self.path.is_dir():
            raise RunError(f"{self.path}: no such run directory")
        if not self.exists():
            raise RunError(f"{self.path}: not a run directory: it has no run.json")
        return RunRecord.read(self.json_file, clean)

    def write(self, record: RunRecord) -> None:
        """Replace run.json."""
        write_json(self.json_file, record.as_json())

    def status(self) -> str:
        """Say how far it is: training, diverged, finished; new where nothing can be read."""
        try:
            return self.read().status
        except RunError:
            return "new"

    def clear(self) -> None:
        """Make room for training anew; a finished run is put aside into previous/ until done.

        Raises:
            RunError: while a process trains one of its networks.
        """
        with ExitStack() as locks:
            for network in self.networks():
                locks.enter_context(network.locked())
            shutil.rmtree(self.state_folder, ignore_errors=True)
            if self.weights_file.is_file() and self.status() == "finished":
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

    def metrics(self) -> list[EpochMetrics]:
        """Read the lines of all epochs, by network and epoch; one cut short is left out."""
        if self.metrics_file.is_file():  # written once all networks are trained
            return _read_metrics(self.metrics_file)[0]
        return [line for network in self.networks() for line in network.metrics()]

    def finish(self, record: RunRecord, arrays: Mapping[str, np.ndarray]) -> str:
        """Save the weights and the final run.json, then drop what only resuming needed.

        Args:
            record: with results; status and hash of the weights are filled in here.
            arrays: weights of all networks and what goes with them, by name.

        Returns:
            The hash of the weights.
        """
        if lines := self.metrics():
            write_json_lines(self.metrics_file, [line.as_json() for line in lines])
        sha256 = write_tensors(self.weights_file, arrays, record.about())
        self.write(record.with_changes(status="finished", weights_sha256=sha256))
        self.tidy()
        return sha256

    def tidy(self) -> None:
        """Drop what only an unfinished run needs."""
        shutil.rmtree(self.state_folder, ignore_errors=True)
        shutil.rmtree(self.previous_folder, ignore_errors=True)
