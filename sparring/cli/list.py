"""sparring list: the defenses, and which are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring import defenses
from sparring.cli.program import app, handled
from sparring.errors import SparringError, printable


@app.command("list", epilog="Example: sparring list --out runs/seed-0")
def list_defenses(
    out: Annotated[Path, typer.Option(help="Folder of runs to look into.", file_okay=False)] = Path(
        "runs"
    ),
) -> None:
    """Show the defenses, one line each, and which are trained.

    After Sparring's own come those of installed packages (entry points sparring.defenses) and those
    in Python files of the current folder, which are read and not run.
    """
    with handled():
        from sparring.cli import display
        from sparring.runs.directory import Run

        problems = {name: text for name, text in defenses.others().items() if text}
        rows = [("defense", "networks", "random", "detects", "trained on", "idea")]
        for name in defenses.listed():
            try:
                facts = defenses.describe(name)
            except SparringError as error:
                problems[name] = str(error)
                continue
            runs = (Run(folder) for folder in sorted(out.glob(f"*/{facts.name}")))
            trained = [run.path.parent.name for run in runs if run.status() == "finished"]
            random, detects = (
                "yes" if fact else "no" for fact in (facts.stochastic, facts.detects)
            )
            where = ", ".join(trained) or "-"
            # Texts of files that do not run, which are anybody's.
            networks, idea = printable(facts.networks), printable(facts.idea)
            rows.append((name, networks, random, detects, where, idea))
        print(display.columns(rows))
        display.warn(f"{name} is left out: {text}" for name, text in problems.items())
