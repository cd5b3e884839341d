"""Accuracy and training time on Fashion-MNIST: Sparring against the plain PyTorch loop.

    python -m benchmarks.fashion_mnist --data-dir DIR [--limit-train 20000 --limit-test 2000]
        [--epochs 8] [--filters 16] [--contestants plain torch tensorflow]

The images are padded to 32x32x1; contestants run one after the other, each in its own process.
Printed are the accuracy of the averaged weights on the test images, the seconds spent training
(testing left out), and those seconds divided by the plain loop's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sparring import data


def plain(arguments: argparse.Namespace) -> None:
    """Train by the plain loop; print accuracy and seconds as JSON."""
    import torch

    from benchmarks.plain_torch import PlainLoop

    dataset = data.load("fashion-mnist", arguments.data_dir)
    dataset = dataset.limit(arguments.limit_train, arguments.limit_test)
    images = len(dataset.x_train)
    steps = arguments.epochs * -(-images // 64)
    loop = PlainLoop(dataset.x_train, dataset.y_train, 10, arguments.filters, steps)
    begun = time.monotonic()
    for _ in range(arguments.epochs):
        for indices in torch.randperm(images).split(64):
            loop.step(indices)
    seconds = time.monotonic() - begun
    accuracy = loop.accuracy(dataset.x_test, dataset.y_test)
    print(json.dumps({"test_accuracy": accuracy, "seconds": seconds}))


def sparring(arguments: argparse.Namespace, backend: str, out: str) -> dict[str, float]:
    """Train by the command line; the results in run.json."""
    limits = []
    for name in ("limit_train", "limit_test"):
        if (limit := getattr(arguments, name)) is not None:
            limits += [f"--{name.replace('_', '-')}", str(limit)]
    command = [sys.executable, "-m", "sparring", "train", "baseline", "--data", "fashion-mnist"]
    command += ["--data-dir", str(arguments.data_dir), *limits]
    command += ["--filters", str(arguments.filters), "--epochs", str(arguments.epochs)]
    command += ["--backend", backend, "--out", out, "--eval-every", "0"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    run = Path(out) / "fashion-mnist" / "baseline" / "run.json"
    return dict(json.loads(run.read_text())["results"])


def main() -> None:
    """Run the contestants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--limit-test", type=int)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--contestants", nargs="+", default=["plain", "torch", "tensorflow"])
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        plain(arguments)
        return
    print("| contestant | test accuracy | training time | ratio to plain |")
    print("| --- | --- | --- | --- |", flush=True)
    reference = None
    for name in arguments.contestants:
        with tempfile.TemporaryDirectory() as out:
            if name == "plain":
                command = [sys.executable, "-m", "benchmarks.fashion_mnist", *sys.argv[1:]]
                command.append("--plain")
                environment = {**os.environ, "KERAS_BACKEND": "torch"}
                output = subprocess.check_output(command, env=environment, text=True)
                results = json.loads(output)
                reference = results["seconds"]
            else:
                results = sparring(arguments, name, out)
        ratio = f"{results['seconds'] / reference:.2f}" if reference else ""
        accuracy, seconds = results["test_accuracy"], results["seconds"]
        print(f"| {name} | {accuracy:.4f} | {seconds:.0f} s | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
