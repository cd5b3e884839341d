"""The jobs of a plan of trainings: one network of one defense with one seed on one data set each.

Once an ensemble's networks are trained, one more job puts them together and tests the defense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from sparring.experiments.request import Plan, PlannedRun, PlanRequest, TrainingRequest
from sparring.experiments.schedule import Job, Standing, ask
from sparring.runs.directory import Run


@dataclass(eq=False)
class TrainingJob(Job):
    """The training of one network, or of a whole defense; its folder is the run directory."""

    verb: ClassVar[str] = "train"
    request: TrainingRequest
    epochs: int = field(kw_only=True)
    """How many it trains; 0 where nothing is left to train."""

    @override
    def standing(self) -> Standing | None:
        if not self.epochs:
            return None
        run, network = Run(self.folder), self.request.network
        lines = run.metrics() if network is None else run.checkpoints(network).metrics()
        if not lines:
            return Standing(f"epoch 0/{self.epochs}")
        last = lines[-1]
        tested = "" if last.test_accuracy is None else f", test {last.test_accuracy:.2%}"
        return Standing(
            f"epoch {last.epoch}/{self.epochs}",
            f"loss {last.loss:.4f}{tested}",
            (self.epochs - last.epoch) * last.seconds,
        )


def plan(request: PlanRequest, environment: Mapping[str, str] | None = None) -> Plan:
    """Ask a process that has a framework what there is to train.

    Args:
        request: the trainings.
        environment: what the process's is to have besides.

    Raises:
        SparringError: with the process's message.
    """
    return Plan.from_json(ask({"plan": request.as_json()}, environment))


def jobs_of(plan: Plan) -> list[TrainingJob]:
    """List the jobs of a plan's runs that are not finished, in the order of the plan."""
    jobs: list[TrainingJob] = []
    last: dict[Path, TrainingJob] = {}
    for run in plan.runs:
        if run.status == "finished":
            continue
        networks = [_job(run, network) for network in range(run.networks) if run.networks > 1]
        whole = _job(run, None)
        whole.needs = [*networks]
        if networks:
            whole.title, whole.epochs = f"{run.title}, all networks", 0
        jobs += [*networks, whole]
        if run.needs in last:
            whole.needs.append(last[run.needs])
        if run.error:
            whole.state, whole.message, whole.needs = "failed", run.error, []
        last[run.path] = whole
    return jobs


def _job(run: PlannedRun, network: int | None) -> TrainingJob:
    """The job of one network of a run, or of the whole run."""
    title, name = run.title, "defense"
    if network is not None:
        title, name = f"{title}, network {network + 1}", f"network-{network:03d}"
    request = replace(run.request, network=network)
    log = run.path / "logs" / f"{name}.log"
    return TrainingJob(title, run.path, request, log, run.work, epochs=run.epochs)
