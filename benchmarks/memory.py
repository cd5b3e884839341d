"""Peak resident memory of a training on 50,000 32x32x3 images.

    python -m benchmarks.memory [--filters 16 64] [--backends torch tensorflow jax]
        [--defenses baseline discretize] [--data DIR]

With --data the training images are those of a data set, and reading them is part of it.
Each measurement is a process of its own that trains 30 steps of batch 64, tests the EMA weights on
1,000 images and saves a state, which between them touch everything a whole training does.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from itertools import product

import numpy as np

from sparring.training.callbacks import Silent


class Enough(BaseException):
    """So many steps were trained."""


class Stopping(Silent):
    """The callback that ends a training after 30 steps."""

    def step(self, step: int, loss: float) -> None:
        """End at the 30th step."""
        if step >= 30:
            raise Enough


def work(name: str, filters: int, data: str | None) -> None:
    """Train, test and save; print the peak in MB."""
    from sparring.data import Dataset, load
    from sparring.defenses import get
    from sparring.runs.directory import Run
    from sparring.training import memory
    from sparring.training.loop import TrainLoop

    memory.keep_freed()
    if data is None:
        random = np.random.default_rng(0)
        x = random.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
        y = random.integers(0, 10, 50_000).astype(np.int32)
        dataset = Dataset("random", x, y, x[:1000], y[:1000], tuple("0123456789"))
    else:
        dataset = load(data).limit(test=1000)
    settings = get(name).course_settings.replace(filters=filters, flip=True)
    loop = TrainLoop(get(name).recipes(dataset.info, settings, 0)[0], dataset)
    try:
        loop.run(lambda line: None, Stopping())
    except Enough:
        loop.recipe.evaluate(loop.ema, dataset)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Run(folder).checkpoints(0)
        with checkpoints.locked():
            checkpoints.save(1, loop.state())
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{kilobytes / 1000:.0f}")


def main() -> None:
    """Measure each and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--backends", nargs="+", default=["torch", "tensorflow", "jax"])
    parser.add_argument("--defenses", nargs="+", default=["baseline"])
    parser.add_argument("--data", help="in place of random images")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work[0], int(arguments.work[1]), arguments.data)
        return
    print("| backend | filters | defense | peak resident memory |\n| --- | --- | --- | --- |")
    of_data = ["--data", arguments.data] if arguments.data else []
    choices = product(arguments.backends, arguments.filters, arguments.defenses)
    for backend, filters, defense in choices:
        peak = subprocess.check_output(
            [sys.executable, "-m", "benchmarks.memory", "--work", defense, str(filters), *of_data],
            env={**os.environ, "KERAS_BACKEND": backend},
            text=True,
        )
        print(f"| {backend} | {filters} | {defense} | {peak.strip()} MB |", flush=True)


if __name__ == "__main__":
    main()
