"""The table of docs/results.md, from the run.json files of a folder of runs.

    python -m benchmarks.results_table runs/digits

Prints Markdown: clean accuracy (answered correctly and not rejected), share rejected, training
time, and what to type for the same run; then the versions and the machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sparring.defenses import DEFENSES
from sparring.display import duration


def row(run: dict[str, Any]) -> str:
    """One run as a line of the table."""
    results = run["results"]
    dataset, settings = run["dataset"], run["settings"]
    return (
        f"| {run['defense']} | {results['test_accuracy']:.2%} | {results['rejected']:.2%} | "
        f"{duration(results['seconds'])} | {dataset['train_images']:,} | {settings['filters']} | "
        f"{settings['epochs']} | {run['seed']} | {run['backend']} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="a folder with one run directory per defense")
    arguments = parser.parse_args()
    runs = {path.parent.name: path for path in arguments.runs.glob("*/run.json")}
    print(
        "| defense | clean accuracy | rejected | training time | images | filters | epochs | seed "
        "| backend |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    machines = set()
    for name in DEFENSES:
        if name in runs:
            run = json.loads(runs[name].read_text())
            if run["status"] == "finished":
                print(row(run))
                versions = ", ".join(f"{what} {which}" for what, which in run["versions"].items())
                machines.add(f"{run['machine']}; {versions}.")
    print("\n" + "\n".join(sorted(machines)))


if __name__ == "__main__":
    main()
