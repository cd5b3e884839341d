"""Settings of the process and of the thread, put aside while Sparring computes.

A program around Sparring may have set a default dtype, a precision, a mode of its framework. None
of it may reach weights, answers or verdicts, and what Sparring sets for itself, such as
deterministic kernels, may not stay behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator, ExitStack
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.src.backend.common import global_state


class Setting(NamedTuple):
    """A setting that all threads share, and the value that Sparring computes with."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    ours: Any


_KERAS = (
    Setting(keras.config.floatx, keras.config.set_floatx, "float32"),
    Setting(keras.config.epsilon, keras.config.set_epsilon, 1e-7),
    Setting(keras.config.image_data_format, keras.config.set_image_data_format, "channels_last"),
)
_OF_THREAD = ("name_scope_stack", "autocast_scope")
"""Scopes of Keras that a thread may be in: they prefix the names of variables, and cast them."""
# numpy's own defaults.
_NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


class Isolation(ContextDecorator):
    """Compute with Sparring's settings within it: `with backend.isolated:`, or as a decorator.

    It may be entered again within itself and by several threads at once. What threads share is put
    back when the last of them leaves.

    Args:
        shared: the framework's settings that all threads share.
        enter: puts aside what a thread has for itself, on an ExitStack that ends it.
    """

    def __init__(self, shared: Sequence[Setting], enter: Callable[[ExitStack], None]) -> None:
        """Read and change nothing yet."""
        self._shared, self._enter = (*_KERAS, *shared), enter
        self._lock, self._inside, self._before = threading.Lock(), 0, list[Any]()
        self._of_thread = threading.local()

    @property
    def active(self) -> bool:
        """Whether this thread is within it."""
        return bool(vars(self._of_thread).get("stacks"))

    def __enter__(self) -> None:
        """Put settings aside."""
        with self._lock:
            now = [setting.read() for setting in self._shared]
            if not self._inside:
                self._before = now
            self._write(now, [setting.ours for setting in self._shared])
            self._inside += 1
        with ExitStack() as stack:
            stack.callback(self._leave)
            stack.enter_context(np.errstate(**_NUMPY_ERRORS))  # type: ignore[arg-type]
            for name in _OF_THREAD:
                before = global_state.get_global_attribute(name)
                stack.callback(global_state.set_global_attribute, name, before)
                global_state.set_global_attribute(name, None)
            self._enter(stack)
            stacks = vars(self._of_thread).setdefault("stacks", [])
            stacks.append(stack.pop_all())

    def __exit__(self, *_: object) -> None:
        """Put settings back."""
        self._of_thread.stacks.pop().close()

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._write([setting.read() for setting in self._shared], self._before)

    def _write(self, now: Sequence[Any], wanted: Sequence[Any]) -> None:
        for setting, old, new in zip(self._shared, now, wanted, strict=True):
            if old != new:
                setting.write(new)
