"""Seconds that grading a class takes: 30 submissions against one defense.

    KERAS_BACKEND=torch python -m benchmarks.grade runs/digits/baseline

Of ten submissions six are attacks by PGD, of 10 to 100 steps and with a port of the defense, one is
FGSM, one raises, one is killed, and one is a file of images. All is judged anew, references
included, with the checks, on 100 images.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sparring.data import load
from sparring.grading.record import GradesRecord
from sparring.runs.directory import Run

_PGD = """
from sparring import gradient
from sparring.attacks import PGD, margins
from sparring.backend import ops

def attack(defense, x, y, threat):
    return PGD(steps={steps}, loss="margin")(defense, x, y, threat)

def port_labels(defense, x):
    return ops.argmax(defense.logits(x), axis=-1)

def port_gradient(defense, x, y):
    return gradient(lambda images: margins(y, defense.logits(images)), x)
"""
_FGSM = "from sparring.attacks import FGSM\n\nattack = FGSM()\n"
_RAISES = "def attack(defense, x, y, threat):\n    return 1 / 0\n"
_KILLED = "import os\n\ndef attack(defense, x, y, threat):\n    os.kill(os.getpid(), 9)\n"


def main() -> None:
    """Make the submissions, grade them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run directory of the defense")
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--jobs", default="2")
    parser.add_argument("-n", type=int, default=100, help="how many images")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "submissions", Path(name) / "grades"
        folder.mkdir()
        dataset = load(Run(given.run).read().dataset["name"])
        for number in range(given.students):
            _hand_in(folder / f"student-{number:02}", number, dataset.x_test)
        words = ["grade", given.run, str(folder), "-n", str(given.n), "-q"]
        words += ["--out", str(out), "--jobs", given.jobs]
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-P", "-m", "sparring", *words], check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.perf_counter() - begun
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        grades = GradesRecord.read(out / "grades.json")
    cells = [cell.status for student in grades.students for cell in student.cells]
    told = ", ".join(f"{cells.count(status)} {status}" for status in dict.fromkeys(cells))
    cpu = used.ru_utime + used.ru_stime
    print(f"{len(cells)} submissions ({told}): {seconds:.0f} s, CPU {cpu:.0f} s")


def _hand_in(path: Path, number: int, images: np.ndarray) -> None:
    """Write one student's submission."""
    kind = number % 10
    if kind == 9:
        np.savez(path.with_suffix(".npz"), adversarial=images[:100].astype(np.float32) / 255)
        return
    steps = (10, 20, 40, 40, 60, 100)
    texts = [*(_PGD.format(steps=of) for of in steps), _FGSM, _RAISES, _KILLED]
    path.with_suffix(".py").write_text(texts[kind], encoding="utf-8")


if __name__ == "__main__":
    main()
