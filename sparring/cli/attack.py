"""sparring attack: attack a trained defense and judge what comes of it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sparring import data as data_sets
from sparring import defenses
from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption, assignments, from_fields, option_of
from sparring.cli.program import app, command_line, handled
from sparring.errors import RunError
from sparring.evaluation.request import EvaluationRequest

_option = partial(option_of, EvaluationRequest)
_ATTACKS = ("noise", "fgsm", "pgd", "square", "reference")


@app.command(epilog="Example: sparring attack blur pgd --eps 0.1 -n 20 -o steps=100")
@from_fields
def attack(
    *,
    defense: Annotated[str, _option("defense", typer.Argument, defenses.NAMES)],
    attack: Annotated[str, _option("attack", typer.Argument, _ATTACKS)] = "pgd",
    data: Annotated[str | None, _option("data", words=data_sets.NAMES)] = None,
    eps: Annotated[str | None, _option("eps")] = None,
    images: Annotated[str | None, _option("images")] = None,
    options: Annotated[list[str] | None, _option("options")] = None,
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
            _expect_run(request.keywords["runs"], defense, data)
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


def _expect_run(runs: Path, defense: str, data: str | None) -> None:
    """Say how to train the defense of a name that is not trained yet."""
    run = runs / Path(data or "digits").stem / defense
    if not run.is_dir():
        words = ["--data", data] if data else []
        words += ["--out", str(runs)] if runs != Path("runs") else []
        raise RunError(
            f"{run}: no such run directory. To train it: {command_line('train', defense, *words)}"
        )


def _indices(text: str | None) -> list[int] | None:
    """Indices of images, from I,J,..."""
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--images: expected numbers as 3,17,52, got {text!r}") from None
