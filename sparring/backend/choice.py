"""Which of Keras's backends this process runs on; decided before keras is imported."""

from __future__ import annotations

import importlib.util
import os
import sys

from sparring.errors import SettingsError, SparringError, unknown_name

NAMES = ("torch", "tensorflow", "jax")
"""In the order of preference."""


def installed() -> list[str]:
    """The backends whose packages are installed, in the order of preference."""
    return [name for name in NAMES if importlib.util.find_spec(name)]


def prefer_installed() -> None:
    """Set KERAS_BACKEND, unless it is set, to the first backend that is installed."""
    # TensorFlow tells of its build and its CPU at every start, unless told otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ:
        for name in installed()[:1]:
            os.environ["KERAS_BACKEND"] = name


def choose(name: str | None = None) -> str:
    """Fix the backend for this process and return its name.

    Without a name it is the one keras runs on already, else KERAS_BACKEND. Raises SettingsError
    for an unknown name, for one that is not installed, and when keras runs on another already.
    """
    if not installed():
        raise SparringError(
            "no backend is installed: pip install 'sparring[torch]' (or [tensorflow], or [jax])"
        )
    running = sys.modules["keras"].backend.backend() if "keras" in sys.modules else None
    if running and name not in (None, running):
        raise SettingsError(
            f"this process runs keras on {running} already, so backend {name!r} cannot be used: "
            f"set KERAS_BACKEND={name} before Python starts"
        )
    prefer_installed()
    chosen = running or name or os.environ["KERAS_BACKEND"]
    if chosen not in NAMES:
        raise SettingsError(unknown_name("backend", chosen, NAMES))
    if chosen not in installed():
        raise SettingsError(
            f"backend {chosen!r} is not installed: pip install 'sparring[{chosen}]'. "
            f"Installed: {', '.join(installed())}."
        )
    os.environ["KERAS_BACKEND"] = chosen
    return chosen
