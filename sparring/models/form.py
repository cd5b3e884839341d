"""What a user declares of a model, and whether it answers so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from sparring.errors import ModelError, SettingsError, shown, unknown_name

LAYOUTS = ("NCHW", "NHWC")
"""The orders of axes that a model may take images in."""

OUTPUTS = ("logits", "probabilities")
"""What a model may give."""

_LONGEST_NAME = 80
_UNITY = 1e-3  # by how much float16's rows of probabilities may miss 1
_CLOSE = 1e-3  # relative difference of answers that kernels of other sizes may make
_LARGEST = 1e30


@dataclass(frozen=True)
class Form:
    """What is declared of a model; None leaves it to the kind of the model.

    Attributes:
        name: it is called so in verdicts and reports.
        layout: of the images it takes, one of LAYOUTS: NCHW of PyTorch and ONNX, else NHWC.
        outputs: what it gives, one of OUTPUTS: probabilities by a function, else logits.
        stochastic: whether it answers at random.
        detects: whether it gives a pair: its outputs, and scores [B] by which it rejects.
        threshold: an image with a score above it is rejected.
        tensors: of a function, whether it takes and gives tensors of the running backend, which
            gradients flow through; else numpy arrays.

    Raises:
        SettingsError: for other values.
    """

    name: str | None = None
    layout: str | None = None
    outputs: str | None = None
    stochastic: bool = False
    detects: bool = False
    threshold: float = 0.5
    tensors: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        for name, valid in (("layout", LAYOUTS), ("outputs", OUTPUTS)):
            if (value := getattr(self, name)) not in (None, *valid):
                raise SettingsError(unknown_name(f"{name} of a model", str(value), valid))
        for name in ("stochastic", "detects", "tensors"):
            if not isinstance(value := getattr(self, name), bool | np.bool_):
                raise SettingsError(f"{name}: expected true or false, got {shown(value)}")
            object.__setattr__(self, name, bool(value))
        threshold = self.threshold
        number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
        if not number or not abs(float(threshold)) < _LARGEST:
            raise SettingsError(f"threshold: expected a number, got {shown(threshold)}")
        object.__setattr__(self, "threshold", float(threshold))
        if self.name is not None:
            object.__setattr__(self, "name", checked_name(self.name))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Make one of options by name.

        Raises:
            SettingsError: for an unknown name or a wrong value.
        """
        valid = [part.name for part in fields(cls)]
        for name in options:
            if name not in valid:
                raise SettingsError(unknown_name("option of a model", name, valid))
        return cls(**options)

    def as_json(self) -> dict[str, Any]:
        """Give what answers follow from as JSON values."""
        values = asdict(self)
        del values["name"], values["tensors"]
        if not self.detects:
            del values["threshold"]
        return values


def checked_name(name: Any) -> str:
    """Give a model's name, which is that of a folder too; SettingsError when it cannot be."""
    fits = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()
    if not fits or name[0] in ". " or set('/\\:*?"<>|') & set(name):
        raise SettingsError(
            f"name of a model: expected a name for a folder, 1 to {_LONGEST_NAME} printable "
            f"letters without slashes and colons, that begins with no dot, got {shown(name)}"
        )
    return name


def folder_name(text: str) -> str:
    """Make a name for a model of any text, as "model-build" of "model:build"."""
    plain = "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in text)
    return plain.strip("-. ")[:_LONGEST_NAME] or "model"


# Whether it answers so


def look_like_probabilities(rows: np.ndarray) -> bool:
    """Say whether rows [B, K] are nonnegative and sum to 1."""
    sums = rows.sum(axis=1, dtype=np.float64)
    return bool(rows.size and (rows >= 0).all() and np.abs(sums - 1).max() < _UNITY)


def expect_outputs(name: str, form: Form, rows: np.ndarray) -> None:
    """Check that a model gives what it was declared to give.

    Args:
        name: of the model.
        form: what was declared, complete.
        rows: outputs [B, K] for different images.

    Raises:
        ModelError: it gives probabilities in place of logits, or the other way round.
    """
    probabilities = look_like_probabilities(rows)
    if form.outputs == "logits" and probabilities:
        raise ModelError(
            f"{name}: expected logits, got rows that are nonnegative and sum to 1, which are "
            "probabilities: gradient attacks would fail on them. Give what comes before the "
            "softmax, or declare outputs=probabilities"
        )
    if form.outputs == "probabilities" and not probabilities:
        low, high = float(np.min(rows)), float(np.max(rows))
        raise ModelError(
            f"{name}: expected probabilities, rows that are nonnegative and sum to 1, got values "
            f"from {low:.4g} to {high:.4g}. Declare outputs=logits if it gives logits"
        )


def differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Say whether two answers to the same images differ by more than rounding does."""
    return not np.allclose(one, other, rtol=_CLOSE, atol=_CLOSE, equal_nan=True)
