"""sparring list: the defenses, and which are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring import defenses
from sparring.cli.columns import columns
from sparring.cli.program import app, handled


@app.command("list", epilog="Example: sparring list --out runs/seed-0")
def list_defenses(
    out: Annotated[Path, typer.Option(help="Folder of runs to look into.", file_okay=False)] = Path(
        "runs"
    ),
) -> None:
    """Show the defenses, one line each, and which are trained."""
    with handled():
        rows = [("defense", "networks", "random", "detects", "trained on", "idea")]
        for name in defenses.NAMES:
            facts = defenses.describe(name)
            trained = [path.parent.name for path in sorted(out.glob(f"*/{name}")) if _done(path)]
            random, detects = (
                "yes" if fact else "no" for fact in (facts.stochastic, facts.detects)
            )
            where = ", ".join(trained) or "-"
            rows.append((name, facts.networks, random, detects, where, facts.idea))
        print(columns(rows))


def _done(path: Path) -> bool:
    """Whether a folder is a run whose training has finished."""
    from sparring.runs.directory import Run  # where nothing is trained yet, not needed

    return Run(path).status() == "finished"
