"""Functions of images as models: of numpy arrays, or of tensors of the running backend."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.backend import ops
from sparring.errors import ModelError, kind_of
from sparring.models.net import Net, integer, refuse
from sparring.randomness import seeded


class HostNet(Net):
    """A function of numpy arrays, which gives answers alone.

    Args:
        function: of images float32 [B, H, W, C] in [0, 1], and of a seed if it needs two arguments;
            gives an array [B, K], or a pair of that and scores [B].
        name: of the model.
        classes: K.
        detects: whether it gives a pair.
    """

    kind: ClassVar[str] = "function"
    layout, outputs = "NHWC", "probabilities"
    gradients, compiled = False, False

    def __init__(
        self, function: Callable[..., Any], name: str, classes: int, detects: bool
    ) -> None:
        """Ask nothing yet."""
        super().__init__()
        self._function, self._name = function, name
        self._classes, self._detects = classes, detects
        self._wants_seed = wants_seed(function)

    @override
    def __call__(self, x: Any, seed: Any = None) -> Any:
        size = self._classes + self._detects

        def asked(images: np.ndarray) -> np.ndarray:
            drawn = None if seed is None else integer(seed)
            return self._together(self.asked(images, drawn), len(images))

        together = backend.answers(asked, x, size, lambda: refuse(self._name))
        if not self._detects:
            return together
        return together[:, : self._classes], together[:, self._classes]

    def asked(self, images: np.ndarray, seed: int | None) -> Any:
        """Ask about images that have values."""
        with nullcontext() if seed is None else seeded(seed):
            return self._function(images, seed or 0) if self._wants_seed else self._function(images)

    def _together(self, given: Any, count: int) -> np.ndarray:
        """Outputs, and scores in one more column if it detects, float32 [B, K or K + 1]."""
        if self._detects:
            if not (isinstance(given, tuple | list) and len(given) == 2):
                raise ModelError(f"{self._name}: expected a pair, as it detects, {_got(given)}")
            outputs, scores = map(np.asarray, given)
            if scores.shape != (count,):
                raise ModelError(
                    f"{self._name}: expected scores [{count}], one an image, got "
                    f"{list(scores.shape)}"
                )
        else:
            outputs = np.asarray(given)
        if outputs.dtype.kind not in "fiu" or outputs.shape != (count, self._classes):
            raise ModelError(
                f"{self._name}: expected {'a pair of ' * self._detects}numbers "
                f"[{count}, {self._classes}] of {count} images, one for each of "
                f"{self._classes} classes; got {outputs.dtype} {list(outputs.shape)}"
            )
        columns = [outputs, scores[:, None]] if self._detects else [outputs]
        with np.errstate(over="ignore"):
            return np.concatenate(columns, axis=1, dtype=np.float32, casting="unsafe")


def _got(given: Any) -> str:
    return f"got {kind_of(given)}"


@final
class FunctionNet(Net):
    """A function of tensors of the running backend.

    Args:
        function: of images float32 [B, H, W, C] in [0, 1], and of a seed if it needs two arguments;
            what it does may be traced.
    """

    kind: ClassVar[str] = "function of tensors"
    layout, outputs = "NHWC", "probabilities"

    def __init__(self, function: Callable[..., Any]) -> None:
        """Ask nothing yet."""
        super().__init__()
        self._function, self._wants_seed = function, wants_seed(function)

    @override
    def __call__(self, x: Any, seed: Any = None) -> Any:
        if self._wants_seed:
            return self._function(x, 0 if seed is None else first(seed))
        # What is drawn within a graph is the framework's own business.
        known = seed is not None and backend.name == "torch"
        with seeded(integer(seed), x.device) if known else nullcontext():
            return self._function(x)


def first(seed: Any) -> Any:
    """Give the first of several seeds, or the only one, as a tensor int32 []."""
    return ops.reshape(ops.cast(seed, "int32"), (-1,))[0]


def wants_seed(function: Callable[..., Any]) -> bool:
    """Say whether a function needs two arguments, of which the second is a seed."""
    return len(needed(function)) == 2


def needed(function: Callable[..., Any]) -> list[str]:
    """List the arguments that a function has to be given by place; none where it does not tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ["images"]
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in places and p.default is p.empty]
