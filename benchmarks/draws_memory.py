"""Peak resident memory of an attack that averages over draws of a random defense.

    python -m benchmarks.draws_memory [--filters 16] [--backends torch tensorflow jax]
        [--defenses randomneuron transform] [--draws 20] [--images 100]

Each measurement is a process of its own: two steps of PGD on EOT(defense, draws), of images of
32x32x3. Beside it stand what the process took before the attack, and the time of a step.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from itertools import product

import numpy as np


def _peak() -> float:
    """The process's so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def work(name: str, filters: int, draws: int, images: int) -> None:
    """Attack; print the peaks before and after in MB, and the seconds of a step."""
    from sparring.attacks import EOT, PGD
    from sparring.backend import ops
    from sparring.data import DatasetInfo
    from sparring.defenses import get
    from sparring.threat import Linf
    from sparring.training import memory

    memory.keep_freed()
    kind = get(name)
    info = DatasetInfo("random", (32, 32, 3), tuple("0123456789"), True, 1, 1, "")
    settings = kind.course_settings.replace(filters=filters, flip=True)
    defense = kind(info, settings, [recipe.net() for recipe in kind.recipes(info, settings, 0)])
    random = np.random.default_rng(0)
    x = ops.convert_to_tensor(random.random((images, *info.shape), dtype=np.float32))
    y = ops.convert_to_tensor(random.integers(0, 10, images).astype(np.int32))
    before, start = _peak(), time.perf_counter()
    attack = PGD(steps=2, early_stopping=False)
    attack(EOT(defense, draws), x, y, Linf(8 / 255))
    print(f"{before:.0f} MB | {_peak():.0f} MB | {(time.perf_counter() - start) / 2:.1f} s")


def main() -> None:
    """Measure each and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, nargs="+", default=[16])
    parser.add_argument("--backends", nargs="+", default=["torch", "tensorflow", "jax"])
    parser.add_argument("--defenses", nargs="+", default=["randomneuron", "transform"])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        name, filters = arguments.work
        work(name, int(filters), arguments.draws, arguments.images)
        return
    print("| backend | filters | defense | peak before | peak resident memory | a step |")
    print("| --- | --- | --- | --- | --- | --- |")
    choices = product(arguments.backends, arguments.filters, arguments.defenses)
    for backend, filters, defense in choices:
        command = [sys.executable, "-m", "benchmarks.draws_memory", "--work", defense, str(filters)]
        command += ["--draws", str(arguments.draws), "--images", str(arguments.images)]
        told = subprocess.check_output(
            command, env={**os.environ, "KERAS_BACKEND": backend}, text=True
        )
        print(f"| {backend} | {filters} | {defense} | {told.strip()} |", flush=True)


if __name__ == "__main__":
    main()
