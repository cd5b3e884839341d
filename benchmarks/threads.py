"""Training with one thread, with all, and with as many as Sparring chooses, beside other work.

    KERAS_BACKEND=torch python -m benchmarks.threads [--load 0 2] [--steps 240] [--rounds 3]
        [--case 8x4 8x16 32x16 32x64]

On a CPU, with OMP_NUM_THREADS and MKL_NUM_THREADS unset. The other work is made here: --load N
runs N processes that compute without end. A case is the side of the images and the network's
filters; --steps of 64 random images are trained four epochs long, by each contestant in turn, in
one process. Printed are the images per second of the last three epochs (medians over the rounds),
the same with the first epoch, which has the steps that were timed to choose, and what was chosen
in each round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np

from sparring import backend
from sparring.data import Dataset
from sparring.defenses.baseline import Baseline
from sparring.training import memory
from sparring.training.callbacks import EpochMetrics, Silent
from sparring.training.loop import TrainLoop

EPOCHS, BATCH = 4, 64


def main() -> None:
    """Print a table, a row for each load and case."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--load", type=int, nargs="+", default=[0, os.cpu_count()])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", nargs="+", default=["8x4", "8x16", "32x16", "32x64"])
    arguments = parser.parse_args()
    if any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        parser.error("unset OMP_NUM_THREADS and MKL_NUM_THREADS: they leave nothing to choose")
    memory.keep_freed()
    every = backend.threads() or 1
    print(
        "| busy processes | images, filters | 1 thread | all threads | as chosen | with choosing "
        "| chosen | by the best |"
    )
    print("| --- " * 8 + "|")
    for load in arguments.load:
        with busy(load):
            for case in arguments.case:
                side, filters = (int(number) for number in case.split("x"))
                print(f"| {load} | {row(side, filters, arguments, every)} |", flush=True)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Run processes that compute without end."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(processes)]
    try:
        time.sleep(1.0)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def row(side: int, filters: int, arguments: argparse.Namespace, every: int) -> str:
    """Measure one case; gives its cells."""
    contestants = {"one": 1, "all": every, "ours": None}
    paces: dict[str, list[float]] = {name: [] for name in contestants}
    whole: list[float] = []
    chosen: list[str] = []
    for _ in range(arguments.rounds):
        for name, threads in contestants.items():
            lines = train(side, filters, arguments.steps, threads)
            paces[name].append(pace(lines[1:]))
            if name == "ours":
                whole.append(pace(lines))
                chosen.append(str(lines[-1].threads))
    best = [max(one, two) for one, two in zip(paces["one"], paces["all"], strict=True)]
    ratio = median(own / top for own, top in zip(paces["ours"], best, strict=True))
    figures = [*(median(paces[name]) for name in contestants), median(whole)]
    cells = [f"{side}x{side}, {filters}", *(f"{figure:,.0f}" for figure in figures)]
    return " | ".join([*cells, ", ".join(chosen), f"{ratio:.2f}"])


def train(side: int, filters: int, steps: int, threads: int | None) -> list[EpochMetrics]:
    """Train a baseline on random images; gives a line for each epoch."""
    random = np.random.default_rng(0)
    images = steps // EPOCHS * BATCH
    x = random.integers(0, 256, (images, side, side, 1), dtype=np.uint8)
    y = np.arange(images, dtype=np.int32) % 10
    dataset = Dataset("random", x, y, x[:10], y[:10], tuple("0123456789"), mirror=False)
    changes = {"filters": filters, "epochs": EPOCHS, "batch_size": BATCH}
    settings = Baseline.settings_for(dataset, "course", changes).settings
    [recipe] = Baseline.recipes(dataset.info, settings, 0)
    lines: list[EpochMetrics] = []
    TrainLoop(recipe, dataset, threads=threads).run(lines.append, Silent(), eval_every=0)
    return lines


def pace(lines: list[EpochMetrics]) -> float:
    """Images per second over some epochs."""
    return len(lines) / sum(1 / line.images_per_second for line in lines)


if __name__ == "__main__":
    main()
