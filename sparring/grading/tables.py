"""The tables of the grades and their columns, for the page, the terminal and the CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sparring.evaluation.rates import duration
from sparring.grading.record import CellRecord, DefenseRecord, GradesRecord, StudentRecord
from sparring.grading.request import GOAL
from sparring.reports.tables import Cell, Column, Table

_SIGNS = {"reached": "✓", "missed": "✗", "not asked": "-"}


class Row(NamedTuple):
    """A student and what became of one defense."""

    name: str
    cell: CellRecord


def _points(gain: float | None) -> str | None:
    """A difference of shares in percentage points, with its sign."""
    if gain is None:
        return None
    return "0.0" if abs(gain) < 0.0005 else f"{100 * gain:+.1f}"


def _student(row: Row) -> Cell:
    page = f"{row.cell.verdict}/verdict.html" if row.cell.verdict else ""
    return Cell(row.name, [row.cell.file] if row.cell.file else [], page=page)


def _success(row: Row) -> Cell | None:
    if (rate := row.cell.success) is None:
        return None
    if not rate.n:
        return Cell("-", ["no images"])
    interval = f"{100 * rate.low:.1f} to {100 * rate.high:.1f}, n = {rate.n}"
    return Cell(f"{100 * rate.value:.1f} %", [interval])


def _level(row: Row) -> Cell | None:
    """The level, and below it which of the five are reached, by their numbers."""
    if row.cell.level is None:
        return None
    signs = [f"{at}{_SIGNS[mark]}" for at, mark in enumerate(row.cell.marks, 1)]
    return Cell(f"{row.cell.level}", [" ".join(signs)])


def _gained(name: str) -> Callable[[Row], str | None]:
    return lambda row: _points(row.cell.gained.get(name))


def _warnings(row: Row) -> Cell:
    """Their names; the verdict's page, which the student's name leads to, has the texts."""
    names = [warning.name for warning in row.cell.warnings]
    return Cell(", ".join(names), alarm=bool(names))


def _cost(row: Row) -> Cell | None:
    cell = row.cell
    if cell.seconds is None:
        return None
    passes = f"{cell.forward:.1f} + {cell.backward or 0:.1f}" if cell.forward else "-"
    return Cell(passes, [duration(cell.seconds)])


COLUMNS: tuple[Column[Row], ...] = (
    Column("rank", lambda row: row.cell.rank),
    Column("student", _student, numeric=False),
    Column("level", _level),
    Column("success", _success),
    Column("over noise", _gained("noise")),
    Column("over PGD", _gained("pgd")),
    Column("to the goal", _gained("goal")),
    Column("passes", _cost, terminal=False),
    Column("warnings", _warnings, numeric=False, terminal=False),
)
"""What is shown of each student who was judged on a defense."""

REST_COLUMNS: tuple[Column[Row], ...] = (
    Column("student", _student, numeric=False),
    Column("status", lambda row: Cell(row.cell.status, alarm=row.cell.status == "failed"), False),
    Column("why", lambda row: Cell(row.cell.problem), numeric=False),
)
"""What is shown of each student who was not."""


def defense_table(grades: GradesRecord, defense: DefenseRecord) -> Table[Row]:
    """Tell what the students who were judged on a defense came to, by rank."""
    return Table(COLUMNS, [row for row in _rows(grades, defense) if row.cell.status == "judged"])


def rest_table(grades: GradesRecord, defense: DefenseRecord) -> Table[Row]:
    """Tell of all others what became of what they handed in, if anything."""
    rest = [row for row in _rows(grades, defense) if row.cell.status != "judged"]
    return Table(REST_COLUMNS, rest)


def _rows(grades: GradesRecord, defense: DefenseRecord) -> list[Row]:
    return [Row(*pair) for pair in grades.of(defense.label)]


def overview(grades: GradesRecord) -> Table[StudentRecord]:
    """Tell the level and success of every student against every defense."""

    def against(at: int) -> Callable[[StudentRecord], Cell]:
        def show(student: StudentRecord) -> Cell:
            cell = student.cells[at]
            if cell.level is None or cell.success is None:
                return Cell(cell.status, alarm=cell.status == "failed")
            value = f"{100 * cell.success.value:.1f} %" if cell.success.n else "-"
            page = f"{cell.verdict}/verdict.html"
            return Cell(value, [f"level {cell.level}, rank {cell.rank or '-'}"], page=page)

        return show

    return Table(
        [
            Column("student", lambda student: student.name, numeric=False),
            *(Column(of.label, against(at)) for at, of in enumerate(grades.defenses)),
            Column("levels in all", levels_in_all),
        ],
        grades.students,
    )


def levels_in_all(student: StudentRecord) -> int:
    """Add up the levels of a student; what was not judged counts 0."""
    return sum(cell.level or 0 for cell in student.cells)


def reference_lines(defense: DefenseRecord) -> Iterator[tuple[str, str, str]]:
    """Tell what submissions are compared with: a name, the figure, and its page or ""."""
    names = {"noise": "noise", "pgd": "plain PGD", GOAL: "the reference attack"}
    for of in sorted(defense.references, key=lambda of: list(names).index(of.name)):
        page = f"{of.verdict}/verdict.html" if of.success else ""
        value = of.success.value if of.success else None
        yield names[of.name], _share(value, of.problem), page
    yield "goal", f"{_share(defense.goal)} ({_GOALS[defense.goal_from]})", ""


_GOALS = {
    "given": "given",
    "published": "published; of all images, those misclassified unattacked counted as broken",
    "reference": "what the reference attack breaks",
}


def _share(value: float | None, problem: str = "") -> str:
    return problem or ("-" if value is None else f"{100 * value:.1f} %")


@dataclass(frozen=True)
class Field:
    """A column of grades.csv: its name, and what it says of a student on a defense."""

    name: str
    value: Callable[[Row], str | float | int | None]


FIELDS: tuple[Field, ...] = (
    Field("student", lambda row: row.name),
    Field("defense", lambda row: row.cell.defense),
    Field("status", lambda row: row.cell.status),
    Field("level", lambda row: row.cell.level),
    Field("rank", lambda row: row.cell.rank),
    Field("success", lambda row: _rate(row, "value")),
    Field("low", lambda row: _rate(row, "low")),
    Field("high", lambda row: _rate(row, "high")),
    Field("images", lambda row: _rate(row, "n")),
    Field("over_noise", lambda row: row.cell.gained.get("noise")),
    Field("over_pgd", lambda row: row.cell.gained.get("pgd")),
    Field("to_the_goal", lambda row: row.cell.gained.get("goal")),
    Field("forward", lambda row: row.cell.forward),
    Field("backward", lambda row: row.cell.backward),
    Field("seconds", lambda row: row.cell.seconds),
    Field("warnings", lambda row: " ".join(warning.name for warning in row.cell.warnings)),
    Field("problem", lambda row: row.cell.problem),
    Field("file", lambda row: row.cell.file),
    Field("sha256", lambda row: row.cell.sha256),
    Field("isolation", lambda row: row.cell.isolation),
    Field("verdict", lambda row: row.cell.verdict),
)
"""The columns of grades.csv."""


def _rate(row: Row, part: str) -> float | None:
    """A part of the success; None where there is none, or of no images."""
    rate = row.cell.success
    value: float = math.nan if rate is None else getattr(rate, part)
    return None if math.isnan(value) else value


def rows(grades: GradesRecord) -> list[Row]:
    """Give every student on every defense, in the order of the defenses, by rank."""
    return [row for of in grades.defenses for row in _rows(grades, of)]
