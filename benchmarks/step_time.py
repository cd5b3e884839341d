"""Time of a whole training step: Sparring on each backend against the plain PyTorch loop.

    python -m benchmarks.step_time [--filters 16 64] [--rounds 12] [--steps 8]

Every contestant is a process that trains on random 32x32x3 images in batches of 64 and pauses
after a few steps; they take turns, so a noisy machine slows all of them. Printed is the median
over the rounds of each one's step time divided by the plain loop's in the same round.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np

from benchmarks.turns import Contestant, Turn, step_times
from sparring.backend_choice import installed

BATCH, IMAGES = 64, 5000
PLAIN, PLAIN_KEPT = "plain", "plain, freed memory kept"


def work(contestant: str, filters: int, steps: int) -> None:
    """A contestant: train random images, a turn at a time."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    y = random.integers(0, 10, IMAGES).astype(np.int32)
    turn = Turn(steps)
    if contestant != PLAIN:
        from sparring import memory

        memory.keep_freed()
    if contestant in (PLAIN, PLAIN_KEPT):
        import torch

        from benchmarks.plain_torch import PlainLoop

        torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
        plain = PlainLoop(x, y, 10, filters, steps=100_000)
        while True:
            for indices in torch.randperm(IMAGES).split(BATCH)[:-1]:
                loss = plain.step(indices)
                turn.step(plain.done, loss)
    from sparring.data import Dataset
    from sparring.recipe import Recipe, Settings
    from sparring.train_loop import TrainLoop

    dataset = Dataset("random", x, y, x[:64], y[:64], tuple("0123456789"))
    settings = Settings(filters=filters, epochs=100_000, flip=True)
    loop = TrainLoop(Recipe(dataset.info, settings, 0), dataset)
    loop.run(lambda line: None, turn, eval_every=0)


def main() -> None:
    """Let the contestants take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--work", nargs=2, metavar=("CONTESTANT", "FILTERS"))
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work[0], int(arguments.work[1]), arguments.steps)
        return
    names = [PLAIN, PLAIN_KEPT, *installed()]
    print("| filters | contestant | step, median | ratio to plain | ratio to plain, freed kept |")
    print("| --- | --- | --- | --- | --- |")
    for filters in arguments.filters:
        contestants = {
            name: Contestant(
                [
                    *("-m", "benchmarks.step_time", "--steps", str(arguments.steps)),
                    *("--work", name, str(filters)),
                ],
                "torch" if name in (PLAIN, PLAIN_KEPT) else name,
            )
            for name in names
        }
        times = step_times(contestants, arguments.rounds)
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


if __name__ == "__main__":
    main()
