"""Look at what was handed in, and what of it is judged already, before a schedule starts."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sparring import backend
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.defenses.facts import Description
from sparring.errors import RunError, SparringError, printable, told
from sparring.evaluation import folder, isolation, judging
from sparring.evaluation.evaluate import Prepared, loaded, run_directory
from sparring.evaluation.request import EvaluationRequest
from sparring.evaluation.submission import Submission
from sparring.grading import submissions
from sparring.grading.request import (
    GOAL,
    REFERENCES,
    GradePlan,
    GradeRequest,
    PlannedDefense,
    PlannedTask,
    Task,
)
from sparring.grading.submissions import Entry, Found
from sparring.runs.directory import Run
from sparring.runs.records import VerdictRecord
from sparring.threat import ThreatModel

_LONGEST_NAME = 40


def plan(request: GradeRequest) -> GradePlan:
    """Look at a grading; what one student handed in keeps no other from being judged.

    Args:
        request: the grading.

    Returns:
        What there is to do, and of what cannot be judged, why.

    Raises:
        SparringError: a defense, the data set, or the folder of submissions cannot be used.
    """
    common = request.common.from_anywhere()
    if common.sandbox:
        isolation.means(sandbox=True)  # missed by all, told once
    entries = submissions.entries(request.submissions.absolute())
    against = [_Target.of(common, word) for word in request.defenses]
    names = Counter(target.defense.name for target in against)
    against = [
        replace(target, label=str(Run(target.run).shown)) if names[target.name] > 1 else target
        for target in against
    ]
    planned = [_planned(target, request) for target in against]
    grading = _Grading(request, common, [target.name for target in against])
    return GradePlan(
        devices=backend.devices(),
        defenses=planned,
        students=[entry.name for entry in entries],
        references=[
            grading.reference(target, name)
            for target, known in zip(against, planned, strict=True)
            for name in ((GOAL,) if known.goal is None else ()) + REFERENCES[::-1]
        ],
        cells=[grading.cell(target, entry) for entry in entries for target in against],
    )


@dataclass(frozen=True)
class _Target:
    """A defense that is graded: its run loaded, and what is the same for all who attack it."""

    word: str
    label: str
    run: Path
    defense: Defense
    dataset: Dataset
    threat: ThreatModel
    index: np.ndarray
    draws: int

    @property
    def name(self) -> str:
        """The defense's own name."""
        return self.defense.name

    @classmethod
    def of(cls, common: EvaluationRequest, word: str) -> _Target:
        """Load it; the word is its name or its run directory."""
        named = replace(common, defense=word)
        run, defense = run_directory(named).absolute(), loaded(named)
        ready = Prepared.of(
            replace(common, defense=defense, attack="noise", check=False, save=False),
            lambda *_: None,
        )
        parts = ready.parts
        return cls(
            *(word, defense.name, run, defense, parts.dataset, parts.threat, ready.index),
            ready.about.draws,
        )


def _planned(target: _Target, request: GradeRequest) -> PlannedDefense:
    """Say of a defense what the grades need; its goal is given, published, or the reference's."""
    goal = request.goals.get(target.word, request.goals.get(""))
    told: Literal["given", "published", "reference"] = "given"
    share = None if goal is None else goal / 100
    if share is None:
        threat, described = target.threat, Description.of(target.defense)
        share = described.published_for(target.dataset.key, threat.norm, threat.eps)
        told = "reference" if share is None else "published"
    return PlannedDefense(
        label=target.label,
        run=target.run,
        weights_sha256=target.defense.weights_sha256 or "",
        dataset=target.dataset.name,
        norm=target.threat.norm,
        eps=target.threat.eps,
        images=target.index.tolist(),
        draws=target.draws,
        goal=share,
        goal_from=told,
    )


@dataclass(frozen=True)
class _Grading:
    """What a grading asks for, to plan one verdict after the other."""

    request: GradeRequest
    common: EvaluationRequest
    names: list[str]

    def reference(self, target: _Target, name: str) -> PlannedTask:
        """Plan an attack that submissions are compared with."""
        wanted = replace(self.common, attack=name, check=False, transfer=False, seed=0)
        usual = Path("references") / _slug(target.label) / name
        about = PlannedTask(who=name, defense=target.label, title=f"{name} on {target.label}")
        return self._looked_at(about, target, Task(kind="reference", request=wanted), usual)

    def cell(self, target: _Target, entry: Entry) -> PlannedTask:
        """Plan what a student handed in against a defense."""
        title = f"{entry.name} on {target.label}"
        about = PlannedTask(
            who=entry.name, defense=target.label, title=title, file=printable(entry.path.name)
        )
        try:
            found = submissions.find(entry, self.names, target.name)
            if found is None:
                return replace(about, status="not handed in")
            sha256 = found.sha256()
            inside = found.path.relative_to(entry.path.parent)
            about = replace(about, file=printable(str(inside)), sha256=sha256)
            usual = Path("verdicts") / _slug(entry.name) / f"{_slug(target.label)}-{sha256[:8]}"
            return self._looked_at(about, target, self._task(found, sha256), usual)
        except Exception as error:  # whatever one submission does to us, the others are judged
            known = isinstance(error, SparringError | OSError)
            problem = _without(str(error) if known else told(error), entry.path)
            return replace(about, status="failed", problem=printable(problem))

    def _task(self, found: Found, sha256: str) -> Task:
        """What there is to do with what was handed in."""
        wanted = replace(self.common, attack=str(found.path), apart=found.attack)
        return Task(
            kind="attack" if found.attack else "images",
            request=wanted,
            beside=found.folder is not None,
            sha256=sha256,
        )

    def _looked_at(
        self, about: PlannedTask, target: _Target, task: Task, usual: Path
    ) -> PlannedTask:
        """Find the verdict's folder, and whether the verdict is there."""
        wanted = replace(task.request, defense=target.defense, check=False, save=False)
        if task.kind == "images":
            # Named by what is in it, like an attack; the contents are read when it is judged.
            handed_in = Submission(Path(wanted.attack), task.sha256, {})
            wanted = replace(wanted, attack=handed_in)
        kept_apart = judging.ISOLATION if task.kind == "images" else None
        ready = Prepared.of(wanted, lambda *_: None, target.dataset, kept_apart)
        out = self.request.out.absolute()
        where = folder.other_folder(out / usual, ready.about, ready.index)
        done, damaged = _judged(where, ready, task.request.check and task.kind == "attack")
        own = replace(
            task.request,
            defense=str(target.run),
            code=target.defense.code(),
            out=where,
            force=self.request.force or damaged,
        )
        return replace(
            about,
            task=replace(task, request=own),
            verdict=where,
            status="finished" if done and not self.request.force else "new",
        )


def _judged(where: Path, ready: Prepared, check: bool) -> tuple[bool, bool]:
    """Whether a folder has the finished verdict of an evaluation, and whether what is there is bad.

    Its name tells evaluations apart, so another's verdict there is none of ours.
    """
    if (file := VerdictRecord.find(where)) is None:
        return False, False
    try:
        record = VerdictRecord.read(file)
    except RunError:
        return False, True
    same = record.same(ready.about, ready.index.tolist())
    return same and record.finished and record.checked >= check, not same


def _slug(name: str) -> str:
    """Make a name into that of a folder; a hash tells those apart that would be the same."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".-_")[:_LONGEST_NAME]
    # Some file systems take capitals for small letters.
    if plain == name and plain == plain.lower():
        return plain
    return f"{plain}-{hashlib.sha256(name.encode(errors='backslashreplace')).hexdigest()[:8]}"


def _without(message: str, path: Path) -> str:
    """A message without where the submissions lie."""
    return message.replace(f"{path.parent}{os.sep}", "")
