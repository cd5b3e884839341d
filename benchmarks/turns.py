"""Contestants that take turns: each a process that pauses inside its training loop.

The machines this is run on are shared; taking turns every few steps, contestants are slowed alike.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median


class Turn:
    """In a contestant: a callback that trains so many steps at a time, then waits for its turn.

    An accelerator makes up to 50 steps at once, which may be more than a turn has.
    """

    def __init__(self, steps: int) -> None:
        """Prepare for turns of so many steps."""
        self.times: list[float] = []
        self.seconds = 0.0
        self._steps, self._left, self._step = steps, steps, 0
        self._last = time.perf_counter()

    def begin(self, *numbers: int) -> None:
        """Start the clock: what was prepared before does not count."""
        self._last = time.perf_counter()

    def epoch(self, metrics: object, seconds_left: float) -> None:
        """Start the clock anew: testing and saving do not count."""
        self._step = 0
        self._last = time.perf_counter()

    def message(self, text: str) -> None:
        """Say nothing: standard output is for the times."""

    def step(self, step: int, loss: float) -> None:
        """Note the time of a step; after the last of a turn, say so and wait for the next turn.

        Where many steps are told of at once, each gets its share.
        """
        now = time.perf_counter()
        steps = step - self._step if step > self._step else 1
        self._step = step
        self.times += steps * [(now - self._last) / steps]
        self.seconds += now - self._last
        self._left -= steps
        if self._left <= 0:
            self.wait(" ".join(map(str, self.times)))
            self._left, self.times = self._steps, []
        self._last = time.perf_counter()

    def wait(self, text: str) -> None:
        """Print a line and wait for one; without one, end from inside the loop."""
        print(f"turn {text}", flush=True)
        if not sys.stdin.readline():
            os._exit(0)


class Contestant:
    """In the program that measures: a contestant's process."""

    def __init__(self, command: Sequence[str], backend: str) -> None:
        """Start a process on a backend, and wait until it is ready."""
        self.result: str | None = None
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "KERAS_BACKEND": backend},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer()

    def turn(self) -> list[float]:
        """Let it train for a turn; its steps' seconds. Sets `result` when it is through."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> list[float]:
        """Read up to the end of a turn, or to the result."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("turn "):
                return [float(word) for word in line.split()[1:]]
            if line.startswith("result "):
                self.result = line.removeprefix("result ")
                return []
        raise RuntimeError(f"a contestant ended early: exit code {self._process.wait()}")

    def end(self) -> None:
        """Close it."""
        self._process.communicate()


def step_times(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Median step time of each contestant in each round; the contestants end with it."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            times[name].append(median(contestant.turn()))
    for contestant in contestants.values():
        contestant.end()
    return times
