"""sparring attack: attack a trained defense and judge what comes of it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from traceback import print_exception
from typing import Annotated

import typer

from sparring import defenses
from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption, assignments, from_fields, option_of
from sparring.cli.program import app, handled
from sparring.errors import AttackError
from sparring.evaluation.request import EvaluationRequest


@app.command()
@from_fields
def attack(
    *,
    defense: Annotated[str, option_of(EvaluationRequest, "defense", typer.Argument)],
    attack: Annotated[str, option_of(EvaluationRequest, "attack", typer.Argument)] = "pgd",
    data: Annotated[str | None, option_of(EvaluationRequest, "data")] = None,
    eps: Annotated[str | None, option_of(EvaluationRequest, "eps")] = None,
    images: Annotated[str | None, option_of(EvaluationRequest, "images")] = None,
    options: Annotated[list[str] | None, option_of(EvaluationRequest, "options")] = None,
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
    run: verdict.json and adversarial.safetensors; an interrupted evaluation goes on from there. A
    finished verdict is never replaced without --force; other options have a folder of their own.
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

        with _explained(traceback), display.counted(quiet) as progress:
            verdict = evaluate(wanted, progress=progress)
        print(verdict)
        file = verdict.file
        if file is not None and file.is_relative_to(Path.cwd()):
            file = file.relative_to(Path.cwd())
        print(f"Verdict   {file}, adversarial.safetensors and examples.svg")
        if verdict.failed:
            again = shlex.join(["sparring", *sys.argv[1:]])
            print(f"Failed    {again} --images {','.join(map(str, verdict.failed))}")


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
