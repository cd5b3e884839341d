"""docs/results.md, from the run.json and verdict.json files of a folder of runs.

    python -m benchmarks.results_table runs/fashion-mnist --data-dir DIR > docs/results.md

The runs are those of `sparring train all --data fashion-mnist --data-dir DIR --eval-every 0`, the
attacks those of `--attack`, which makes the ones that are missing, one after the other:

    python -m benchmarks.results_table runs/fashion-mnist --data-dir DIR --attack
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from sparring.data.usual import default_threat
from sparring.defenses import DEFENSES
from sparring.evaluation.rates import duration
from sparring.runs.directory import Run
from sparring.runs.records import Results, RunRecord, VerdictRecord, verdict_folder

ATTACKS = ["noise", "fgsm", "pgd", "reference"]


_ABOUT_TIMES = """\
Times were taken on a shared machine with two cores while other programs ran, and differ by a factor
of two for no other reason.
"""
_ABOUT_ATTACKS = """
The contrast that the zoo is for: injection, knn, discretize and randomneuron look robust under
plain gradient attacks and fall to the right one. Where the reference attack stays well below the
course's figure:

- majority: its networks are trained with Gaussian noise of 0.1 and 0.2, which is large beside an
  eps of 0.05. Summed margins of all three and the two largest of them stop at the same images.
- transform: averaging over 5, 10 and 20 draws and 50 to 200 steps all stop near one half. Color
  jitter of 0.4 is large beside 0.05, too, and what succeeds has to survive shifts.
- mergebinary: of the clean images 15 % are rejected already, and what is left is clear-cut; a
  quarter of the images that are not broken get another label but are rejected.
- advtrain: it holds in part, as it is meant to.
"""
"""What was found on Fashion-MNIST alone."""


def folder(run: Path, attack: str, dataset: str) -> Path:
    """Where the verdict on an attack lies."""
    threat = default_threat("Linf", dataset)
    return run / "attacks" / verdict_folder(attack, threat.norm, threat.eps)


def missing(runs: Path, data_dir: Path | None, chosen: list[str], images: int) -> None:
    """Make the verdicts on the chosen attacks that are not there, or not finished."""
    import sparring
    from sparring import attacks

    for name in DEFENSES:
        if not Run(runs / name).exists():
            continue
        defense = sparring.load(runs / name)
        for attack in chosen:
            out = folder(runs / name, attack, defense.info.name)
            file = VerdictRecord.find(out)
            if file is not None and VerdictRecord.read(file).finished:
                continue
            print(f"{name} {attack}", file=sys.stderr, flush=True)
            made = attacks.get(attack, {"draws": 10} if attack == "noise" else {}, name)
            verdict = sparring.evaluate(
                *(defense, made),
                n=images,
                data_dir=data_dir,
                out=out,
                check=False,
            )
            print(verdict, file=sys.stderr, flush=True)


def percent(value: float | None) -> str:
    """A share for the table."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def training(runs: dict[str, RunRecord]) -> Iterator[str]:
    """Lines of the table of trainings."""
    yield "| defense | clean accuracy | rejected | training time | filters | epochs | seed |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, run in runs.items():
        results, settings = run.results or Results(), run.settings
        shown = [
            f"{settings['filters']}",
            f"{settings['epochs']}",
            "/".join(sorted({str(seed) for seed in results.seeds_used or []})),
        ]
        yield (
            f"| {name} | {percent(results.test_accuracy)} | {percent(results.rejected)} | "
            f"{duration(results.seconds) if results.seconds else '-'} | "
            + " | ".join(shown if DEFENSES[name].borrows is None else ["-"] * 3)
            + " |"
        )


def attacking(runs: dict[str, RunRecord], paths: dict[str, Path]) -> Iterator[str]:
    """Lines of the table of attacks."""
    yield "| defense | clean accuracy | noise | FGSM | PGD | reference | of images | course's |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, run in runs.items():
        cells, images, clean = [], "-", "-"
        for attack in ATTACKS:
            where = folder(paths[name], attack, run.dataset_name)
            if (file := VerdictRecord.find(where)) is None:
                cells.append("-")
                continue
            results = VerdictRecord.read(file).results
            rate = results.success_rate
            text = percent(rate.value)
            if attack == "reference":
                text += f" ({100 * rate.low:.0f} to {100 * rate.high:.0f})"
            cells.append(text)
            images, clean = f"{rate.n}", percent(results.clean_accuracy.value)
        success = DEFENSES[name].published_success
        published = "-" if success is None else f"{success} %"
        yield f"| {' | '.join([name, clean, *cells, images, published])} |"


def attacked(runs: dict[str, RunRecord], paths: dict[str, Path]) -> str:
    """How many test images the verdicts are about, in words; several where they differ."""
    files = (
        VerdictRecord.find(folder(paths[name], attack, run.dataset_name))
        for name, run in runs.items()
        for attack in ATTACKS
    )
    counts = {len(VerdictRecord.read(file).images) for file in files if file is not None}
    return " or ".join(f"{count:,}" for count in sorted(counts)) or "100"


def main() -> None:
    """Print the page, or make what is missing for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="a folder with one run directory per defense")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--attack", action="store_true", help="make the verdicts that are missing")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=ATTACKS, help="with --attack")
    parser.add_argument("--images", type=int, default=100, help="with --attack: how many")
    arguments = parser.parse_args()
    paths = {name: arguments.runs / name for name in DEFENSES}
    trained = [name for name, path in paths.items() if Run(path).exists()]
    if not trained:
        what = "no run of a defense in it" if arguments.runs.is_dir() else "no such folder"
        parser.error(f"{arguments.runs}: expected a folder with one run per defense, found {what}")
    if arguments.attack:
        missing(arguments.runs, arguments.data_dir, arguments.only, arguments.images)
        return
    runs = {
        name: Run(path).read() for name, path in paths.items() if Run(path).status() == "finished"
    }
    if not runs:
        unfinished = ", ".join(trained)
        parser.error(f"{arguments.runs}: expected finished runs, found unfinished {unfinished}")
    info = next(iter(runs.values())).info
    threat = default_threat("Linf", info.name)
    versions = {
        f"{run.machine}; " + ", ".join(f"{what} {which}" for what, which in run.versions.items())
        for run in runs.values()
    }
    print(
        f"""# Results on {info.name}

Written by `python -m benchmarks.results_table` from the files that trainings and attacks left.
{"; ".join(sorted(versions))}.

## Training

    sparring train all --data {info.name} --data-dir DIR --eval-every 0

All {info.train_images:,} training images; tested on all {info.test_images:,} test
images as each defense answers, what it rejects counted as wrong. Filters and epochs are those of
the baseline's network; what an ensemble makes of them stands in its file.
"""
    )
    if info.key == "fashion-mnist":
        print(_ABOUT_TIMES)
    print("\n".join(training(runs)))
    images = attacked(runs, paths)
    asked = "" if images == "100" else f" --images {images}"
    print(
        f"""
## Attacks

    python -m benchmarks.results_table runs/{info.name} --data-dir DIR --attack{asked}

Share of the images broken, of those among the first {images} test images that the defense answers
rightly, within {threat}: another label, not rejected, for random defenses the mean of 20 draws.
Noise is the best of ten random points; FGSM and PGD (40 steps) follow the cross entropy through the
defense as it is; reference is the attack in `sparring/attacks/reference/`, with its 95 % interval.
The last column is the best attack the course published, for its own defenses on CIFAR-10 within
4/255.
"""
    )
    print("\n".join(attacking(runs, paths)))
    if info.key == "fashion-mnist":
        print(_ABOUT_ATTACKS)


if __name__ == "__main__":
    main()
