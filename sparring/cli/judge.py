"""sparring judge: judge adversarial images from a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sparring import data as data_sets
from sparring import defenses
from sparring.backend import choice as backend_choice
from sparring.cli.attack import indices, told_of_files
from sparring.cli.options import BackendOption, assignments, completed, from_fields, option_of
from sparring.cli.program import app, handled
from sparring.evaluation.request import EvaluationRequest
from sparring.experiments.request import option

_option = partial(option_of, EvaluationRequest)


@dataclass(frozen=True)
class JudgeOptions:
    """Options of `sparring judge`, passed on to `sparring.judge`."""

    data_dir: Annotated[Path | None, _option("data_dir")] = None
    model: Annotated[list[str] | None, _option("model")] = None
    code: Annotated[str | None, _option("code")] = None
    resize: Annotated[int | None, _option("resize")] = None
    other_data: Annotated[bool, _option("other_data")] = False
    norm: Annotated[str, _option("norm")] = "Linf"
    eps: str | None = option(None, "Its radius. Default: the data set's.", "X")
    n: Annotated[int, _option("n")] = 100
    eight_bit: bool = option(False, "Judge also after rounding to what a PNG holds.")
    draws: Annotated[int, _option("draws")] = 20
    seed: int | None = option(None, "Of a stochastic defense's draws. Default: drawn.", "N")
    batch_size: int = option(128, "Images that are judged at a time.", "N")
    runs: Annotated[Path, _option("runs")] = Path("runs")
    out: Annotated[Path | None, _option("out")] = None
    force: Annotated[bool, _option("force")] = False


@app.command(epilog="Example: sparring judge baseline images.safetensors --eps 0.1 -n 50")
@from_fields
def judge(
    *,
    defense: Annotated[
        str,
        typer.Argument(
            metavar="DEFENSE",
            help="Name of a trained defense, a run directory, a file with the class of a trained "
            "defense, or a model of your own.",
            autocompletion=completed(defenses.listed),
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Adversarial images: a safetensors file or an .npz, or a folder or .tar of PNG "
            "named by the index of their test image.",
        ),
    ],
    data: Annotated[str | None, _option("data", words=data_sets.NAMES)] = None,
    images: Annotated[str | None, _option("images")] = None,
    options: JudgeOptions,
    backend: BackendOption = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but the verdict.")
    ] = False,
) -> None:
    """Judge adversarial images from a file; no code of an attack runs.

    Every image is checked as those of an attack are. One that is missing, unreadable, too far or
    another test image's is a failure, with its reason. The seed of a defense that answers at random
    is drawn once the file is read; --seed repeats a verdict exactly.
    """
    with handled():
        backend_choice.choose(backend)
        from sparring.cli import display
        from sparring.evaluation import judging

        given: dict[str, Any] = {**vars(options), "images": indices(images), "save": True}
        given["model"] = assignments(options.model or [], "--model")
        with display.counted(quiet, 0) as progress:
            verdict = judging.judge(defense, file, dataset=data, progress=progress, **given)
        print(verdict)
        told_of_files(verdict)
