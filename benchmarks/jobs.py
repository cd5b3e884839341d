"""How much sooner many trainings end as jobs, and what the scheduler itself takes.

    KERAS_BACKEND=torch python -m benchmarks.jobs --jobs 2

The same trainings one after the other with all cores as threads, and so many at a time with a share
of the cores each, in turns, so that a machine that changes its speed does so to both.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ["baseline", "blur", "labelsmooth", "jump"]


def run(jobs: int, arguments: list[str]) -> tuple[float, float, float]:
    """Seconds of wall time, seconds of the scheduler's own CPU, and its megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sparring", "train", *arguments, "--jobs", str(jobs)]
        command += ["--out", folder, "--quiet"]
        begun = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        spent, kilobytes = 0.0, 0
        status = Path(f"/proc/{process.pid}")
        while process.poll() is None:
            try:
                # User and system time of the process itself, its children's stand beside them.
                fields = (status / "stat").read_text().rpartition(")")[2].split()
                spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                for line in (status / "status").read_text().splitlines():
                    if line.startswith("VmRSS"):
                        kilobytes = max(kilobytes, int(line.split()[1]))
            except (OSError, IndexError):
                break
            time.sleep(0.2)
        if process.wait():
            sys.exit(f"exit code {process.returncode}")
        return time.monotonic() - begun, spent, kilobytes / 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--names", nargs="+", default=NAMES)
    arguments = parser.parse_args()
    asked = [*arguments.names, "--data", arguments.data, "--epochs", str(arguments.epochs)]
    asked += ["--eval-every", "0"]
    ratios = []
    for number in range(arguments.rounds):
        one, one_spent, _ = run(1, asked)
        many, many_spent, megabytes = run(arguments.jobs, asked)
        ratios.append(one / many)
        print(
            f"round {number + 1}: one at a time {one:.1f} s, {arguments.jobs} at a time {many:.1f} "
            f"s, ratio {one / many:.2f}; scheduler {one_spent:.1f} s ({one_spent / one:.1%}) and "
            f"{many_spent:.1f} s ({many_spent / many:.1%}) of CPU, {megabytes:.0f} MB",
            flush=True,
        )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"median ratio {statistics.median(ratios):.2f}; {used.ru_utime:.0f} s of CPU in all")


if __name__ == "__main__":
    main()
