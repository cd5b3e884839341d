"""Run an attack of a user's file apart from the judge, and take nothing of it but images.

The attack's process has a session, a temporary folder and a copy of the run of its own. A
supervisor between both ends all that it began, before anything of it is judged. What comes back is
read with limits and believed no more than a file of images is (`judging`).
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import save_file

from sparring import backend
from sparring.errors import AttackError, DataError, RunError, printable
from sparring.evaluation import attacker, landlock, port
from sparring.evaluation.checks import NAMES
from sparring.evaluation.port import Port
from sparring.evaluation.request import EvaluationRequest
from sparring.evaluation.submission import Submission, of_arrays, of_safetensors
from sparring.experiments import machine
from sparring.runs.directory import Run
from sparring.runs.files import LARGEST_JSON
from sparring.runs.records import LONGEST_REASON, MOST_PASSES, EvaluationWarning, TraceRecord

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_SECONDS_TO_BEGIN = 600.0  # a framework from a slow disk takes a minute
_SECONDS_TO_END = 30.0
_SECONDS_BETWEEN_LOOKS = 0.2
_LARGEST_FILE = 16 << 30  # bytes that the attack's process may write to one
_SPARE = 1 << 20  # bytes of a frame besides its images
_MOST_WARNINGS, _LONGEST_TEXT = 40, 2000
_LONGEST_TRACEBACK = 20_000
_PART_OF_MEMORY = 0.75


class Progress(Protocol):
    """Progress callback (images_done, images_total, message)."""

    def __call__(self, done: int, total: int, text: str, /) -> None:
        """Take what there is to say."""


@dataclass
class Handed:
    """What came of an attack that ran apart.

    Attributes:
        images: float32 [M, H, W, C], of some of the test images.
        index: which those are, int [M].
        wrong: why there is none of others, by their indices.
        warnings: of the checks, as far as they are known ones.
        asked: the draws that it asked for, see `VerdictRecord.asked`.
        forward: forward passes that it says it made.
        backward: its backward passes.
        trace: what there was to see.
        port: what came of a port of the defense.
        looked: whether the checks came to their end.
        ended: why it did not come to its end, in words; empty where it did.
        traceback: of the error that it raised, for people.
        seconds: how long it ran.
        interrupt: what interrupted it, to be raised once what came of it is kept.
    """

    images: np.ndarray
    index: np.ndarray
    wrong: dict[int, str] = field(default_factory=dict)
    warnings: list[EvaluationWarning] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    forward: int = 0
    backward: int = 0
    trace: TraceRecord | None = None
    port: Port = field(default_factory=Port)
    looked: bool = False
    ended: str = ""
    traceback: str = ""
    seconds: float = 0.0
    interrupt: BaseException | None = None


def attacked(
    request: EvaluationRequest,
    run: Path,
    submission: Submission,
    given: Mapping[str, np.ndarray],
    log: Path | None,
    tell: Progress,
) -> Handed:
    """Let an attack run apart on test images.

    Args:
        request: the evaluation.
        run: the run directory of the defense.
        submission: the attack's file.
        given: the arrays of `attacker.GIVEN`.
        log: the file for what it prints; None keeps nothing.
        tell: is told how far it is.

    Returns:
        What it handed over until it ended or was ended.

    Raises:
        AttackError: its supervisor was ended, so that it may still be running.
        RunError: the run cannot be copied.
    """
    with tempfile.TemporaryDirectory(prefix="sparring-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        # A model of one's own is made anew by the attack's process, from the same file.
        copy = request.defense if request.is_of_model else str(_copied(run, folder))
        save_file(dict(given), folder / attacker.GIVEN)
        asked = replace(
            request,
            defense=copy,
            attack=str(submission.path.absolute()),
            save=False,
            apart=False,
            out=None,
            force=False,
            chunk=None,
            chunks=1,
            time_limit=None,
            seed=0,
        ).from_anywhere()
        known = landlock.version() > 0
        task = attacker.Task(asked.as_json(), str(folder), submission.sha256, known)
        words = ["-c", "from sparring.evaluation import attacker; attacker.work()"]
        words.append(json.dumps(asdict(task)))
        added = {"KERAS_BACKEND": backend.name, "TMPDIR": name, "MPLCONFIGDIR": name}
        python = machine.python(
            words, {**added, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
        )
        if request.sandbox:
            python["args"] = [*_bubblewrap(folder), *python["args"]]
        with _started(python, _limits(request), log, request.output_limit) as child:
            return _Reader(child, request, given, tell).read()


def _copied(run: Path, folder: Path) -> Path:
    """Copy what a defense is loaded from."""
    source, target = Run(run), Run(folder / "run" / run.name)
    try:
        target.path.mkdir(parents=True)
        shutil.copyfile(source.json_file, target.json_file)
        shutil.copyfile(source.weights_file, target.weights_file)
    except OSError as error:
        raise RunError(f"{run}: cannot be copied: {error.strerror}") from error
    return target.path


def _bubblewrap(folder: Path) -> list[str]:
    """The words before a command that runs it with all files to be read alone, and no network."""
    words = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-net"]
    words += ["--unshare-pid", "--unshare-ipc", "--die-with-parent"]
    return [*words, "--bind", str(folder), str(folder), "--"]


def _limits(request: EvaluationRequest) -> dict[str, int]:
    """Values of resource.setrlimit, by the supervisor's names."""
    limits = {"file": _LARGEST_FILE, "core": 0}
    if request.cpu_limit is not None:
        limits["cpu"] = max(1, round(request.cpu_limit))
    if request.memory_limit is not None:
        limits["memory"] = round(request.memory_limit * (1 << 30))
    elif backend.devices()[0] == "cpu" and (total := machine.memory()[0]) is not None:
        # A driver of a GPU counts the GPU's memory among a process's own.
        limits["memory"] = round(_PART_OF_MEMORY * total)
    return limits


@dataclass
class _Child:
    """The supervisor's process, and what its attack's process writes images to."""

    process: subprocess.Popen[bytes]
    data: int
    attack: int = 0

    def says_the_end(self) -> bool:
        """Whether the supervisor says how the attack's process ended, and is yet to be read."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def end(self, seconds: float) -> int | None:
        """Let the supervisor end all that is left of the attack.

        Args:
            seconds: how long the attack may take to end by itself.

        Returns:
            The status of the attack's process, as os.waitpid gives it; None where it was ended.

        Raises:
            AttackError: the supervisor does not say that nothing is left.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # A process that is done is given the time to end, and so to say how.
        select.select([self.process.stdout], [], [], seconds)
        with suppress(OSError):
            self.process.stdin.close()
        lines: list[bytes] = []
        if select.select([self.process.stdout], [], [], _SECONDS_TO_END)[0]:
            lines = self.process.stdout.read(1000).split()
        self.process.kill()
        self.process.wait()
        if self.attack:
            with suppress(OSError):
                os.killpg(self.attack, signal.SIGKILL)
        if len(lines) != 1:
            raise AttackError(
                "the attack ended the process that supervises it, and may still be running; there "
                "is no verdict"
            )
        return None if lines[0] == b"None" else int(lines[0])


@contextmanager
def _started(
    python: Mapping[str, Any], limits: Mapping[str, int], log: Path | None, mebibytes: float
) -> Iterator[_Child]:
    """Start the attack's process under its supervisor; nothing of it is left afterwards."""
    data, data_there = os.pipe()
    said, log_there = os.pipe()
    task = {
        "command": python["args"],
        "limits": dict(limits),
        "data": data_there,
        "log": log_there,
    }
    words = [sys.executable, "-I", "-S", str(_SUPERVISOR), json.dumps(task)]
    process = subprocess.Popen(
        words,
        env=python["env"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(data_there, log_there),
        start_new_session=True,  # Ctrl-C is the judge's
    )
    os.close(data_there)
    os.close(log_there)
    keeping = threading.Thread(target=_keep, args=(said, log, round(mebibytes * (1 << 20))))
    keeping.daemon = True
    keeping.start()
    child = _Child(process, data)
    try:
        assert process.stdout is not None
        child.attack = int(process.stdout.readline() or 0)
        yield child
    finally:
        if process.returncode is None:
            with suppress(AttackError):
                child.end(0)
        for end in (process.stdin, process.stdout):
            with suppress(OSError):
                end.close()  # type: ignore[union-attr] # both are pipes
        os.close(data)
        keeping.join(_SECONDS_TO_END)


def _keep(said: int, log: Path | None, most: int) -> None:
    """Keep the first bytes of what comes, and drop the rest, so that nobody has to wait."""
    with open(said, "rb", buffering=0) as pipe:
        kept = bytearray()
        while part := pipe.read(1 << 16):
            kept += part[: most - len(kept)]
    if log is not None and kept:
        lines = kept.decode(errors="backslashreplace").split("\n")
        with suppress(OSError):  # a log that cannot be written is no verdict's fault
            log.write_text("\n".join(map(printable, lines)), encoding="utf-8")


class _Reader:
    """Reads what an attack's process hands over."""

    def __init__(
        self,
        child: _Child,
        request: EvaluationRequest,
        given: Mapping[str, np.ndarray],
        tell: Progress,
    ) -> None:
        """Know of no image yet."""
        self._child, self._request, self._tell = child, request, tell
        shape = given["adversarial"].shape[1:]
        self._shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self._wanted = {*given["index"][~given["there"]].tolist()}
        self._total = len(self._wanted)
        self._handed = Handed(np.zeros((0, *self._shape), np.float32), np.zeros(0, int))
        self._images: list[np.ndarray] = []
        self._index: list[int] = []
        # Frames are no larger than all images at once, or what a trace may be.
        images = len(given["index"]) * (int(np.prod(self._shape)) * 4 + 100)
        self._compared = min(port.IMAGES, len(given["index"]))
        self._largest = max(images, LARGEST_JSON) + _SPARE
        self._buffer = bytearray()

    def read(self) -> Handed:
        """Read until the attack ends or is ended; nothing of it is left then."""
        limit = self._request.time_limit
        begun, most = time.monotonic(), _SECONDS_TO_BEGIN
        self._tell(0, self._total, "attacking, apart")
        handed = self._handed
        try:
            while True:
                if time.monotonic() - begun > most:
                    handed.ended = f"it ran past its limit of {most:g} s"
                    break
                if not select.select([self._child.data], [], [], _SECONDS_BETWEEN_LOOKS)[0]:
                    if self._child.process.poll() is not None:
                        break
                    if self._child.says_the_end():
                        break  # nothing more comes
                    continue
                part = os.read(self._child.data, 1 << 20)
                if not part:
                    break
                self._buffer += part
                for kind, contents in self._frames():
                    if kind == attacker.BEGUN and most == _SECONDS_TO_BEGIN:
                        begun, most = time.monotonic(), limit or float("inf")
                    self._take(kind, contents)
                if handed.ended or self._is_complete():
                    break
        except _Wrong as wrong:
            handed.ended = str(wrong)
        except KeyboardInterrupt as interrupt:
            handed.ended, handed.interrupt = "it was interrupted", interrupt
        # What is complete need not come to its end, which its exit handlers may put off.
        known = bool(handed.ended) or self._is_complete()
        status = self._child.end(0 if known else _SECONDS_TO_END)
        handed.seconds = time.monotonic() - begun
        if not known:
            handed.ended = _words_of(status, self._request)
        if self._images:
            handed.images = np.concatenate(self._images)
            handed.index = np.array(self._index, int)
        return handed

    def _is_complete(self) -> bool:
        """Whether all that was asked for came."""
        return self._handed.looked and (self._handed.trace is not None or not self._request.trace)

    def _frames(self) -> Iterator[tuple[bytes, bytes]]:
        """Cut whole frames from what came."""
        while len(self._buffer) >= 9:
            length = int.from_bytes(self._buffer[1:9], "big")
            if length > self._largest:
                raise _Wrong("it handed over more than images")
            if len(self._buffer) < 9 + length:
                return
            kind, contents = bytes(self._buffer[:1]), bytes(self._buffer[9 : 9 + length])
            del self._buffer[: 9 + length]
            yield kind, contents

    def _take(self, kind: bytes, contents: bytes) -> None:
        """Take a frame for what it says it is, as far as it is that."""
        handed = self._handed
        try:
            if kind == attacker.IMAGES:
                self._take_images(contents)
            elif kind == attacker.WRONG:
                values = json.loads(contents)
                reason = printable(str(values["reason"]))[:LONGEST_REASON]
                new = [index for index in values["index"] if index in self._wanted]
                handed.wrong |= dict.fromkeys(new, reason)
                self._wanted -= {*new}
            elif kind == attacker.ERROR:
                values = json.loads(contents)
                handed.ended = printable(str(values["message"])[:_LONGEST_TEXT])
                lines = str(values["traceback"])[:_LONGEST_TRACEBACK].split("\n")
                handed.traceback = "\n".join(map(printable, lines))
            elif kind == attacker.WARNINGS and not handed.looked:
                values = json.loads(contents)
                for value in values["warnings"][:_MOST_WARNINGS]:
                    warning = EvaluationWarning.model_validate(value)
                    if warning.name in NAMES:
                        text = printable(warning.text[:_LONGEST_TEXT])
                        handed.warnings.append(EvaluationWarning(name=warning.name, text=text))
                asked = values["asked"]
                if all(type(seed) is int and -1 <= seed < 2**31 for seed in asked[:2]):
                    handed.asked = asked[:2]
                passes = values.get("forward", 0), values.get("backward", 0)
                if all(type(count) is int and 0 <= count < MOST_PASSES for count in passes):
                    handed.forward, handed.backward = passes
                handed.looked = True
            elif kind == attacker.PORT:
                for name, array in of_safetensors(contents).items():
                    handed.port.take(name, array, (self._compared, *self._shape))
            elif kind == attacker.NO_PORT:
                values = json.loads(contents)
                if (name := values["name"]) in (port.LABELS, port.GRADIENT):
                    why = printable(str(values["reason"]))[:LONGEST_REASON]
                    handed.port.problems.setdefault(name, why)
            elif kind == attacker.TRACE and handed.trace is None:
                handed.trace = TraceRecord.model_validate_json(contents)
        except (DataError, ValidationError, ValueError, TypeError, KeyError, RecursionError):
            raise _Wrong("it handed over what is no images") from None
        self._tell(self._total - len(self._wanted), self._total, "attacking, apart")

    def _take_images(self, contents: bytes) -> None:
        """Take the first image of each test image that was asked for."""
        pictures = of_arrays(of_safetensors(contents), self._shape, np.zeros(0, int))
        rows = [row for row, index in enumerate(pictures.index.tolist()) if index in self._wanted]
        if len({*pictures.index[rows].tolist()}) < len(rows):
            raise _Wrong("it handed over an image twice")
        self._images.append(pictures.images[rows])
        self._index += pictures.index[rows].tolist()
        self._wanted -= {*self._index}


class _Wrong(Exception):
    """The attack's process hands over what is of no use; it is ended."""


def _words_of(status: int | None, request: EvaluationRequest) -> str:
    """How a process ended that did not say so itself."""
    if status is None:
        return "it closed what it hands images over by"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    if request.cpu_limit is not None and name in ("SIGXCPU", "SIGKILL"):
        return f"its process was ended by {name}, as it does past its CPU limit"
    return f"its process was ended by {name}"
