"""Time of a training step of each defense, as a multiple of the baseline's at equal width.

    python -m benchmarks.defense_steps [--filters 16] [--rounds 7] [--steps 4] [--defenses NAME ...]

Every contestant is a process that trains one network of a defense on random 32x32x3 images, 64 in
a batch, and pauses after a few steps; each takes turns with the baseline, so a noisy machine slows
both. Printed is the median over the rounds of its step time divided by the baseline's in the same
round.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np

from benchmarks.turns import Contestant, Turn, step_times
from sparring import backend
from sparring.data import Dataset
from sparring.defenses import DEFENSES, get
from sparring.training import memory
from sparring.training.loop import TrainLoop

BATCH, IMAGES = 64, 5000


def work(name: str, filters: int, steps: int) -> None:
    """A contestant: train the defense's last network, which has all of its recipe."""
    memory.keep_freed()
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    y = random.integers(0, 10, IMAGES).astype(np.int32)
    dataset = Dataset("random", x, y, x[:64], y[:64], tuple("0123456789"))
    defense = get(name)
    settings = defense.course_settings.replace(
        filters=filters, batch_size=BATCH, epochs=100_000, flip=True
    )
    last = defense.recipes(dataset.info, settings, 0)[-1]
    recipe = type(last)(dataset.info, settings, 0, last.network)
    TrainLoop(recipe, dataset).run(lambda line: None, Turn(steps), eval_every=0)


def main() -> None:
    """Let each take turns with the baseline and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    trained = [name for name in DEFENSES if get(name).borrows is None and name != "baseline"]
    parser.add_argument("--defenses", nargs="+", default=trained)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.filters, arguments.steps)
        return
    command = ["-m", "benchmarks.defense_steps", "--filters", str(arguments.filters)]
    command += ["--steps", str(arguments.steps), "--work"]
    print("| defense | step | times the baseline's |\n| --- | --- | --- |")
    for name in arguments.defenses:
        pair = {each: Contestant([*command, each], backend.name) for each in ("baseline", name)}
        times = step_times(pair, arguments.rounds)
        ratios = [a / b for a, b in zip(times[name], times["baseline"], strict=True)]
        print(
            f"| {name} | {1000 * median(times[name]):.0f} ms | {median(ratios):.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
