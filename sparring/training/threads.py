"""How many threads a training computes with on a CPU, chosen by timed steps."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, final

import numpy as np

from sparring import backend
from sparring.errors import RunError
from sparring.runs.records import MOST_THREADS

_ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_TIMED = 4  # steps of each candidate that count, after one that does not
_HOPELESS = 4.0  # a candidate whose first step takes so many times the best one's is given up
_WORTH = 0.85  # fewer threads have to take at most this share of the time of all
_SLOW = 1.5  # steps that take so many times as long as at first are looked into
_RECENT = 5  # steps whose median tells whether they have become slow
_REST_WHEN_SLOW, _REST = 20, 100  # times the duration of choosing to wait before choosing anew
_SMALL = 20_000  # below this size of a step a second thread gains next to nothing


def candidates(size: int, threads: int | None = None) -> list[int]:
    """List the numbers of threads that a training chooses from.

    Args:
        size: of a training step: pixels of a batch times the square of the filters.
        threads: the number that the user asks for, 1 or more; None leaves the choice open.

    Returns:
        Numbers of threads, fewest first. A single one where the user said it, by `threads` or by
        OMP_NUM_THREADS or MKL_NUM_THREADS, or where the network is too small for a second thread;
        none where the backend cannot change it.
    """
    most = backend.threads()
    if most is None:
        return []
    if threads is not None:
        return [threads]
    if any(os.environ.get(name) for name in _ENVIRONMENT):
        return [most]
    if size < _SMALL:
        return [1]
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return [*powers, most]


@final
class Threads:
    """A number of threads, chosen among candidates and chosen anew when steps get slow.

    The convolutions of a step wait for all their threads. Where another program holds one of the
    cores, two threads can take ten times as long as one.

    Args:
        counts: candidates, fewest first. A single one is never timed; without any, the process's
            threads are left as they are.
        asked: whether the user gave the number, which then holds for a resumed training too.
        clock: gives seconds.

    Attributes:
        count: the number to compute with, at first the most; None without candidates.
        undecided: whether it is time to `choose`.
    """

    def __init__(
        self,
        counts: Sequence[int],
        asked: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begin with the most."""
        self._counts, self._asked, self._clock = counts, asked, clock
        self.count = counts[-1] if counts else None
        self.undecided = len(counts) > 1
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._usual = math.inf  # seconds of a step with `count` threads when all is well
        self._chosen, self._cost = clock(), 0.0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Compute with `count` threads in a block, and afterwards with as many as before it."""
        before = backend.threads()
        if self.count is not None:
            backend.set_threads(self.count)
        try:
            yield
        finally:
            if before is not None:
                backend.set_threads(before)

    def choose(self, step: Callable[[], Any]) -> None:
        """Time steps with each candidate in turn, and take the fastest.

        The most threads are kept unless fewer are clearly faster: on a quiet machine the choice,
        on which the last bits of the weights depend, must not be left to chance.

        Args:
            step: makes one training step.
        """
        begun = self._clock()
        first = {count: self._seconds(step, count) for count in self._counts}
        hopeful = [count for count in first if first[count] <= _HOPELESS * min(first.values())]
        turns = [{count: self._seconds(step, count) for count in hopeful} for _ in range(_TIMED)]
        medians = {count: median(turn[count] for turn in turns) for count in hopeful}
        fastest, most = min(hopeful, key=medians.__getitem__), max(hopeful)
        self.count = fastest if medians[fastest] < _WORTH * medians[most] else most
        backend.set_threads(self.count)
        self._usual, self.undecided = medians[self.count], False
        self._recent.clear()
        self._chosen = self._clock()
        self._cost = self._chosen - begun

    def _seconds(self, step: Callable[[], Any], count: int) -> float:
        backend.set_threads(count)
        start = self._clock()
        step()
        return self._clock() - start

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Note how long the step in a block takes; after slow ones it is time to choose anew.

        With fewer than the most threads it is so now and then too, for the machine may have become
        quiet. Choosing never takes more than a twentieth, or then a hundredth, of the time.
        """
        start = self._clock()
        yield
        self._recent.append(self._clock() - start)
        if len(self._counts) < 2 or len(self._recent) < _RECENT:
            return
        recent = median(self._recent)
        self._usual = min(self._usual, recent)
        rest = _REST_WHEN_SLOW if recent > _SLOW * self._usual else _REST
        if rest == _REST_WHEN_SLOW or self.count != self._counts[-1]:
            self.undecided = self._clock() - self._chosen > rest * self._cost

    def state(self) -> dict[str, np.ndarray]:
        """Give what a resumed training needs to go on with as many threads."""
        return {} if self.count is None else {"threads": np.array(self.count, np.int32)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on with as many threads as `state` said, unless the user asked for a number.

        Raises:
            RunError: for what is no number of threads.
        """
        recorded = arrays.get("threads")
        if recorded is None:
            return
        if recorded.dtype != np.int32 or recorded.shape or not 1 <= recorded <= MOST_THREADS:
            raise RunError(
                f"tensor threads: expected int32 from 1 to {MOST_THREADS}, "
                f"found {recorded.dtype} {recorded.tolist()!r:.40}"
            )
        self.go_on(int(recorded))

    def go_on(self, count: int) -> None:
        """Compute with as many threads as before, unless the user asked for a number."""
        if self._counts and not self._asked:
            self.count, self.undecided = count, False
