"""sparring task: a defense for an agent to attack, and the judge apart from it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sparring import data as data_sets
from sparring import defenses
from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption, assignments, completed, from_fields, option_of
from sparring.cli.program import app, handled, python
from sparring.tasks.request import TaskRequest


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
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="NAME=VALUE",
            help="A setting of a fresh instance, as epochs=10; repeatable.",
        ),
    ] = None,
    no_solution: Annotated[
        bool, typer.Option("--no-solution", help="Do not run the reference attack.")
    ] = False,
    backend: BackendOption = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but what was written.")
    ] = False,
) -> None:
    """Write a task: a defense for an agent to attack in plain PyTorch, and the judge apart.

    The agent's part has the defense, images, the threat model and what is to be handed in; no
    attack, no hint and no result. The judge's part has the run and this Sparring as a wheel. With
    --fresh an instance is trained that nobody has seen, whose seed, width and eps follow from SEED.
    """
    with handled():
        backend_choice.choose(backend)
        wanted = request(
            defense=defense,
            out=out,
            data=data,
            eps=eps,
            solution=not no_solution,
            settings=assignments(set_ or [], "--set"),
        )
        from sparring.cli import display
        from sparring.tasks import bundle

        with display.shown(quiet) as training, display.counted(quiet, 0) as progress:
            written = bundle.task(wanted, progress=progress, training=training)
        judge = written.folder / ("tests/judge" if wanted.form == "harbor" else "judge")
        print(f"{written.folder}\nThreat    {written.threat.norm} eps {written.threat.eps:.6g}")
        if written.solution is not None:
            print(f"Solution  worth {written.solution.value:.4f}")
        print(f"Judge     {python()} -I -m sparring reward {judge} FILE --sha256 {written.sha256}")
