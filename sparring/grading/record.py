"""grades.json: what a class came to, as typed values that write and read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sparring.runs.files import write_json
from sparring.runs.records import (
    Count,
    EvaluationWarning,
    FileRecord,
    Number,
    PortRecord,
    RateRecord,
    Record,
    Share,
    ThreatRecord,
)

FORMAT: Literal[1] = 1
"""Version of grades.json."""

FILE = "grades.json"

Gain = Annotated[float, Field(ge=-1, le=1)]
"""A difference of shares."""


class ReferenceRecord(Record):
    """What an attack came to that submissions are compared with.

    Attributes:
        name: of the attack.
        success: its success; None while it is not known.
        verdict: the folder of its verdict, below that of the grades.
        problem: why there is none; empty where there is one, or is yet to be.
    """

    name: str
    success: RateRecord | None = None
    verdict: str = ""
    problem: str = ""


class DefenseRecord(Record):
    """A defense that was attacked.

    Attributes:
        label: its name, or its run directory where two of that name are graded.
        run: its run directory.
        weights_sha256: the hash of its weights.
        dataset: the name of the data set.
        threat: the threat model.
        images: indices of the test images.
        draws: how often it is asked about each.
        references: what submissions are compared with.
        goal: as a share; None while it is not known.
        goal_from: "given", "published" (of all images, the misclassified included), or "reference".
    """

    label: str
    run: str
    weights_sha256: str
    dataset: str
    threat: ThreatRecord
    images: list[Count]
    draws: Count
    references: list[ReferenceRecord]
    goal: Share | None
    goal_from: Literal["given", "published", "reference"]


class CellRecord(Record):
    """What one student came to against one defense.

    Attributes:
        defense: its label.
        status: "judged", "failed", "not handed in", or "waiting" while it is yet to be judged.
        problem: why it failed.
        file: what was handed in, below the folder of submissions.
        sha256: the hash of it, with what lies beside an attack.
        success: of the images attacked, the share broken.
        gained: how much more that is, by "noise" and "pgd"; and by "goal", counted as the goal is.
        rank: among the submissions judged on the defense, from 1; equals share one.
        level: the highest that is reached, 0 to 5.
        marks: of each level, in the order of `sparring.grading.levels.LEVELS`.
        warnings: signs that the success should be distrusted.
        forward: forward passes an image; None where nobody counted.
        backward: backward passes an image, likewise.
        seconds: how long it took.
        isolation: how the attack was kept from the judge (docs/security.md).
        port: how far the defense was written anew.
        verdict: the folder of the verdict, below that of the grades.
    """

    defense: str
    status: Literal["judged", "failed", "not handed in", "waiting"]
    problem: str = ""
    file: str = ""
    sha256: str = ""
    success: RateRecord | None = None
    gained: dict[str, Gain | None] = Field(default_factory=dict)
    rank: Annotated[int, Field(ge=1)] | None = None
    level: Annotated[int, Field(ge=0, le=5)] | None = None
    marks: list[Literal["reached", "missed", "not asked"]] = Field(default_factory=list)
    warnings: list[EvaluationWarning] = Field(default_factory=list)
    forward: Number | None = None
    backward: Number | None = None
    seconds: Number | None = None
    isolation: str = ""
    port: PortRecord | None = None
    verdict: str = ""


class StudentRecord(Record):
    """A student, and what became of each defense.

    Attributes:
        name: the student's: that of the entry in the folder of submissions.
        cells: one a defense, in their order.
    """

    name: str
    cells: list[CellRecord]


class GradesRecord(FileRecord):
    """grades.json.

    Attributes:
        format: version of the file.
        sparring: the version that wrote it.
        written: when, in ISO 8601.
        submissions: the folder of submissions.
        finished: whether nothing is left to be judged.
        defenses: the defenses.
        students: the students by name.
    """

    format: Literal[1] = FORMAT
    sparring: str
    written: str
    submissions: str
    finished: bool
    defenses: list[DefenseRecord]
    students: list[StudentRecord]

    def write(self, folder: Path) -> Path:
        """Write grades.json into a folder."""
        write_json(folder / FILE, self.model_dump(mode="json"))
        return folder / FILE

    def of(self, defense: str) -> list[tuple[str, CellRecord]]:
        """Give the names and cells of all students on a defense, by rank, then by name."""
        pairs = [
            (student.name, cell)
            for student in self.students
            for cell in student.cells
            if cell.defense == defense
        ]
        last = len(self.students) + 1
        order = {"judged": 0, "waiting": 1, "failed": 2, "not handed in": 3}
        return sorted(pairs, key=lambda pair: (pair[1].rank or last, order[pair[1].status]))
