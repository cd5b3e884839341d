"""sparring exercise: an attack to fill in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring import defenses
from sparring.cli.options import completed
from sparring.cli.program import app, command_line, handled


@app.command(epilog="Example: sparring exercise blur")
def exercise(
    defense: Annotated[
        str,
        typer.Argument(
            help="Name of the defense to break.", autocompletion=completed(defenses.listed)
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write it into.", file_okay=False)] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write an attack to fill in, attack_NAME.py, for breaking a defense yourself.

    'sparring attack NAME attack_NAME.py' grades it.
    """
    with handled():
        from sparring.defenses import exercise as exercises

        path = exercises.write(defense, out, force)
        print(
            f"{path}\n"
            f"Train     {command_line('train', defense)}\n"
            f"Grade     {command_line('attack', defense, path)}\n"
            f"Stuck?    {command_line('hint', defense)}"
        )
