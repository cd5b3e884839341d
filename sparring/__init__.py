"""Sparring trains the adversarial-example defenses that people learn to break, and serves them.

    import sparring
    defense = sparring.train("baseline", data="digits")
    defense = sparring.load("runs/digits/baseline")
    defense.classify(images), defense.detect(images)

The backend (torch, tensorflow or jax) is KERAS_BACKEND, else the first one installed. It is
fixed at the first use of any of these names, not by importing this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparring.backend_choice import prefer_installed

if TYPE_CHECKING:
    from sparring.api import load, train
    from sparring.data import Dataset
    from sparring.defense import Defense
    from sparring.errors import DataError, Diverged, RunError, SettingsError, SparringError

__version__ = "0.1.0"

_HOMES = {
    "train": "api",
    "load": "api",
    "Dataset": "data",
    "Defense": "defense",
    "SparringError": "errors",
    "DataError": "errors",
    "SettingsError": "errors",
    "RunError": "errors",
    "Diverged": "errors",
}

__all__ = [
    "DataError",
    "Dataset",
    "Defense",
    "Diverged",
    "RunError",
    "SettingsError",
    "SparringError",
    "load",
    "train",
]


prefer_installed()


def __getattr__(name: str) -> Any:
    # Importing a home may import keras and so fix the backend; that waits until a name is used.
    if name not in _HOMES:
        raise AttributeError(f"module 'sparring' has no attribute {name!r}")
    if _HOMES[name] == "api":
        import_module("sparring.backend")  # says what is wrong with a backend better than keras
    return getattr(import_module(f"sparring.{_HOMES[name]}"), name)
