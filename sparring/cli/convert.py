"""sparring convert: a defense's networks elsewhere, or the course's checkpoints here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption, from_fields, option_of
from sparring.cli.program import app, handled
from sparring.errors import SettingsError, unknown_name
from sparring.evaluation.request import EvaluationRequest
from sparring.experiments.request import option


@dataclass(frozen=True)
class WrittenOptions:
    """Where a conversion is written, and what it is compared on."""

    out: Path | None = option(
        None, "Folder to write. Default: named after TARGET in the run; runs.", "", "--out", "-o"
    )
    name: str | None = option(None, "What defense a checkpoint is of.", "NAME", "--as")
    data_dir: Path | None = option(
        None, "Folder with the data set's files, to compare on them too."
    )
    force: bool = option(False, "Replace what is there.")
    code: Annotated[str | None, option_of(EvaluationRequest, "code")] = None


@app.command(epilog="Example: sparring convert runs/digits/baseline --to onnx")
@from_fields
def convert(
    *,
    path: Annotated[Path, typer.Argument(help="A run directory, or the course's checkpoints.")],
    to: Annotated[
        str | None, typer.Option(metavar="TARGET", help="torch, keras, onnx, or selfstudy.")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="SOURCE", help="selfstudy")] = None,
    written: WrittenOptions,
    backend: BackendOption = None,
) -> None:
    """Convert a trained defense's networks for use elsewhere, or the course's checkpoints.

    With --to, both sides answer 256 inputs; the largest difference of a logit is printed and kept
    beside the result, and nothing is kept when it is above 1e-4 of the largest logit. With --from
    selfstudy, PATH is a checkpoint of the course or its folder of checkpoints, and --out a folder
    of runs.
    """
    with handled():
        backend_choice.choose(backend)

        if (to is None) == (from_ is None):
            raise typer.BadParameter("expected either --to TARGET or --from selfstudy")
        if from_ is not None:
            if from_ != "selfstudy":
                raise SettingsError(unknown_name("source", from_, ["selfstudy"]))
            from sparring.conversion import selfstudy

            for line in selfstudy.convert(path, written.out or Path("runs"), name=written.name):
                print(line)
            return

        from sparring.cli import display
        from sparring.conversion import convert as converting
        from sparring.experiments.dataset import at_hand
        from sparring.experiments.load import load

        assert to is not None
        defense = load(path, written.code)
        display.warn(defense.remarks)
        dataset = at_hand(defense.info, written.data_dir)
        proof = converting.convert(
            path, to, written.out, dataset=dataset, force=written.force, code=written.code
        )
        for network, difference in proof["networks"].items():
            print(
                f"{network}  largest difference {difference['largest_difference']:.3g} of logits "
                f"up to {difference['largest_logit']:.3g}, {proof['inputs']} inputs"
            )
        print(f"Written   {written.out or path / to}, with a README.md")
