"""Seconds that an attack of a file takes apart from its judge, beside in the judge's process.

    python -m benchmarks.apart runs/digits/baseline --repeat 3

Each call is a process of its own, as on the command line, without the checks: first one that is not
timed, then both in turn. The last line gives the median difference. CPU time is told besides: on a
machine with other work it is the steadier one.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

_ATTACK = """
from sparring.attacks import PGD

def attack(defense, x, y, threat, steps=40):
    return PGD(steps=steps, early_stopping=False)(defense, x, y, threat)
"""


def main() -> None:
    """Time both, and print the seconds of each and the difference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run directory of the defense")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="of PGD")
    parser.add_argument("-n", type=int, default=100, help="how many images")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {"apart": [], "in-process": []}
    cpu: dict[str, list[float]] = {name: [] for name in seconds}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "attack.py"
        file.write_text(_ATTACK, encoding="utf-8")
        words = ["-m", "sparring", "attack", given.run, str(file), "-n", str(given.n)]
        words += ["-o", f"steps={given.steps}", "--no-check", "-q"]
        words += ["--force", "--out", str(Path(folder) / "verdict")]
        for number in range(given.repeat + 1):
            for name, times in seconds.items():
                begun, used = time.perf_counter(), _cpu()
                more = ["--in-process"] if name == "in-process" else []
                subprocess.run(
                    [sys.executable, "-P", *words, *more], check=True, stdout=subprocess.DEVNULL
                )
                if number:
                    times.append(time.perf_counter() - begun)
                    cpu[name].append(_cpu() - used)
    for name, times in seconds.items():
        print(f"{name:<11} {median(times):6.2f} s, CPU {median(cpu[name]):6.2f} s")
    longer, more_cpu = (median(of["apart"]) - median(of["in-process"]) for of in (seconds, cpu))
    print(f"difference  {longer:6.2f} s, CPU {more_cpu:6.2f} s")


def _cpu() -> float:
    """CPU seconds of all processes that this one waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
