"""The jobs of a plan of evaluations: verdicts, or chunks of one where processes would be idle.

Chunks are whole batches of the images that are attacked, the same as one process would make. Once
all are done, one more job puts them together, looks for signs that the result should be distrusted,
and writes the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import override

from sparring.evaluation.request import EvaluationPlan, EvaluationPlanRequest, PlannedVerdict
from sparring.experiments.schedule import Job, Standing, ask


@dataclass(eq=False)
class EvaluationJob(Job):
    """One evaluation, or one chunk of it; its folder is the verdict's."""

    verb: ClassVar[str] = "evaluate"

    @override
    def standing(self) -> Standing | None:
        lines = self.last_lines(1)
        return Standing(lines[0]) if lines else None


def plan(
    request: EvaluationPlanRequest, environment: Mapping[str, str] | None = None
) -> EvaluationPlan:
    """Ask a process that has a framework what there is to evaluate.

    Args:
        request: the evaluations.
        environment: what the process's is to have besides.

    Raises:
        SparringError: with the process's message.
    """
    task = {"plan_evaluations": request.as_json()}
    return EvaluationPlan.from_json(ask(task, environment))


def jobs_of(plan: EvaluationPlan, places: int) -> list[EvaluationJob]:
    """List the jobs of a plan's verdicts that are not finished, in the order of the plan.

    A verdict is cut only where there are places for twice as many jobs as verdicts: a process takes
    seconds to start, and several verdicts keep several places busy. One that was cut stays so.

    Args:
        plan: the plan.
        places: how many jobs run at a time.
    """
    left = [verdict for verdict in plan.verdicts if verdict.status != "finished"]
    jobs: list[EvaluationJob] = []
    for verdict in left:
        chunks = verdict.chunks or max(1, min(verdict.batches, places // len(left)))
        whole = _job(verdict, chunks, None)
        if chunks > 1:
            numbers = [number for number in range(chunks) if number not in verdict.done]
            whole.needs = [_job(verdict, chunks, number) for number in numbers]
        if verdict.error:
            whole.state, whole.message, whole.needs = "failed", verdict.error, []
        jobs += [*whole.needs, whole]  # type: ignore[list-item]
    return jobs


def _job(verdict: PlannedVerdict, chunks: int, chunk: int | None) -> EvaluationJob:
    """The job of a chunk of a verdict, or of the whole verdict."""
    request = replace(verdict.request, chunks=chunks, chunk=chunk)
    title, name = verdict.title, verdict.folder.name
    if chunk is not None:
        # It was removed where it is to be made anew.
        request = replace(request, force=False)
        title, name = f"{title}, chunk {chunk + 1} of {chunks}", f"{name}-{chunk + 1}-of-{chunks}"
    elif chunks > 1:
        title += ", all chunks"
    log = verdict.run / "logs" / f"{name}.log"
    return EvaluationJob(title, verdict.folder, request, log, verdict.work / chunks)
