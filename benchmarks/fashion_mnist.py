"""Accuracy and training time on Fashion-MNIST: Sparring against the plain PyTorch loop.

    python -m benchmarks.fashion_mnist --data-dir DIR [--limit-train 20000 --limit-test 2000]
        [--epochs 8] [--filters 16] [--contestants plain torch tensorflow]

The images are padded to 32x32x1. Contestants are processes that take turns of 25 steps, so a noisy
machine slows all of them. Printed are the accuracy of the averaged weights on the test images, the
seconds spent training (testing and saving left out), and those divided by the plain loop's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.turns import Contestant, Turn
from sparring import data

STEPS = 25


def work(contestant: str, arguments: argparse.Namespace) -> None:
    """A contestant: train, a turn at a time; print accuracy and seconds."""
    dataset = data.load("fashion-mnist", arguments.data_dir)
    dataset = dataset.limit(arguments.limit_train, arguments.limit_test)
    turn = Turn(STEPS)
    turn.wait("")
    if contestant == "plain":
        import torch

        from benchmarks.plain_torch import PlainLoop

        images = len(dataset.x_train)
        steps = arguments.epochs * -(-images // 64)
        loop = PlainLoop(dataset.x_train, dataset.y_train, 10, arguments.filters, steps)
        turn.begin()
        for _ in range(arguments.epochs):
            for indices in torch.randperm(images).split(64):
                loss = loop.step(indices)
                turn.step(loop.done, loss)
        accuracy = loop.accuracy(dataset.x_test, dataset.y_test)
    else:
        import sparring

        with tempfile.TemporaryDirectory() as out:
            defense = sparring.train(
                "baseline",
                dataset,
                out=out,
                filters=arguments.filters,
                batch_size=64,  # as the course's, whatever is usual for this data set
                learning_rate=0.03,
                epochs=arguments.epochs,
                eval_every=0,
                progress=turn,
            )
        accuracy = defense.results["test_accuracy"]
    print("result " + json.dumps({"accuracy": accuracy, "seconds": turn.seconds}), flush=True)


def main() -> None:
    """Let the contestants take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--limit-test", type=int)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--contestants", nargs="+", default=["plain", "torch", "tensorflow"])
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments)
        return
    contestants = {
        name: Contestant(
            ["-m", "benchmarks.fashion_mnist", *sys.argv[1:], "--work", name],
            "torch" if name == "plain" else name,
        )
        for name in arguments.contestants
    }
    while any(contestant.result is None for contestant in contestants.values()):
        for contestant in contestants.values():
            if contestant.result is None:
                contestant.turn()
    results = {name: json.loads(each.result or "") for name, each in contestants.items()}
    print("| contestant | test accuracy | training time | ratio to plain |")
    print("| --- | --- | --- | --- |")
    for name, result in results.items():
        plain = results.get("plain", {}).get("seconds")
        ratio = f"{result['seconds'] / plain:.2f}" if plain else ""
        print(f"| {name} | {result['accuracy']:.4f} | {result['seconds']:.0f} s | {ratio} |")


if __name__ == "__main__":
    main()
