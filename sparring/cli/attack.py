"""sparring attack: attack a trained defense and judge what comes of it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sparring import defenses
from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption, assignments, from_fields, option_of
from sparring.cli.program import app, command_line, handled
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
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but the verdict.")
    ] = False,
) -> None:
    """Attack a trained defense and judge what comes of it.

    Every adversarial image is checked independently: shape, type, range, distance, and whether the
    defense answers with another label and does not reject it. The verdict goes to a folder of the
    run: verdict.json and adversarial.safetensors; an interrupted evaluation goes on from there.
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

        with display.counted(quiet, len(wanted.images or ()) or wanted.n) as progress:
            verdict = evaluate(wanted, progress=progress)
        print(verdict)
        print(f"Verdict   {verdict.file}, adversarial.safetensors and examples.svg")
        if verdict.failed:
            again = command_line(*sys.argv[1:], "--images", ",".join(map(str, verdict.failed)))
            print(f"Failed    {again}")


def _indices(text: str | None) -> list[int] | None:
    """Indices of images, from I,J,..."""
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--images: expected numbers as 3,17,52, got {text!r}") from None
