"""A page for each defense, written of what its files say and of what was measured.

What helps to break a defense is on its page but folded, so that it is read only when it is wanted.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2

from benchmarks import results_table
from benchmarks.results_table import ATTACKS, NORMS, Attacked, Figures
from sparring import data, defenses, plots
from sparring.data.usual import default_threat
from sparring.defenses import reading
from sparring.defenses.facts import Description
from sparring.training.settings import PRESETS, resolve

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FOLDER = "defenses"

_IN_WORDS = {"noise": "noise", "fgsm": "FGSM", "pgd": "PGD", "reference": "reference"}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown
)


@dataclass(frozen=True)
class Header:
    """What a defense's file begins with.

    Attributes:
        lead: one sentence.
        body: how it works, and how it fails.
        commands: that train it.
        source: where it is from.
    """

    lead: str
    body: str
    commands: str
    source: str

    @classmethod
    def of(cls, docstring: str) -> Header:
        """Take a docstring apart: "name: lead", paragraphs, indented commands, "Reference: "."""
        first, *paragraphs = docstring.split("\n\n")
        lead = first.partition(": ")[2]
        commands = [text for text in paragraphs if text.startswith("    ")]
        sources = [text for text in paragraphs if text.startswith("Reference: ")]
        body = [text for text in paragraphs if text not in (*commands, *sources)]
        return cls(
            lead=lead[:1].upper() + lead[1:],
            body="\n\n".join(body),
            commands="\n".join(commands),
            source="\n\n".join(sources),
        )


@dataclass(frozen=True)
class SettingRow:
    """A setting on one data set.

    Attributes:
        name: of the setting.
        values: by preset; those that the defense asks for are bold.
        help: what it is.
    """

    name: str
    values: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows, in words that say all that is drawn."""

    svg: str
    alt: str


def places() -> list[str]:
    """List where the pages are in the site's sources, in the order of the registry."""
    return [_place(name) for name in defenses.NAMES]


def sources() -> dict[str, str]:
    """Give the page of each file of the repository that has one, by the file's path."""
    package = "sparring/defenses"
    pages = {f"{package}/{name}.py": _place(name) for name in defenses.NAMES}
    return {f"{package}/__init__.py": f"{FOLDER}/index.md", **pages}


def pages() -> dict[str, str]:
    """Write the pages and their pictures.

    Returns:
        What each file holds, by its place in the site's sources.
    """
    written = {f"{FOLDER}/index.md": _render("defenses.md.jinja", rows=_rows())}
    for name in defenses.NAMES:
        picture = drawn(name)
        if picture is not None:
            written[f"{FOLDER}/{name}.svg"] = picture.svg
        written[_place(name)] = _page(name, picture)
    return written


def settings(name: str, key: str) -> list[SettingRow]:
    """List a defense's settings on a built-in data set, as `sparring train --explain` decides them.

    Args:
        name: of the defense.
        key: of the data set.

    Returns:
        A row a setting, in the order of `--explain`.
    """
    kind = defenses.get(name)
    tables = {name: kind.settings_table}
    resolved = [resolve(kind.settings_class, tables, preset, key=key) for preset in PRESETS]
    rows = []
    for setting, text in kind.settings_class.help().items():
        shown = []
        for each in resolved:
            value = each.settings.as_json()[setting]
            own = each.origins[setting].partition(" for ")[0] == name
            said = "as the data set says" if value is None else f"{value}"
            shown.append(f"**{said}**" if own else said)
        rows.append(SettingRow(setting, tuple(shown), text))
    return rows


def results(name: str) -> list[Figures]:
    """Read what was measured of a defense.

    Args:
        name: of the defense.

    Returns:
        The figures of each data set on which there are some, of this defense alone.
    """
    return [
        figures.model_copy(update={"rows": {name: figures.rows[name]}})
        for figures in _all_results()
        if name in figures.rows
    ]


def drawn(name: str) -> Picture | None:
    """Draw how many images each attack breaks within Linf; None where nothing was measured."""
    groups: dict[str, dict[str, plots.Share]] = {}
    told = []
    for figures in results(name):
        attacked = dict(_attacked(figures.rows[name].attacks))
        if attacked:
            threat = default_threat("Linf", figures.name)
            group = f"{figures.title}, {threat.norm} {threat.eps:.3g}"
            groups[group] = {
                attack: (of.success.value, of.success.low, of.success.high)
                for attack, of in attacked.items()
            }
            shares = (f"{attack} {of.success.value:.1%}" for attack, of in attacked.items())
            told.append(f"{group}: {', '.join(shares)}")
    if not groups:
        return None
    title = f"{name}: images broken, of those answered rightly"
    return Picture(
        plots.bars(groups, title, "broken, with the 95 % interval"),
        f"Bars of the images of {name} that each attack breaks. {'; '.join(told)}.",
    )


def _attacked(attacks: Mapping[str, Attacked]) -> Iterator[tuple[str, Attacked]]:
    """The attacks within Linf, from the weakest on, by their name in tables."""
    for attack in ATTACKS:
        if (found := attacks.get(f"{NORMS[0]} {attack}")) is not None:
            yield _IN_WORDS[attack], found


@cache
def _all_results() -> list[Figures]:
    return [Figures.read(file) for file in sorted(RESULTS.glob("*.json"))]


def _place(name: str) -> str:
    return f"{FOLDER}/{name}.md"


def _docstring(module: str) -> str:
    """What a module says of itself, read and not imported."""
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _rows() -> list[tuple[Description, list[str]]]:
    """For the table of all defenses, what each is, and its strongest figure."""
    rows = []
    for name in defenses.NAMES:
        broken = []
        for figures in _all_results():
            row = figures.rows.get(name)
            found = {} if row is None else dict(_attacked(row.attacks))
            best = found.get(_IN_WORDS[ATTACKS[-1]])
            broken.append("-" if best is None else f"{100 * best.success.value:.1f} %")
        rows.append((defenses.describe(name), broken))
    return rows


def _render(template: str, **values: object) -> str:
    titles = [figures.title for figures in _all_results()]
    return _TEMPLATES.get_template(template).render(titles=titles, **values)


def _page(name: str, picture: Picture | None) -> str:
    code = reading.sources(name)
    return _render(
        "defense.md.jinja",
        facts=defenses.describe(name),
        header=Header.of(_docstring(f"sparring.defenses.{name}")),
        reference=_docstring(f"sparring.attacks.reference.{name}"),
        code=code[f"{name}.py"],
        settings={key: settings(name, key) for key in data.NAMES},
        presets=PRESETS,
        results=[results_table.section(figures, level=3) for figures in results(name)],
        picture=picture,
    )
