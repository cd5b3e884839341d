"""The figures on CIFAR-10 that need a GPU, or days: presets over seeds, and the whole zoo attacked.

    python -m benchmarks.cifar10 --data-dir DIR
    python -m benchmarks.cifar10 --data-dir DIR --parts fast zoo -s filters=16

Each part is a command of Sparring's, which is printed before it runs; what is finished is skipped
and what was interrupted goes on, so the same command continues after anything. At the end the
tables are written, of what is there by then: OUT/presets.md and OUT/zoo.md.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.results_table import percent
from sparring.evaluation.rates import duration
from sparring.runs.directory import Run
from sparring.runs.files import write_atomically
from sparring.runs.records import RunRecord

PARTS = {
    "course": ["baseline", "--preset", "course", "--seeds", "0-2"],
    "fast": ["baseline", "--preset", "fast", "--seeds", "0-4"],
    "zoo": ["all", "--preset", "fast"],
}
"""What `sparring train` is given, by part."""

L2_DEFENSES = ("baseline", "blur", "jump")
"""What is attacked within an L2 ball, too."""


def trainings(part: str, arguments: argparse.Namespace) -> list[str]:
    """The command that trains a part."""
    command = ["train", *PARTS[part], "--data", arguments.data, "--eval-every", "0"]
    if arguments.data_dir is not None:
        command += ["--data-dir", str(arguments.data_dir)]
    command += ["--out", str(arguments.out / part), "--jobs", arguments.jobs]
    return command + [word for setting in arguments.settings for word in ("-s", setting)]


def finished(folder: Path, data: str) -> list[RunRecord]:
    """What is known of the finished runs of the baseline, one a seed."""
    paths = sorted(folder.glob(f"seed-*/{data}/baseline"))
    return [Run(path).read() for path in paths if Run(path).status() == "finished"]


def presets(arguments: argparse.Namespace) -> Iterator[str]:
    """Lines of the table of presets."""
    yield "| preset | filters | epochs | seeds | test accuracy | lowest | training time | device |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for part in PARTS:
        runs = finished(arguments.out / part, arguments.data)
        known = [run.results for run in runs if run.results is not None]
        rates = [each.test_accuracy for each in known if each.test_accuracy is not None]
        times = [each.seconds for each in known if each.seconds is not None]
        if not (rates and times):
            continue
        spread = f" ± {100 * statistics.stdev(rates):.2f}" if len(rates) > 1 else ""
        cells = [
            *(part, f"{runs[0].settings['filters']}", f"{runs[0].settings['epochs']}"),
            *(f"{len(rates)}", f"{100 * statistics.mean(rates):.2f}{spread} %"),
            *(percent(min(rates)), duration(statistics.mean(times)), f"{runs[0].device}"),
        ]
        yield f"| {' | '.join(cells)} |"


def run(command: list[str], keep: bool = False) -> bytes:
    """Print a command, run it, and give what it printed where that is kept; a failure ends all."""
    print(shlex.join(["python", "-m", *command]), flush=True)
    output = subprocess.PIPE if keep else None
    answer = subprocess.run([sys.executable, "-m", *command], stdout=output, check=False)
    if answer.returncode:
        sys.exit(f"exit code {answer.returncode}")
    return answer.stdout or b""


def main() -> None:
    """Train and attack what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10", help="a built-in data set")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs-cifar10"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--jobs", default="auto", help="trainings at a time")
    parser.add_argument("--images", type=int, default=500, help="how many are attacked")
    parser.add_argument(
        *("-s", "--setting"), dest="settings", action="append", default=[], help="NAME=VALUE"
    )
    arguments = parser.parse_args()
    for part in arguments.parts:
        run(["sparring", *trainings(part, arguments)])
    table = "\n".join(presets(arguments))
    command = shlex.join(["python", "-m", "benchmarks.cifar10", *sys.argv[1:]])
    write_atomically(arguments.out / "presets.md", f"    {command}\n\n{table}\n".encode())
    print(table)
    if "zoo" in arguments.parts:
        runs = str(arguments.out / "zoo" / arguments.data)
        table, kept = "benchmarks.results_table", str(arguments.out / "zoo.json")
        where = [] if arguments.data_dir is None else ["--data-dir", str(arguments.data_dir)]
        run([table, "attack", runs, *where, "--images", str(arguments.images)])
        some = ["--norm", "L2", "--defenses", *L2_DEFENSES]
        run([table, "attack", runs, *where, "--images", str(arguments.images), *some])
        run([table, "keep", runs, kept])
        write_atomically(arguments.out / "zoo.md", run([table, "page", kept], keep=True))


if __name__ == "__main__":
    main()
