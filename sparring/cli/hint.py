"""sparring hint: what helps who tries to break a defense, one sentence at a time."""

from __future__ import annotations

from typing import Annotated

import typer

from sparring import defenses
from sparring.cli.options import completed
from sparring.cli.program import app, command_line, handled
from sparring.errors import SettingsError, printable


@app.command(epilog="Example: sparring hint blur")
def hint(
    defense: Annotated[
        str,
        typer.Argument(
            help="Name of the defense to break.", autocompletion=completed(defenses.listed)
        ),
    ],
    number: Annotated[
        int, typer.Argument(help="Which hint, from a first question to the way.")
    ] = 1,
) -> None:
    """Give a hint on how to break a defense; the next one only when it is asked for.

    After the last there is the reference attack, which gives everything away.
    """
    with handled():
        source = defenses.find(defense)
        hints = defenses.describe(defense).hints
        if not hints:
            raise SettingsError(f"no hints on {defense}; how it works stands in {source.place}")
        if not 1 <= number <= len(hints):
            raise SettingsError(f"number: expected one from 1 to {len(hints)}, got {number}")
        print(f"Hint {number} of {len(hints)}: {printable(hints[number - 1])}")
        if number < len(hints):
            print(f"Next      {command_line('hint', defense, number + 1)}")
        elif defense in defenses.NAMES or "reference_attack" in source.written().assigned:
            print(f"Spoiler   {command_line('attack', defense, 'reference')}")
