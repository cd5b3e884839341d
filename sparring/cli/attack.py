"""sparring attack: attack a trained defense and judge what comes of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from traceback import print_exception
from typing import Annotated

import typer

from sparring import attacks, defenses
from sparring import data as data_sets
from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption, assignments, from_fields, option_of
from sparring.cli.program import app, command_line, handled
from sparring.errors import AttackError
from sparring.evaluation.request import EvaluationRequest

_option = partial(option_of, EvaluationRequest)


@app.command(epilog="Example: sparring attack blur pgd --eps 0.1 -n 20 -o steps=100")
@from_fields
def attack(
    *,
    defense: Annotated[str, _option("defense", typer.Argument, defenses.NAMES)],
    attack: Annotated[str, _option("attack", typer.Argument, attacks.NAMES)] = "pgd",
    data: Annotated[str | None, _option("data", words=data_sets.NAMES)] = None,
    eps: Annotated[str | None, _option("eps")] = None,
    images: Annotated[str | None, _option("images")] = None,
    options: Annotated[list[str] | None, _option("options")] = None,
    request: partial[EvaluationRequest],
    backend: BackendOption = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="If the attack raises, print where, in full.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but the verdict.")
    ] = False,
) -> None:
    """Attack a trained defense and judge what comes of it.

    Every adversarial image is checked independently: shape, type, range, distance, and whether the
    defense answers with another label and does not reject it. The verdict goes to a folder of the
    run: verdict.json, adversarial.safetensors, and verdict.html to look at; an interrupted
    evaluation goes on from there. A finished verdict is never replaced without --force; other
    options have a folder of their own.
    """
    with handled("The same command goes on with the images that are left."):
        backend_choice.choose(backend)
        if not Path(defense).is_dir():
            defenses.describe(defense)  # which refuses a wrong name before a framework is imported
        wanted = request(
            defense=defense,
            attack=attack,
            data=data,
            eps=eps,
            images=_indices(images),
            options=assignments(options or [], "--option"),
        )

        from sparring.cli import display
        from sparring.evaluation.evaluate import evaluate

        total = len(wanted.images or ()) or wanted.n
        with _explained(traceback), display.counted(quiet, total) as progress:
            verdict = evaluate(wanted, progress=progress)
        print(verdict)
        file = verdict.file
        assert file is not None  # a request from here is saved
        if file.is_relative_to(Path.cwd()):
            file = file.relative_to(Path.cwd())
        print(f"Verdict   {file}, adversarial.safetensors and examples.svg")
        if verdict.failed:
            again = command_line(*sys.argv[1:], "--images", ",".join(map(str, verdict.failed)))
            print(f"Failed    {again}")
        print(f"Page      {file.with_name('verdict.html')}")


@contextmanager
def _explained(wanted: bool) -> Iterator[None]:
    """Print the full traceback of what an attack raised, if that is wanted."""
    try:
        yield
    except AttackError as error:
        if wanted:
            print_exception(error.__cause__ or error)
        raise


def _indices(text: str | None) -> list[int] | None:
    """Indices of images, from I,J,..."""
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--images: expected numbers as 3,17,52, got {text!r}") from None
