"""Time of a whole training step: Sparring on each backend against the plain PyTorch loop.

    python -m benchmarks.step_time [--filters 16 64] [--rounds 12] [--steps 8]

Every contestant is a process that trains on random 32x32x3 images in batches of 64 and pauses
after a few steps; they take turns, so a noisy machine slows all of them. Printed is the median
over the rounds of each one's step time divided by the plain loop's in the same round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from statistics import median

import numpy as np

from sparring.backend_choice import installed

BATCH, IMAGES = 64, 5000


def work(contestant: str, filters: int) -> None:
    """A contestant: on every line of standard input train so many steps, print their median."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    y = random.integers(0, 10, IMAGES).astype(np.int32)
    clock = Clock()
    if contestant.startswith("plain"):
        if contestant == "plain, freed memory kept":
            from sparring import memory

            memory.keep_freed()
        import torch

        from benchmarks.plain_torch import PlainLoop

        plain = PlainLoop(x, y, 10, filters, steps=100_000)
        while True:
            for indices in torch.randperm(IMAGES).split(BATCH)[:-1]:
                clock.step(0, plain.step(indices))
    from sparring import memory
    from sparring.data import Dataset
    from sparring.recipe import Recipe, Settings
    from sparring.train_loop import TrainLoop

    memory.keep_freed()
    dataset = Dataset("random", x, y, x[:64], y[:64], tuple("0123456789"))
    settings = Settings(filters=filters, epochs=100_000, flip=True)
    TrainLoop(Recipe(dataset.info, settings, 0), dataset).run(
        lambda line: None, clock, eval_every=0
    )


class Clock:
    """The Progress that times steps, and waits between rounds inside one."""

    def __init__(self) -> None:
        self._left, self._times, self._last = 3, [0.0], time.perf_counter()

    def begin(self, *numbers: int) -> None: ...
    def epoch(self, metrics: object, seconds_left: float) -> None: ...
    def message(self, text: str) -> None: ...

    def step(self, step: int, loss: float) -> None:
        """Note the time of a step; after a round's last, answer and wait for the next round."""
        self._times.append(time.perf_counter() - self._last)
        self._left -= 1
        if self._left == 0:
            print(median(self._times), flush=True)
            line = sys.stdin.readline()
            if not line:
                os._exit(0)  # from inside the loop, whose threads need no farewell
            self._left, self._times = int(line) + 1, []
        self._last = time.perf_counter()


def main() -> None:
    """Let the contestants take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--work", nargs=2, metavar=("CONTESTANT", "FILTERS"))
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work[0], int(arguments.work[1]))
        return
    names = ["plain", "plain, freed memory kept", *installed()]
    print("| filters | contestant | step, median | ratio to plain | ratio to plain, freed kept |")
    print("| --- | --- | --- | --- | --- |")
    for filters in arguments.filters:
        times = measure(names, filters, arguments.rounds, arguments.steps)
        for name in names:
            ratios = [
                median(a / b for a, b in zip(times[name], times[other], strict=True))
                for other in names[:2]
            ]
            print(
                f"| {filters} | {name} | {1000 * median(times[name]):.1f} ms | "
                f"{ratios[0]:.3f} | {ratios[1]:.3f} |",
                flush=True,
            )


def measure(names: list[str], filters: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Median step time of each contestant in each round."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.step_time", "--work", name, str(filters)],
            env={**os.environ, "KERAS_BACKEND": "torch" if name.startswith("plain") else name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    for process in processes.values():
        assert process.stdout is not None
        process.stdout.readline()  # it is compiled and warm
    for _ in range(rounds):
        for name, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            times[name].append(float(process.stdout.readline()))
    for process in processes.values():
        process.communicate()
    return times


if __name__ == "__main__":
    main()
