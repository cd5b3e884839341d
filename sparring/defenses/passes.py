"""Passes: how often a defense is asked for its answer and for gradients, by whom it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from sparring import backend

_within: ContextVar[bool] = ContextVar("within", default=False)
"""Whether this is a part of a pass that is counted already."""


class Passes:
    """How many passes a defense has made since it was loaded.

    One image in one draw is one forward pass, whatever the defense does for it: the networks of an
    ensemble, or what is computed a second time to save memory, are parts of it. A gradient that
    comes back through the answer is one backward pass. What fills up a batch counts like any image,
    as it costs the same. The two counts may be a little off where threads share a defense.

    Attributes:
        forward: images that were answered.
        backward: images for which a gradient came back.
    """

    def __init__(self) -> None:
        """Begin at zero."""
        self.forward = self.backward = 0

    def counted(self, answer: Callable[[], Any], images: Any, gradient: bool = True) -> Any:
        """Compute an answer and count it, unless it is a part of another one.

        Args:
            answer: computes it.
            images: how many it is about; what is no integer, as a size that a graph leaves open,
                counts as none.
            gradient: whether it is a tensor through which gradients come back to the defense.

        Returns:
            The answer.
        """
        if _within.get():
            return answer()
        with uncounted():
            result = answer()
        count = images if isinstance(images, int) else 0
        self.forward += count
        back = partial(self._add, 0, count)
        return backend.on_gradient(result, back) if gradient else result

    def of_compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Count the passes of a compiled function at every call.

        A framework runs the Python in it when it traces it alone, which is once for every shape of
        the arguments: what was counted then is added when the trace is run.

        Args:
            function: the compiled function.

        Returns:
            One that does the same.
        """
        traced: dict[Any, tuple[int, int]] = {}

        def call(*arguments: Any) -> Any:
            forward, backward = self.forward, self.backward
            result = function(*arguments)
            made = self.forward - forward, self.backward - backward
            shapes = tuple(str(getattr(argument, "shape", "")) for argument in arguments)
            if any(made):
                traced[shapes] = made
            elif not _within.get():
                self._add(*traced.get(shapes, (0, 0)))
            return result

        return call

    def _add(self, forward: int, backward: int) -> None:
        self.forward += forward
        self.backward += backward


@contextmanager
def uncounted() -> Iterator[None]:
    """Count no pass in a block, by whatever defense: they are a part of one that is counted."""
    before = _within.set(True)
    try:
        yield
    finally:
        _within.reset(before)
