"""The site: it builds with every link leading somewhere, loads nothing from elsewhere, and what its
generated pages say is what the files say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import sparring
from benchmarks.results_table import ATTACKS, Figures
from sparring import data
from sparring.defenses import NAMES, describe, get
from sparring.experiments.plan import explain
from sparring.experiments.request import TrainingRequest
from sparring.training.settings import PRESETS
from website import defenses, hooks, notebooks

ROOT = Path(__file__).parent.parent
RESULTS = [Figures.read(file) for file in sorted((ROOT / "benchmarks/results").glob("*.json"))]


class Elements(HTMLParser):
    """The elements of a page, each with its attributes and whether it is folded away."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.folded, self.open = "", ""
        self._details = 0
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "details":
            assert "open" not in dict(attrs)
            self._details += 1

    def handle_endtag(self, tag: str) -> None:
        self._details -= tag == "details"

    def handle_data(self, data: str) -> None:
        if self._details:
            self.folded += data
        else:
            self.open += data


def words(text: str) -> str:
    """Text in one line, without the marks of code."""
    return " ".join(text.replace("`", "").split())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; with --strict a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def pages(site: Path) -> Iterator[Path]:
    files = sorted(site.rglob("*.html"))
    assert len(files) > 50
    yield from files


def test_every_page_of_docs_and_every_defense_has_one(site: Path) -> None:
    built = {page.relative_to(site).as_posix() for page in pages(site)}
    written = {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")}
    assert written | {f"defenses/{name}.html" for name in NAMES} <= built
    assert {"index.html", "CONTRIBUTING.html", "defenses/index.html"} <= built
    [links] = (
        [unescape(link) for link in re.findall(r'href="([\w]+)\.html"', block)]
        for block in re.findall(
            r"<table>.*?</table>", (site / "defenses/index.html").read_text("utf-8"), re.DOTALL
        )[:1]
    )
    assert links == list(NAMES)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in pages(site):
        for tag, attributes in Elements(page).found:
            loaded = {"src", "srcset", "data", "poster"} | ({"href"} if tag == "link" else set())
            for name in loaded & set(attributes):
                assert not re.match(r"\s*(?:\w+:)?//", attributes[name]), f"{page}: {attributes}"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:\w+:)?//", text), sheet


def test_every_picture_is_described(site: Path) -> None:
    pictures = [
        (page, attributes)
        for page in pages(site)
        for tag, attributes in Elements(page).found
        if tag == "img"
    ]
    assert len(pictures) > 10
    for page, attributes in pictures:
        assert len(attributes.get("alt", "")) > 20, f"{page.name}: {attributes}"
    for svg in (ROOT / "docs").glob("*.svg"):
        _, _, width, _ = ElementTree.parse(svg).getroot().get("viewBox", "").split()
        assert float(width) <= 330, f"{svg.name} is too wide for its texts to be read on a phone"


def test_lists_are_lists_here_too(site: Path) -> None:
    """GitHub begins a list right below a line of text; Python-Markdown wants an empty line."""
    for page in pages(site):
        article = page.read_text(encoding="utf-8").partition("<article")[2]
        for paragraph in re.findall(r"<p>(.*?)</p>", article, re.DOTALL):
            assert not re.search(r"\n(?:[-*]|\d+\.) ", paragraph), page.name
            assert not re.search(r"^\|.*\|$", paragraph, re.MULTILINE), page.name


@pytest.mark.parametrize("name", NAMES)
def test_what_gives_a_defense_away_is_folded(site: Path, name: str) -> None:
    page = Elements(site / f"defenses/{name}.html")
    shown, folded = words(page.open), words(page.folded)
    for hint in describe(name).hints:
        assert words(hint) in folded
        assert words(hint) not in shown
    header = defenses.Header.of(sys.modules[get(name).__module__].__doc__ or "")
    assert words(header.lead) in shown
    for paragraph in header.body.split("\n\n"):
        assert words(paragraph) in folded
    assert f"sparring train {name} --data digits" in page.open
    assert f"sparring exercise {name}" in page.open
    assert f"sparring attack {name} reference" in page.folded


@pytest.mark.parametrize("name", NAMES)
def test_results_on_a_page_are_those_that_are_kept(site: Path, name: str) -> None:
    html = (site / f"defenses/{name}.html").read_text(encoding="utf-8")
    rows = [
        [unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<td>(.*?)</td>", row)]
        for row in re.findall("<tr>(.*?)</tr>", html, re.DOTALL)
    ]
    images = [each for tag, each in Elements(site / f"defenses/{name}.html").found if tag == "img"]
    alt = " ".join(each["alt"] for each in images)
    assert len(images) == any(name in figures.rows for figures in RESULTS)
    for figures in RESULTS:
        row = figures.rows.get(name)
        assert (f">{figures.title}<" in html) == (row is not None)
        if row is None:
            continue
        trained = [cells for cells in rows if cells[:1] == [name] and len(cells) == 7]
        assert f"{100 * (row.accuracy or 0):.1f} %" in {cells[1] for cells in trained}
        for norm in ("Linf", "L2"):
            rates = [row.attacks.get(f"{norm} {attack}") for attack in ATTACKS]
            values = [f"{100 * rate.success.value:.1f} %" for rate in rates if rate is not None]
            if values:
                attacked = [[cell.split(" (")[0] for cell in cells[2:6]] for cells in rows]
                assert values in attacked, f"{figures.title} {norm}"
            if values and norm == "Linf":
                assert all(value.replace(" ", "") in alt for value in values)


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_on_a_page_are_those_that_explain_prints(preset: str) -> None:
    """On the digits, whose images come along, each value is what a training would take."""
    for name in NAMES:
        if get(name).borrows is not None:
            continue  # it trains nothing
        told = {
            setting: (value, origin)
            for setting, value, origin, _ in explain(TrainingRequest(defense=name, preset=preset))
        }
        for row in defenses.settings(name, "digits"):
            value, origin = told[row.name]
            shown = row.values[PRESETS.index(preset)]
            if row.name == "flip" and shown == "as the data set says":
                assert origin.startswith("the data set")
                continue
            own = origin.startswith(f"the table of {name}")
            assert shown == (f"**{value}**" if own else value), f"{name}: {row.name}"


def test_settings_are_on_the_page(site: Path) -> None:
    html = (site / f"defenses/{NAMES[0]}.html").read_text(encoding="utf-8")
    for key in data.NAMES:
        assert f">{key}</label>" in html
        for row in defenses.settings(NAMES[0], key):
            assert f"<td>{row.name}</td>" in html


def test_public_names_lead_to_their_docstrings(site: Path) -> None:
    html = (site / "reference/index.html").read_text(encoding="utf-8")
    for name in sparring.__all__:
        [link] = re.findall(
            rf'href="([\w.-]+)#([\w.]+)"[^>]*><code>sparring\.{name}</code>', html, re.DOTALL
        )
        assert f'id="{link[1]}"' in (site / "reference" / link[0]).read_text(encoding="utf-8")


def test_the_reference_has_public_names_alone(site: Path) -> None:
    for page in (site / "reference").glob("*.html"):
        anchors = [each.get("id", "") for _, each in Elements(page).found]
        objects = [anchor for anchor in anchors if anchor.startswith("sparring.")]
        assert objects or page.stem in ("index", "command-line"), page
        for anchor in objects:
            parts = anchor.split(".")
            assert not any(re.match("_(?!_)", part) for part in parts), anchor
            assert not {*NAMES} & {*parts[2:3]} or "defenses" not in parts[:2], anchor


def test_links_of_the_repository_lead_to_pages() -> None:
    def rewritten(link: str, source: str = "docs/a.md", place: str = "a.md") -> str:
        return hooks.rewritten(f"[x]({link})", source, place)[4:-1]

    assert rewritten("b.md#c") == "b.md#c"
    assert rewritten("../CONTRIBUTING.md") == "CONTRIBUTING.md"
    assert rewritten("../README.md#use") == "index.md#use"
    assert rewritten(f"../sparring/defenses/{NAMES[1]}.py") == f"defenses/{NAMES[1]}.md"
    assert rewritten("../sparring/defenses/__init__.py") == "defenses/index.md"
    assert rewritten("docs/b.md", "README.md", "index.md") == "b.md"
    assert rewritten("docs/b.svg", "README.md", "index.md") == "b.svg"
    assert rewritten("../b.md", "docs/notebooks/a.ipynb", "notebooks/a.md") == "../b.md"
    for unchanged in ("https://a.b/docs/c.md", "#c", "../setup.py", "mailto:a@b.c"):
        assert rewritten(unchanged) == unchanged


def test_a_notebook_is_a_page() -> None:
    text = {"output_type": "stream", "text": ["1\n", "2\n"]}
    shown = {"output_type": "execute_result", "data": {"text/html": "<b>", "text/plain": "V"}}
    drawn = {"output_type": "display_data", "data": {"image/png": "QUI\n=", "text/plain": "F"}}
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "b"]},
        {"cell_type": "code", "source": ["print(1)\n", "x"], "outputs": [text, shown, drawn]},
        {"cell_type": "code", "source": [], "outputs": []},
        {"cell_type": "raw", "source": ["c"]},
    ]
    assert notebooks.markdown({"cells": cells}) == (
        "# A\nb\n\n````python\nprint(1)\nx\n````\n\n````text\n1\n2\n````\n\n````text\nV\n````\n\n"
        "![What the code above shows](data:image/png;base64,QUI=)\n"
    )
