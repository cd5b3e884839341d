"""sparring reward: what a file that was handed in for a task is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption
from sparring.cli.program import app, handled


@app.command(epilog="Example: sparring reward task-blur/judge submission.npz --out verdict")
def reward(
    task: Annotated[
        Path, typer.Argument(help="The judge's part of a task that 'sparring task' wrote.")
    ],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Adversarial images, as 'sparring judge' takes them."),
    ],
    sha256: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="Of the judge's part, as 'sparring task' told it: it is refused "
            "if it is not as it was written.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for reward.json and the verdict.", file_okay=False)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of a stochastic defense's draws. Default: drawn.", min=0),
    ] = None,
    backend: BackendOption = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but the verdict.")
    ] = False,
) -> None:
    """Judge what was handed in for a task, and write the reward.

    The reward is the share of broken images among those that the defense answers rightly as they
    are. A file that is missing or cannot be read is worth 0. Nothing of it runs.
    """
    with handled():
        backend_choice.choose(backend)
        from sparring.cli import display
        from sparring.tasks import judging

        with display.counted(quiet, 0) as progress:
            found = judging.reward(task, file, sha256=sha256, out=out, seed=seed, progress=progress)
        print(found)
