"""Time of a whole training step: Sparring on each backend against the plain PyTorch loop.

    python -m benchmarks.step_time [--filters 16 64] [--rounds 12] [--steps 8]
        [--precision bfloat16] [--preset fast]

Every contestant is a process that trains on random 32x32x3 images in batches of 64 and pauses
after a few steps; they take turns, so a noisy machine slows all of them. Printed is the median
over the rounds of each one's step time divided by the plain loop's in the same round.

How close that is to the hardware's limit: the convolutions' multiplications and additions of a
step, by the time it takes, beside what each backend reaches at best in the same rounds with nothing
but matrix products or convolutions, whichever is faster there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from benchmarks.turns import Contestant, Turn, step_times
from sparring.backend.choice import installed

BATCH, IMAGES = 64, 5000
PLAIN, PLAIN_KEPT = "plain", "plain, freed memory kept"
LIMIT = "limit of "
SIDE = {True: 2048, False: 8192}
"""Of the matrices that are multiplied, on a CPU and elsewhere."""


def operations(filters: int) -> float:
    """Multiplications and additions of a training step's convolutions.

    Each is three products of the same size, the output and two gradients; the first has no gradient
    by the images.
    """
    total, side, channels, width = 0.0, 32, 3, filters
    for _ in range(3):
        for outputs in (width, 2 * width):
            passes = 2 if channels == 3 else 3
            total += passes * 2 * BATCH * side**2 * 9 * channels * outputs
            channels = outputs
        side, width = side // 2, 2 * width
    return total + 3 * 2 * BATCH * side**2 * channels * 10


def limit(precision: str) -> None:
    """A contestant: as many operations a second as the backend does, a turn at a time."""
    from keras import ops

    from sparring import backend
    from sparring.training import memory

    memory.keep_freed()
    random = np.random.default_rng(0)

    def tensor(*shape: int) -> Any:
        values = ops.convert_to_tensor(random.standard_normal(shape).astype(np.float32))
        return ops.cast(values, precision)

    side = SIDE[backend.on_cpu(ops.convert_to_tensor(0.0))]
    square, images, kernel, bias = (
        tensor(side, side), tensor(64, 32, 32, 128), tensor(3, 3, 128, 128), tensor(128)
    )  # fmt: skip
    from keras import Variable

    weights = [Variable(kernel, dtype=precision), Variable(bias, dtype=precision)]
    backend.lay_out(weights[:1])
    tasks: list[tuple[float, Callable[[], Any]]] = []
    multiply = backend.compile(lambda x: ops.sum(ops.matmul(x, x)[0]), [])
    convolve = backend.compile(lambda x: ops.sum(backend.conv2d(x, *weights)[0, 0]), weights)
    tasks.append((2 * side**3, lambda: multiply(square)))
    tasks.append((2 * 64 * 32**2 * 9 * 128**2, lambda: convolve(images)))
    turn = Turn(1)
    for _, task in tasks:
        ops.convert_to_numpy(task())
    while True:
        rates = []
        for count, task in tasks:
            begun = time.perf_counter()
            ops.convert_to_numpy([task() for _ in range(3)][-1])  # waits for all of them
            rates.append(3 * count / (time.perf_counter() - begun))
        turn.wait(str(max(rates)))


def work(contestant: str, filters: int, steps: int, preset: str, precision: str) -> None:
    """A contestant: train random images, a turn at a time."""
    if contestant.startswith(LIMIT):
        limit(precision)
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    y = random.integers(0, 10, IMAGES).astype(np.int32)
    turn = Turn(steps)
    if contestant != PLAIN:
        from sparring.training import memory

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
    from sparring.training.loop import TrainLoop
    from sparring.training.recipe import Recipe
    from sparring.training.settings import Settings, resolve

    dataset = Dataset("random", x, y, x[:64], y[:64], tuple("0123456789"))
    settings = resolve(Settings, {}, preset).settings
    settings = settings.replace(filters=filters, epochs=100_000, flip=True, precision=precision)
    loop = TrainLoop(Recipe(dataset.info, settings, 0), dataset)
    loop.run(lambda line: None, turn, eval_every=0)


def main() -> None:
    """Let the contestants take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--preset", default="course")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--backends", nargs="+", default=installed())
    parser.add_argument("--work", nargs=2, metavar=("CONTESTANT", "FILTERS"))
    arguments = parser.parse_args()
    if arguments.work:
        name, filters = arguments.work
        work(name, int(filters), arguments.steps, arguments.preset, arguments.precision)
        return
    names = [PLAIN, PLAIN_KEPT, *arguments.backends]
    names += [LIMIT + name for name in arguments.backends]
    print(
        "| filters | contestant | step, median | ratio to plain | ratio to plain, freed kept | "
        "operations a second | of the limit |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for filters in arguments.filters:
        contestants = {
            name: Contestant(
                [
                    *("-m", "benchmarks.step_time", "--steps", str(arguments.steps)),
                    *("--preset", arguments.preset, "--precision", arguments.precision),
                    *("--work", name, str(filters)),
                ],
                "torch" if name in (PLAIN, PLAIN_KEPT) else name.removeprefix(LIMIT),
            )
            for name in names
        }
        times = step_times(contestants, arguments.rounds)
        for name in names:
            if name.startswith(LIMIT):
                rate = median(times[name])
                print(f"| {filters} | {name} | - | - | - | {rate / 1e9:.0f} G | 100 % |")
                continue
            ratios = [
                median(a / b for a, b in zip(times[name], times[other], strict=True))
                for other in names[:2]
            ]
            best = LIMIT + (name if name in arguments.backends else "torch")
            share = median(
                operations(filters) / a / b for a, b in zip(times[name], times[best], strict=True)
            )
            print(
                f"| {filters} | {name} | {1000 * median(times[name]):.1f} ms | "
                f"{ratios[0]:.3f} | {ratios[1]:.3f} | "
                f"{operations(filters) / median(times[name]) / 1e9:.0f} G | {share:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
