"""The book of a grading: takes verdicts as they come, and says what all came to so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from sparring.errors import RunError, printable
from sparring.grading import levels
from sparring.grading.record import (
    CellRecord,
    DefenseRecord,
    GradesRecord,
    ReferenceRecord,
    StudentRecord,
)
from sparring.grading.request import GradePlan, PlannedDefense, PlannedTask
from sparring.runs.records import RateRecord, ThreatRecord, VerdictRecord
from sparring.version import __version__

_LONGEST_PROBLEM = 1000

_Key = tuple[str, str]
"""Who, and the label of the defense."""


class Book:
    """What is known of a grading; it needs no framework, and reads verdicts alone.

    Args:
        plan: what there is.
        out: the folder of the grades.
        submissions: that of the submissions.
    """

    def __init__(self, plan: GradePlan, out: Path, submissions: Path) -> None:
        """Take what is judged already."""
        self._plan, self._out, self._submissions = plan, out.absolute(), submissions
        self._references: dict[_Key, VerdictRecord] = {}
        self._judged: dict[_Key, VerdictRecord] = {}
        self._problems: dict[int, str] = {}
        for planned in self._all():
            if planned.status == "finished":
                self._take(planned)
            elif planned.status == "failed":
                self._problems[id(planned)] = planned.problem

    def _all(self) -> Iterable[PlannedTask]:
        return (*self._plan.references, *self._plan.cells)

    def done(self, folder: Path) -> None:
        """Take the verdict that a job wrote into a folder."""
        for planned in self._in(folder):
            self._take(planned)

    def failed(self, folder: Path, problem: str) -> None:
        """Note why a job wrote none."""
        for planned in self._in(folder):
            self._problems[id(planned)] = problem

    def _in(self, folder: Path) -> Iterable[PlannedTask]:
        return [planned for planned in self._all() if planned.verdict == folder]

    def _take(self, planned: PlannedTask) -> None:
        """Read a verdict; what cannot be read is a problem of its cell alone."""
        assert planned.verdict is not None
        try:
            if (file := VerdictRecord.find(planned.verdict)) is None:
                raise RunError(f"{planned.verdict}: expected a verdict, found none")
            record = VerdictRecord.read(file)
        except RunError as error:
            self._problems[id(planned)] = str(error)
            return
        is_reference = any(planned is of for of in self._plan.references)
        by = self._references if is_reference else self._judged
        by[planned.who, planned.defense] = record

    def record(self) -> GradesRecord:
        """Give the grades as far as they are known."""
        defenses = {of.label: self._defense(of) for of in self._plan.defenses}
        planned = {of.label: of for of in self._plan.defenses}
        ranks = {label: self._ranks(label) for label in planned}
        cells: dict[str, list[CellRecord]] = {name: [] for name in self._plan.students}
        for cell in self._plan.cells:
            rank = ranks[cell.defense].get(cell.who)
            cells[cell.who].append(self._cell(cell, planned[cell.defense], rank))
        settled = [cell.status != "waiting" for own in cells.values() for cell in own]
        references = [of for known in defenses.values() for of in known.references]
        return GradesRecord(
            sparring=__version__,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
            submissions=printable(str(self._submissions)),
            finished=all(settled) and all(of.success or of.problem for of in references),
            defenses=list(defenses.values()),
            students=[StudentRecord(name=name, cells=own) for name, own in cells.items()],
        )

    def _known(self, label: str) -> Mapping[str, VerdictRecord]:
        """The verdicts of references on a defense, by name."""
        return {name: of for (name, defense), of in self._references.items() if defense == label}

    def _defense(self, of: PlannedDefense) -> DefenseRecord:
        return DefenseRecord(
            label=of.label,
            run=printable(str(of.run)),
            weights_sha256=of.weights_sha256,
            dataset=printable(of.dataset),
            threat=ThreatRecord(norm=of.norm, eps=of.eps),
            images=list(of.images),
            draws=of.draws,
            references=[
                self._reference(each) for each in self._plan.references if each.defense == of.label
            ],
            goal=levels.goal_of(of, self._known(of.label)),
            goal_from=of.goal_from,
        )

    def _reference(self, planned: PlannedTask) -> ReferenceRecord:
        record = self._references.get((planned.who, planned.defense))
        return ReferenceRecord(
            name=planned.who,
            success=_rate(record),
            verdict=self._below(planned),
            problem=_problem(self._problems.get(id(planned), "")),
        )

    def _ranks(self, label: str) -> dict[str, int]:
        """The ranks of the students on a defense, by name."""
        rates = {
            who: record.results.success_rate
            for (who, defense), record in self._judged.items()
            if defense == label
        }
        return levels.ranks({who: rate.value for who, rate in rates.items() if rate.n})

    def _cell(self, planned: PlannedTask, defense: PlannedDefense, rank: int | None) -> CellRecord:
        own = CellRecord(
            defense=planned.defense,
            status="not handed in" if planned.status == "not handed in" else "waiting",
            file=planned.file if planned.status != "not handed in" else "",
            sha256=planned.sha256,
        )
        if (problem := self._problems.get(id(planned))) is not None:
            return own.model_copy(update={"status": "failed", "problem": _problem(problem)})
        record = self._judged.get((planned.who, planned.defense))
        if record is None:
            return own
        references = self._known(planned.defense)
        marks = levels.marks(defense, record, references)
        images = record.results.success_rate.n
        counted = bool(record.forward and images)
        return own.model_copy(
            update={
                "status": "judged",
                "success": _rate(record),
                "gained": levels.gains(defense, record, references),
                "rank": rank,
                "marks": marks,
                "level": levels.level(marks),
                "warnings": record.warnings,
                "forward": round(record.forward / images, 3) if counted else None,
                "backward": round(record.backward / images, 3) if counted else None,
                "seconds": record.seconds,
                "isolation": record.isolation,
                "port": record.port,
                "verdict": self._below(planned),
            }
        )

    def _below(self, planned: PlannedTask) -> str:
        """The folder of a verdict, below that of the grades, as an address; "" where none is."""
        if planned.verdict is None or not planned.verdict.is_relative_to(self._out):
            return ""
        return quote(planned.verdict.relative_to(self._out).as_posix())


def _rate(record: VerdictRecord | None) -> RateRecord | None:
    return None if record is None else record.results.success_rate


def _problem(text: str) -> str:
    """A problem in one line, cut short; it may have words of a student's in it."""
    return printable(" ".join(text.split()))[:_LONGEST_PROBLEM]
