"""How attacks fare on fresh instances of each defense: mean and spread.

    python -m benchmarks.fresh_instances --out fresh.json [--defenses baseline blur]
        [--instances 10] [--images 100] [--data digits] [--data-dir DIR]

Instances are those of `sparring task DEFENSE --fresh SEED` with seeds 0, 1, ...: training seed,
width and eps are drawn. Each is trained in a temporary folder and attacked with noise, PGD (40
steps along the cross entropy through the defense as it is) and the reference attack, on the first
test images. What is done is kept in --out, and gone on with; a table in Markdown is printed at the
end.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sparring import defenses
from sparring.errors import SparringError
from sparring.runs.files import read_json, write_json
from sparring.runs.records import Count, Number, Record, Share
from sparring.version import __version__

ATTACKS = ("noise", "pgd", "reference")


class Row(Record):
    """One instance.

    Attributes:
        defense: its name.
        seed: of the task.
        data: the data set's name.
        images: how many were attacked, those that the defense answers wrongly included.
        filters: its width.
        eps: the radius, in Linf.
        accuracy: on these images, what is rejected counted as wrong.
        success: by attack, of the images that are answered rightly.
        seconds: of training and attacks.
    """

    defense: str
    seed: Count
    data: str
    images: Count
    filters: Count
    eps: Number
    accuracy: Share
    success: dict[str, Share]
    seconds: Number


def measured(name: str, seed: int, arguments: argparse.Namespace) -> Row:
    """Train one instance and attack it."""
    from sparring.evaluation.evaluate import evaluate
    from sparring.tasks import fresh
    from sparring.tasks.request import TaskRequest

    begun = time.perf_counter()
    request = TaskRequest(
        defense=name,
        out=Path("unused"),
        data=arguments.data,
        data_dir=arguments.data_dir,
        fresh=seed,
        n=arguments.images,
    )
    dataset = fresh.data_of(request)
    drawn = fresh.drawn(request, dataset)
    with tempfile.TemporaryDirectory() as folder:
        defense = fresh.trained(request, drawn, dataset, Path(folder), None)
        verdicts = {
            attack: evaluate(defense, attack, drawn.threat, dataset, request.n, check=False)
            for attack in ATTACKS
        }
    first = verdicts[ATTACKS[0]]
    return Row(
        defense=name,
        seed=seed,
        data=dataset.name,
        images=len(first.index),
        filters=drawn.record.filters,
        eps=drawn.threat.eps,
        accuracy=first.clean_accuracy.value,
        success={attack: verdict.success_rate.value for attack, verdict in verdicts.items()},
        seconds=time.perf_counter() - begun,
    )


def read(file: Path) -> list[Row]:
    """Read what is done."""
    return [Row.model_validate(row) for row in read_json(file)] if file.is_file() else []


def table(rows: Sequence[Row], instances: int) -> str:
    """Write the table of those defenses that have so many instances."""
    from sparring.evaluation.rates import Mean

    lines = [
        "| defense | width | eps | clean accuracy | " + " | ".join(ATTACKS) + " |",
        "| --- " * (4 + len(ATTACKS)) + "|",
    ]

    def cell(values: list[float]) -> str:
        mean = Mean.of([100 * value for value in values])
        assert mean is not None
        return f"{mean.value:.1f} ± {mean.std or 0:.1f}"

    for name in defenses.NAMES:
        own = [row for row in rows if row.defense == name]
        if len(own) < instances:
            continue
        widths, radii = [row.filters for row in own], [row.eps for row in own]
        cells = [
            f"{min(widths)} to {max(widths)}",
            f"{min(radii):.3g} to {max(radii):.3g}",
            cell([row.accuracy for row in own]),
            *(cell([row.success[attack] for row in own]) for attack in ATTACKS),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--defenses", nargs="+", default=list(defenses.NAMES), choices=defenses.NAMES
    )
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    rows = read(arguments.out)
    for name in arguments.defenses:
        for seed in range(arguments.instances):
            if any((row.defense, row.seed) == (name, seed) for row in rows):
                continue
            try:
                rows.append(measured(name, seed, arguments))
            except SparringError as error:
                print(f"{name}, seed {seed}: {error}", file=sys.stderr)
                continue
            write_json(arguments.out, [row.model_dump(mode="json") for row in rows])
            print(f"{name}, seed {seed}: {rows[-1].success}", file=sys.stderr, flush=True)
    print(f"{platform.system()} {platform.machine()}, sparring {__version__}\n")
    print(table(rows, arguments.instances))


if __name__ == "__main__":
    main()
