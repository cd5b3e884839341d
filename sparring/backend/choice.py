"""Which of Keras's backends this process runs on; decided before keras is imported."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from sparring.errors import SettingsError, SparringError, unknown_name

NAMES = ("torch", "tensorflow", "jax")
"""The backends, in the order of preference."""

# What `choose` was told, for the whole process, as keras's own choice is.
_told: dict[str, str] = {}


def installed() -> list[str]:
    """List the backends whose packages are installed, in the order of preference."""
    return [name for name in NAMES if importlib.util.find_spec(name)]


def default() -> str | None:
    """Name the backend that is taken when none is asked for; None when none is installed.

    It is the one keras runs on already, else the last one chosen, else KERAS_BACKEND, else the
    first one installed. It need not be a valid name.
    """
    running = sys.modules["keras"].backend.backend() if "keras" in sys.modules else None
    known = running or _told.get("backend") or os.environ.get("KERAS_BACKEND")
    return known or next(iter(installed()), None)


def choose(name: str | None = None) -> str:
    """Choose the backend that keras is imported with once this process needs it.

    Args:
        name: torch, tensorflow or jax; None takes the default.

    Returns:
        The name.

    Raises:
        SettingsError: for an unknown name, for one that is not installed, and when keras runs on
            another already.
        SparringError: when none is installed.
    """
    if not installed():
        raise SparringError(
            "no backend is installed: pip install 'sparring[torch]' (or [tensorflow], or [jax])"
        )
    name = None if name is None else str(name)  # an enumeration's member shows as more
    running = default() if "keras" in sys.modules else None
    if running and name not in (None, running):
        raise SettingsError(
            f"this process runs keras on {running} already, so backend {name!r} cannot be used: "
            f"set KERAS_BACKEND={name} before Python starts"
        )
    chosen = name or str(default())
    if chosen not in NAMES:
        raise SettingsError(unknown_name("backend", chosen, NAMES))
    if chosen not in installed():
        raise SettingsError(
            f"backend {chosen!r} is not installed: pip install 'sparring[{chosen}]'. "
            f"Installed: {', '.join(installed())}."
        )
    _told["backend"] = chosen
    return chosen


def import_keras() -> ModuleType:
    """Import keras on the chosen backend; raises what `choose` does."""
    # Keras reads its variable when it is imported, TensorFlow's libraries theirs.
    with environment(KERAS_BACKEND=choose()), quiet_tensorflow():
        return importlib.import_module("keras")


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Keep TensorFlow from telling of its build and its CPU when it is imported within."""
    with environment(TF_CPP_MIN_LOG_LEVEL=os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")):
        yield


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
