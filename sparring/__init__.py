"""Sparring trains the adversarial-example defenses that people learn to break, and attacks them.

    import sparring
    defense = sparring.train("baseline", data="digits")
    defense = sparring.load("runs/digits/baseline")
    defense.classify(images), defense.detect(images)
    print(sparring.evaluate(defense, sparring.PGD(), sparring.Linf(0.15)))

The backend (torch, tensorflow or jax) is KERAS_BACKEND, else the first one installed. It is
fixed at the first use of any of these names, not by importing this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparring.backend.choice import choose
from sparring.version import __version__ as __version__

if TYPE_CHECKING:
    from sparring.attacks import BPDA, EOT, FGSM, PGD, Noise, Square, gradient
    from sparring.conversion.torch_module import as_torch_module
    from sparring.data import Dataset
    from sparring.data import load as load_data
    from sparring.defenses.defense import Defense
    from sparring.errors import (
        AttackError,
        DataError,
        Diverged,
        RunError,
        SettingsError,
        SparringError,
    )
    from sparring.evaluation.evaluate import evaluate
    from sparring.evaluation.request import EvaluationRequest
    from sparring.evaluation.verdict import Verdict
    from sparring.experiments.load import load
    from sparring.experiments.request import TrainingRequest
    from sparring.experiments.train import train, train_network
    from sparring.threat import L2, Linf

_HOMES = {
    "train": "experiments.train",
    "train_network": "experiments.train",
    "TrainingRequest": "experiments.request",
    "load": "experiments.load",
    "evaluate": "evaluation.evaluate",
    "EvaluationRequest": "evaluation.request",
    "Verdict": "evaluation.verdict",
    "Linf": "threat",
    "L2": "threat",
    "gradient": "attacks",
    "Noise": "attacks",
    "FGSM": "attacks",
    "PGD": "attacks",
    "Square": "attacks",
    "EOT": "attacks",
    "BPDA": "attacks",
    "as_torch_module": "conversion.torch_module",
    "Dataset": "data",
    "load_data": "data:load",
    "Defense": "defenses.defense",
    "SparringError": "errors",
    "DataError": "errors",
    "SettingsError": "errors",
    "RunError": "errors",
    "AttackError": "errors",
    "Diverged": "errors",
}

__all__ = [
    "BPDA",
    "EOT",
    "FGSM",
    "L2",
    "PGD",
    "AttackError",
    "DataError",
    "Dataset",
    "Defense",
    "Diverged",
    "EvaluationRequest",
    "Linf",
    "Noise",
    "RunError",
    "SettingsError",
    "SparringError",
    "Square",
    "TrainingRequest",
    "Verdict",
    "as_torch_module",
    "evaluate",
    "gradient",
    "load",
    "load_data",
    "train",
    "train_network",
]


def __getattr__(name: str) -> Any:
    # Importing a home may import keras and so fix the backend; that waits until a name is used.
    if name not in _HOMES:
        raise AttributeError(f"module 'sparring' has no attribute {name!r}")
    if _HOMES[name] != "errors":
        choose()  # says what is wrong with a backend better than keras
    module, _, other_name = _HOMES[name].partition(":")
    return getattr(import_module(f"sparring.{module}"), other_name or name)
