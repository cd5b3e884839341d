"""What the runs below a folder say: read from their files, and grouped over seeds.

Read are run.json, metrics.jsonl and the verdicts on attacks, wherever the runs lie and whatever
their folders are called. Damaged files are reported; what cannot be relied on is left out, with a
note. No deep-learning framework is imported.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from sparring.defenses import BASELINE
from sparring.errors import RunError
from sparring.reports.groups import (
    FEWEST_DIGITS,
    AttackResult,
    Curve,
    Group,
    Report,
    RunVerdict,
    Section,
    TrainedRun,
)
from sparring.runs.directory import Run
from sparring.runs.files import expect_readable
from sparring.runs.records import (
    MODEL_FILE,
    ModelRecord,
    Results,
    VerdictRecord,
    figure,
    short_name,
    verdict_folder,
)

_OWN_FOLDERS = {"attacks", "logs", "previous", "state"}
_LARGEST = 1e100
_LONGEST_NAME = 80


def gather(folder: str | Path) -> Report:
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
    runs: list[TrainedRun] = []
    damaged: list[tuple[str, str]] = []

    def place(path: Path) -> str:
        return _printable(path.relative_to(folder).as_posix())

    def unreadable(error: OSError) -> None:
        damaged.append((place(Path(error.filename)), _printable(error.strerror)))

    for path in _find(folder, unreadable):
        try:
            runs.append(_read(path, place(path), damaged))
        except (RunError, OSError) as error:
            text = str(error).removeprefix(f"{Run(path).json_file}: ")
            damaged.append((place(path), _printable(text)))
    if not runs and not damaged:
        raise RunError(f"{folder}: expected run directories in it, found no run.json")
    written = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(_printable(str(folder)), _sections(runs), damaged, written)


def _find(folder: Path, unreadable: Callable[[OSError], None]) -> Iterator[Path]:
    """Folders of runs and of models of one's own, at any depth, but for a run's own folders.

    Links are followed.
    """
    seen = set()
    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(place)
        is_run = "run.json" in files or MODEL_FILE in files
        own = _OWN_FOLDERS if is_run else set()
        folders[:] = [] if real in seen else sorted(set(folders) - own)
        if is_run and real not in seen:
            yield Path(place)
        seen.add(real)


def _read(path: Path, where: str, damaged: list[tuple[str, str]]) -> TrainedRun:
    """A run directory; RunError or OSError when it is no good. Bad verdicts go to damaged."""
    run = Run(path)
    if not run.json_file.is_file() and (path / MODEL_FILE).is_file():
        return _read_model(path, where, damaged)
    record = run.read(_printable)
    notes: list[str] = []
    curves = _curves(run, record.finished, notes)
    if record.finished:
        status = "finished" if run.weights_file.is_file() else "its weights are missing"
    else:
        status = _progress(record.status, curves)
    results = (record.results if status == "finished" else None) or Results()
    used = results.seeds_used or [record.seed]
    seed = used[0] if len(set(used)) == 1 else record.seed
    if record.diverged:
        used_by = f"by network, the seeds used are {results.seeds_used}"
        notes.append(f"seed {record.seed} diverged; {used_by}")
    if record.code is not None:
        place = Path(record.code.file).name if record.code.file else record.code.module
        notes.append(f"its class is not Sparring's: {record.code.distribution or place}")
    if record.imported is not None:
        notes.append("imported, not trained here")
    elif status == "finished" and results.test_accuracy is None:
        notes.append("run.json has no test accuracy")
    notes += results.warnings or []
    if not record.finished and Run(run.previous_folder).exists():
        notes.append("the finished run before it is in previous/")
    trained = TrainedRun(where, record, results, status, seed, curves, [], notes)
    trained.verdicts = list(_verdicts(path, trained, damaged))
    if trained.verdicts and status != "finished":
        notes.append("verdicts of attacks are left out: they are of earlier weights")
        trained.verdicts = []
    return trained


def _read_model(path: Path, where: str, damaged: list[tuple[str, str]]) -> TrainedRun:
    """The folder of a model of one's own, in place of a run's."""
    record = ModelRecord.read(path / MODEL_FILE, _printable).as_run()
    notes = ["a model of one's own, not trained here"]
    model = TrainedRun(where, record, Results(), "finished", record.seed, [], [], notes)
    model.verdicts = list(_verdicts(path, model, damaged))
    return model


def _progress(status: str, curves: Sequence[Curve]) -> str:
    """How far an unfinished run came, in words."""
    known = "unfinished" if status == "training" else status
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
        for file in (run.metrics_file, *(network.metrics_file for network in run.networks())):
            if file.exists():
                expect_readable(file)
        lines = run.metrics()
        if run.metrics_file.is_file():
            written = len(run.metrics_file.read_bytes().splitlines())
    except (RunError, OSError) as error:
        notes.append(f"metrics.jsonl: {getattr(error, 'strerror', 'too large')}")
        lines = []
    for line in lines:
        networks[line.network][line.epoch] = (figure(line.loss), figure(line.test_accuracy))
    # A kill may cut the last line short.
    if written - len(lines) > (0 if finished else 1):
        notes.append(f"metrics.jsonl: damaged: {len(lines)} of {written} lines can be read")
    return [
        Curve(network, sorted(epochs), *zip(*(epochs[at] for at in sorted(epochs)), strict=True))
        for network, epochs in sorted(networks.items())
    ]


def _verdicts(path: Path, run: TrainedRun, damaged: list[tuple[str, str]]) -> Iterator[RunVerdict]:
    """The verdicts on attacks that lie in a run; what is left out goes to its notes."""
    for folder in sorted(path.glob("attacks/*/")):
        where, file = _printable(f"attacks/{folder.name}"), None
        try:
            if (file := VerdictRecord.find(folder)) is None:
                continue
            record = VerdictRecord.read(file, _printable)
            changed = file.stat().st_mtime
        except (RunError, OSError) as error:
            text = _printable(str(error).removeprefix(f"{file}: "))
            run.notes.append(f"{where}: {text}")
            damaged.append((f"{run.where}/{where}", text))
            continue
        if record.defense != run.record.defense:
            run.notes.append(f"{where} is left out: it is of {record.defense}")
            continue
        warnings = [f"{warning.name}: {warning.text}" for warning in record.warnings]
        stale = record.weights_sha256 not in (None, run.record.weights_sha256)
        if stale:
            warnings.append("of other weights than the run's: the run was trained anew")
        elif changed < _seconds(run.results.finished):
            warnings.append(
                "older than the run's weights: the run was trained anew, or the clocks differ"
            )
        name = _attack_name(_printable(folder.name), record, run.record.dataset_name)
        yield RunVerdict(folder, f"{run.where}/{where}", run.seed, name, record, stale, warnings)


def _attack_name(folder: str, record: VerdictRecord, dataset: str) -> str:
    """A short name for an attack: what the verdict or its folder says, with what is unusual."""
    name = record.label or _name_by_folder(folder, record)
    chosen = any(image.index != row for row, image in enumerate(record.images))
    if chosen and "images=" not in name:
        name += ", chosen images"
    if record.dataset.get("name") != dataset:
        name += f", on {record.dataset.get('name')}"
    elif record.dataset.get("other_data"):
        name += ", on other images"
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def _name_by_folder(folder: str, record: VerdictRecord) -> str:
    """The name in a folder's, with what it says besides; else a word of the description."""
    threat = record.threat
    name, ours, rest = folder.rpartition(verdict_folder("", threat.norm, threat.eps))
    if not ours or not re.match(r"-|$", rest):
        return short_name(record.attack)
    return f"{name} {rest.removesuffix('-some').strip('-')}".rstrip()


def _seconds(moment: Any) -> float:
    """A moment in ISO 8601 as seconds since 1970; 0 for anything else."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return 0.0


def _printable(value: Any) -> Any:
    """A JSON value whose texts have no control characters, and whose numbers can be written."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in value)
    if isinstance(value, list):
        return [_printable(part) for part in value]
    if isinstance(value, dict):
        return {_printable(name): _printable(part) for name, part in value.items()}
    # Texts of more than 4,300 digits, which sums may come to, are refused by Python.
    return None if isinstance(value, int | float) and not abs(value) < _LARGEST else value


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
        _tell_apart(section.groups)
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


def _tell_apart(groups: Sequence[Group]) -> None:
    """Where a defense was tried by several attacks of a name, the name says what differs.

    Radii are shown with as many digits as tell them apart.
    """
    verdicts = [verdict for group in groups for run in group.runs for verdict in run.verdicts]
    radii = {verdict.record.threat.eps for verdict in verdicts}
    digits = FEWEST_DIGITS
    while len({f"{eps:.{digits}g}" for eps in radii}) < len(radii):
        digits += 1
    for verdict in verdicts:
        verdict.digits = digits
    alike: dict[object, list[list[AttackResult]]] = defaultdict(list)
    for group in groups:
        for name, results in groupby(group.attacks, key=lambda attacked: attacked.first.order):
            alike[name].append(list(results))
    for everywhere in alike.values():
        if max(map(len, everywhere)) == 1:
            continue
        every = [attacked for results in everywhere for attacked in results]
        for facts in zip(*_facts([attacked.first for attacked in every]), strict=True):
            names = [[attacked.first.name for attacked in results] for results in everywhere]
            fact = iter(facts)
            longer = [[f"{name}, {next(fact)}" for name in own] for own in names]
            if all(len(set(new)) == len(set(old)) for new, old in zip(longer, names, strict=True)):
                continue
            for attacked, name in zip(every, chain(*longer), strict=True):
                for verdict in attacked.verdicts:
                    verdict.name = name


def _facts(verdicts: Sequence[RunVerdict]) -> Iterator[Sequence[str]]:
    """Of each verdict what may tell it from the others, what says most first."""
    words = [re.split(r", (?=\w+=)", verdict.record.attack[:-1]) for verdict in verdicts]
    options = [[first.partition("(")[2], *others] for first, *others in words]
    common = set(options[0]).intersection(*options[1:])
    for verdict, own in zip(verdicts, options, strict=True):
        record = verdict.record
        yield [
            ", ".join(option for option in own if option and option not in common) or "defaults",
            record.attack,
            f"{record.draws} draw{'s' * (record.draws != 1)}",
            f"{len(record.images)} image{'s' * (len(record.images) != 1)}",
            f"seed {record.seed}",
            "earlier weights" if verdict.stale else "these weights",
            f"file {record.attack_sha256!s:.8}",
            verdict.where.rpartition("/")[2],
            verdict.where,
        ]


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
