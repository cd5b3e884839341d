"""sparring report: the results of many runs in one page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli.program import app, handled

if TYPE_CHECKING:
    from rich.table import Table as Printed

    from sparring.reports.tables import Table


@app.command(epilog="Example: sparring report runs --out page")
def report(
    runs: Annotated[
        Path, typer.Argument(help="Folder of runs, at any depth.", file_okay=False)
    ] = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write into. Default: that of the runs.", file_okay=False),
    ] = None,
) -> None:
    """Gather the results of all runs below a folder into one page.

    report.html shows accuracies, attacks, curves and examples, by data set and defense, with means
    over seeds; it is one file that needs no network. report.md and report.json have the same
    figures.
    """
    with handled():
        from sparring.cli import display
        from sparring.reports import page, tables
        from sparring.reports.gather import gather

        gathered = gather(runs)
        paths = page.write(gathered, out or runs)
        console = display.Output(markup=False, highlight=False, emoji=False)
        for section in gathered.sections:
            console.print(section.title, soft_wrap=True)
            for part in _printed(tables.defense_table(section), sys.maxsize):
                console.print(part, "")
            for threat, table in tables.attack_tables(section):
                console.print(f"{section.title}, attacks within {threat}", soft_wrap=True)
                for part in _printed(table, console.width):
                    console.print(part, "")
        for place, problem in gathered.damaged:
            print(f"Damaged   {place}: {problem}", file=sys.stderr)
        print(f"Report    {paths[0]}, {paths[1].name} and {paths[2].name}")


def _printed(table: Table[Any], width: int) -> Iterator[Printed]:
    """A table in parts of so many characters at most, each with the first column."""
    from rich.cells import cell_len
    from rich.table import Table as Printed

    rows = [["\n".join([cell.text, *cell.below]) for cell in cells] for cells in table.cells()]
    columns = [
        (column.header, [row[at] for row in rows])
        for at, column in enumerate(table.columns)
        if column.terminal
    ]
    widths = [
        max(cell_len(line) for text in (header, *texts) for line in text.split("\n"))
        for header, texts in columns
    ]
    parts, used = [[0]], widths[0]
    for at in range(1, len(columns)):
        if len(parts[-1]) > 1 and used + 2 + widths[at] > width:
            parts.append([0])
            used = widths[0]
        parts[-1].append(at)
        used += 2 + widths[at]
    for part in parts:
        printed = Printed(box=None, pad_edge=False, header_style="bold")
        for at in part:
            printed.add_column(columns[at][0], overflow="fold")
        for row in zip(*(columns[at][1] for at in part), strict=True):
            printed.add_row(*row)
        yield printed
