"""How much sooner the fast preset has the accuracy that the course preset ends with.

    python -m benchmarks.time_to_accuracy --data-dir DIR [--defense baseline] [--seeds 5]
        [--limit-train 20000 --limit-test 2000] [--both filters=16 ...] [--course epochs=8 ...]
        [--fast epochs=1 ...] [--draw FILE.svg]

Fashion-MNIST padded to 32x32. The presets, and for the baseline the plain PyTorch loop, are
processes that take turns, each a hundredth of its training, so that a noisy machine slows all of
them; only training steps are timed. Forty times in a training the accuracy of the averaged weights
on the test images is taken. Printed is when each first reached what the course preset ended with,
and how many times sooner that was than the course preset itself, at its end and when it first
reached it; of ensembles the sum over the networks, each against its own counterpart. --draw makes
a picture of all accuracies over time.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.turns import Contestant, Turn
from sparring import data, plots
from sparring.backend.choice import choose
from sparring.runs.files import write_atomically

TURNS, LOOKS = 100, 40
PLAIN = "plain"
Curve = list[tuple[float, float]]


class Watch(Turn):
    """In a contestant: takes turns, and notes time and accuracy now and then."""

    def __init__(self, steps: int) -> None:
        """Prepare for a training of so many steps."""
        super().__init__(max(1, steps // TURNS))
        self.curve: Curve = []
        self._every, self._total, self._done = max(1, steps // LOOKS), steps, 0
        self.accuracy: Any = None

    def step(self, step: int, loss: float) -> None:
        """Note the accuracy where it is time to, off the clock."""
        super().step(step, loss)
        self._done += 1
        if self._done % self._every == 0 or self._done == self._total:
            self.curve.append((self.seconds, self.accuracy()))
        self.begin()


def work(contestant: str, seed: int, arguments: argparse.Namespace) -> None:
    """A contestant: train, a turn at a time; print the curves of its networks."""
    from sparring.defenses import get
    from sparring.training import memory
    from sparring.training.loop import TrainLoop

    memory.keep_freed()
    dataset = data.load("fashion-mnist", arguments.data_dir)
    dataset = dataset.limit(arguments.limit_train, arguments.limit_test)
    defense = get(arguments.defense)
    preset = "course" if contestant == PLAIN else contestant
    settings = defense.settings_for(dataset, preset).settings.replace(**options(arguments.both))
    settings = settings.replace(**options(getattr(arguments, preset)))
    first, curves = True, []
    for recipe in defense.recipes(dataset.info, settings, seed):
        size, epochs = recipe.settings.batch_size, recipe.settings.epochs
        steps = epochs * -(-len(dataset.x_train) // size)
        watch = Watch(steps)
        if contestant == PLAIN:
            import torch

            from benchmarks.plain_torch import PlainLoop

            plain = PlainLoop(
                dataset.x_train, dataset.y_train, 10, recipe.settings.filters, steps, seed=seed
            )
            watch.accuracy = partial(plain.accuracy, dataset.x_test, dataset.y_test)
            turn_first(watch, first)
            for _ in range(epochs):
                for indices in torch.randperm(len(dataset.x_train)).split(size):
                    watch.step(0, plain.step(indices))
        else:
            loop = TrainLoop(recipe, dataset, defense.name)

            def accuracy(loop: TrainLoop = loop, watch: Watch = watch) -> float:
                loop.recipe.on_progress(loop.ema, watch._done / watch._total)
                return loop.recipe.evaluate(loop.ema, dataset)

            watch.accuracy = accuracy
            turn_first(watch, first)
            loop.run(lambda metrics: None, watch, eval_every=0)
        first = False
        curves.append(watch.curve)
    print("result " + json.dumps(curves), flush=True)


def turn_first(watch: Watch, first: bool) -> None:
    """What is prepared before the first step is not a turn's work."""
    if first:
        watch.wait("")
    watch.begin()


def options(texts: list[str]) -> dict[str, Any]:
    """Settings of texts name=value."""
    return {name: json.loads(value) for name, _, value in (text.partition("=") for text in texts)}


def reached(curve: Curve, target: float) -> float | None:
    """Seconds of training at which the accuracy first was the target; None if it never was."""
    return next((seconds for seconds, accuracy in curve if accuracy >= target), None)


def run(seed: int, names: list[str]) -> dict[str, list[Curve]]:
    """The contestants' curves, of turns taken until all are through."""
    contestants = {
        name: Contestant(
            [
                *("-m", "benchmarks.time_to_accuracy", *sys.argv[1:]),
                *("--work", name, "--seed", str(seed)),
            ],
            "torch" if name == PLAIN else choose(),
        )
        for name in names
    }
    while any(contestant.result is None for contestant in contestants.values()):
        for contestant in contestants.values():
            if contestant.result is None:
                contestant.turn()
    return {name: json.loads(contestant.result or "") for name, contestant in contestants.items()}


def main() -> None:
    """Let the contestants take turns, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--defense", default="baseline")
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--limit-test", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--both", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--course", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--fast", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain loop out")
    parser.add_argument("--draw", type=Path, metavar="FILE.svg")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.seed, arguments)
        return
    with_plain = arguments.defense == "baseline" and not arguments.no_plain
    names = ["course", "fast", *([PLAIN] if with_plain else [])]
    print(
        "| seed | contestant | accuracy at the end | time | course's accuracy reached after | "
        "times sooner than the course preset's end | than it reached it |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    sooner: dict[str, list[float]] = {name: [] for name in names}
    lines: dict[str, list[plots.Line]] = {name: [] for name in names}
    for seed in range(arguments.seeds):
        curves = run(seed, names)
        targets = [curve[-1][1] for curve in curves["course"]]
        end = sum(curve[-1][0] for curve in curves["course"])
        course = sum(
            reached(curve, target) or 0.0
            for curve, target in zip(curves["course"], targets, strict=True)
        )
        for name in names:
            lines[name] += [
                ([x for x, _ in curve], [y for _, y in curve]) for curve in curves[name]
            ]
            times = [
                reached(curve, target) for curve, target in zip(curves[name], targets, strict=True)
            ]
            there = [seconds for seconds in times if seconds is not None]
            total = sum(there) if len(there) == len(times) else None
            if total is not None:
                sooner[name].append(end / total)
            print(
                f"| {seed} | {name} | {mean(curve[-1][1] for curve in curves[name]):.4f} | "
                f"{sum(curve[-1][0] for curve in curves[name]):.1f} s | "
                + (
                    f"{total:.1f} s | {end / total:.1f} | {course / total:.1f} |"
                    if total is not None
                    else f"never, in {len(times) - len(there)} of {len(times)} networks | - | - |"
                ),
                flush=True,
            )
    if arguments.draw:
        title = f"{arguments.defense} on Fashion-MNIST, while it is trained"
        text = plots.curves(lines, title, "seconds of training", "test accuracy")
        write_atomically(arguments.draw, text.encode())
    if arguments.seeds > 1:
        for name in names:
            if ratios := sooner[name]:
                spread = f" +- {stdev(ratios):.1f}" if len(ratios) > 1 else ""
                print(
                    f"{name}: {mean(ratios):.1f}{spread} times sooner, {min(ratios):.1f} at least, "
                    f"over {len(ratios)} of {arguments.seeds} seeds"
                )


if __name__ == "__main__":
    main()
