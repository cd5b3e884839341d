"""The report's files: templates that are filled in with its tables and pictures, and JSON.

In both templates every text is escaped for the language it gets into, so that it stays text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup, escape

from sparring.errors import RunError
from sparring.reports import tables
from sparring.reports.groups import Report
from sparring.reports.pictures import pictures
from sparring.runs.files import write_atomically
from sparring.templates import environment
from sparring.version import __version__

_NO_FOLDER = "{}: a report cannot be written here: {}. Name another folder with --out."


def write(gathered: Report, out: str | Path) -> list[Path]:
    """Write the page, the Markdown and the JSON.

    Args:
        gathered: What is known of the runs.
        out: The folder to write them into; it need not exist.

    Returns:
        The three files.

    Raises:
        RunError: they cannot be written there.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise RunError(_NO_FOLDER.format(out, error.strerror)) from error
    values = json.dumps(gathered.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
    contents = {
        "report.html": html(gathered, out),
        "report.md": markdown(gathered),
        "report.json": values,
    }
    for name, text in contents.items():
        try:
            write_atomically(out / name, text.encode())
        except (IsADirectoryError, PermissionError) as error:
            raise RunError(_NO_FOLDER.format(out / name, error.strerror)) from error
    return [out / name for name in contents]


def html(gathered: Report, out: str | Path = ".") -> str:
    """Give all tables, curves and examples as a page that needs no other file.

    Args:
        gathered: What is known of the runs.
        out: The folder that it will lie in; links to pages of verdicts begin there.
    """
    return _filled_in("page.html.jinja", gathered, escape, Path(out))


def cell(gathered: Report) -> str:
    """Give the tables as HTML to stand within other HTML, without style sheets or scripts."""
    return _filled_in("cell.html.jinja", gathered, escape, Path())


def markdown(gathered: Report) -> str:
    """Give all tables in GitHub's Markdown."""
    return _filled_in("page.md.jinja", gathered, plain, Path())


def plain(value: object) -> Markup:
    """Give a value as text for Markdown of which nothing is markup; what is escaped is left so."""
    if isinstance(value, Markup):
        return value
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(re.sub(r"([\\`*_~|\[\]])", r"\\\1", text))


def _url(out: Path, page: str | Path) -> str:
    """How a page in a folder links to another, given as an address or a file."""
    if isinstance(page, str):
        return page
    try:
        return quote(Path(os.path.relpath(page, out)).as_posix())
    except ValueError:  # another drive of Windows
        return page.resolve().as_uri()


def _filled_in(name: str, gathered: Report, escaped: Callable[[object], Markup], out: Path) -> str:
    filled = templates(escaped, out=out)
    filled.globals |= {"tables": tables, "pictures": pictures}
    return filled.get_template(name).render(gathered=gathered)


def templates(
    escaped: Callable[[object], Markup], *packages: str, out: Path = Path()
) -> Environment:
    """Give the environment of templates that are written as the report's are.

    Args:
        escaped: makes any value text of the language that the template is written in.
        packages: with templates besides, which may include the report's style and tables.
        out: the folder that the page will lie in.
    """
    filled = environment(*packages, "sparring.reports", finalize=escaped)
    filled.globals |= {"version": __version__, "url": partial(_url, out)}
    return filled
