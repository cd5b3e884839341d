"""GradeRequest: one grading as values, and what there is to do of it; all of it plain JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from sparring.errors import SettingsError, unknown_name
from sparring.evaluation.request import EvaluationRequest
from sparring.experiments.request import Request, option

TIME_LIMIT = 600.0
"""Seconds that a student's attack may take, unless another limit is given."""

REFERENCES = ("noise", "pgd")
"""Attacks that submissions are compared with."""

GOAL = "reference"
"""The attack whose success is the goal, where none is given or published."""

_FIXED = ("defense", "attack", "options", "out", "force", "apart", "save", "chunk", "chunks")


@dataclass(frozen=True, kw_only=True)
class GradeRequest(Request):
    """Everything that one grading needs; each field that is an option holds its help.

    Raises:
        SettingsError: for a value of another type, or out of range.
    """

    defenses: Sequence[str]
    """Names of trained defenses, or run directories."""
    submissions: Path
    """The folder with what was handed in, an entry a student; or one file, of one student."""
    out: Path = option(Path("grades"), "Folder of the grades and of the verdicts.")
    jobs: str = option("auto", "Judge so many submissions at a time, as processes.", "N|auto")
    goals: Mapping[str, float] = field(default_factory=dict)
    """The goal by defense, in percent of the images attacked; that of "" is for all others."""
    force: bool = option(False, "Judge anew what is judged already.")
    common: EvaluationRequest
    """How each is judged. Its defense and attack are not looked at."""

    def __post_init__(self) -> None:
        """Check the values, and take texts for paths."""
        if isinstance(self.defenses, str) or not all(isinstance(of, str) for of in self.defenses):
            raise SettingsError(f"defenses: expected a list of names, got {self.defenses!r:.80}")
        if not self.defenses:
            raise SettingsError("defenses: expected one name or more, got none")
        object.__setattr__(self, "defenses", list(dict.fromkeys(self.defenses)))
        self._take_paths("submissions", "out")
        object.__setattr__(self, "jobs", str(self.jobs))
        if not re.fullmatch("auto|[1-9][0-9]{0,3}", self.jobs):
            raise SettingsError(
                f"jobs: expected a number of 1 or more, or auto, got {self.jobs!r:.80}"
            )
        self._expect("True or False", bool, "force")
        for name, goal in self.goals.items():
            if name and name not in self.defenses:
                raise SettingsError(unknown_name("defense with a goal", name, self.defenses))
            number = isinstance(goal, int | float) and not isinstance(goal, bool)
            if not number or not (math.isfinite(goal) and 0 < goal <= 100):
                raise SettingsError(
                    f"goal: expected a percentage above 0 and at most 100, got {goal!r:.80}"
                )

    @classmethod
    def of(cls, defenses: Sequence[str] | str, submissions: Path | str, **options: Any) -> Self:
        """Make a request of its own fields and those of `EvaluationRequest`.

        Args:
            defenses: names of trained defenses or run directories; or one of them.
            submissions: the folder of what was handed in.
            options: fields of both by name. A `time_limit` that is not given is `TIME_LIMIT`.

        Raises:
            SettingsError: there is no such field, or its value is out of range.
        """
        own = {part.name for part in fields(cls)} - {"common", "defenses", "submissions"}
        shared = {part.name for part in fields(EvaluationRequest)} - {*_FIXED}
        if wrong := [name for name in options if name not in own | shared]:
            valid = sorted(own | shared)
            raise SettingsError(unknown_name("option of a grading", wrong[0], valid))
        how = {name: value for name, value in options.items() if name in shared - own}
        common = EvaluationRequest("", **{"time_limit": TIME_LIMIT, **how})
        return cls(
            defenses=[defenses] if isinstance(defenses, str) else defenses,
            submissions=Path(submissions),
            common=common,
            **{name: value for name, value in options.items() if name in own},
        )


@dataclass(frozen=True, kw_only=True)
class Task(Request):
    """One verdict of a grading."""

    kind: Literal["attack", "images", "reference"]
    """The file of an attack, which runs apart; one of images; or an attack of Sparring's own."""
    request: EvaluationRequest
    """What to judge, with absolute paths; its `out` is the verdict's folder."""
    beside: bool = False
    """Whether what lies beside the file of an attack was handed in with it."""
    sha256: str = ""
    """The hash of what was handed in, as it was planned."""


@dataclass(frozen=True, kw_only=True)
class PlannedTask(Request):
    """What is planned for a student and a defense, or for a reference and a defense."""

    who: str
    """The student's name, or the reference's."""
    defense: str
    """The label of the defense."""
    title: str = ""
    """What people know it by."""
    file: str = ""
    """What was handed in, below the folder of submissions; empty for a reference."""
    sha256: str = ""
    """The hash of it, with what lies beside it."""
    task: Task | None = None
    """What there is to do; None where nothing can be done."""
    verdict: Path | None = None
    """The verdict's folder."""
    status: Literal["new", "finished", "failed", "not handed in"] = "new"
    """What is known before anything is judged."""
    problem: str = ""
    """Why it failed."""


@dataclass(frozen=True, kw_only=True)
class PlannedDefense(Request):
    """A defense that students attack."""

    label: str
    """What it is called in the grades: its name, or its run directory where names are the same."""
    run: Path
    """Its run directory."""
    weights_sha256: str
    """The hash of its weights."""
    dataset: str
    """The name of the data set."""
    norm: str
    """Of the threat model."""
    eps: float
    """Its radius."""
    images: Sequence[int]
    """Indices of the test images."""
    draws: int
    """How often it is asked about each."""
    goal: float | None = None
    """The goal as a share, where it is given or published; else that of the reference attack."""
    goal_from: Literal["given", "published", "reference"] = "reference"
    """Where the goal comes from. A published one counts images that are misclassified unattacked as
    broken, as who published it did."""


@dataclass(frozen=True, kw_only=True)
class GradePlan(Request):
    """What a plan of a grading found."""

    devices: Sequence[str]
    """The backend's, the default one first."""
    defenses: Sequence[PlannedDefense]
    """The defenses, in the order they were named."""
    students: Sequence[str]
    """The names of all, in order."""
    references: Sequence[PlannedTask]
    """What submissions are compared with."""
    cells: Sequence[PlannedTask]
    """Each student with each defense."""
