"""Many jobs on the command line: how they are asked for, run, and told of when they fail."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import typer

from sparring.cli import display
from sparring.cli.program import fail
from sparring.errors import SettingsError
from sparring.experiments import schedule

_MOST_SEEDS = 1000


@dataclass(frozen=True)
class Places:
    """Where jobs run, as options say it.

    Args:
        jobs: how many at a time on this machine, or "auto"; None for one.
        cluster: the address of a Ray cluster, or "local"; None for this machine's processes.

    Raises:
        typer.BadParameter: for both.
        SettingsError: for another number of jobs.
    """

    jobs: str | None
    cluster: str | None

    def __post_init__(self) -> None:
        """Check them, before anything is looked at."""
        if self.jobs and self.cluster:
            raise typer.BadParameter("--jobs is for this machine, --cluster for others: give one")
        if self.jobs is not None and not re.fullmatch("auto|[1-9][0-9]{0,3}", self.jobs):
            raise SettingsError(f"jobs: expected a number from 1, or auto, got {self.jobs!r:.80}")

    def run(
        self,
        jobs_for: Callable[[int], Sequence[schedule.Job]],
        devices: Sequence[str],
        environment: Mapping[str, str],
        quiet: bool,
    ) -> list[schedule.Job]:
        """Bring all jobs to their end, and show how far they are.

        Args:
            jobs_for: lists them, for so many that run at a time.
            devices: of the backend, to share among processes; none leaves each the choice.
            environment: what every job's is to have besides.
            quiet: whether nothing is shown.

        Returns:
            The jobs.
        """
        if self.cluster:
            cluster = schedule.Cluster(self.cluster, environment)
            workers: schedule.Workers = cluster
            jobs = schedule.longest_first(jobs_for(cluster.places))
        else:
            room = len(schedule.places(self.jobs or 1, devices, sys.maxsize))
            jobs = list(jobs_for(room))
            places = schedule.places(self.jobs or 1, devices, len(jobs))
            workers = schedule.Processes([{**environment, **place} for place in places])
            jobs = schedule.longest_first(jobs) if len(places) > 1 else jobs
        with display.many(quiet) as watcher:
            schedule.run(jobs, workers, watcher)
        return jobs


def end(jobs: Sequence[schedule.Job]) -> None:
    """Print the end of the log of each job that failed, and end with exit code 1 if any did."""
    failed = [job for job in jobs if job.state == "failed"]
    for job in failed:
        if lines := job.last_lines():
            print(f"\n{job.title}: the end of {job.log}")
            print("".join(f"    {line}\n" for line in lines), end="")
    if failed:
        titles = ", ".join(dict.fromkeys(job.title for job in failed))
        fail(f"{len(failed)} of {len(jobs)} jobs failed: {titles}")


def seeds_of(text: str | None) -> Sequence[int]:
    """Read seeds given as 0-4,7; none of None."""
    if text is None:
        return []
    numbers: dict[int, None] = {}
    for part in text.split(","):
        if (match := re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", part.strip())) is None:
            raise typer.BadParameter(f"--seeds: expected seeds as 0-4 or 0,2,5, got {text!r:.80}")
        first, last = (int(number or match[1]) for number in match.groups())
        if last < first:
            raise typer.BadParameter(f"--seeds: expected the smaller seed first, got {text!r:.80}")
        if last - first + len(numbers) >= _MOST_SEEDS:
            raise typer.BadParameter(f"--seeds: expected at most {_MOST_SEEDS}, got {text!r:.80}")
        numbers |= dict.fromkeys(range(first, last + 1))
    return list(numbers)
