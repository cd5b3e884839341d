"""The sweep that found the fast preset's settings: what each choice brings, one changed at a time.

    python -m benchmarks.sweep --data-dir DIR [--defense baseline] [--only rate sgd ...] [--seeds 3]
        [--limit-train 20000] [--filters 16] [--epochs 1] [--jobs 2] [--set base=1.02 ...]
        [--pgd 500]

A variant is a name and the settings in which it differs from the fast preset. Each is trained once
a seed, in a process of its own with one thread, --jobs at a time; printed are the mean accuracy on
the last 10,000 training images, which no variant trains on, as the defense answers, the standard
deviation over seeds, the mean training time, and that beside the first variant's; with --pgd, also
the share that plain PGD breaks of as many of these images, seed by seed. The test images have no
say in what is chosen. Times are taken beside other processes: compare them by tens of percent only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring.data import Dataset

HELD_OUT = 10_000  # training images, the last ones, that accuracy is measured on

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "rate 0.01": {"learning_rate": 0.01},
    "rate 0.02": {"learning_rate": 0.02},
    "rate 0.03": {"learning_rate": 0.03},
    "rate 0.08": {"learning_rate": 0.08},
    "rate 0.12": {"learning_rate": 0.12},
    "sgd, rate 0.03": {"optimizer": "sgd", "learning_rate": 0.03},
    "sgd, rate 0.06": {"optimizer": "sgd", "learning_rate": 0.06},
    "sgd, rate 0.1": {"optimizer": "sgd", "learning_rate": 0.1},
    "schedule cosine": {"schedule": "cosine"},
    "initializer glorot": {"initializer": "glorot"},
    "momentum 0.8": {"momentum": 0.8},
    "momentum 0.95": {"momentum": 0.95},
    "batch 16": {"batch_size": 16},
    "batch 32": {"batch_size": 32},
    "batch 128": {"batch_size": 128},
    "weight decay 0": {"weight_decay": 0.0},
    "weight decay 5e-4": {"weight_decay": 5e-4},
    "raw weights": {"ema_decay": 0.0},
    "no flips": {"flip": False},
    "bfloat16": {"precision": "bfloat16"},
    "half resolution, first third": {"half_resolution": 1 / 3},
    "half resolution, first half": {"half_resolution": 1 / 2},
    "epochs 2": {"epochs": 2},
    "epochs 2, alternating flips": {"epochs": 2, "alternating": True},
}


def train(request: dict[str, Any]) -> dict[str, float]:
    """In a process: train a variant; accuracy and seconds."""
    import sparring
    from sparring import data

    settings = dict(request["settings"])
    half, alternating = settings.pop("half_resolution", 0), settings.pop("alternating", False)
    if half or alternating:
        _change_augmentation(half, alternating)
    dataset = _held_out(data.load("fashion-mnist", request["data_dir"]), request["limit_train"])
    with tempfile.TemporaryDirectory() as out:
        trained = sparring.train(
            request["defense"],
            dataset,
            preset=request["preset"],
            out=out,
            seed=request["seed"],
            eval_every=0,
            **settings,
        )
    result = {key: trained.results[key] for key in ("test_accuracy", "rejected", "seconds")}
    if request["pgd"]:
        verdict = sparring.evaluate(trained, "pgd", dataset=dataset, n=request["pgd"], check=False)
        result["pgd"] = verdict.success_rate.value
    return result


def _held_out(dataset: Dataset, limit_train: int) -> Dataset:
    """The first `limit_train` training images, and in the test images' place the last ones."""
    split = len(dataset.x_train) - HELD_OUT
    if limit_train > split:
        sys.exit(f"--limit-train: expected at most {split}, {HELD_OUT} are held out")
    return replace(
        dataset.limit(limit_train, None),
        x_test=dataset.x_train[split:],
        y_test=dataset.y_train[split:],
    )


def _change_augmentation(half: float, alternating: bool) -> None:
    """Let the baseline train on shrunk images for a share of it, or flip each every other epoch."""
    from sparring import backend
    from sparring.defenses import get
    from sparring.networks.augment import SHIFT_FLIP_DRAWS, shift_flip
    from sparring.randomness import Chance
    from sparring.training.recipe import Recipe

    if backend.name != "torch":
        sys.exit("these variants change while they run and need PyTorch")

    class Changed(Recipe):
        def on_progress(self, net: Any, progress: Any) -> None:
            self.progress = float(progress)

        def augment(self, x: Any, y: Any) -> tuple[Any, Any]:
            if alternating:
                # Which half of the images is mirrored first follows from the images themselves.
                first = Chance(x, 0).uniform(1)[:, 0] < 0.5
                odd = int(self.progress * self.settings.epochs) % 2 == 1
                x = x.where((first ^ odd)[:, None, None, None], x.flip(2))
            draws = self.random.uniform((SHIFT_FLIP_DRAWS, x.shape[0], 1))
            x = shift_flip(x, draws, flip=bool(self.settings.flip) and not alternating)
            return (backend.average_pool2d(x) if self.progress < half else x), y

    get("baseline").recipe = Changed


def _in_process(request: dict[str, Any]) -> dict[str, float] | None:
    """What `train` gives, in a process of its own; None when it diverged."""
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.sweep", "--work", json.dumps(request)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if "Diverged" in answer.stderr:
        return None
    if answer.returncode:
        sys.exit(answer.stderr)
    result: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Train the variants and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--defense", default="baseline")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of variants' names")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit-train", type=int, default=20_000)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pgd", type=int, default=0, metavar="IMAGES")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(train(json.loads(arguments.work))))
        return
    if not 0 <= arguments.pgd <= HELD_OUT:
        parser.error(f"--pgd: expected 0 to {HELD_OUT}, the images held out, got {arguments.pgd}")
    common: dict[str, Any] = {"filters": arguments.filters, "epochs": arguments.epochs}
    for text in arguments.set:
        name, _, value = text.partition("=")
        common[name] = json.loads(value)
    chosen = {
        name: {**common, **changes}
        for name, changes in VARIANTS.items()
        if name.startswith(tuple(arguments.only))
    }
    requests = [
        {
            "defense": arguments.defense,
            "preset": arguments.preset,
            "settings": settings,
            "seed": seed,
            "data_dir": str(arguments.data_dir) if arguments.data_dir else None,
            "limit_train": arguments.limit_train,
            "pgd": arguments.pgd,
        }
        for settings in chosen.values()
        for seed in range(arguments.seeds)
    ]
    heads = ["variant", "accuracy", "over seeds", "rejected", "time", "times the first", "diverged"]
    if arguments.pgd:
        heads.append("PGD, each seed")
    print(f"| {' | '.join(heads)} |")
    print(f"| {' | '.join(['---'] * len(heads))} |")
    first = 0.0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = pool.map(_in_process, requests)
        for name in chosen:
            found = [next(results) for _ in range(arguments.seeds)]
            there = [result for result in found if result is not None]
            accuracies = [100 * result["test_accuracy"] for result in there]
            seconds = mean(result["seconds"] for result in there) if there else 0.0
            first = first or seconds
            cells = [
                f"{mean(accuracies):.2f} %" if there else "-",
                f"{stdev(accuracies):.2f}" if len(there) > 1 else "-",
                f"{100 * mean(result['rejected'] for result in there):.1f} %" if there else "-",
                f"{seconds:.0f} s",
                f"{seconds / first:.2f}" if first else "-",
                f"{len(found) - len(there)} of {len(found)}",
            ]
            if arguments.pgd:
                rates = ", ".join(f"{100 * result['pgd']:.1f}" for result in there)
                cells.append(f"{rates} %" if there else "-")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
