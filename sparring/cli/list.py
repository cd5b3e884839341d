"""sparring list: the defenses, and which are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring import defenses
from sparring.cli.program import app, handled


@app.command("list", epilog="Example: sparring list --out runs/seed-0")
def list_defenses(
    out: Annotated[Path, typer.Option(help="Folder of runs to look into.", file_okay=False)] = Path(
        "runs"
    ),
) -> None:
    """Show the defenses, one line each, and which are trained."""
    with handled():
        from sparring.cli import display
        from sparring.runs.directory import Run

        rows = [("defense", "networks", "random", "detects", "trained on", "idea")]
        for name in defenses.NAMES:
            facts = defenses.describe(name)
            runs = (Run(folder) for folder in sorted(out.glob(f"*/{name}")))
            trained = [run.path.parent.name for run in runs if run.status() == "finished"]
            random, detects = (
                "yes" if fact else "no" for fact in (facts.stochastic, facts.detects)
            )
            where = ", ".join(trained) or "-"
            rows.append((name, facts.networks, random, detects, where, facts.idea))
        print(display.columns(rows))
