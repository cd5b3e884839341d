"""What the runs below a folder say: read from their files, and grouped over seeds.

Read are the runs' run.json, metrics.jsonl and the verdicts on attacks, wherever they lie and
whatever their folders are called. Damaged files are reported; what cannot be relied on is left out,
with a note.
No deep-learning framework is needed, and none is imported.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sparring.defenses import BASELINE
from sparring.errors import RunError
from sparring.evaluation.rates import Mean, Rate
from sparring.runs.directory import Run
from sparring.runs.records import (
    RatesRecord,
    Results,
    RunRecord,
    VerdictRecord,
    figure,
    short_name,
    verdict_folder,
)
from sparring.version import __version__

FORMAT = 1
"""Version of what `Gathered.as_json` gives."""

_OWN_FOLDERS = {"attacks", "logs", "previous", "state"}
_RATES = tuple(RatesRecord.model_fields)
_RESULTS = ("test_accuracy", "rejected", "seconds")
_DEEPEST = 50


# What there is


@dataclass(frozen=True)
class RunVerdict:
    """What one attack on one run came to.

    Attributes:
        folder: where it lies.
        where: the same, below the folder of runs.
        seed: the run's.
        name: the attack's short name, with what is unusual about its images.
        record: what its file says.
        warnings: what to distrust.
    """

    folder: Path
    where: str
    seed: int
    name: str
    record: VerdictRecord
    warnings: Sequence[str]

    @property
    def within(self) -> tuple[str, float]:
        """The threat model's norm and radius."""
        return self.record.threat.norm, self.record.threat.eps

    @property
    def threat(self) -> str:
        """The threat model, as Linf(0.05)."""
        norm, eps = self.within
        return f"{norm}({eps:.6g})"

    @property
    def rates(self) -> dict[str, Rate]:
        """Its four rates by name; none while it is unfinished."""
        if not self.record.finished:
            return {}
        return {name: Rate(**dict(rate)) for name, rate in self.record.results}

    @property
    def identity(self) -> str:
        """Equal texts for verdicts that differ in nothing but the run."""
        record = self.record
        index = [image.index for image in record.images]
        of = (record.attack, record.attack_sha256, *self.within, record.draws, index)
        return json.dumps([*of, record.dataset.get("sha256")])

    def as_json(self) -> dict[str, Any]:
        """Give the figures as plain JSON values."""
        results = self.record.results.model_dump(mode="json") if self.record.finished else {}
        return {
            "path": self.where,
            "seed": self.seed,
            "finished": self.record.finished,
            **results,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Curve:
    """One network's training.

    Attributes:
        network: counted from 0.
        epoch: the epochs that are known, counted from 1.
        loss: the mean loss of each.
        test_accuracy: the test accuracy after each, in [0, 1].
    """

    network: int
    epoch: Sequence[int]
    loss: Sequence[float | None]
    test_accuracy: Sequence[float | None]

    def line(self, name: str) -> tuple[Sequence[float], Sequence[float]]:
        """Give the epochs at which a figure is known, and its values there.

        Args:
            name: loss or test_accuracy.
        """
        values: Sequence[float | None] = getattr(self, name)
        known = [(x, y) for x, y in zip(self.epoch, values, strict=True) if y is not None]
        return [x for x, _ in known], [y for _, y in known]


@dataclass(eq=False)
class TrainedRun:
    """One run directory.

    Attributes:
        where: its path below the folder of runs.
        record: its run.json.
        results: what its training came to; nothing where that cannot be relied on.
        status: "finished", or how far it came.
        seed: the one it was trained with, after restarts another than was asked for.
        curves: the training of each network.
        verdicts: on attacks.
        notes: what its reader should know.
    """

    where: str
    record: RunRecord
    results: Results
    status: str
    seed: int
    curves: Sequence[Curve]
    verdicts: Sequence[RunVerdict]
    notes: list[str]

    @property
    def conditions(self) -> dict[str, Any]:
        """What it was trained with: preset, settings and backend."""
        record = self.record
        return {"preset": record.preset, **record.settings, "backend": record.backend}

    @property
    def finished(self) -> bool:
        """Whether its results can be relied on."""
        return self.status == "finished"

    def figure(self, name: str) -> float | None:
        """Give one of the results, such as test_accuracy, or None where it is not known."""
        value: float | None = getattr(self.results, name)
        return value

    def as_json(self) -> dict[str, Any]:
        """Give what is known of it as plain JSON values."""
        return {
            "path": self.where,
            "status": self.status,
            "seed": self.seed,
            **{name: self.figure(name) for name in _RESULTS},
            **self.record.circumstances(),
            "finished": self.results.finished,
            "notes": self.notes,
            "curves": [asdict(curve) for curve in self.curves],
        }


@dataclass
class AttackResult:
    """The verdicts of one attack on the runs of a group, one a seed, of which there is one."""

    verdicts: Sequence[RunVerdict]

    @property
    def first(self) -> RunVerdict:
        """One of them, for what they have in common."""
        return self.verdicts[0]

    @property
    def finished(self) -> list[RunVerdict]:
        """Those that have rates."""
        return [verdict for verdict in self.verdicts if verdict.rates]

    def mean(self, name: str) -> Mean | None:
        """Take the mean of a rate, such as success_rate, over seeds; None where there is none."""
        rates = [verdict.rates[name] for verdict in self.finished]
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
            **_means(self, _RATES),
            "verdicts": [verdict.as_json() for verdict in self.verdicts],
        }


@dataclass
class Group:
    """Runs of one defense on one data set that differ in nothing but the seed.

    Attributes:
        runs: all of them, by seed.
        differs: what tells it from the other groups of the defense, by name.
        anchor: its place in the page.
    """

    runs: list[TrainedRun]
    differs: dict[str, Any] = field(default_factory=dict)
    anchor: str = ""

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
        last: dict[int, TrainedRun] = {}
        for run in sorted(self.runs, key=lambda run: str(run.results.finished)):
            if run.finished:
                last[run.seed] = run
        return [last[seed] for seed in sorted(last)]

    def mean(self, name: str) -> Mean | None:
        """Take the mean of one of the results over seeds; None where there is none."""
        values = [run.figure(name) for run in self.counted]
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
        alike: dict[str, dict[int, RunVerdict]] = defaultdict(dict)
        for run in self.counted:
            for verdict in run.verdicts:
                if verdict.rates or run.seed not in alike[verdict.identity]:
                    alike[verdict.identity][run.seed] = verdict
        attacks = [AttackResult(list(seeds.values())) for seeds in alike.values()]
        return sorted(attacks, key=lambda one: (*one.first.within, one.first.name))

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
            **_means(self, _RESULTS),
            "networks": self.networks,
            "attacks": [attacked.as_json() for attacked in self.attacks],
            "runs": [run.as_json() for run in self.runs],
        }


@dataclass
class Section:
    """One data set and what was trained on it.

    Attributes:
        dataset: all that run.json says of it.
        groups: of the runs on it, by defense.
        title: its name, with what tells it from others of that name.
        anchor: its place in the page.
    """

    dataset: Mapping[str, Any]
    groups: list[Group]
    title: str
    anchor: str


@dataclass
class Gathered:
    """Everything that the runs below a folder say.

    Attributes:
        folder: its path.
        sections: the data sets.
        damaged: path and problem of the runs that cannot be read.
        written: when it was gathered, in ISO 8601.
    """

    folder: str
    sections: list[Section]
    damaged: list[tuple[str, str]]
    written: str

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


# Reading


def gather(folder: str | Path) -> Gathered:
    """Read all runs below a folder.

    Args:
        folder: its path; the runs may lie at any depth.

    Returns:
        What they say, grouped over seeds.

    Raises:
        RunError: there is no such folder, or not even a damaged run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder of runs")
    runs, damaged = [], []

    def place(path: Path) -> str:
        return _printable(path.relative_to(folder).as_posix())

    def unreadable(error: OSError) -> None:
        damaged.append((place(Path(error.filename)), _printable(error.strerror)))

    for path in find(folder, unreadable):
        try:
            runs.append(_read(path, place(path)))
        except (RunError, OSError) as error:
            text = str(error).removeprefix(f"{Run(path).json_file}: ")
            damaged.append((place(path), _printable(text)))
    if not runs and not damaged:
        raise RunError(f"{folder}: expected run directories in it, found no run.json")
    written = datetime.now(UTC).isoformat(timespec="seconds")
    return Gathered(_printable(str(folder)), _sections(runs), damaged, written)


def find(folder: Path, unreadable: Callable[[OSError], None] | None = None) -> list[Path]:
    """Find the run directories in a folder, at any depth, itself included; links are followed.

    Folders that belong to a run are not looked into.

    Args:
        folder: its path.
        unreadable: is called for every folder that cannot be read.
    """
    runs, seen = [], set()
    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        folders.sort()
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if "run.json" in files:
            runs.append(Path(place))
            folders[:] = [name for name in folders if name not in _OWN_FOLDERS]
    return runs


def _read(path: Path, where: str) -> TrainedRun:
    """A run directory; RunError or OSError when it is no good."""
    run = Run(path)
    record = run.read(_printable)
    notes: list[str] = []
    curves = _curves(run, record.finished, notes)
    if not record.finished:
        status = _progress(record.status, curves)
    elif not run.weights_file.is_file():
        status = "its weights are missing"
    else:
        status = "finished"
    results = (record.results if status == "finished" else None) or Results()
    used = results.seeds_used or [record.seed]
    seed = used[0] if len(set(used)) == 1 else record.seed
    if record.diverged:
        text = f"by network, the seeds used are {results.seeds_used}"
        notes.append(f"seed {record.seed} diverged; {text}")
    if record.imported is not None:
        notes.append("imported, not trained here")
    elif status == "finished" and results.test_accuracy is None:
        notes.append("run.json has no test accuracy")
    if not record.finished and Run(run.previous_folder).exists():
        notes.append("the finished run before it is in previous/")
    trained = TrainedRun(where, record, results, status, seed, curves, [], notes)
    trained.verdicts = list(_verdicts(path, trained))
    if trained.verdicts and status != "finished":
        notes.append("verdicts of attacks are left out: they are of earlier weights")
        trained.verdicts = []
    return trained


def _progress(status: str, curves: Sequence[Curve]) -> str:
    """How far an unfinished run came, in words."""
    known = {"training": "unfinished"}.get(status, status)
    if not curves:
        return f"{known} in its first epoch"
    last = curves[-1]
    network = f" of network {last.network + 1}" if last.network else ""
    return f"{known} after epoch {last.epoch[-1]}{network}"


def _curves(run: Run, finished: bool, notes: list[str]) -> list[Curve]:
    """The networks' curves in metrics.jsonl; what is wrong with it goes to notes."""
    networks: dict[int, dict[int, tuple[float | None, float | None]]] = defaultdict(dict)
    written = 0
    try:
        lines = run.metrics()
        if run.metrics_file.is_file():
            written = len(run.metrics_file.read_bytes().splitlines())
    except OSError as error:
        notes.append(f"metrics.jsonl: {error.strerror}")
        lines = []
    for line in lines:
        networks[line.network][line.epoch] = (figure(line.loss), figure(line.test_accuracy))
    # A kill may cut the last line short.
    if written - len(lines) > (0 if finished else 1):
        notes.append(f"metrics.jsonl: damaged: {len(lines)} of {written} lines can be read")
    curves = []
    for network, epochs in sorted(networks.items()):
        at = sorted(epochs)
        loss, accuracy = zip(*(epochs[epoch] for epoch in at), strict=True)
        curves.append(Curve(network, at, loss, accuracy))
    return curves


def _verdicts(path: Path, run: TrainedRun) -> Iterator[RunVerdict]:
    """The verdicts on attacks that lie in a run; what is wrong with them goes to its notes."""
    for folder in sorted(path.glob("attacks/*/")):
        if (file := VerdictRecord.find(folder)) is None:
            continue
        where = _printable(f"attacks/{folder.name}")
        try:
            record = VerdictRecord.read(file, _printable)
            changed = file.stat().st_mtime
        except (RunError, OSError) as error:
            text = str(error).removeprefix(f"{file}: ")
            run.notes.append(_printable(f"{where}: {text}"))
            continue
        if record.defense != run.record.defense:
            run.notes.append(f"{where} is left out: it is of {record.defense}")
            continue
        warnings = [f"{warning.name}: {warning.text}" for warning in record.warnings]
        if record.weights_sha256 not in (None, run.record.weights_sha256):
            warnings.append("of other weights than the run's: the run was trained anew")
        elif changed < _seconds(run.results.finished):
            warnings.append(
                "older than the run's weights: the run was trained anew, or the clocks differ"
            )
        name = _attack_name(_printable(folder.name), record, run.record.dataset_name)
        yield RunVerdict(folder, f"{run.where}/{where}", run.seed, name, record, warnings)


def _attack_name(folder: str, record: VerdictRecord, dataset: str) -> str:
    """A short name for an attack: the folder's, or a word of its description."""
    name, ours, rest = folder.rpartition(verdict_folder("", record.threat.norm, record.threat.eps))
    if not ours or rest not in ("", "-some"):
        name = short_name(record.attack)
    if any(image.index != row for row, image in enumerate(record.images)):
        name += ", chosen images"
    if record.dataset.get("name") != dataset:
        name += f", on {record.dataset.get('name')}"
    elif record.dataset.get("other_data"):
        name += ", on other images"
    return name


def _seconds(moment: Any) -> float:
    """A moment in ISO 8601 as seconds since 1970; 0 for anything else."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _printable(value: Any, depth: int = 0) -> Any:
    """A JSON value whose texts have no control characters, and whose numbers are finite.

    Raises ValueError when it is nested deeper than any of ours.
    """
    if depth > _DEEPEST:
        raise ValueError(f"expected values nested at most {_DEEPEST} deep")
    if isinstance(value, str):
        return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in value)
    if isinstance(value, list):
        return [_printable(part, depth + 1) for part in value]
    if isinstance(value, dict):
        return {_printable(name): _printable(part, depth + 1) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _means(of: Group | AttackResult, names: Sequence[str]) -> dict[str, Any]:
    """Means by name as plain JSON values."""
    means = {name: of.mean(name) for name in names}
    return {name: mean and mean._asdict() for name, mean in means.items()}


# Putting together


def _sections(runs: Sequence[TrainedRun]) -> list[Section]:
    """Runs by data set and, within each, by all that they have in common but the seed."""
    anchors = Counter(["damaged"])
    sections = []
    for alike in _alike(runs, lambda run: run.record.dataset):
        dataset = alike[0].record.dataset
        section = Section(dataset, [], str(dataset["name"]), _anchor(dataset["name"], anchors))
        for same in _alike(alike, lambda run: run.record.defense):
            section.groups += _groups(same)
        section.groups.sort(key=lambda group: (group.defense != BASELINE, group.defense))
        for group in section.groups:
            group.anchor = _anchor(f"{section.anchor} {group.defense}", anchors)
        sections.append(section)
    for name, words in (("train_images", "{} training images"), ("sha256", "SHA-256 {:.8}")):
        titles = Counter(section.title for section in sections)
        for section in sections:
            if titles[section.title] > 1:
                section.title += f", {words.format(str(section.dataset.get(name)))}"
    return sorted(sections, key=lambda section: section.title)


def _groups(runs: Sequence[TrainedRun]) -> list[Group]:
    """The runs of one defense on one data set, by settings and backend."""
    alike = _alike(runs, lambda run: run.conditions)
    groups = [Group(sorted(some, key=lambda run: run.seed)) for some in alike]
    every = [group.runs[0].conditions for group in groups]
    names = {name: None for values in every for name in values}
    different = [name for name in names if len({json.dumps(v.get(name)) for v in every}) > 1]
    for group, values in zip(groups, every, strict=True):
        group.differs = {name: values.get(name) for name in different}
        counted = {run.seed: run for run in group.counted}
        for run in group.runs:
            if run.finished and run is not counted[run.seed]:
                other = counted[run.seed].where
                run.notes.append(f"not counted: {other} has the same seed and finished later")
    return sorted(groups, key=lambda group: [_rank(value) for value in group.differs.values()])


def _rank(value: Any) -> tuple[float, str]:
    """What sorts JSON values: numbers by size, and before all else."""
    number = figure(value)
    return math.inf if number is None else number, json.dumps(value)


def _alike(runs: Iterable[TrainedRun], key: Callable[[TrainedRun], Any]) -> list[list[TrainedRun]]:
    """Runs by what a key gives of them, in its order."""
    groups: dict[str, list[TrainedRun]] = defaultdict(list)
    for run in runs:
        groups[json.dumps(key(run), sort_keys=True)].append(run)
    return [groups[text] for text in sorted(groups)]


def _anchor(text: str, used: Counter[str]) -> str:
    """A name for a place in the page that no other place has."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
    used[words] += 1
    return words if used[words] == 1 else _anchor(f"{words}-{used[words]}", used)
