"""Grade: from a folder of submissions to the grades, as many at a time as there are processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from sparring.backend import choice
from sparring.errors import SettingsError
from sparring.experiments import schedule
from sparring.experiments.kept import Kept
from sparring.experiments.schedule import Job, Watcher
from sparring.grading import jobs, page
from sparring.grading.book import Book
from sparring.grading.record import GradesRecord
from sparring.grading.request import GradeRequest


def grade(
    defenses: Sequence[str] | str | GradeRequest,
    submissions: str | Path | None = None,
    *,
    watcher: Watcher | None = None,
    **options: Any,
) -> GradesRecord:
    """Judge what students handed in, and write the grades.

    Args:
        defenses: names of trained defenses or run directories, or one of them; or a request, which
            says everything but `watcher`.
        submissions: the folder of submissions, an entry a student; see
            `sparring.grading.submissions`. One file is one student's.
        watcher: is told what becomes of the jobs; None tells nobody.
        options: fields of `GradeRequest`, as out, jobs, goals, force; and of `EvaluationRequest`,
            as data, eps, norm, n, images, time_limit, memory_limit, sandbox.

    Returns:
        The grades; they are in `out` too, where they are written anew after each submission. The
        same call goes on with what is not judged yet, or was handed in anew.

    Raises:
        SettingsError: an option is wrong.
        DataError: the data set cannot be used, or there are no submissions.
        RunError: a defense cannot be loaded, or the grades cannot be written.
    """
    if isinstance(defenses, GradeRequest):
        if submissions is not None or options:
            raise SettingsError("expected nothing but watcher beside a GradeRequest")
        request = defenses
    elif submissions is None:
        raise SettingsError("submissions: expected a folder, got none")
    else:
        request = GradeRequest.of(defenses, submissions, **options)
    environment = {"KERAS_BACKEND": choice.choose()}
    plan = jobs.plan(request, environment)
    book = Book(plan, request.out, request.submissions)
    page.write(book.record(), request.out)  # before an hour is spent, if it cannot be
    todo = jobs.jobs_of(plan, request.out)
    places = schedule.places(request.jobs, plan.devices, len(todo))
    workers = Kept([{**environment, **place} for place in places])
    schedule.run(todo, workers, _Keeper(book, request.out, watcher))
    grades = book.record()
    page.write(grades, request.out)
    return grades


class _Keeper(Watcher):
    """Takes each verdict as it comes, writes the grades, and tells another watcher."""

    def __init__(self, book: Book, out: Path, other: Watcher | None) -> None:
        self._book, self._out, self._other = book, out, other

    @override
    def begin(self, jobs: Sequence[Job]) -> None:
        if self._other is not None:
            self._other.begin(jobs)

    @override
    def change(self, job: Job, what: str) -> None:
        if job.state == "done":
            self._book.done(job.folder)
        elif job.state == "failed":
            self._book.failed(job.folder, job.message)
        if job.state in ("done", "failed"):
            page.write(self._book.record(), self._out)
        if self._other is not None:
            self._other.change(job, what)

    @override
    def look(self) -> None:
        if self._other is not None:
            self._other.look()
