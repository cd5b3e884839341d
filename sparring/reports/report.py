"""The report on a folder of runs: an HTML page, the same tables as Markdown, and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from sparring import plots as pictures
from sparring.evaluation.rates import duration
from sparring.reports.gather import Attacked, Gathered, Group, Section, Trained
from sparring.reports.page import Cell, Table, document, element, figure, fold, plain
from sparring.runs.checkpoint import write_atomically
from sparring.version import __version__

_NONE = "-"
_MOST_NAMES = 10  # in a picture of curves, which has as many colors
_LARGEST_EXAMPLES = 500_000  # bytes of a defense's; the page is to stay one that can be sent around


# Tables


def defense_table(section: Section) -> Table:
    """How the defenses trained on a data set answer."""
    header = ["defense", "#test accuracy", "#rejected", "#seeds", "#training time", "#networks"]
    rows: list[list[Cell | str]] = []
    for group in section.groups:
        accuracy, rejected = group.mean("test_accuracy"), group.mean("rejected")
        seconds = group.mean("seconds")
        counted, others = len(group.counted), [run for run in group.runs if not run.finished]
        status = [f"{counted} finished" if others else "finished"] if counted else []
        several = len(group.runs) > 1
        status += [f"seed {run.seed} {run.status}" if several else run.status for run in others]
        rows.append(
            [
                _name(group),
                accuracy.percent(2) if accuracy else _NONE,
                rejected.percent(2) if rejected and rejected.value else _NONE,
                f"{counted}",
                duration(seconds.value) if seconds and seconds.value else _NONE,
                Cell(f"{group.networks or _NONE}", [f"{group.lender}'s"] if group.lender else []),
                Cell(status[0], status[1:], alarm=bool(others)),
            ]
        )
    return Table([*header, "status"], rows)


def attack_tables(section: Section) -> list[tuple[str, Table]]:
    """For each threat model, the success of each attack on each defense, weak to strong."""
    threats: dict[tuple[str, float], dict[str, list[tuple[int, Attacked]]]] = {}
    for row, group in enumerate(section.groups):
        for attacked in group.attacks:
            first = attacked.first
            columns = threats.setdefault((first.norm, first.eps), {})
            columns.setdefault(first.name, []).append((row, attacked))
    tables = []
    for _, columns in sorted(threats.items()):
        ordered = sorted(columns.items(), key=lambda column: _strength(column[1]))
        attacked_rows = {row for _, cells in ordered for row, _ in cells}
        rows: list[list[Cell | str]] = []
        for row in sorted(attacked_rows):
            group = section.groups[row]
            found = [[each for at, each in cells if at == row] for _, cells in ordered]
            rows.append([_name(group), *map(_success, found)])
        threat = ordered[0][1][0][1].first.threat
        tables.append((threat, Table(["defense", *(f"#{name}" for name, _ in ordered)], rows)))
    return tables


def _name(group: Group) -> Cell:
    return Cell(group.defense, [_difference(group)] if group.differs else [], group.anchor)


def _difference(group: Group) -> str:
    """What tells a group from the others of its defense, in words."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in group.differs.items())


def _strength(cells: Sequence[tuple[int, Attacked]]) -> float:
    """The mean success of an attack over the defenses it was tried on."""
    means = [mean.value for _, each in cells if (mean := each.mean("success_rate"))]
    return sum(means) / len(means) if means else 0.0


def _success(found: Sequence[Attacked]) -> Cell:
    """The success of an attack on a group; of several, where attacks share a name."""
    if not found:
        return Cell("")
    texts, below, shade = [], [], 0.0
    for attacked in found:
        mean = attacked.mean("success_rate")
        texts.append(mean.percent(1) if mean else _NONE)
        shade = max(shade, mean.value if mean else 0.0)
        below.append(_interval(attacked, "success_rate") or f"{len(attacked.finished)} seeds")
        if attacked.warnings:
            below.append(f"⚠ {len(attacked.warnings)}")
    return Cell(" / ".join(texts), below, shade=min(1.0, max(0.0, shade)))


def _interval(attacked: Attacked, name: str) -> str:
    """The 95 % interval of a rate, where there is one seed."""
    if not attacked.finished:
        return "unfinished"
    if len(attacked.finished) > 1:
        return ""
    rate = attacked.finished[0].rates[name]
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f}" if rate.n else "no images"


def verdict_table(section: Section) -> Table:
    """Every attack on every defense with all figures and warnings."""
    header = ["defense", "attack", "#success", "#95 % interval", "#robust accuracy"]
    header += ["#clean accuracy", "#images attacked", "#seeds", "warnings", "attack in full"]
    rows: list[list[Cell | str]] = []
    for group in section.groups:
        alike = Counter(each.first.attack for each in group.attacks)
        for attacked in group.attacks:
            first, finished, warnings = attacked.first, attacked.finished, attacked.warnings
            success, robust, clean = map(
                attacked.mean, ("success_rate", "robust_accuracy", "clean_accuracy")
            )
            tried = sum(verdict.rates["success_rate"].n for verdict in finished)
            images = sum(verdict.rates["robust_accuracy"].n for verdict in finished)
            more = [f"{first.draws} draws"] if first.draws > 1 else []
            more += [first.where] if alike[first.attack] > 1 else []
            rows.append(
                [
                    _name(group),
                    Cell(first.name, [first.threat]),
                    success.percent(1) if success else _NONE,
                    _interval(attacked, "success_rate") or _NONE,
                    Cell(
                        robust.percent(1) if robust else _NONE,
                        [_interval(attacked, "robust_accuracy")] if len(finished) == 1 else [],
                    ),
                    clean.percent(1) if clean else _NONE,
                    f"{tried:,} of {images:,}",
                    f"{len(finished)}",
                    Cell(warnings[0], warnings[1:], alarm=True) if warnings else "",
                    Cell(first.attack, more),
                ]
            )
    return Table(header, rows)


def settings_table(group: Group) -> Table:
    """The settings that the runs of a group share."""
    every = group.runs[0].conditions
    return Table(["setting", "value"], [[name, _shown(value)] for name, value in every.items()])


def run_table(group: Group) -> Table:
    """The runs of a group, a column each: what came of them, where and when they were made."""
    told = ("device", "machine", "versions", "started")

    def facts(run: Trained) -> dict[str, Cell | str]:
        accuracy, rejected, seconds = map(run.figure, ("test_accuracy", "rejected", "seconds"))
        return {
            "run": run.where,
            "status": Cell(run.status, alarm=not run.finished),
            "test accuracy": _NONE if accuracy is None else f"{100 * accuracy:.2f} %",
            "rejected": _NONE if rejected is None else f"{100 * rejected:.2f} %",
            "training time": duration(seconds) if seconds else _NONE,
            **{name: _shown(run.values.get(name)) for name in told},
            "finished": _shown(run.results.get("finished")),
            "SHA-256 of the weights": _shown(run.values.get("weights_sha256")),
        }

    columns = [facts(run) for run in group.runs]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return Table(["seed", *(f"{run.seed}" for run in group.runs)], rows)


# Pages


def write(found: Gathered, out: str | Path) -> list[Path]:
    """Write the page, the Markdown and the JSON into a folder; where they are."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    values = json.dumps(found.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
    contents = {"report.html": html(found), "report.md": markdown(found), "report.json": values}
    for name, text in contents.items():
        write_atomically(out / name, text.encode())
    return [out / name for name in contents]


_ABOUT_DEFENSES = (
    "On the test images, each answered as the defense answers; what it rejects counts as wrong. "
    "Mean ± sample standard deviation over seeds, where there are several."
)
_ABOUT_ATTACKS = (
    "Share broken of the images that are answered correctly without an attack: another label, and "
    "not rejected. Below it, with one seed, the 95 % interval (Wilson's); with several, mean ± "
    "sample standard deviation. Columns go from the weakest attack to the strongest."
)


def _summary(found: Gathered) -> str:
    groups = [group for section in found.sections for group in section.groups]
    runs = [run for group in groups for run in group.runs]
    finished = sum(run.finished for run in runs)
    return (
        f"{_count(len(runs), 'run')}, {finished} finished, of "
        f"{_count(len({group.defense for group in groups}), 'defense')} on "
        f"{_count(len(found.sections), 'data set')}. "
        f"Written {found.written} by Sparring {__version__}."
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _images(section: Section) -> str:
    shape, names, train, test = (
        section.dataset.get(name)
        for name in ("shape", "class_names", "train_images", "test_images")
    )
    classes = f"{len(names)} classes; " if isinstance(names, list) else ""
    return (
        f"Images {_shown(shape)}, {classes}{_shown(train)} for training, {_shown(test)} for tests."
    )


def _damaged(found: Gathered) -> Table:
    return Table(["run", "problem"], [[Cell(p, alarm=True), text] for p, text in found.damaged])


def markdown(found: Gathered) -> str:
    """All tables as Markdown."""
    parts = [f"# Results in {plain(found.folder)}\n\n{plain(_summary(found))}\n"]
    for section in found.sections:
        parts.append(f"## {plain(section.title)}\n\n{plain(_images(section))}\n")
        parts.append(f"### Defenses\n\n{_ABOUT_DEFENSES}\n\n{defense_table(section).markdown()}")
        if tables := attack_tables(section):
            parts.append(f"### Attacks\n\n{_ABOUT_ATTACKS}\n")
            parts += [f"Within {plain(each)}:\n\n{table.markdown()}" for each, table in tables]
            parts.append(f"### Every verdict\n\n{verdict_table(section).markdown()}")
        for group in section.groups:
            difference = f" ({plain(_difference(group))})" if group.differs else ""
            parts.append(f"### {plain(group.defense)}{difference}\n")
            parts += ["".join(f"- {plain(note)}\n" for note in group.notes)] if group.notes else []
            parts += [settings_table(group).markdown(), run_table(group).markdown()]
    if found.damaged:
        parts.append(f"## Damaged\n\n{_damaged(found).markdown()}")
    return "\n".join(parts)


def html(found: Gathered) -> str:
    """The page: all tables, curves and examples in one file that needs no other."""
    title = f"Results in {found.folder}"
    body = [element("h1", title), element("p", _summary(found), class_="soft")]
    links = [
        element("p", element("a", section.title, href=f"#{section.anchor}"), *map(_link, groups))
        for section in found.sections
        if (groups := section.groups)
    ]
    if found.damaged:
        links.append(element("p", element("a", "Damaged", href="#damaged")))
    body.append(element("nav", *links))
    for section in found.sections:
        body += _section(section)
    if found.damaged:
        body += [element("h2", "Damaged", id="damaged"), _damaged(found).html()]
    return document(title, *body)


def _link(group: Group) -> Element:
    text = f"{group.defense} ({_difference(group)})" if group.differs else group.defense
    return element("a", text, href=f"#{group.anchor}")


def _section(section: Section) -> Iterator[Element]:
    yield element("h2", section.title, id=section.anchor)
    yield element("p", _images(section), class_="soft")
    yield element("h3", "Defenses")
    yield defense_table(section).html()
    yield element("p", _ABOUT_DEFENSES, class_="soft")
    tables = attack_tables(section)
    for threat, table in tables:
        yield element("h3", f"Attacks within {threat}")
        yield table.html()
    if tables:
        yield element("p", _ABOUT_ATTACKS, class_="soft")
        text = "Every verdict, with robust accuracy and warnings"
        yield fold(text, verdict_table(section).html())
    for group in section.groups:
        small = [element("small", _difference(group))] if group.differs else []
        yield element("h3", group.defense, *small, id=group.anchor)
        if group.notes:
            yield element("ul", *(element("li", note) for note in group.notes), class_="notes")
        drawn = list(_curves(group))
        drawn += _examples(group, len(drawn))
        yield element("div", *drawn, class_="pictures")
        tables_of_group = settings_table(group).html(), run_table(group).html()
        yield fold("Settings, versions and runs", element("div", *tables_of_group, class_="beside"))


def _curves(group: Group) -> Iterator[Element]:
    """Pictures of loss and test accuracy by epoch, of all networks and seeds."""
    counted = group.counted
    runs = [run for run in group.runs if run.curves and (not run.finished or run in counted)]
    if not runs:
        text = f"serves the weights of {group.lender}" if group.lender else "has no epochs to show"
        yield element("p", f"{group.defense} {text}.", class_="soft")
        return
    networks = max(len(run.curves) for run in runs)
    lines: dict[str, dict[str, list[pictures.Line]]] = {"loss": {}, "test_accuracy": {}}
    for run in runs:
        for curve in run.curves:
            if len(runs) > 1:
                name = f"seed {run.seed}" if len(runs) <= _MOST_NAMES else f"{len(runs)} seeds"
                name += "" if run.finished else ", unfinished"
            elif 1 < networks <= _MOST_NAMES:
                name = f"network {curve.network + 1}"
            else:
                name = f"{networks} networks" if networks > 1 else f"seed {run.seed}"
            for what, named in lines.items():
                named.setdefault(name, []).append(curve.line(what))
    told = [f"{networks} networks a seed"] if len(runs) > 1 and networks > 1 else []
    if max(len(curve.epoch) for run in runs for curve in run.curves) == 1:
        told.append("one epoch: a point, no curve")
    measured = max(len(x) for alike in lines["test_accuracy"].values() for x, _ in alike)
    if measured < 2:
        told.append("test accuracy was measured at the end alone" if measured else "")
    title = f"{group.defense}: loss, mean over an epoch's training images"
    yield _curve(lines["loss"], title, "loss", False, told)
    if measured > 1:
        title = f"{group.defense}: test accuracy of the averaged weights"
        yield _curve(lines["test_accuracy"], title, "accuracy", True)


def _curve(
    lines: Mapping[str, Sequence[pictures.Line]],
    title: str,
    up: str,
    percent: bool,
    told: Sequence[str] = (),
) -> Element:
    svg = pictures.curves(lines, title, "epoch", up, percent)
    return figure(svg.encode(), f"{title}, by epoch", "; ".join(filter(None, told)))


def _examples(group: Group, most: int) -> Iterator[Element]:
    """The pictures that the strongest attacks left, of the first seed that has one."""
    ordered = sorted(group.attacks, key=lambda each: -_strength([(0, each)]))
    shown = size = 0
    for attacked in ordered:
        for verdict in attacked.finished:
            file = verdict.folder / "examples.svg"
            if shown < most and file.is_file():
                if (size := size + file.stat().st_size) > _LARGEST_EXAMPLES:
                    text = f"{verdict.where}/examples.svg is too large for this page."
                    yield element("p", text, class_="soft")
                else:
                    text = f"{verdict.name} within {verdict.threat}, seed {verdict.seed}"
                    yield figure(file.read_bytes(), f"Adversarial examples: {text}", text)
                shown += 1
                break


def _shown(value: Any) -> str:
    """A JSON value as text."""
    if value is None:
        return _NONE
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " x ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.10g}" if isinstance(value, float) else f"{value}"
