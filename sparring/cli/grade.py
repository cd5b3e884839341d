"""sparring grade: judge what a class handed in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring import data as data_sets
from sparring import defenses
from sparring.backend import choice as backend_choice
from sparring.cli.attack import indices
from sparring.cli.options import BackendOption, completed, from_fields, option_of
from sparring.cli.program import app, handled
from sparring.evaluation.request import EvaluationRequest
from sparring.experiments.request import option
from sparring.grading.request import TIME_LIMIT, GradeRequest

if TYPE_CHECKING:
    from sparring.grading.record import GradesRecord

_option = partial(option_of, EvaluationRequest)
_own = partial(option_of, GradeRequest)

_LONGEST_PROBLEM = 100  # in the terminal; the page has all of it


@dataclass(frozen=True)
class GradeOptions:
    """Options of `sparring grade`, passed on to `sparring.grade`."""

    goal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DEFENSE=]PERCENT",
            help="The goal, of the images attacked; repeatable. Default: the published one on its "
            "own data, else what the reference attack breaks.",
        ),
    ] = None
    out: Annotated[Path, _own("out")] = Path("grades")
    jobs: Annotated[str, _own("jobs")] = "auto"
    force: Annotated[bool, _own("force")] = False
    data_dir: Annotated[Path | None, _option("data_dir")] = None
    other_data: Annotated[bool, _option("other_data")] = False
    norm: Annotated[str, _option("norm")] = "Linf"
    eps: str | None = option(None, "Its radius, as 0.03 or 8/255. Default: the data set's.", "X")
    n: Annotated[int, _option("n")] = 100
    draws: Annotated[int, _option("draws")] = 20
    batch_size: Annotated[int, _option("batch_size")] = 128
    check: Annotated[bool, _option("check")] = True
    runs: Annotated[Path, _option("runs")] = Path("runs")
    time_limit: float = option(TIME_LIMIT, "For each attack, in all.", "SECONDS")
    cpu_limit: Annotated[float | None, _option("cpu_limit")] = None
    memory_limit: Annotated[float | None, _option("memory_limit")] = None
    output_limit: Annotated[float, _option("output_limit")] = 10.0
    sandbox: Annotated[bool, _option("sandbox")] = False


@app.command(epilog="Example: sparring grade baseline blur submissions --images 200,201,202")
@from_fields
def grade(
    *,
    named: Annotated[
        list[str],
        typer.Argument(
            metavar="DEFENSE...",
            help="Names of trained defenses, or run directories.",
            autocompletion=completed(defenses.listed),
        ),
    ],
    submissions: Annotated[
        Path,
        typer.Argument(
            metavar="SUBMISSIONS",
            help="Folder with an entry a student: an attack, a file of images, or a folder with "
            "one for each defense (docs/teaching.md). One file is one student's.",
        ),
    ],
    data: Annotated[str | None, _option("data", words=data_sets.NAMES)] = None,
    images: Annotated[str | None, _option("images")] = None,
    options: GradeOptions,
    backend: BackendOption = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but the grades.")
    ] = False,
) -> None:
    """Judge what a class handed in against trained defenses, and write a table of it.

    Each submission is judged as `sparring attack` and `sparring judge` do, attacks in processes of
    their own with limits, so many at a time; what cannot be judged is a failure of its own and
    stops no other. grades.html, grades.csv and grades.json in --out are written anew after each:
    success, warnings, cost, rank, what was gained over noise, plain PGD and the goal, and a level
    from 0 to 5. The same command goes on with what is not judged yet, or was handed in anew.
    """
    with handled("The same command goes on with what is not judged yet."):
        backend_choice.choose(backend)
        from sparring.cli import display
        from sparring.grading.grade import grade as graded

        given: dict[str, Any] = {**vars(options), "data": data, "images": indices(images)}
        given["goals"] = _goals(given.pop("goal"))
        request = GradeRequest.of(named, submissions, **given)
        with display.many(quiet) as watcher:
            watcher.message("Looking at what was handed in.")
            grades = graded(request, watcher=watcher)
        _show(grades, request.out)


def _goals(texts: list[str] | None) -> dict[str, float]:
    """Read goals given as 90 or blur=90."""
    goals = {}
    for text in texts or []:
        name, _, value = text.rpartition("=")
        try:
            goals[name.strip()] = float(value.strip().removesuffix("%"))
        except ValueError:
            goals[name.strip()] = math.nan  # which is refused as any other wrong number
    return goals


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_PROBLEM else f"{text[:_LONGEST_PROBLEM]}..."


def _show(grades: GradesRecord, out: Path) -> None:
    """Print the grades, and where they lie."""
    from sparring.cli import display
    from sparring.grading import page, tables

    for defense in grades.defenses:
        lines = tables.reference_lines(defense)
        print(f"\n{defense.label}: " + ", ".join(f"{name} {said}" for name, said, _ in lines))
        for table in (tables.defense_table(grades, defense), tables.rest_table(grades, defense)):
            at = [place for place, column in enumerate(table.columns) if column.terminal]
            rows = [[table.columns[place].header for place in at]]
            rows += [[_short(cells[place].text) for place in at] for cells in table.cells()]
            if table.rows:
                display.print_rows(rows)
    print(f"\nGrades    {out / page.PAGE}, {page.TABLE} and grades.json")
