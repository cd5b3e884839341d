"""Logs for TensorBoard: what metrics.jsonl holds, as scalars, one sub-run a network.

Of tensorboardX only what frames records is used. Its SummaryWriter hands events to a thread, which
ends at the first error; the queue in front of it fills, and then the training waits for ever.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from typing_extensions import override

from sparring.errors import SettingsError
from sparring.runs.directory import Run
from sparring.training.callbacks import Callback, EpochMetrics

TAGS = ("loss", "accuracy", "test_accuracy", "learning_rate", "images_per_second")
"""The scalars, named as in metrics.jsonl; their step is the epoch."""


def library() -> Any:
    """Import the package tensorboardX.

    Raises:
        SettingsError: when it is missing or cannot be imported.
    """
    # It imports torch wherever that is installed, which a process on TensorFlow must not do last.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("torch", None)
    try:
        import_module("tensorboardX.proto.event_pb2")
        return import_module("tensorboardX")
    except Exception as error:  # not only ImportError: protobuf's releases disagree in many ways
        raise SettingsError(
            "TensorBoard logs are written by tensorboardX, which cannot be imported: pip install "
            f"'sparring[tensorboard]' ({type(error).__name__}: {error})"
        ) from error
    finally:
        if modules["torch"] is None:
            del modules["torch"]


class TensorBoard(Callback):
    """Log every epoch into the run's folder tensorboard, and tell another callback.

    One event file a session: it begins with the first epoch of metrics.jsonl that is not logged
    yet, so no epoch is repeated or left out, whatever earlier sessions logged. The first error of
    the library or the disk ends the logs of this training, with a message, and nothing else.

    Args:
        progress: the other callback.
        run: whose folder it is.
        network: the only one it is told of, counted from 0, and logs; None for all.

    Raises:
        SettingsError: when the library cannot be imported.
    """

    def __init__(self, progress: Callback, run: Run, network: int | None = None) -> None:
        """Import the library; nothing is written yet."""
        self._progress, self._run, self._network = progress, run, network
        self._library = library()
        self._events = self._library.proto.event_pb2
        self._records: dict[int, Any] = {}
        self._failed = False

    def __enter__(self) -> TensorBoard:
        """Log what is not logged yet."""
        self._guarded(self._catch_up)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the logs."""
        self._guarded(self._close)

    # What a callback is told

    @override
    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        self._guarded(self._catch_up)
        self._progress.begin(network, networks, epoch, epochs, steps)

    @override
    def step(self, step: int, loss: float) -> None:
        self._progress.step(step, loss)

    @override
    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self._guarded(lambda: self._add([metrics]))
        self._progress.epoch(metrics, seconds_left)

    @override
    def message(self, text: str) -> None:
        self._progress.message(text)

    # Reading and writing

    def _catch_up(self) -> None:
        """Log what metrics.jsonl holds and the logs do not."""
        self._close()
        for network, group in groupby(self._run.metrics(), attrgetter("network")):
            if self._network not in (None, network):
                continue  # another process's
            lines, logged = list(group), self._logged(network)
            missing = (at for at, line in enumerate(lines) if line.epoch not in logged)
            self._add(lines[next(missing, len(lines)) :])

    def _folder(self, network: int) -> Path:
        """The sub-run of a network, counted from 1 as the display does."""
        return self._run.tensorboard_folder.absolute() / f"network-{network + 1}"

    def _logged(self, network: int) -> set[int]:
        """The epochs that the event files of a network hold."""
        epochs: set[int] = set()
        for file in sorted(self._folder(network).glob("*tfevents*")):
            data = file.read_bytes()
            # Eight bytes of length, four of checksum, the event, four of checksum; a kill may have
            # cut the last one short.
            while len(data) >= 12 and len(data) >= (end := 16 + int.from_bytes(data[:8], "little")):
                event, data = self._events.Event.FromString(data[12 : end - 4]), data[end:]
                if event.HasField("session_log"):
                    epochs = {epoch for epoch in epochs if epoch < event.step}
                elif event.HasField("summary"):
                    epochs.add(event.step)
        return epochs

    def _add(self, lines: Sequence[EpochMetrics]) -> None:
        """Log lines of metrics.jsonl of one network, the last of which has just come to its end."""
        # Epochs of earlier sessions are dated as if there had been no break, for the time axis.
        ago = sum(line.seconds for line in lines)
        for line in lines:
            network, epoch = line.network, line.epoch
            ago -= line.seconds
            if network not in self._records:
                self._open(network, epoch)
            values = [
                {"tag": tag, "simple_value": value}
                for tag in TAGS
                if (value := getattr(line, tag)) is not None
            ]
            self._write(network, ago, step=epoch, summary={"value": values})
        for records in self._records.values():
            records.flush()

    def _open(self, network: int, epoch: int) -> None:
        """Begin an event file; whatever was logged of this epoch and later ones counts no more."""
        self._folder(network).mkdir(parents=True, exist_ok=True)
        file = f"events.out.tfevents.{time.time():.6f}.{platform.node()}"
        self._records[network] = self._library.RecordWriter(str(self._folder(network) / file))
        self._write(network, file_version="brain.Event:2")
        self._write(network, step=epoch, session_log={"status": self._events.SessionLog.START})

    def _write(self, network: int, ago: float = 0.0, **event: Any) -> None:
        """Write an event that happened so many seconds ago."""
        written = self._events.Event(wall_time=time.time() - ago, **event)
        self._records[network].write(written.SerializeToString())

    def _close(self) -> None:
        for network in list(self._records):
            self._records.pop(network).close()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do work unless there was an error before; the first one is told and ends the logs."""
        if self._failed:
            return
        try:
            work()
        except Exception as error:
            self._failed = True
            self.message(
                "TensorBoard logs end here, the training goes on without them: "
                f"{type(error).__name__}: {error}"
            )
            with suppress(Exception):
                self._close()
