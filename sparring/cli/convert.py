"""sparring convert: a defense's networks elsewhere, or the course's checkpoints here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption
from sparring.cli.program import app, handled
from sparring.errors import SettingsError, unknown_name


@app.command()
def convert(
    path: Annotated[Path, typer.Argument(help="A run directory, or the course's checkpoints.")],
    to: Annotated[
        str | None, typer.Option(metavar="TARGET", help="torch, keras, onnx, or selfstudy.")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="SOURCE", help="selfstudy")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write. Default: named after TARGET in the run; runs."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="What defense a checkpoint is of.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the data set's files, to compare on them too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
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

            for line in selfstudy.convert(path, out or Path("runs"), name=name):
                print(line)
            return

        from sparring import data
        from sparring.conversion import convert as converting
        from sparring.experiments.load import load

        assert to is not None
        data_name = load(path).info.name
        known = data_name == "digits" or data_dir is not None
        dataset = data.load(data_name, data_dir) if known else None
        proof = converting.convert(path, to, out, dataset=dataset, force=force)
        for network, found in proof["networks"].items():
            print(
                f"{network}  largest difference {found['largest_difference']:.3g} of logits up to "
                f"{found['largest_logit']:.3g}, {proof['inputs']} inputs"
            )
        print(f"Written   {out or path / to}, with a README.md")
