"""docs/results.md: how accurate every defense is, and how many images each attack breaks.

    python -m benchmarks.results_table attack runs/cifar10 --data-dir DIR --images 500
    python -m benchmarks.results_table keep runs/cifar10 benchmarks/results/cifar10.json
    python -m benchmarks.results_table page benchmarks/results/*.json > docs/results.md

`attack` makes the verdicts that are missing in a folder of runs, one after the other; `keep` takes
the figures of finished runs and verdicts into a file, where they replace those of the same
defenses; `page` writes the page of such files. What NAME.md beside NAME.json has is put below its
tables.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparring.data.usual import default_threat
from sparring.defenses import DEFENSES
from sparring.errors import RunError
from sparring.evaluation.rates import duration
from sparring.runs.directory import Run
from sparring.runs.files import write_json
from sparring.runs.records import (
    Count,
    RateRecord,
    Record,
    RunRecord,
    VerdictRecord,
    verdict_folder,
)

ATTACKS = ["noise", "fgsm", "pgd", "reference"]
NORMS = ["Linf", "L2"]


class Attacked(Record):
    """What an attack came to.

    Attributes:
        success: of the images that were attacked.
        clean: accuracy on all of them.
        images: how many test images.
    """

    success: RateRecord
    clean: RateRecord
    images: Count


class Row(Record):
    """One defense.

    Attributes:
        accuracy: on all test images, what is rejected counted as wrong.
        rejected: share of the test images.
        seconds: of training.
        filters: of the baseline's network.
        epochs: of training.
        seeds: what its networks were trained with.
        given: settings that its preset and data set alone would not have come to.
        made: machine and versions.
        attacks: by norm and attack, as "Linf pgd".
    """

    accuracy: float | None
    rejected: float | None
    seconds: float | None
    filters: int
    epochs: int
    seeds: list[int]
    given: dict[str, Any]
    made: str
    attacks: dict[str, Attacked]


class Figures(Record):
    """All defenses on one data set.

    Attributes:
        title: what the data set is called.
        name: by which it is asked for.
        train_images: how many were trained on.
        test_images: how many there are.
        preset: that was trained with.
        rows: by the defense's name.
    """

    title: str
    name: str
    train_images: int
    test_images: int
    preset: str
    rows: dict[str, Row]

    @classmethod
    def read(cls, file: Path) -> Figures:
        """Read a file that `keep` wrote."""
        return cls.model_validate_json(file.read_bytes())


def folder(run: Path, attack: str, dataset: str, norm: str = "Linf") -> Path:
    """Where the verdict on an attack lies."""
    threat = default_threat(norm, dataset)
    return run / "attacks" / verdict_folder(attack, threat.norm, threat.eps)


def finished_verdict(where: Path) -> VerdictRecord | None:
    """The verdict in a folder, if there is one that is finished."""
    file = VerdictRecord.find(where)
    record = None if file is None else VerdictRecord.read(file)
    return record if record is not None and record.finished else None


def missing(arguments: argparse.Namespace) -> None:
    """Make the verdicts that are not there, or not finished, or of other many images."""
    import sparring
    from sparring import attacks

    for name in arguments.defenses:
        if Run(arguments.runs / name).status() != "finished":
            continue
        defense = sparring.load(arguments.runs / name)
        for attack in arguments.attacks:
            out = folder(arguments.runs / name, attack, defense.info.name, arguments.norm)
            record = finished_verdict(out)
            if record is not None and len(record.images) == arguments.images:
                continue
            print(f"{name} {attack}", file=sys.stderr, flush=True)
            made = attacks.get(attack, {"draws": 10} if attack == "noise" else {}, name)
            verdict = sparring.evaluate(
                *(defense, made, default_threat(arguments.norm, defense.info.key)),
                n=arguments.images,
                data_dir=arguments.data_dir,
                out=out,
                check=False,
                force=True,
            )
            print(verdict, file=sys.stderr, flush=True)


def row(path: Path, run: RunRecord) -> Row:
    """What is known of a finished run."""
    results, settings = run.results, run.settings
    assert results is not None
    usual = DEFENSES[run.defense].settings_for(run.info, run.preset).settings.as_json()
    found = {}
    for norm in NORMS:
        for attack in ATTACKS:
            record = finished_verdict(folder(path, attack, run.dataset_name, norm))
            if record is not None:
                rates = record.results
                found[f"{norm} {attack}"] = Attacked(
                    success=rates.success_rate,
                    clean=rates.clean_accuracy,
                    images=len(record.images),
                )
    versions = ", ".join(f"{what} {which}" for what, which in run.versions.items())
    return Row(
        accuracy=results.test_accuracy,
        rejected=results.rejected,
        seconds=results.seconds,
        filters=settings["filters"],
        epochs=settings["epochs"],
        seeds=sorted(set(results.seeds_used or [])),
        given={name: value for name, value in settings.items() if usual.get(name) != value},
        made=f"{run.machine}; {versions}",
        attacks=found,
    )


def keep(arguments: argparse.Namespace) -> None:
    """Take the figures of finished runs into a file."""
    rows, run = {}, None
    for name in arguments.defenses:
        if Run(arguments.runs / name).status() == "finished":
            run = Run(arguments.runs / name).read()
            rows[name] = row(arguments.runs / name, run)
    if run is None:
        raise RunError(f"{arguments.runs}: expected finished runs, found unfinished ones")
    info = run.info
    before = Figures.read(arguments.file).rows if arguments.file.exists() else {}
    figures = Figures(
        title=arguments.title or info.name,
        name=info.name,
        train_images=info.train_images,
        test_images=info.test_images,
        preset=run.preset,
        rows={name: (before | rows)[name] for name in DEFENSES if name in before | rows},
    )
    write_json(arguments.file, figures.model_dump(mode="json"))


def percent(value: float | None) -> str:
    """A share for the table."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def training(rows: dict[str, Row], common: dict[str, Any]) -> Iterator[str]:
    """Lines of the table of trainings."""
    yield "| defense | clean accuracy | rejected | training time | filters | epochs | seed |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, of in rows.items():
        own = [f"{key}={value}" for key, value in of.given.items() if common.get(key) != value]
        shown = [f"{of.filters}", f"{of.epochs}", "/".join(map(str, of.seeds))]
        cells = [
            " ".join([name, *own]),
            *(percent(of.accuracy), percent(of.rejected)),
            duration(of.seconds) if of.seconds else "-",
            *(shown if DEFENSES[name].borrows is None else ["-"] * 3),
        ]
        yield f"| {' | '.join(cells)} |"


def attacking(rows: dict[str, Row], norm: str) -> Iterator[str]:
    """Lines of the table of attacks under a norm; none where nothing was attacked."""
    attacked = {name: of for name, of in rows.items() if f"{norm} reference" in of.attacks}
    if not attacked:
        return
    course = " | course's |" if norm == "Linf" else " |"
    yield f"| defense | clean accuracy | noise | FGSM | PGD | reference | of images{course}"
    yield "| " + " | ".join(["---"] * (7 + (norm == "Linf"))) + " |"
    for name, of in attacked.items():
        cells, images, clean = [], "-", "-"
        for attack in ATTACKS:
            if (found := of.attacks.get(f"{norm} {attack}")) is None:
                cells.append("-")
                continue
            rate = found.success
            text = percent(rate.value)
            if attack == "reference":
                text += f" ({100 * rate.low:.0f} to {100 * rate.high:.0f})"
            cells.append(text)
            images, clean = f"{rate.n}", percent(found.clean.value)
        if norm == "Linf":
            success = DEFENSES[name].published_success
            images += " | " + ("-" if success is None else f"{success} %")
        yield f"| {' | '.join([name, clean, *cells, images])} |"


def part(file: Path) -> str:
    """The page's part on one data set."""
    prose = file.with_suffix(".md")
    more = "\n" + prose.read_text(encoding="utf-8") if prose.exists() else ""
    return section(Figures.read(file)) + more


def section(figures: Figures, level: int = 2) -> str:
    """Commands and tables, under a heading of this level."""
    rows, name = figures.rows, figures.name
    givens = [of.given for of in rows.values()]
    common = {key: value for key, value in givens[0].items() if all(
        given.get(key) == value for given in givens
    )}  # fmt: skip
    asked = ["all"] if set(rows) == set(DEFENSES) else list(rows)
    command = ["sparring", "train", *asked, "--data", name, "--data-dir", "DIR"]
    command += ["--eval-every", "0"]
    command += ["--preset", figures.preset] if figures.preset != "course" else []
    command += [word for key, value in common.items() for word in ("-s", f"{key}={value}")]
    text = f"""\
{"#" * level} {figures.title}

{"; ".join(sorted({of.made for of in rows.values()}))}.

    {shlex.join(command)}

All {figures.train_images:,} training images; tested on all {figures.test_images:,} test
images as each defense answers, what it rejects counted as wrong. Filters and epochs are those of
the baseline's network; what an ensemble makes of them stands in its file.

{chr(10).join(training(rows, common))}
"""
    for norm in NORMS:
        if not (table := list(attacking(rows, norm))):
            continue
        counts = {
            found.images
            for of in rows.values()
            for key, found in of.attacks.items()
            if key.startswith(f"{norm} ")
        }
        images = " or ".join(map(str, sorted(counts)))
        own = [] if norm == "Linf" else ["--norm", norm]
        attack = ["attack", f"runs/{name}", "--data-dir", "DIR", *own]
        attack += ["--images", str(max(counts))]
        text += f"""
Share of the images broken, of those among the first {images} test images that the defense answers
rightly, within {default_threat(norm, name)}:

    {shlex.join(["python", "-m", "benchmarks.results_table", *attack])}

{chr(10).join(table)}
"""
    return text


def page(files: Sequence[Path]) -> str:
    """The whole page, of the files that `keep` wrote."""
    command = ["python", "-m", "benchmarks.results_table", "page", *map(str, files)]
    parts = "\n".join(part(file) for file in files)
    return f"""# Results

Written by the program that is named below from the files that trainings and attacks left:

    {shlex.join(command)}

An image is broken when it gets another label and is not rejected; of random defenses that is the
mean of 20 draws. Noise is the best of ten random points; FGSM and PGD (40 steps) follow the cross
entropy through the defense as it is; reference is the attack in `sparring/attacks/reference/`, with
its 95 % interval. The course's is the best attack that it published, for its own defenses on
CIFAR-10 within 4/255.

{parts}"""


def main() -> None:
    """Make verdicts, keep figures, or print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    of_runs = argparse.ArgumentParser(add_help=False)
    of_runs.add_argument("runs", type=Path, help="a folder with one run directory per defense")
    of_runs.add_argument("--defenses", nargs="+", choices=DEFENSES, default=list(DEFENSES))
    attack = verbs.add_parser("attack", parents=[of_runs])
    attack.add_argument("--data-dir", type=Path)
    attack.add_argument("--attacks", nargs="+", choices=ATTACKS, default=ATTACKS)
    attack.add_argument("--norm", choices=NORMS, default="Linf")
    attack.add_argument("--images", type=int, default=100, help="how many")
    kept = verbs.add_parser("keep", parents=[of_runs])
    kept.add_argument("file", type=Path, help="where figures are kept")
    kept.add_argument("--title", help="of the data set on the page; else its name")
    verbs.add_parser("page").add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.verb == "page":
        print(page(arguments.files), end="")
        return
    if not any(Run(arguments.runs / name).exists() for name in arguments.defenses):
        exists = arguments.runs.is_dir()
        what = "no run of a defense in it" if exists else "no such folder"
        parser.error(f"{arguments.runs}: expected a folder with one run per defense, found {what}")
    try:
        missing(arguments) if arguments.verb == "attack" else keep(arguments)
    except RunError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
