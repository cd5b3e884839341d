"""Supervisor: a small process between the judge and an attack, which ends all the attack began.

It is run as a file of its own by a Python without site packages, and imports nothing of Sparring.
As a subreaper of Linux it inherits every orphan of the attack, also one that began another session,
so none outlives it. It ends them when the attack ends, or when the judge closes its standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_SUBREAPER, _SIGNAL_AT_PARENTS_END = 36, 1  # of prctl
_SECONDS_BETWEEN_LOOKS = 0.05
_DATA = 3  # what the attack's process writes its images to

_LIMITS = {
    "cpu": "RLIMIT_CPU",
    "memory": "RLIMIT_DATA",
    "file": "RLIMIT_FSIZE",
    "core": "RLIMIT_CORE",
}


def main() -> None:
    """Run a command; print how it ended, once nothing of it is left.

    The one argument is JSON: `command`, a list of texts; `limits`, values of resource.setrlimit by
    the names above; `data` and `log`, descriptors that it gets as 3, and as standard output and
    error. Standard output gets two lines: its process id, and its status as os.waitpid gives it.
    """
    task = json.loads(sys.argv[1])
    linux = sys.platform.startswith("linux")
    if linux:
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    pid = os.fork()
    if pid == 0:
        _begin(task, linux)
    os.close(task["data"])
    os.close(task["log"])
    print(pid, flush=True)
    status = _wait(pid)
    while linux and (left := _descendants(os.getpid())):
        # First none may begin another one.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for each in left:
                with suppress(ProcessLookupError):
                    os.kill(each, number)
        _reap()
        time.sleep(_SECONDS_BETWEEN_LOOKS / 10)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    print(status, flush=True)


def _begin(task: dict[str, object], linux: bool) -> None:
    """What the forked process does: become the command, in a session of its own."""
    try:
        os.setsid()
        if linux:
            ctypes.CDLL(None).prctl(_SIGNAL_AT_PARENTS_END, signal.SIGKILL, 0, 0, 0)
            with suppress(OSError):  # where memory is short this is to go, and not the judge
                Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        for name, value in task["limits"].items():  # type: ignore[attr-defined]
            kind = getattr(resource, _LIMITS[name])
            _, most = resource.getrlimit(kind)
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(kind, (value, value))
        nothing = os.open(os.devnull, os.O_RDONLY)
        data, log = os.dup(task["data"]), os.dup(task["log"])  # type: ignore[arg-type]
        for source, place in ((nothing, 0), (log, 1), (log, 2), (data, _DATA)):
            os.dup2(source, place)
        os.closerange(_DATA + 1, 1024)
        command: list[str] = task["command"]  # type: ignore[assignment]
        os.execvp(command[0], command)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
    finally:
        os._exit(127)


def _wait(pid: int) -> int | None:
    """Wait until a process ends, and give its status; None once it is to be ended."""
    while True:
        ended = _reap()
        if pid in ended:
            return ended[pid]
        asked, _, _ = select.select([0], [], [], _SECONDS_BETWEEN_LOOKS)
        if asked:
            return None


def _reap() -> dict[int, int]:
    """Take note of children that ended: their status, by process id."""
    ended = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = status
    return ended


def _descendants(pid: int) -> list[int]:
    """All processes that descend from one, which as a subreaper has no lost ones."""
    parents: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                # The name of a program, in brackets, may hold anything.
                state, parent = (place / "stat").read_bytes().rpartition(b") ")[2].split()[:2]
                if state != b"Z" or int(parent) == pid:
                    parents[int(place.name)] = int(parent)
    found, level = [], [pid]
    while level := [each for each, parent in parents.items() if parent in level]:
        found += level
    return found


if __name__ == "__main__":
    main()
