"""The lessons under both presets side by side, from two folders of runs and their verdicts.

    python -m benchmarks.presets_table runs/fashion-mnist fast/fashion-mnist

The runs are those of `sparring train all --data fashion-mnist --data-dir DIR --eval-every 0`, once
with `--preset fast --out fast`; the verdicts those of `python -m benchmarks.results_table attack
FOLDER --data-dir DIR`, of as many images as asked for there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.results_table import folder, percent
from sparring.defenses import DEFENSES
from sparring.runs.directory import Run
from sparring.runs.records import VerdictRecord


def rates(run: Path, dataset: str) -> list[str]:
    """Success of plain PGD and of the reference attack on a run, with 95 % intervals."""
    cells = []
    for attack in ("pgd", "reference"):
        file = VerdictRecord.find(folder(run, attack, dataset))
        if file is None:
            cells.append("-")
            continue
        rate = VerdictRecord.read(file).results.success_rate
        interval = f"{100 * rate.low:.0f} to {100 * rate.high:.0f}"
        cells.append(f"{percent(rate.value)} ({interval})")
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("course", type=Path)
    parser.add_argument("fast", type=Path)
    arguments = parser.parse_args()
    print(
        "| defense | clean accuracy: course | fast | rejected: course | fast | PGD: course | fast "
        "| reference attack: course | fast |"
    )
    print("| " + " | ".join(["---"] * 9) + " |")
    for name in DEFENSES:
        columns: list[list[str]] = []
        for runs in (arguments.course, arguments.fast):
            run = Run(runs / name)
            record = run.read() if run.exists() else None
            if record is None or (results := record.results) is None:
                columns.append(["-"] * 4)
                continue
            own = [percent(results.test_accuracy), percent(results.rejected)]
            columns.append([*own, *rates(run.path, record.dataset_name)])
        cells = [cell for pair in zip(*columns, strict=True) for cell in pair]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
