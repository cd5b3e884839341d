"""The jobs of a grading: one for each verdict that is not there yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sparring.evaluation.jobs import EvaluationJob
from sparring.experiments.schedule import ask
from sparring.grading.request import GradePlan, GradeRequest


@dataclass(eq=False)
class GradingJob(EvaluationJob):
    """One submission on one defense, or one reference."""

    verb: ClassVar[str] = "grade"


def plan(request: GradeRequest, environment: dict[str, str]) -> GradePlan:
    """Ask a process that has a framework what there is to judge.

    Args:
        request: the grading.
        environment: what the process's is to have besides.

    Raises:
        SparringError: with the process's message.
    """
    return GradePlan.from_json(ask({"plan_grades": request.as_json()}, environment))


def jobs_of(plan: GradePlan, out: Path) -> list[GradingJob]:
    """List the jobs of a plan, references first.

    Args:
        plan: the plan.
        out: the folder of the grades, which their logs go to.
    """
    jobs = []
    for planned in [*plan.references, *plan.cells]:
        if planned.status == "new" and planned.task is not None and planned.verdict is not None:
            where = planned.verdict
            log = out.absolute() / "logs" / f"{where.parent.name}-{where.name}.log"
            jobs.append(GradingJob(planned.title, where, planned.task, log, 1.0))
    return jobs
