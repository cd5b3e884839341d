"""The agent's part of a task: the defense, images, an instruction, and a check of its own file."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.runs.files import write_json
from sparring.tasks import plain
from sparring.tasks.request import TaskRequest
from sparring.threat import ThreatModel

SUBMISSION = "submission.npz"
"""The file that is handed in."""

_templates = Environment(
    loader=PackageLoader("sparring.tasks"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # texts for people and shells, of values that are checked
)


def filled_in(template: str, values: Mapping[str, Any]) -> str:
    """Fill in one of the templates.

    Args:
        template: its name, without .jinja.
        values: by name; all that it uses.
    """
    return _templates.get_template(f"{template}.jinja").render(values)


def write(
    folder: Path, request: TaskRequest, defense: Defense, threat: ThreatModel, dataset: Dataset
) -> None:
    """Write what an agent needs, all but the instruction.

    Args:
        folder: is made.
        request: of the task.
        defense: a loaded run.
        threat: the threat model.
        dataset: the task's images, as test images.

    Raises:
        SettingsError, ConversionError: the defense cannot be written in plain PyTorch.
    """
    folder.mkdir(parents=True)
    plain.write(defense, folder / "defense", dataset)
    x = dataset.x_test.astype(np.float32) / 255
    (folder / "images.npz").write_bytes(packed(x=x, y=dataset.y_test.astype(np.int64)))
    about = {
        "norm": threat.norm,
        "eps": threat.eps,
        "rounding": threat.rounding(int(np.prod(x.shape[1:]))),
        "draws": request.draws,
        "file": SUBMISSION,
    }
    write_json(folder / "task.json", about)
    (folder / "check.py").write_text(filled_in("check.py", {}), encoding="utf-8")


def packed(**arrays: np.ndarray) -> bytes:
    """Give arrays as the bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def instruction(
    request: TaskRequest, defense: Defense, threat: ThreatModel, images: int, place: str
) -> str:
    """Write what the agent is told.

    Args:
        request: of the task.
        defense: a loaded run.
        threat: the threat model.
        images: how many there are.
        place: of the agent's files, as "/app/"; "" for the folder that the instruction is in.
    """
    kind, count = type(defense), len(defense.nets)
    answers = " ".join((inspect.getdoc(kind) or "").split())
    return filled_in(
        "instruction.md",
        {
            "defense": kind.name,
            "idea": kind.idea,
            "answers": answers,
            "speaks_of_shared": "shared answer" in answers,
            "class_names": defense.info.class_names,
            "classes": defense.info.classes,
            "shape": defense.info.shape,
            "detects": kind.detects,
            "stochastic": kind.stochastic,
            "threshold": kind.threshold,
            "networks": "one network" if count == 1 else f"{count} networks",
            "arrays": bool(defense.arrays),
            "images": images,
            "norm": threat.norm,
            "eps": threat.eps,
            "draws": request.draws,
            "minutes": request.minutes,
            "place": place,
        },
    )
