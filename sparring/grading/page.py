"""The grades' files: a page that needs no other file, and a table for a spreadsheet.

Names and messages are students' words: the HTML has them escaped, and in the CSV none begins as a
formula.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from markupsafe import escape

from sparring.errors import RunError
from sparring.grading import levels, tables
from sparring.grading.record import GradesRecord
from sparring.reports.page import templates
from sparring.runs.files import write_atomically

PAGE, TABLE = "grades.html", "grades.csv"

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")


def write(grades: GradesRecord, out: Path) -> list[Path]:
    """Write the page, the CSV and the JSON, each whole at any moment.

    Args:
        grades: what there is so far.
        out: the folder, which is made.

    Returns:
        The three files.

    Raises:
        RunError: they cannot be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / PAGE, html(grades).encode(errors="backslashreplace"))
        write_atomically(out / TABLE, table(grades).encode("utf-8-sig", errors="backslashreplace"))
        return [out / PAGE, out / TABLE, grades.write(out)]
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise RunError(
            f"{error.filename or out}: grades cannot be written here: {error.strerror}. Name "
            "another folder with --out."
        ) from error


def html(grades: GradesRecord) -> str:
    """Give the grades as a page."""
    environment = templates(escape, "sparring.grading")
    environment.globals |= {"tables": tables, "levels": levels}
    return environment.get_template("grades.html.jinja").render(grades=grades)


def table(grades: GradesRecord) -> str:
    """Give the grades as CSV, a line for each student and defense."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([field.name for field in tables.FIELDS])
    for row in tables.rows(grades):
        writer.writerow([_plain(field.value(row)) for field in tables.FIELDS])
    return text.getvalue()


def _plain(value: str | float | int | None) -> str | float | int | None:
    """A value that a spreadsheet takes for what it is; a text never for a formula."""
    if isinstance(value, str) and value.lstrip().startswith(_FORMULA):
        return f"'{value}"
    return value
