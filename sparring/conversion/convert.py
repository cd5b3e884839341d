"""Models taken elsewhere, each conversion proven on 256 inputs before it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

import numpy as np

from sparring import backend
from sparring.conversion.staging import staged
from sparring.conversion.targets import TARGETS, Answer
from sparring.data import Dataset
from sparring.data.reading import sha256
from sparring.defenses.defense import Defense
from sparring.errors import ConversionError, DataError, RunError, SettingsError, unknown_name
from sparring.experiments.load import load
from sparring.networks.allconv import AllConv, in_batches
from sparring.runs.directory import Run
from sparring.runs.records import RunRecord
from sparring.version import __version__

INPUTS = 256
TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit of all."""


class Difference(TypedDict):
    """How a network and the converted one compare: both numbers are without a sign."""

    largest_logit: float
    largest_difference: float


class Proof(TypedDict):
    """What a conversion was held to; the contents of conversion.json."""

    inputs: int
    """On how many images both sides were asked."""
    tolerance: float
    """The largest difference allowed, relative to the largest logit."""
    networks: dict[str, Difference]
    files: dict[str, str]
    """The SHA-256 of each file that was written."""


def convert(
    run: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    dataset: Dataset | None = None,
    force: bool = False,
    code: str | Path | type[Defense] | None = None,
) -> Proof:
    """Convert every network of a run, and prove each conversion.

    A network is what a defense's images go through, its transform included; what a defense makes of
    several networks, or rejects, stays with `sparring.load`. Nothing is left half-written, and what
    a conversion replaces stays whole until the new one is; what a killed one left beside its place
    is put right by the next conversion there.

    Args:
        run: a finished run directory, trained on any backend.
        to: one of TARGETS.
        out: folder to write; None takes one named `to` in the run.
        dataset: images of it are half of the inputs both sides are compared on; without one all
            are random.
        force: replace what is in the way.
        code: the class of a defense of one's own, as `sparring.load` takes it.

    Returns:
        What was compared.

    Raises:
        SettingsError: for an unknown target.
        DataError: for a data set of other images than the run's.
        DefenseError: for a class that is missing or cannot be loaded.
        RunError: for a run that cannot be loaded, or is trained anew meanwhile, and while another
            process converts to the same place.
        ConversionError: when a converted network answers otherwise, a hook cannot be traced,
            something is in the way, or a package is missing.
    """
    if to not in TARGETS:
        raise SettingsError(unknown_name("target", to, list(TARGETS)))
    record = Run(run).read()
    defense = load(run, code)
    if defense.weights_sha256 != record.weights_sha256:
        raise RunError(f"{run}: was trained anew meanwhile; convert it again")
    inputs = _inputs(defense, dataset)
    target = Path(out) if out is not None else Path(run) / to
    if Path(run).resolve().is_relative_to(target.resolve()):
        raise ConversionError(f"{target} holds the run itself; choose another folder with --out")
    with staged(target, force) as folder:
        proof: Proof = {"inputs": INPUTS, "tolerance": TOLERANCE, "networks": {}, "files": {}}
        answers = TARGETS[to].write(defense, folder)
        for number, (net, answer) in enumerate(zip(defense.nets, answers, strict=True)):
            proof["networks"][f"network-{number}"] = _compare(net, answer, inputs, number)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            proof["files"][name] = sha256(file.read_bytes())
        about = json.dumps(proof, indent=2) + "\n"
        (folder / "conversion.json").write_text(about, encoding="utf-8")
        (folder / "README.md").write_text(_card(defense, record, to, proof), encoding="utf-8")
    return proof


def _inputs(defense: Defense, dataset: Dataset | None) -> np.ndarray:
    """Choose images that both sides answer: random ones, and ones of the data set."""
    random = np.random.default_rng(0)
    images = random.random((INPUTS, *defense.info.shape), dtype=np.float32)
    if dataset is not None:
        if dataset.shape != defense.info.shape:
            raise DataError(
                f"expected images {list(defense.info.shape)} as the run's, those of {dataset.name} "
                f"are {list(dataset.shape)}"
            )
        known = dataset.x_test[: INPUTS // 2].astype(np.float32) / 255
        images[: len(known)] = known
    return images


def _compare(net: AllConv, answer: Answer, inputs: np.ndarray, number: int) -> Difference:
    """Compare a network's logits with the converted one's; ConversionError where they differ."""
    expected = in_batches(backend.compile(net, net.variables), inputs)
    converted = answer(inputs)
    largest = float(np.abs(expected).max())
    difference = float(np.abs(expected - converted).max())
    if not difference <= TOLERANCE * largest:
        raise ConversionError(
            f"network {number}: expected logits within {TOLERANCE:g} of the largest, "
            f"{largest:.4g}; "
            f"the converted network differs by {difference:.4g}. Nothing was written."
        )
    return {"largest_logit": largest, "largest_difference": difference}


def _card(defense: Defense, run: RunRecord, to: str, proof: Proof) -> str:
    """Write a README for what was converted."""
    worst = max(network["largest_difference"] for network in proof["networks"].values())
    sizes = dict(zip("HWC", defense.info.shape, strict=True))
    layout = "".join(str(sizes.get(letter, letter)) for letter in TARGETS[to].layout)
    networks = f"{len(defense.nets)} network{'s' if len(defense.nets) > 1 else ''}"
    rest = f"Left out: {defense.outside}." if defense.outside else "Nothing is left out."
    results = run.results.as_json() if run.results else {}
    figures = ", ".join(
        f"{what.replace('_', ' ')} {results[what]:.2%}"
        for what in ("test_accuracy", "rejected")
        if what in results
    )
    return f"""# {defense.name} on {defense.info.name}

{networks} converted by Sparring {__version__} for {to}. {rest}

- Images: float32 in [0, 1], {layout}.
- Classes: {", ".join(defense.info.class_names)}.
- The defense: {figures or "not tested"}; seed {run.seed}, trained on {run.backend}.
- SHA-256 of the run's weights: {run.weights_sha256}
- Largest difference of a logit on {proof["inputs"]} inputs: {worst:.3g} (conversion.json).
- Settings: {json.dumps(run.settings)}

{TARGETS[to].use}"""
