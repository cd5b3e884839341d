"""sparring list: the defenses, and which are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring import defenses
from sparring.cli.columns import columns
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
        problems = {name: text for name, text in defenses.others().items() if text}
        rows = [("defense", "networks", "random", "detects", "trained on", "idea")]
        for name in defenses.listed():
            try:
                facts = defenses.describe(name)
            except SparringError as error:
                problems[name] = str(error)
                continue
            folders = sorted(out.glob(f"*/{facts.name}"))
            trained = [path.parent.name for path in folders if _done(path)]
            random, detects = (
                "yes" if fact else "no" for fact in (facts.stochastic, facts.detects)
            )
            where = ", ".join(trained) or "-"
            # Texts of files that do not run, which are anybody's.
            networks, idea = printable(facts.networks), printable(facts.idea)
            rows.append((name, networks, random, detects, where, idea))
        print(columns(rows))
        if problems:
            from sparring.cli import display

            display.warn(f"{name} is left out: {text}" for name, text in problems.items())


def _done(path: Path) -> bool:
    """Whether a folder is a run whose training has finished."""
    from sparring.runs.directory import Run  # where nothing is trained yet, not needed

    return Run(path).status() == "finished"
