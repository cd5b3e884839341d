"""docs/scale.md's tables: the zoo over several seeds on many devices, from measured step times.

    python -m benchmarks.scale --seeds 5

Nothing is trained. Work is counted in trainings of the baseline (100 epochs of CIFAR-10, 64
filters), so that one measured time on a device gives all the others as far as its step times relate
as those measured here do (`Defense.step_cost`). Jobs are started longest first, as `--jobs` and
`--cluster` do, and beside that in the registry's order.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass

from sparring.defenses import DEFENSES

WIDTH = {"mergebinary": 0.09, "majority": 0.43}
"""A step of narrower networks beside 64 filters: 16, measured; 42, by the number of products."""

EPOCHS = {"majority": 0.5, "knn": 10.0}
"""Epochs beside the baseline's, where they differ."""

NETWORKS = {"mergebinary": 10, "majority": 3}

ORDER = [name for name, defense in DEFENSES.items() if defense.borrows is None]


@dataclass(frozen=True)
class Work:
    """One network's training, in trainings of the baseline."""

    defense: str
    size: float


def zoo(seeds: int) -> list[Work]:
    """All networks' trainings in the order they are started in; randomneuron trains none."""
    return [
        Work(name, DEFENSES[name].step_cost * WIDTH.get(name, 1.0) * EPOCHS.get(name, 1.0))
        for _ in range(seeds)
        for name in ORDER
        for _ in range(NETWORKS.get(name, 1))
    ]


def span(work: list[Work], devices: int) -> float:
    """When the last ends if each is started, in order, on the device that is free first."""
    free = [0.0] * devices
    for each in work:
        heapq.heappush(free, heapq.heappop(free) + each.size)
    return max(free)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64])
    arguments = parser.parse_args()
    work = zoo(arguments.seeds)
    total = sum(each.size for each in work)
    by_name = {name: sum(w.size for w in work if w.defense == name) for name in ORDER}
    print("| defense | networks | trainings of the baseline, each | share of all the work |")
    print("| --- | --- | --- | --- |")
    for name in sorted(ORDER, key=lambda name: -by_name[name]):
        count = NETWORKS.get(name, 1)
        each = by_name[name] / count / arguments.seeds
        print(f"| {name} | {count} | {each:.2f} | {by_name[name] / total:.1%} |")
    longest = max(each.size for each in work)
    print(f"\n{len(work)} networks, {total:.0f} trainings of the baseline, longest {longest:.0f}\n")
    print("| devices | until all are done | devices busy | in the registry's order | bound |")
    print("| --- | --- | --- | --- | --- |")
    for devices in arguments.devices:
        ends = span(sorted(work, key=lambda each: -each.size), devices)
        busy, bound = total / devices / ends, max(total / devices, longest)
        print(f"| {devices} | {ends:.1f} | {busy:.0%} | {span(work, devices):.1f} | {bound:.1f} |")


if __name__ == "__main__":
    main()
