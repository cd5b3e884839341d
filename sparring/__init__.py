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
    from sparring.attacks import (
        APGD,
        BPDA,
        EOT,
        FGSM,
        PGD,
        Estimated,
        Matching,
        Noise,
        Smallest,
        Square,
        Strong,
        Transfer,
        adapters,
        gradient,
    )
    from sparring.conversion.torch_module import as_torch_module
    from sparring.data import Dataset
    from sparring.data import load as load_data
    from sparring.defenses.defense import Defense
    from sparring.errors import (
        AttackError,
        DataError,
        DefenseError,
        Diverged,
        ModelError,
        RunError,
        SettingsError,
        SparringError,
    )
    from sparring.evaluation.evaluate import evaluate
    from sparring.evaluation.judging import judge
    from sparring.evaluation.request import EvaluationRequest
    from sparring.evaluation.verdict import Verdict
    from sparring.experiments.load import load
    from sparring.experiments.request import TrainingRequest
    from sparring.experiments.train import train, train_network
    from sparring.grading.grade import grade
    from sparring.grading.request import GradeRequest
    from sparring.reports.gather import gather as report
    from sparring.reports.groups import Report
    from sparring.tasks.bundle import task
    from sparring.tasks.judging import reward
    from sparring.tasks.request import TaskRequest
    from sparring.threat import L2, Linf

_HOMES = {
    "attacks": (
        "APGD",
        "BPDA",
        "EOT",
        "FGSM",
        "PGD",
        "Estimated",
        "Matching",
        "Noise",
        "Smallest",
        "Square",
        "Strong",
        "Transfer",
        "adapters",
        "gradient",
    ),
    "conversion.torch_module": ("as_torch_module",),
    "data": ("Dataset", "load_data"),
    "defenses.defense": ("Defense",),
    "errors": (
        "AttackError",
        "DataError",
        "DefenseError",
        "Diverged",
        "ModelError",
        "RunError",
        "SettingsError",
        "SparringError",
    ),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.judging": ("judge",),
    "evaluation.request": ("EvaluationRequest",),
    "evaluation.verdict": ("Verdict",),
    "experiments.load": ("load",),
    "experiments.request": ("TrainingRequest",),
    "experiments.train": ("train", "train_network"),
    "grading.grade": ("grade",),
    "grading.request": ("GradeRequest",),
    "reports.gather": ("report",),
    "reports.groups": ("Report",),
    "tasks.bundle": ("task",),
    "tasks.judging": ("reward",),
    "tasks.request": ("TaskRequest",),
    "threat": ("L2", "Linf"),
}
_THERE = {"load_data": "load", "report": "gather"}
"""What is called otherwise in its home."""

_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "APGD", "BPDA", "EOT", "FGSM", "L2", "PGD", "AttackError", "DataError", "Dataset", "Defense",
    "DefenseError", "Diverged", "Estimated", "EvaluationRequest", "GradeRequest", "Linf",
    "Matching", "ModelError", "Noise", "Report", "RunError", "SettingsError", "Smallest",
    "SparringError", "Square", "Strong", "TaskRequest", "TrainingRequest", "Transfer", "Verdict",
    "adapters", "as_torch_module", "evaluate", "grade", "gradient", "judge", "load", "load_data",
    "report", "reward", "task", "train", "train_network",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Importing a home may import keras and so fix the backend; that waits until a name is used.
    if name not in _HOME:
        raise AttributeError(f"module 'sparring' has no attribute {name!r}")
    if _HOME[name] != "errors":
        choose()  # says what is wrong with a backend better than keras
    home = import_module(f"sparring.{_HOME[name]}")
    return getattr(home, _THERE.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
