"""sparring task: a defense for an agent to attack, and the judge apart from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sparring import data as data_sets
from sparring import defenses
from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption, assignments, completed, from_fields, option_of
from sparring.cli.program import app, handled, python
from sparring.experiments.request import option
from sparring.tasks.request import TaskRequest


@dataclass(frozen=True)
class HowOptions:
    """How `sparring task` goes about it, apart from what a task is."""

    set_: list[str] | None = option(
        None,
        "A setting of a fresh instance, as epochs=10; repeatable.",
        "NAME=VALUE",
        "--set",
        "-s",
    )
    no_solution: bool = option(False, "Do not run the reference attack.")
    backend: BackendOption = None
    quiet: bool = option(False, "Print nothing but what was written.", "", "--quiet", "-q")


@app.command(epilog="Example: sparring task blur --out task-blur --fresh 7 -n 50")
@from_fields
def task(
    *,
    defense: Annotated[
        str,
        typer.Argument(
            help="Name of a trained defense, or a run directory; with --fresh the name alone.",
            autocompletion=completed(*defenses.NAMES),
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write, new or empty.", file_okay=False)
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE|FOLDER",
            help="Data set of the defense named. Default: digits, or a run directory's own.",
            autocompletion=completed(*data_sets.NAMES),
        ),
    ] = None,
    eps: Annotated[str | None, option_of(TaskRequest, "eps")] = None,
    request: partial[TaskRequest],
    how: HowOptions,
) -> None:
    """Write a task: a defense for an agent to attack in plain PyTorch, and the judge apart.

    The agent's part has the defense, images, the threat model and what is to be handed in; no
    attack, no hint and no result. The judge's part has the run and this Sparring as a wheel. With
    --fresh an instance is trained that nobody has seen, whose seed, width and eps follow from SEED.
    """
    with handled():
        backend_choice.choose(how.backend)
        wanted = request(
            defense=defense,
            out=out,
            data=data,
            eps=eps,
            solution=not how.no_solution,
            settings=assignments(how.set_ or [], "--set"),
        )
        from sparring.cli import display
        from sparring.tasks import bundle

        with display.shown(how.quiet) as training, display.counted(how.quiet, 0) as progress:
            written = bundle.task(wanted, progress=progress, training=training)
        judge = written.folder / ("tests/judge" if wanted.form == "harbor" else "judge")
        print(f"{written.folder}\nThreat    {written.threat.norm} eps {written.threat.eps:.6g}")
        if written.solution is not None:
            print(f"Solution  worth {written.solution.value:.4f}")
        print(f"Judge     {python()} -I -m sparring reward {judge} FILE --sha256 {written.sha256}")
