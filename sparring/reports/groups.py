"""What there is to report: verdicts and runs, grouped over seeds, by data set.

What is known of each also goes into report.json, whose keys docs/report.md lists.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from sparring.evaluation.rates import Mean
from sparring.runs.records import (
    VERDICT_PAGE,
    RateRecord,
    RatesRecord,
    Results,
    RunRecord,
    VerdictRecord,
)
from sparring.version import __version__

FORMAT = 1
"""Version of what `Report.as_json` gives."""

FEWEST_DIGITS = 6
"""Of a threat model's radius, where no two have the same."""

_FIGURES = ("test_accuracy", "rejected", "seconds")  # of Results, those that have a mean


def _as_json(means: Mapping[str, Mean | None]) -> dict[str, Any]:
    return {name: mean and mean._asdict() for name, mean in means.items()}


@dataclass(eq=False)
class RunVerdict:
    """What one attack on one run came to."""

    folder: Path
    where: str
    """The folder as it is called below the folder of runs."""
    seed: int
    """The run's."""
    name: str
    """The attack's short name, with what tells it from others of that name."""
    record: VerdictRecord
    stale: bool
    """Whether it is of other weights than the run's."""
    warnings: Sequence[str]
    digits: int = FEWEST_DIGITS
    """Of the radius, where it is shown."""

    @property
    def within(self) -> tuple[str, float]:
        """The threat model's norm and radius."""
        return self.record.threat.norm, self.record.threat.eps

    @property
    def threat(self) -> str:
        """The threat model, as Linf(0.05)."""
        norm, eps = self.within
        return f"{norm}({eps:.{self.digits}g})"

    @property
    def identity(self) -> str:
        """Equal texts for verdicts that differ in nothing but the run."""
        record = self.record
        index = [image.index for image in record.images]
        of = (record.attack, record.attack_sha256, *self.within, record.draws, index)
        return json.dumps([*of, record.dataset.get("sha256")])

    @property
    def order(self) -> tuple[str, float, bool, str]:
        """What sorts verdicts: by threat model and name, the reference attack last."""
        return *self.within, self.name.startswith("reference"), self.name

    def as_json(self) -> dict[str, Any]:
        """Give the figures as plain JSON values."""
        record = self.record
        return {
            "path": self.where,
            "seed": self.seed,
            "finished": record.finished,
            **(record.results.model_dump(mode="json") if record.finished else {}),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Curve:
    """One network's training."""

    network: int
    """Counted from 0."""
    epoch: Sequence[int]
    """The epochs that are known, counted from 1."""
    loss: Sequence[float | None]
    """The mean loss of each."""
    test_accuracy: Sequence[float | None]
    """The test accuracy after each, in [0, 1]."""

    def line(self, values: Sequence[float | None]) -> tuple[Sequence[float], Sequence[float]]:
        """Give the epochs at which a value is known, and the values there.

        Args:
            values: `loss` or `test_accuracy`.
        """
        known = [(x, y) for x, y in zip(self.epoch, values, strict=True) if y is not None]
        return [x for x, _ in known], [y for _, y in known]


@dataclass(eq=False)
class TrainedRun:
    """One run directory."""

    where: str
    """Its path below the folder of runs."""
    record: RunRecord
    results: Results
    """What its training came to; nothing where that cannot be relied on."""
    status: str
    """ "finished", or how far it came."""
    seed: int
    """The one it was trained with, after restarts another than was asked for."""
    curves: Sequence[Curve]
    verdicts: Sequence[RunVerdict]
    notes: list[str]
    """What its reader should know."""

    @property
    def conditions(self) -> dict[str, Any]:
        """What it was trained with: preset, settings and backend."""
        record = self.record
        return {"preset": record.preset, **record.settings, "backend": record.backend}

    @property
    def finished(self) -> bool:
        """Whether its results can be relied on."""
        return self.status == "finished"

    def as_json(self) -> dict[str, Any]:
        """Give what is known of it as plain JSON values."""
        return {
            "path": self.where,
            "status": self.status,
            "seed": self.seed,
            **self.results.model_dump(include={*_FIGURES}),
            **self.record.circumstances(),
            "finished": self.results.finished,
            "notes": self.notes,
            "curves": [asdict(curve) for curve in self.curves],
        }


@dataclass(frozen=True)
class AttackResult:
    """The verdicts of one attack on the runs of a group, one a seed, of which there is one."""

    verdicts: Sequence[RunVerdict]

    @property
    def first(self) -> RunVerdict:
        """One of them, for what they have in common."""
        return self.verdicts[0]

    @property
    def page(self) -> Path | None:
        """The page that shows one of them; None where there is none."""
        pages = (verdict.folder / VERDICT_PAGE for verdict in self.verdicts)
        return next((page for page in pages if page.is_file()), None)

    @property
    def rates(self) -> list[RatesRecord]:
        """The rates of those that are finished."""
        return [verdict.record.results for verdict in self.verdicts if verdict.record.finished]

    def mean(self, rate: Callable[[RatesRecord], RateRecord]) -> Mean | None:
        """Take the mean of a rate over seeds; None where there is none.

        Args:
            rate: Picks it, such as `success_rate`.
        """
        rates = map(rate, self.rates)
        return Mean.of([rate.value for rate in rates if rate.n])

    @property
    def warnings(self) -> list[str]:
        """The warnings of all, each once, with the seeds that have it where not all do."""
        seeds: dict[str, list[int]] = defaultdict(list)
        for verdict in self.verdicts:
            for warning in verdict.warnings:
                seeds[warning].append(verdict.seed)
        return [
            text if len(some) == len(self.verdicts) else f"seed {', '.join(map(str, some))}: {text}"
            for text, some in seeds.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """Give the figures as plain JSON values."""
        return {
            "name": self.first.name,
            **self.first.record.model_dump(include={"attack", "threat", "draws"}),
            **_as_json({name: self.mean(attrgetter(name)) for name in RatesRecord.model_fields}),
            "verdicts": [verdict.as_json() for verdict in self.verdicts],
        }


@dataclass
class Group:
    """Runs of one defense on one data set that differ in nothing but the seed."""

    runs: list[TrainedRun]
    """All of them, by seed."""
    differs: dict[str, Any] = field(default_factory=dict)
    """What tells it from the other groups of the defense, by name."""
    anchor: str = ""
    """Its place in the page."""

    @property
    def record(self) -> RunRecord:
        """The run.json of one of them, for what they have in common."""
        return self.runs[0].record

    @property
    def defense(self) -> str:
        """The defense's name."""
        return self.record.defense

    @property
    def counted(self) -> list[TrainedRun]:
        """The finished runs, one a seed: where there are several, the one that finished last."""
        finished = sorted(
            (run for run in self.runs if run.finished), key=lambda run: str(run.results.finished)
        )
        last = {run.seed: run for run in finished}
        return [last[seed] for seed in sorted(last)]

    def mean(self, figure: Callable[[Results], float | None]) -> Mean | None:
        """Take the mean of one of the results over seeds; None where there is none.

        Args:
            figure: Picks it, such as `test_accuracy`.
        """
        values = [figure(run.results) for run in self.counted]
        return Mean.of([value for value in values if value is not None])

    @property
    def networks(self) -> int | None:
        """How many networks were trained; None where that is not known."""
        return max((len(run.curves) for run in self.counted), default=0) or None

    @property
    def lender(self) -> str:
        """The defense whose weights it serves, or nothing."""
        return self.record.weights_from.defense if self.record.weights_from else ""

    @property
    def attacks(self) -> list[AttackResult]:
        """What attacks on the counted runs came to, by threat model and name."""
        tries = {
            (run.seed, verdict.identity, verdict.record.seed, verdict.stale): verdict
            for run in self.counted
            for verdict in sorted(run.verdicts, key=lambda verdict: verdict.record.finished)
        }
        # A run's verdicts that differ in the draws' seed or in the weights are no mean over runs.
        times = Counter((seed, identity) for seed, identity, *_ in tries)
        several = {identity for (_, identity), count in times.items() if count > 1}
        alike: dict[object, list[RunVerdict]] = defaultdict(list)
        for (_, identity, *others), verdict in tries.items():
            alike[identity, *(others if identity in several else [])].append(verdict)
        return sorted(map(AttackResult, alike.values()), key=lambda one: one.first.order)

    @property
    def notes(self) -> list[str]:
        """What its reader should know, with the run that it is about."""
        return [f"{run.where}: {note}" for run in self.runs for note in run.notes]

    def as_json(self) -> dict[str, Any]:
        """Give the figures as plain JSON values."""
        return {
            "defense": self.defense,
            "preset": self.record.preset,
            "backend": self.record.backend,
            "settings": self.record.settings,
            "differs": self.differs,
            "seeds": [run.seed for run in self.counted],
            **_as_json({name: self.mean(attrgetter(name)) for name in _FIGURES}),
            "networks": self.networks,
            "attacks": [attacked.as_json() for attacked in self.attacks],
            "runs": [run.as_json() for run in self.runs],
        }


@dataclass
class Section:
    """One data set and what was trained on it."""

    dataset: Mapping[str, Any]
    """All that run.json says of it."""
    groups: list[Group]
    """By defense."""
    title: str
    """The data set's name, with what tells it from others of that name."""
    anchor: str
    """Its place in the page."""


@dataclass(frozen=True, repr=False)
class Report:
    """Everything that the runs below a folder say; `sparring.report` reads it."""

    folder: str
    sections: list[Section]
    damaged: list[tuple[str, str]]
    """Path and problem of the runs and verdicts that cannot be read."""
    written: str
    """When it was gathered, in ISO 8601."""

    def __repr__(self) -> str:
        """Show its tables, in Markdown."""
        from sparring.reports import page  # which draws what is defined here

        return page.markdown(self)

    def _repr_html_(self) -> str:
        """Show its tables in a notebook."""
        from sparring.reports import page

        return page.cell(self)

    def write(self, out: str | Path) -> list[Path]:
        """Write report.html, report.md and report.json, as `sparring report` does.

        Args:
            out: The folder to write them into; it need not exist.

        Returns:
            The three files.

        Raises:
            RunError: they cannot be written there.
        """
        from sparring.reports import page

        return page.write(self, out)

    def as_json(self) -> dict[str, Any]:
        """Give the figures as plain JSON values."""
        return {
            "format": FORMAT,
            "sparring": __version__,
            "written": self.written,
            "folder": self.folder,
            "data_sets": [
                {"dataset": own.dataset, "defenses": [group.as_json() for group in own.groups]}
                for own in self.sections
            ],
            "damaged": [{"path": path, "problem": problem} for path, problem in self.damaged],
        }
