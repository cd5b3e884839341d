"""sparring doctor: what this machine can do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sparring.cli.program import EXIT_FAILED, app, handled


@app.command(epilog="Example: sparring doctor --no-probe")
def doctor(
    probe: Annotated[
        bool, typer.Option(help="Train on each backend for a second, and read the data sets.")
    ] = True,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder to look for the data sets' files in.", file_okay=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs.", file_okay=False)] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what this machine can do: cores, memory, backends and their speed, data sets, disk.

    Each backend is tried in a process of its own, for a second after importing it, so a broken one
    is reported like any other. The exit code is 0 when at least one backend works (with --no-probe:
    is installed).
    """
    with handled():
        from sparring.cli import display
        from sparring.evaluation import isolation
        from sparring.experiments import doctor as doctoring

        with display.told() as tell:
            findings = doctoring.examine(data_dir, out, probe=probe, tell=tell)
        findings = replace(findings, isolation=isolation.told())
        print(json.dumps(findings.as_json(), indent=2) if as_json else findings)
        if not findings.usable:
            raise typer.Exit(EXIT_FAILED)
