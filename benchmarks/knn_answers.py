"""Time in which knn answers, against that of the matrix products in it.

    python -m benchmarks.knn_answers [--images 10000] [--stored 60000] [--rounds 3]

Embeddings are random and of length 1; what the network takes to make them is left out. Printed
are the seconds of the whole vote, of the matrix products alone, and the ratio, in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from keras import ops

from sparring import backend
from sparring.defenses.knn import EMBEDDING, votes
from sparring.networks.allconv import in_batches


def main() -> None:
    """Measure both in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--stored", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)

    def embeddings(count: int) -> np.ndarray:
        drawn = random.normal(size=(count, EMBEDDING)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    asked = embeddings(arguments.images)
    stored = ops.convert_to_tensor(embeddings(arguments.stored).T)
    labels = ops.convert_to_tensor(random.integers(0, 10, arguments.stored).astype(np.int32))
    contestants: dict[str, Callable[[Any], Any]] = {
        "whole vote": lambda x: votes(ops.matmul(x, stored), labels, 10),
        # A sum keeps the product from being copied to the host.
        "matrix products": lambda x: ops.sum(ops.matmul(x, stored), axis=1, keepdims=True),
    }
    compiled = {name: backend.compile(function, []) for name, function in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(arguments.rounds + 1):
        for name, function in compiled.items():
            start = time.perf_counter()
            in_batches(function, asked)
            times[name].append(time.perf_counter() - start)
    whole, products = (median(each[1:]) for each in times.values())  # the first one compiled
    print("| backend | whole vote | matrix products | ratio |\n| --- | --- | --- | --- |")
    print(f"| {backend.name} | {whole:.2f} s | {products:.2f} s | {whole / products:.2f} |")


if __name__ == "__main__":
    main()
