"""Time of a PGD step: Sparring's against one written by hand in PyTorch, on the same network.

    KERAS_BACKEND=torch python -m benchmarks.pgd_step [--filters 16] [--images 100] [--rounds 9]

Both attack random 32x32x3 images in one process, in turns; early stopping is off, so that both take
every step. Printed are the medians, and the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.plain_torch import network
from sparring.attacks import PGD
from sparring.data import DatasetInfo
from sparring.defenses.baseline import Baseline
from sparring.threat import Linf
from sparring.training import memory

STEPS, EPS = 10, 8 / 255


def by_hand(model: Any, x: Any, y: Any) -> Any:
    """What a textbook has: NCHW images, the sign of the gradient, two clamps."""
    x_adv = (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        loss = functional.cross_entropy(model(x_adv), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv.detach() + EPS * 2.5 / STEPS * gradient.sign()
        x_adv = torch.minimum(torch.maximum(x_adv, x - EPS), x + EPS).clamp(0, 1)
    return x_adv


def main() -> None:
    """Take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    memory.keep_freed()
    random = np.random.default_rng(0)
    x = random.random((arguments.images, 32, 32, 3), dtype=np.float32)
    y = random.integers(0, 10, arguments.images).astype(np.int32)
    ours, labels = torch.from_numpy(x), torch.from_numpy(y)
    theirs = ours.permute(0, 3, 1, 2)  # channels last in memory, which convolutions like best
    print("| filters | by hand, a step | Sparring, a step | ratio |\n| --- | --- | --- | --- |")
    for filters in arguments.filters:
        info = DatasetInfo("random", (32, 32, 3), tuple("0123456789"), True, 1, 1, "")
        settings = Baseline.course_settings.replace(filters=filters, flip=True)
        nets = [recipe.net() for recipe in Baseline.recipes(info, settings, 0)]
        defense = Baseline(info, settings, nets)
        model = network(32, 3, 10, filters)
        attack = PGD(steps=STEPS, early_stopping=False)
        times: dict[str, list[float]] = {"hand": [], "ours": []}
        for _ in range(arguments.rounds + 1):
            start = time.perf_counter()
            by_hand(model, theirs, labels.long())
            middle = time.perf_counter()
            attack(defense, ours, labels, Linf(EPS))
            times["hand"].append((middle - start) / STEPS)
            times["ours"].append((time.perf_counter() - middle) / STEPS)
        pairs = list(zip(times["ours"], times["hand"], strict=True))[1:]
        print(
            f"| {filters} | {1000 * median(hand for _, hand in pairs):.0f} ms | "
            f"{1000 * median(own for own, _ in pairs):.0f} ms | "
            f"{median(own / hand for own, hand in pairs):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
