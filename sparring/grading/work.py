"""What a job of a grading does: judges one submission, or a reference that it is compared with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sparring.errors import AttackError, SparringError
from sparring.evaluation.evaluate import Progress, evaluate
from sparring.evaluation.judging import judge_images
from sparring.evaluation.verdict import Verdict
from sparring.grading.request import Task
from sparring.grading.submissions import Found


def work(task: Task, tell: Progress) -> Verdict:
    """Come to one verdict, as `sparring attack` and `sparring judge` do.

    Args:
        task: what to judge.
        tell: is told how far it is.

    Raises:
        SparringError: the submission comes to no verdict, or changed since it was planned.
    """
    if task.kind == "reference":
        return evaluate(task.request, progress=tell)
    path = Path(task.request.attack)
    attack = task.kind == "attack"
    found = Found(path, attack, path.parent if task.beside else None)
    if found.sha256() != task.sha256:
        raise AttackError(f"{path.name}: changed meanwhile")
    if not attack:
        with _without(path.parent):
            return judge_images(task.request, tell)
    # Where what other students handed in can neither be imported nor be in the way.
    with tempfile.TemporaryDirectory(prefix="sparring-", ignore_cleanup_errors=True) as name:
        place = Path(name).resolve()
        copy = found.staged(place)
        with _without(place):
            return evaluate(replace(task.request, attack=str(copy)), progress=tell)


@contextmanager
def _without(place: Path) -> Iterator[None]:
    """Raise errors without where a submission lies, which helps nobody once it is a copy."""
    try:
        yield
    except SparringError as error:
        raise AttackError(str(error).replace(f"{place}{os.sep}", "")) from error
