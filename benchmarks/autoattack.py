"""Our attacks against those of the AutoAttack package, on the same defenses and images, in turns.

    pip install pyautoattack==0.2.0
    KERAS_BACKEND=torch python -m benchmarks.autoattack runs/digits

Both have the same budget: 100 steps of APGD, at 9 targets each, and the same queries of Square. The
whole of each stands in the last row of a defense: strong beside AutoAttack's standard version.
Attacked are the test images that the defense answers rightly; what comes back is checked and asked
about in the same way. Printed are the shares broken, in %, and seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sparring
from sparring import data
from sparring.attacks import APGD, Attack, Square, Strong
from sparring.data.usual import default_threat
from sparring.errors import SparringError
from sparring.threat import ThreatModel
from sparring.training import memory

DEFENSES = ("baseline", "advtrain", "pgdtrain", "trades")
PAIRS: dict[str, tuple[Callable[[int], Attack], str]] = {
    "APGD-CE": (lambda queries: APGD(), "apgd-ce"),
    "APGD-T": (lambda queries: APGD(loss="dlr", targets=9), "apgd-t"),
    "Square": (lambda queries: Square(queries=queries), "square"),
    "all": (lambda queries: Strong(queries=queries), "standard"),
}
"""By name, what makes ours of a number of queries, and theirs."""

Contestant = Callable[[Any, Any, ThreatModel], np.ndarray]
"""Gives adversarial images [N, H, W, C] of tensors x [N, H, W, C] and y [N]."""


def theirs(module: Any, name: str, queries: int) -> Contestant:
    """An attack of the package, or all of them, on a defense as a module."""
    from pyautoattack import AutoAttack  # type: ignore[import-not-found, import-untyped, unused-ignore]

    def attack(x: Any, y: Any, threat: ThreatModel) -> np.ndarray:
        version = {"version": "standard"} if name == "standard" else {"version": "custom"}
        them = AutoAttack(module, norm=threat.norm, eps=threat.eps, seed=0, **version)
        if name != "standard":
            them.attacks_to_run = [name]
            them.apgd.n_restarts = 1  # as in the standard version
        them.square.n_queries = queries
        found, _ = them.run_standard_evaluation(x.permute(0, 3, 1, 2), y, batch_size=len(x))
        return np.asarray(found.permute(0, 2, 3, 1))

    return attack


def _ours(attack: Attack, defense: Any, x: Any, y: Any, threat: ThreatModel) -> np.ndarray:
    return np.asarray(attack(defense, x, y, threat))


def measured(attack: Contestant, defense: Any, x: Any, y: Any, threat: ThreatModel) -> list[float]:
    """The share of images broken in %, and seconds."""
    start = time.perf_counter()
    found = attack(x, y, threat)
    seconds = time.perf_counter() - start
    images, valid, _, _ = threat.check(found, x.numpy())
    return [100 * float(np.mean(valid & defense.broken(images, y))), seconds]


def main() -> None:
    """Take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders with one run per defense")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("-n", type=int, default=200, help="how many test images")
    parser.add_argument("--queries", type=int, default=5000, help="of Square")
    parser.add_argument("--norm", default="Linf")
    parser.add_argument("--defenses", nargs="+", default=DEFENSES)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
    arguments = parser.parse_args()
    try:
        import pyautoattack  # type: ignore[import-not-found, import-untyped, unused-ignore] # noqa: F401
    except ImportError:
        parser.error("expected the package that is compared with: pip install pyautoattack==0.2.0")
    memory.keep_freed()
    print("| data set | defense | attack | ours | AutoAttack's | seconds, ours | AutoAttack's |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for runs in arguments.runs:
        try:
            dataset = data.load(runs.name, arguments.data_dir)
        except SparringError as error:
            parser.error(f"the folder is to be called like its data set: {error}")
        threat = default_threat(arguments.norm, dataset.key, dataset.name)
        for name in arguments.defenses:
            defense = sparring.load(runs / name)
            module = sparring.as_torch_module(defense)
            x = dataset.x_test[: arguments.n].astype(np.float32) / 255
            y = dataset.y_test[: arguments.n].astype(np.int64)
            right = ~defense.broken(x, y)
            images, labels = torch.from_numpy(x[right]), torch.from_numpy(y[right])
            for pair in arguments.pairs:
                make, name_there = PAIRS[pair]
                ours = partial(_ours, make(arguments.queries), defense)
                us = measured(ours, defense, images, labels, threat)
                other = theirs(module, name_there, arguments.queries)
                them = measured(other, defense, images, labels, threat)
                rates = " | ".join(f"{each[0]:.1f}" for each in (us, them))
                times = " | ".join(f"{each[1]:.1f}" for each in (us, them))
                print(f"| {dataset.name} | {name} | {pair} | {rates} | {times} |", flush=True)


if __name__ == "__main__":
    main()
