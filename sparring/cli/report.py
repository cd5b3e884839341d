"""sparring report: the results of many runs in one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.cli.program import app, handled


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
        from rich.table import Table

        from sparring.cli import display
        from sparring.reports import page, tables
        from sparring.reports.gather import gather

        gathered = gather(runs)
        paths = page.write(gathered, out or runs)
        console = display.Output(markup=False, highlight=False, emoji=False)
        columns = [column for column in tables.DEFENSE_COLUMNS if column.terminal]
        for section in gathered.sections:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in columns:
                table.add_column(column.header, overflow="fold")
            for row in tables.Table(columns, section.groups).cells():
                table.add_row(*("\n".join([cell.text, *cell.below]) for cell in row))
            console.print(section.title, soft_wrap=True)
            console.print(table, "")
        for place, problem in gathered.damaged:
            console.print(f"Damaged   {place}: {problem}", soft_wrap=True)
        print(f"Report    {paths[0]}, {paths[1].name} and {paths[2].name}")
