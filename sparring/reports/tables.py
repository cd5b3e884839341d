"""The tables of a report: which there are, and their columns.

A column is described once, and stands in the page, in the Markdown and in the terminal. To add one,
see docs/add-a-report-column.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter, itemgetter, methodcaller
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from sparring.evaluation.rates import Mean, duration
from sparring.reports.groups import AttackResult, Group, Report, Section, TrainedRun
from sparring.runs.records import RateRecord, RatesRecord

Row = TypeVar("Row")


class Cell(NamedTuple):
    """What a table shows of a row in a column."""

    text: str
    below: Sequence[str] = ()
    """Smaller lines below the text."""
    link: str = ""
    """The anchor of the place in the page that the text leads to."""
    page: str | Path = ""
    """Another page that the text leads to: its address, or its file."""
    shade: float = 0.0
    """How strongly it is colored, from 0 to 1."""
    alarm: bool = False
    """Whether something has gone wrong."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table."""

    header: str
    show: Callable[[Row], object]
    """Gives what it shows of a row: a cell, or a JSON value; None is shown as "-"."""
    numeric: bool = True
    """Whether it holds numbers, which stand to the right."""
    terminal: bool = True
    """Whether `sparring report` prints it, too."""


@dataclass(frozen=True)
class Table(Generic[Row]):
    """A table: its columns, and what its rows are about."""

    columns: Sequence[Column[Row]]
    rows: Sequence[Row]

    def cells(self) -> list[list[Cell]]:
        """Give the cells, by row and column."""
        values = [[column.show(row) for column in self.columns] for row in self.rows]
        return [[v if isinstance(v, Cell) else Cell(shown(v)) for v in row] for row in values]


class Judged(NamedTuple):
    """An attack on the runs of a group."""

    group: Group
    attacked: AttackResult


def shown(value: object) -> str:
    """Give a JSON value as text."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " x ".join(map(shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.10g}" if isinstance(value, float) else f"{value}"


def difference(group: Group) -> str:
    """Say what tells a group from the others of its defense; nothing where there are none."""
    return ", ".join(f"{name} {shown(value)}" for name, value in group.differs.items())


def _name(group: Group) -> Cell:
    return Cell(group.defense, [difference(group)] if group.differs else [], group.anchor)


def _percent(share: Mean | float | None, digits: int = 1) -> str | None:
    mean = Mean(share, None, 1) if isinstance(share, float) else share
    return mean.percent(digits) if mean else None


def _time(seconds: Mean | float | None) -> str | None:
    value = seconds.value if isinstance(seconds, Mean) else seconds
    return duration(value) if value else None


# Defenses


def _rejected(group: Group) -> str | None:
    mean = group.mean(lambda results: results.rejected)
    return _percent(mean, 2) if mean and mean.value else None


def _networks(group: Group) -> Cell:
    return Cell(shown(group.networks), [f"{group.lender}'s"] if group.lender else [])


def _status(group: Group) -> Cell:
    counted, others = len(group.counted), [run for run in group.runs if not run.finished]
    status = [f"{counted} finished" if others else "finished"] if counted else []
    several = len(group.runs) > 1
    status += [f"seed {run.seed} {run.status}" if several else run.status for run in others]
    return Cell(status[0], status[1:], alarm=bool(others))


DEFENSE_COLUMNS: tuple[Column[Group], ...] = (
    Column("defense", _name, numeric=False),
    Column("test accuracy", lambda group: _percent(group.mean(lambda own: own.test_accuracy), 2)),
    Column("rejected", _rejected),
    Column("seeds", lambda group: len(group.counted)),
    Column(
        "training time",
        lambda group: _time(group.mean(lambda own: own.seconds)),
        terminal=False,
    ),
    Column("networks", _networks, terminal=False),
    Column("status", _status, numeric=False),
)
"""What is shown of each defense."""


def defense_table(section: Section) -> Table[Group]:
    """Tell how the defenses trained on a data set answer."""
    return Table(DEFENSE_COLUMNS, section.groups)


# Attacks


def attack_tables(section: Section) -> list[tuple[str, Table[Group]]]:
    """Tell how often each attack breaks each defense.

    Args:
        section: A data set and what was trained on it.

    Returns:
        For each threat model its name and a table: a row for each defense that was attacked, a
        column for each attack, by name, the reference attack last.
    """
    judged = verdict_table(section).rows
    attacks: dict[str, dict[tuple[object, ...], dict[int, AttackResult]]] = {}
    for group, attacked in sorted(judged, key=lambda row: row.attacked.first.order):
        columns = attacks.setdefault(attacked.first.threat, {})
        columns.setdefault(attacked.first.order, {})[id(group)] = attacked
    tables = []
    for threat, columns in attacks.items():
        tried = set().union(*columns.values())
        table = Table(
            [
                DEFENSE_COLUMNS[0],
                *(Column(str(name), partial(_success, by)) for (*_, name), by in columns.items()),
            ],
            [group for group in section.groups if id(group) in tried],
        )
        tables.append((threat, table))
    return tables


def strength(attacked: AttackResult) -> float:
    """Give the mean success of an attack over seeds; 0 where it is not known."""
    mean = attacked.mean(_success_rate)
    return mean.value if mean else 0.0


def _success(by_group: Mapping[int, AttackResult], group: Group) -> Cell:
    """The success of an attack on a group, colored by what is certain of it."""
    if (attacked := by_group.get(id(group))) is None:
        return Cell("")
    rates = [rate for rate in map(_success_rate, attacked.rates) if rate.n]
    certain = sum(rate.low for rate in rates) / len(rates) if rates else 0.0
    below = [_interval(attacked, _success_rate) or f"{len(attacked.rates)} seeds"]
    if rates:
        below[0] += f", n = {sum(rate.n for rate in rates):,}"
    if attacked.warnings:
        below.append(f"⚠ {len(attacked.warnings)}")
    text = shown(_percent(attacked.mean(_success_rate)))
    return Cell(text, below, shade=min(1.0, max(0.0, certain)), page=attacked.page or "")


def _success_rate(rates: RatesRecord) -> RateRecord:
    return rates.success_rate


def _robust_accuracy(rates: RatesRecord) -> RateRecord:
    return rates.robust_accuracy


def _interval(attacked: AttackResult, which: Callable[[RatesRecord], RateRecord]) -> str | None:
    """The 95 % interval of a rate, where there is one seed."""
    if len(attacked.rates) != 1:
        return None if attacked.rates else "unfinished"
    rate = which(attacked.rates[0])
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f}" if rate.n else "no images"


def _robust(judged: Judged) -> Cell:
    attacked = judged.attacked
    below = [_interval(attacked, _robust_accuracy)] if len(attacked.rates) == 1 else []
    return Cell(shown(_percent(attacked.mean(_robust_accuracy))), list(filter(None, below)))


def _images_attacked(judged: Judged) -> str:
    rates = judged.attacked.rates
    tried = sum(each.success_rate.n for each in rates)
    return f"{tried:,} of {sum(each.robust_accuracy.n for each in rates):,}"


def _passes(judged: Judged) -> Cell | None:
    """Forward and backward passes an image, in the mean over seeds; None where nobody counted."""
    counted = [
        (verdict.record.forward, verdict.record.backward, verdict.record.results.success_rate.n)
        for verdict in judged.attacked.verdicts
        if verdict.record.finished and verdict.record.forward
    ]
    forward, backward, images = (sum(counts[at] for counts in counted) for at in range(3))
    return Cell(f"{forward / images:.1f}", [f"{backward / images:.1f} back"]) if images else None


def _attack(judged: Judged) -> Cell:
    first = judged.attacked.first
    return Cell(first.name, [first.threat], page=judged.attacked.page or "")


def _warnings(judged: Judged) -> Cell:
    first, *others = judged.attacked.warnings or [""]
    return Cell(first, others, alarm=bool(first))


def _in_full(judged: Judged) -> Cell:
    where, record = judged.attacked.first.where, judged.attacked.first.record
    return Cell(record.attack, [*([f"{record.draws} draws"] if record.draws > 1 else []), where])


VERDICT_COLUMNS: tuple[Column[Judged], ...] = (
    Column("defense", lambda row: _name(row.group), numeric=False),
    Column("attack", _attack, numeric=False),
    Column("success", lambda row: _percent(row.attacked.mean(_success_rate))),
    Column("95 % interval", lambda row: _interval(row.attacked, _success_rate)),
    Column("robust accuracy", _robust),
    Column(
        "clean accuracy",
        lambda row: _percent(row.attacked.mean(lambda rates: rates.clean_accuracy)),
    ),
    Column("images attacked", _images_attacked),
    Column("seeds", lambda row: len(row.attacked.rates)),
    Column("passes an image", _passes),
    Column("warnings", _warnings, numeric=False),
    Column("attack in full", _in_full, numeric=False),
)
"""What is shown of each attack on each defense."""


def verdict_table(section: Section) -> Table[Judged]:
    """Tell all figures and warnings of every attack on every defense."""
    judged = [Judged(group, attacked) for group in section.groups for attacked in group.attacks]
    return Table(VERDICT_COLUMNS, judged)


# Runs


RUN_FACTS: tuple[Column[TrainedRun], ...] = (
    Column("run", lambda run: run.where),
    Column("status", lambda run: Cell(run.status, alarm=not run.finished)),
    Column("test accuracy", lambda run: _percent(run.results.test_accuracy, 2)),
    Column("rejected", lambda run: _percent(run.results.rejected, 2)),
    Column("training time", lambda run: _time(run.results.seconds)),
    Column("device", lambda run: run.record.device),
    Column("machine", lambda run: run.record.machine),
    Column("versions", lambda run: run.record.versions),
    Column("started", lambda run: run.record.started),
    Column("finished", lambda run: run.results.finished),
    Column("SHA-256 of the weights", lambda run: run.record.weights_sha256),
)
"""What is shown of each run of a group; there the runs stand side by side."""


def run_table(group: Group) -> Table[Column[TrainedRun]]:
    """Tell what came of the runs of a group, where and when they were trained."""
    runs = [Column(f"{run.seed}", methodcaller("show", run), numeric=False) for run in group.runs]
    return Table([Column("seed", attrgetter("header"), numeric=False), *runs], RUN_FACTS)


def settings_table(group: Group) -> Table[tuple[object, object]]:
    """Tell the settings that the runs of a group share."""
    return _pairs("setting", "value", list(group.runs[0].conditions.items()))


def damage_table(gathered: Report) -> Table[tuple[object, object]]:
    """Tell which runs and verdicts cannot be read, and why."""
    damaged = [(Cell(place, alarm=True), problem) for place, problem in gathered.damaged]
    return _pairs("file", "problem", damaged)


def _pairs(
    first: str, second: str, rows: Sequence[tuple[object, object]]
) -> Table[tuple[object, object]]:
    headers = enumerate((first, second))
    return Table([Column(name, itemgetter(at), numeric=False) for at, name in headers], rows)
