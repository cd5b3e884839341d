"""Pages of tables and pictures, as HTML and as Markdown.

HTML is built as a tree of elements and written by the standard library, so that text stays text
whatever it holds. A page is one file: style and pictures are in it, nothing is loaded or run.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d8dee4;
  --paper: #fff; --tint: #f6f8fa; --link: #0b5cad; --alarm: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9da7b1; --line: #363c44; --paper: #14171b; --tint: #1d2127;
    --link: #79b8ff; --alarm: #ff9d94; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0 auto; padding: 2rem 1.25rem 5rem; max-width: 74rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.5rem; margin: 3.5rem 0 .25rem; padding-top: 1rem;
  border-top: 2px solid var(--ink); }
h3 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
h2, h3 { overflow-wrap: anywhere; }
h3 small { font-weight: 400; color: var(--soft); margin-left: .5rem; }
p { margin: .35rem 0 .75rem; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { margin: 1.25rem 0; padding: .75rem 1rem; background: var(--tint); border-radius: 8px; }
nav p { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .2rem 0; max-width: none; }
nav a:first-child { font-weight: 600; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .85rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: .5rem; }
thead th { color: var(--soft); font-size: .8125rem; font-weight: 600; vertical-align: bottom;
  border-bottom: 1.5px solid var(--soft); white-space: nowrap; }
tbody tr:hover { background: var(--tint); }
td.number, th.number { text-align: right; white-space: nowrap; }
td small { display: block; color: var(--soft); font-size: .8125rem; overflow-wrap: anywhere;
  max-width: 34rem; }
td.number small { max-width: none; }
td.long { min-width: 32rem; }
.alarm, td.alarm, td .alarm { color: var(--alarm); }
ul.notes { margin: .5rem 0; padding-left: 1.2rem; color: var(--alarm); font-size: .9375rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--soft); }
summary:hover { color: var(--ink); }
.beside { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 0 2rem; }
.beside > * { max-width: 100%; }
.beside td { max-width: 22rem; overflow-wrap: anywhere; }
.beside td.long { min-width: 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1rem; margin: .75rem 0; }
figure { margin: 0; }
img { display: block; width: 100%; max-width: 40rem; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 8px; }
@media print { body { max-width: none; } img { break-inside: avoid; } }
"""

_LONG = 40  # characters that need a column of some width


def element(name: str, *children: Element | str, **attributes: str) -> Element:
    """An HTML element; a trailing underscore in an attribute's name is dropped."""
    made = Element(name, {key.rstrip("_"): value for key, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def fold(summary: str, *children: Element | str) -> Element:
    """What is shown on a click."""
    return element("details", element("summary", summary), *children)


def figure(svg: bytes, text: str, caption: str = "") -> Element:
    """An SVG picture, described by a text. As an image it can neither run nor load anything."""
    data = base64.b64encode(svg).decode("ascii")
    image = element("img", src=f"data:image/svg+xml;base64,{data}", alt=text)
    return element("figure", image, *([element("figcaption", caption)] if caption else []))


class Cell(NamedTuple):
    """A table's cell: text, smaller lines below it, where it leads within the page.

    `shade` from 0 to 1 is how strongly it is colored; an `alarm` is something gone wrong.
    """

    text: str
    below: Sequence[str] = ()
    link: str = ""
    shade: float = 0.0
    alarm: bool = False


@dataclass
class Table:
    """A table; columns whose header begins with # hold numbers and stand to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]

    def cells(self) -> list[list[Cell]]:
        """The rows, every text a cell."""
        return [[Cell(c) if isinstance(c, str) else c for c in row] for row in self.rows]

    def html(self) -> Element:
        """The table as an element that scrolls where it is too wide."""
        kinds = [{"class": "number"} if name.startswith("#") else {} for name in self.header]
        head = [
            element("th", name.removeprefix("#"), **kind)
            for name, kind in zip(self.header, kinds, strict=True)
        ]
        body = [
            element("tr", *(_td(cell, kind) for cell, kind in zip(row, kinds, strict=True)))
            for row in self.cells()
        ]
        table = element("table", element("thead", element("tr", *head)), element("tbody", *body))
        return element("div", table, class_="scroll")

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        rule = ["---:" if name.startswith("#") else "---" for name in self.header]
        rows = [
            [plain(name.removeprefix("#")) for name in self.header],
            rule,
            *([_lines(cell) for cell in row] for row in self.cells()),
        ]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _td(cell: Cell, kind: dict[str, str]) -> Element:
    text = element("a", cell.text, href=f"#{cell.link}") if cell.link else cell.text
    made = element("td", text, *(element("small", line) for line in cell.below))
    long = not kind and max(map(len, (cell.text, *cell.below))) > _LONG
    words = {"alarm": cell.alarm, "long": long, **dict.fromkeys(kind.values(), True)}
    if chosen := " ".join(word for word, holds in words.items() if holds):
        made.set("class", chosen)
    if cell.shade:
        made.set("style", f"background: rgb(240 96 72 / {55 * cell.shade:.0f}%)")
    return made


def _lines(cell: Cell) -> str:
    return "<br>".join(plain(line) for line in (cell.text, *cell.below))


def plain(text: str) -> str:
    """Text for Markdown, in which nothing is markup."""
    return re.sub(r"([\\`*_~|\[\]])", r"\\\1", escape(text, quote=False))


def document(title: str, *body: Element) -> str:
    """A whole HTML page, to be written as UTF-8."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", _STYLE),
    )
    page = element("html", head, element("body", *body), lang="en")
    text = ElementTree.tostring(page, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n"
