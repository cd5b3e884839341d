"""Whether the tests notice when something stops working: each mutant is run against its tests.

    python -m benchmarks.mutants                        # all, two at a time
    python -m benchmarks.mutants --only defenses/trades # those of sparring/defenses/trades.py
    python -m benchmarks.mutants --list

Each edit is made in a scratch copy of the repository, and the tests its entry names run there, up
to the first that fails. First all of them run on the copy as it is: what fails there says nothing.
The exit code is 1 when a mutant survives.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.mutants import ROOT, Mutant, table

_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "__pycache__", ".*_cache")
_SECONDS = 300  # an edit may make a test wait for ever; that is noticed too
_FAILED = 1  # pytest's exit code for tests that ran and failed


def main() -> None:
    """Run the mutants that were asked for; print what became of each, and a summary."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="AREA", help="a file, or a folder of them")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="name them and run nothing")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"--jobs: expected at least 1, got {arguments.jobs}")
    mutants = table()
    if arguments.only:
        wanted = [area.rstrip("/") for area in arguments.only]
        for area in wanted:
            if not any(_within(mutant, area) for mutant in mutants):
                valid = ", ".join(sorted({mutant.area for mutant in mutants}))
                parser.error(f"--only: no mutants of {area!r}. Valid: {valid}")
        mutants = [mutant for mutant in mutants if any(_within(mutant, area) for area in wanted)]
    if arguments.list:
        for mutant in mutants:
            print(f"{mutant.area}: {mutant.what}")
        return
    sys.exit(_run_all(mutants, arguments.jobs))


def _within(mutant: Mutant, area: str) -> bool:
    return mutant.area == area or mutant.area.startswith(f"{area}/")


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Names in a folder that no test needs; sparring/runs is a package, runs beside it is not."""
    outputs = {"runs", "build"} if Path(folder) == ROOT else set()
    return _LEFT_OUT(folder, names) | outputs.intersection(names)


def _run_all(mutants: Sequence[Mutant], jobs: int) -> int:
    """The exit code."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sparring-mutants-") as temporary:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            copy = Path(temporary) / str(number)
            shutil.copytree(ROOT, copy, ignore=_left_out)
            copies.put(copy)
        if failures := _unedited(mutants, copies, jobs):
            print(f"The tests fail without any edit:\n{failures}")
            return 1
        print(f"The tests pass without an edit ({time.monotonic() - begun:.0f} s).", flush=True)
        outcomes = []
        with ThreadPoolExecutor(jobs) as pool:
            runs = pool.map(lambda mutant: _tried(mutant, copies), mutants)
            for number, (mutant, (outcome, seconds)) in enumerate(
                zip(mutants, runs, strict=True), start=1
            ):
                outcomes.append(outcome)
                told = f"{outcome}: {mutant.area}: {mutant.what} ({seconds:.1f} s)"
                print(f"[{number}/{len(mutants)}] {told}", flush=True)
    _summarize(mutants, outcomes, time.monotonic() - begun)
    return 0 if set(outcomes) == {"noticed"} else 1


def _unedited(mutants: Iterable[Mutant], copies: queue.SimpleQueue[Path], jobs: int) -> str:
    """Run all that has to notice a mutant without one; what fails, "" for nothing."""
    suites: dict[str, list[str]] = {}
    for mutant in mutants:
        for test in mutant.tests:
            suite = suites.setdefault(mutant.backend, [])
            if test not in suite:
                suite.append(test)

    def run(backend: str) -> str:
        copy = copies.get()
        try:
            code, output = _pytest(copy, suites[backend], backend, seconds=3600)
        finally:
            copies.put(copy)
        return "" if code == 0 else f"{backend}: exit code {code}\n{output[-4000:]}"

    with ThreadPoolExecutor(jobs) as pool:
        return "\n".join(filter(None, pool.map(run, suites)))


def _tried(mutant: Mutant, copies: queue.SimpleQueue[Path]) -> tuple[str, float]:
    """What became of a mutant, "noticed" where all is well, and how many seconds it took."""
    begun = time.monotonic()
    copy = copies.get()
    file = copy / mutant.file
    text = file.read_text(encoding="utf-8")
    try:
        file.write_text(mutant.applied(text), encoding="utf-8")
        code, output = _pytest(copy, mutant.tests, mutant.backend, _SECONDS)
    finally:
        file.write_text(text, encoding="utf-8")
        copies.put(copy)
    outcome = {0: "SURVIVED", _FAILED: "noticed"}.get(code)
    if outcome is None:
        outcome = f"ERROR, pytest's exit code {code}:\n{output[-2000:]}\n"
    return outcome, time.monotonic() - begun


def _pytest(copy: Path, tests: Iterable[str], backend: str, seconds: float) -> tuple[int, str]:
    """Exit code and output of the tests in a copy; running too long counts as failing."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=copy,
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "PYTHONPATH": str(copy),
                # Python takes an edit within a second that keeps a file's size for no edit.
                "PYTHONDONTWRITEBYTECODE": "1",
                **dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC"), "1"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return _FAILED, f"ran for more than {seconds:g} s"
    return answer.returncode, answer.stdout


def _summarize(mutants: Sequence[Mutant], outcomes: Sequence[str], seconds: float) -> None:
    total = Counter(mutant.area for mutant in mutants)
    noticed = Counter(
        mutant.area
        for mutant, outcome in zip(mutants, outcomes, strict=True)
        if outcome == "noticed"
    )
    print("\n| area | mutants | noticed |\n| --- | --- | --- |")
    for area, count in total.items():
        print(f"| {area} | {count} | {noticed[area]} |")
    print(f"| all | {len(mutants)} | {noticed.total()} |")
    survivors = [
        f"{mutant.area}: {mutant.what}"
        for mutant, outcome in zip(mutants, outcomes, strict=True)
        if outcome != "noticed"
    ]
    print(f"\n{noticed.total() / len(mutants):.0%} noticed in {seconds / 60:.1f} minutes.")
    for survivor in survivors:
        print(f"survived: {survivor}")


if __name__ == "__main__":
    main()
