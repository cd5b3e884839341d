"""Models taken elsewhere, each conversion proven on 256 inputs before it is kept."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sparring import backend
from sparring.conversion.targets import TARGETS, Answer
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import ConversionError, SettingsError, unknown_name
from sparring.experiments.train import load
from sparring.networks.allconv import AllConv, in_batches
from sparring.version import __version__

INPUTS = 256
TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit of all."""


def convert(
    run: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    dataset: Dataset | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Convert every network of a run; what was compared and found, by network.

    Args:
        run: a finished run directory, trained on any backend.
        to: one of TARGETS.
        out: folder to write; None takes one named `to` in the run.
        dataset: images of it are half of the inputs both sides are compared on; without one all
            are random.
        force: replace what is there.

    A network is what a defense's images go through, its input transformation included; what a
    defense makes of several networks, or rejects, stays with `sparring.load`. Raises
    ConversionError when the converted network answers otherwise, when something is there already,
    or when a package is missing; nothing is left half-written.
    """
    if to not in TARGETS:
        raise SettingsError(unknown_name("target", to, list(TARGETS)))
    defense = load(run)
    assert defense.path is not None
    target = Path(out) if out is not None else defense.path / to
    if target.exists() and not force:
        raise ConversionError(f"{target} exists; --force replaces it")
    inputs = _inputs(defense, dataset)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        made = Path(temporary) / target.name
        made.mkdir()
        proof: dict[str, Any] = {"inputs": INPUTS, "tolerance": TOLERANCE, "networks": {}}
        answers = TARGETS[to].write(defense, made)
        for number, (net, answer) in enumerate(zip(defense.nets, answers, strict=True)):
            proof["networks"][f"network-{number}"] = _compare(net, answer, inputs, number)
        (made / "conversion.json").write_text(json.dumps(proof, indent=2) + "\n", encoding="utf-8")
        (made / "README.md").write_text(_card(defense, to, proof), encoding="utf-8")
        if target.exists():
            target.rename(Path(temporary) / "replaced")
        made.rename(target)
    return proof


def _inputs(defense: Defense, dataset: Dataset | None) -> np.ndarray:
    """Images both sides answer: random ones, and ones of the data set."""
    random = np.random.default_rng(0)
    images = random.random((INPUTS, *defense.info.shape), dtype=np.float32)
    if dataset is not None:
        known = dataset.x_test[: INPUTS // 2].astype(np.float32) / 255
        images[: len(known)] = known
    return images


def _compare(net: AllConv, answer: Answer, inputs: np.ndarray, number: int) -> dict[str, float]:
    """The largest difference between a network's logits and the converted one's."""
    expected = in_batches(backend.compile(net, net.variables), inputs)
    found = answer(inputs)
    largest = float(np.abs(expected).max())
    difference = float(np.abs(expected - found).max())
    if not difference <= TOLERANCE * largest:
        raise ConversionError(
            f"network {number}: expected logits within {TOLERANCE:g} of the largest, "
            f"{largest:.4g}; "
            f"the converted network differs by {difference:.4g}. Nothing was written."
        )
    return {"largest_logit": largest, "largest_difference": difference}


def _card(defense: Defense, to: str, proof: dict[str, Any]) -> str:
    """A README for what was written."""
    assert defense.path is not None
    run = json.loads((defense.path / "run.json").read_bytes())
    worst = max(each["largest_difference"] for each in proof["networks"].values())
    sizes = dict(zip("HWC", defense.info.shape, strict=True))
    layout = "".join(str(sizes.get(letter, letter)) for letter in TARGETS[to].layout)
    networks = f"{len(defense.nets)} network{'s' if len(defense.nets) > 1 else ''}"
    rest = f"Left out: {defense.outside}." if defense.outside else "Nothing is left out."
    results = run["results"]
    figures = ", ".join(
        f"{what.replace('_', ' ')} {results[what]:.2%}"
        for what in ("test_accuracy", "rejected")
        if what in results
    )
    return f"""# {defense.name} on {defense.info.name}

{networks} converted by Sparring {__version__} for {to}. {rest}

- Images: float32 in [0, 1], {layout}.
- Classes: {", ".join(defense.info.class_names)}.
- The defense: {figures or "not tested"}; seed {run.get("seed")}, trained on {run.get("backend")}.
- SHA-256 of the run's weights: {run["weights_sha256"]}
- Largest difference of a logit on {proof["inputs"]} inputs: {worst:.3g} (conversion.json).
- Settings: {json.dumps(run["settings"])}

{TARGETS[to].use}"""
