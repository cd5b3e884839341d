"""One process of tests/test_faults.py, which forks trainings and kills them.

python -m tests.fault_worker boundaries|forced|steps OUT prints, as JSON, what became of them.

Frameworks are imported once; each training runs in a fork, on one thread, so that it may be killed
hundreds of times in seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import sparring
from sparring.data import Dataset
from sparring.defenses import DEFENSES
from sparring.errors import RunError
from sparring.runs.directory import Run
from sparring.training.callbacks import Silent
from tests.conftest import patterns

SMALL: dict[str, Any] = {"filters": 4, "batch_size": 16}


def tiny(images: int = 40) -> Dataset:
    """As the fixture `dataset`."""
    x_train, y_train = patterns(images)
    x_test, y_test = patterns(16, seed=1)
    return Dataset("patterns", x_train, y_train, x_test, y_test, tuple("abcd"), mirror=False)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def forked(work: Callable[[], None]) -> int:
    """Do it in a fork; the exit code, negative where a signal ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Killed at a write


_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def kill_at_write(number: int) -> None:
    """Kill this process right before its n-th change of the disk, counted from 0.

    A file that is being synced is cut in half first, as one that had not reached the disk.
    """
    left = [number]

    def count(torn: int | None = None) -> None:
        if left[0] == 0:
            if torn is not None and (size := os.fstat(torn).st_size):
                left[0] = -1
                os.ftruncate(torn, size // 2)
            die()
        left[0] -= 1

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if left[0] < 0:
            return
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if written or event in _WRITES:
            count()

    synced = os.fsync

    def fsync(fd: Any) -> None:
        is_file = os.path.isfile(f"/proc/self/fd/{fd}")  # noqa: PTH113 - of a link
        count(fd if is_file else None)
        synced(fd)

    os.fsync = fsync
    sys.addaudithook(audit)


def weights(run: Path) -> str:
    return hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()


def answers(run: Path) -> str:
    """Which whole run can be loaded from here: its weights' hash, "" for none."""
    for path in (run, run / "previous"):
        with contextlib.suppress(RunError):
            sparring.load(path)
            return weights(path)
    return ""


def sweep(out: Path, prepared: Path | None, epochs: int, **first: Any) -> dict[str, Any]:
    """Train, killed at every write in turn, and go on each time."""
    dataset = tiny()
    options: dict[str, Any] = {**SMALL, "epochs": epochs}
    sparring.train("majority", dataset, out=out / "whole", **options, **first)
    whole = out / "whole" / "patterns" / "majority"
    wrong, number = [], 0
    while True:
        at = out / f"at-{number}"
        run = at / "patterns" / "majority"
        if prepared is not None:
            shutil.copytree(prepared, at)

        def killed(at: Path = at, number: int = number) -> None:
            kill_at_write(number)
            sparring.train("majority", dataset, out=at, **options, **first)

        def resumed(at: Path = at) -> None:
            sparring.train("majority", dataset, out=at, **options, **first)

        code = forked(killed)
        if code == 0:
            break
        left = answers(run)
        again = forked(resumed)
        found = {
            "number": number,
            "codes": [code, again],
            "kept": prepared is None or bool(left),
            "same": again == 0 and weights(run) == weights(whole),
            "files": sorted(path.name for path in run.iterdir() if path.name != ".lock"),
            "lines": [(line.network, line.epoch) for line in Run(run).metrics()],
        }
        expected = {
            "number": number,
            "codes": [-signal.SIGKILL, 0],
            "kept": True,
            "same": True,
            "files": ["metrics.jsonl", "run.json", "weights.safetensors"],
            "lines": [(line.network, line.epoch) for line in Run(whole).metrics()],
        }
        if found != expected:
            wrong.append(found)
        shutil.rmtree(at)
        number += 1
    return {"kills": number, "wrong": wrong}


def boundaries(out: Path) -> dict[str, Any]:
    """A new run of three networks, two epochs each."""
    return sweep(out, None, epochs=4)


def forced(out: Path) -> dict[str, Any]:
    """Anew over a finished run, which has to be whole until the new one is."""
    prepared = out / "prepared"
    sparring.train("majority", tiny(), out=prepared, **SMALL, epochs=2, seed=1)
    return sweep(out, prepared, epochs=2, force=True)


# Killed at a step


class KillAtStep(Silent):
    """Kills the process once so many steps were taken."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, step: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            die()


class Counting(Silent):
    def __init__(self) -> None:
        self.steps = 0

    def step(self, step: int, loss: float) -> None:
        self.steps += 1


def steps(out: Path) -> dict[str, Any]:
    """Every defense, killed at random steps until it comes to its end."""
    dataset, found = tiny(), {}
    for name, defense in DEFENSES.items():
        options: dict[str, Any] = dict(SMALL)
        options |= {} if defense.borrows else {"epochs": 4 if name == "majority" else 2}
        if defense.borrows:
            lender = Path("patterns") / defense.borrows
            shutil.copytree(out / "whole" / lender, out / "parts" / lender, dirs_exist_ok=True)
            options = {}
        counting = Counting()
        whole = sparring.train(name, dataset, out=out / "whole", progress=counting, **options)
        draw, kills = random.Random(name), 0
        while True:
            # Far enough, now and then, to end an epoch; so it comes to an end.
            at = draw.randrange(1, 2 * len(dataset.x_train) // SMALL["batch_size"] + 2)

            def killed(at: int = at, name: str = name, options: dict[str, Any] = options) -> None:
                sparring.train(name, dataset, out=out / "parts", progress=KillAtStep(at), **options)

            code = forked(killed)
            if code != -signal.SIGKILL:
                break
            kills += 1
        assert whole.path is not None
        found[name] = {
            "steps": counting.steps,
            "kills": kills,
            "code": code,
            "same": code == 0 and weights(whole.path) == weights(out / "parts/patterns" / name),
        }
    return found


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    work = {"boundaries": boundaries, "forced": forced, "steps": steps}[what]
    print(json.dumps(work(Path(folder))))
