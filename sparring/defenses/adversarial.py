"""Projected gradient descent as adversarial training uses it inside a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops

from sparring import backend
from sparring.training.recipe import Settings

# Grey images on black stand larger perturbations than photographs.
ADAPTED: dict[str, dict[str, Any]] = {
    "digits": {"eps": 0.1, "step_size": 0.025},
    "fashion-mnist": {"eps": 0.1, "step_size": 0.025},
}
# Fewer epochs keep this, which takes eight to twelve times the passes of the baseline, to minutes.
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "course": {
        "digits": {"epochs": 50},
        "fashion-mnist": {"epochs": 1},
    }
}


@dataclass(frozen=True, kw_only=True)
class PgdSettings(Settings):
    """The shared settings, and the attack that images are trained under."""

    eps: float = 8 / 255  # Linf radius
    step_size: float = 2 / 255
    steps: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("eps", 0 < self.eps <= 1, "above 0, at most 1")
        self._expect("step_size", self.step_size > 0, "a number above 0")
        self._expect("steps", self.steps >= 1, "at least 1")


def ascend(objective: Callable[[Any], Any], x: Any, start: Any, settings: PgdSettings) -> Any:
    """Images in the Linf ball around x and in [0, 1] where objective(images), a scalar, is large.

    `steps` signed gradient steps from `start`, each projected back (Madry et al. 2018,
    https://arxiv.org/abs/1706.06083).
    """
    images = start
    for _ in range(settings.steps):
        moved = images + settings.step_size * ops.sign(backend.input_gradient(objective, images))
        near = ops.minimum(ops.maximum(moved, x - settings.eps), x + settings.eps)
        images = ops.clip(near, 0.0, 1.0)
    return images
