"""A trained defense in plain PyTorch: networks, programs of the rest, and source to read."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from sparring import backend
from sparring.conversion import convert, torch_answer
from sparring.conversion.tracing import save_program, traced
from sparring.data import Dataset
from sparring.defenses import reading
from sparring.defenses.defense import Defense
from sparring.errors import ConversionError, SettingsError
from sparring.randomness import Chance
from sparring.runs.files import write_json

_HERE = Path(torch_answer.__file__).parent
_INIT = '''"""The defense in plain PyTorch; torch_answer.py says how it is asked."""

from .torch_answer import Defense, load

__all__ = ["Defense", "load"]
'''
_INPUTS = 64
_SEED = 7  # any: both sides are asked with the same


def write(defense: Defense, folder: Path, dataset: Dataset) -> None:
    """Write a defense so that it needs nothing but PyTorch, and prove that it answers alike.

    Args:
        defense: a loaded run.
        folder: is made.
        dataset: images of it are half of what both sides are asked about.

    Raises:
        SettingsError: PyTorch is not the backend.
        ConversionError: something cannot be traced, or the plain defense answers otherwise.
    """
    if backend.name != "torch":
        raise SettingsError(
            f"task: expected the backend torch, which writes the defense in plain PyTorch, running "
            f"is {backend.name}; use --backend torch (KERAS_BACKEND=torch), whichever trained it"
        )
    assert defense.path is not None
    folder.mkdir()
    with tempfile.TemporaryDirectory() as place:
        converted = Path(place) / "torch"
        convert.convert(defense.path, "torch", converted, dataset=dataset)
        whole = {f"network-{number}.pt2" for number in range(len(defense.nets))}
        for file in sorted(converted.iterdir()):
            if file.suffix in (".safetensors", ".pt2") and file.name not in whole:
                shutil.copy(file, folder)
    programs = [name for name in ("logits", "probabilities", "scores") if _own(defense, name)]
    for name in programs:
        _write_program(defense, name, folder / f"{name}.pt2")
    for name in ("torch_model.py", "torch_answer.py"):
        shutil.copy(_HERE / name, folder)
    (folder / "__init__.py").write_text(_INIT, encoding="utf-8")
    write_json(folder / "facts.json", _facts(defense, programs))
    if defense.arrays:
        arrays = {name: np.ascontiguousarray(array) for name, array in defense.arrays.items()}
        (folder / "arrays.safetensors").write_bytes(safetensors.numpy.save(arrays))
    (folder / "source").mkdir()
    for name, source in reading.sources(defense.name).items():
        (folder / "source" / name).write_text(source, encoding="utf-8")
    _expect_alike(defense, folder, dataset)


def _own(defense: Defense, name: str) -> bool:
    """Whether a defense answers by a method of its own in place of the one that all share."""
    return getattr(type(defense), name) is not getattr(Defense, name)


def _facts(defense: Defense, programs: list[str]) -> dict[str, Any]:
    return {
        "defense": defense.name,
        "shape": list(defense.info.shape),
        "class_names": list(defense.info.class_names),
        "networks": len(defense.nets),
        "programs": programs,
        "stochastic": defense.stochastic,
        "threshold": defense.threshold,
        "settings": defense.settings.as_json(),
    }


def _write_program(defense: Defense, name: str, file: Path) -> None:
    """Write one of a defense's methods as a program of images [B, H, W, C] and seeds int32 [B]."""
    import torch

    class Answer(torch.nn.Module):
        """The method."""

        def forward(self, images: Any, seeds: Any) -> Any:
            """Call it."""
            chance = Chance(images, seeds) if defense.stochastic else None
            return getattr(defense, name)(images, chance)

    batch = torch.export.Dim("batch", min=1)
    example = torch.full((2, *defense.info.shape), 0.5), torch.zeros(2, dtype=torch.int32)
    sizes = ({0: batch}, {0: batch})
    with backend.isolated:
        program = traced(Answer(), example, sizes, f"{type(defense).__name__}.{name}")
    save_program(program, file)


def _expect_alike(defense: Defense, folder: Path, dataset: Dataset) -> None:
    """Ask both; ConversionError where the plain defense answers otherwise."""
    import torch

    inputs = np.random.default_rng(0).random((_INPUTS, *defense.info.shape), dtype=np.float32)
    known = dataset.x_test[: _INPUTS // 2].astype(np.float32) / 255
    inputs[: len(known)] = known
    expected = defense.classify(inputs, _SEED), defense.detect(inputs, _SEED)
    plain, images = torch_answer.load(folder), torch.from_numpy(inputs)
    with torch.no_grad():
        answers = plain.probabilities(images, _SEED), plain.scores(images, _SEED)
    for what, own, other in zip(("probabilities", "scores"), expected, answers, strict=True):
        difference = float(np.abs(own - other.numpy()).max())
        if not difference <= convert.TOLERANCE * max(1.0, float(np.abs(own).max())):
            raise ConversionError(
                f"{defense.name}: expected the same {what} of the defense in plain PyTorch; they "
                f"differ by {difference:.4g}. Nothing was written."
            )
