"""Projected gradient descent as adversarial training uses it inside a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from sparring import backend
from sparring.training.settings import Settings, Table, setting

TABLE: Table = {
    # Grey images on black stand larger perturbations than photographs.
    ("*", "digits"): {"eps": 0.1, "step_size": 0.025},
    ("*", "fashion-mnist"): {"eps": 0.1, "step_size": 0.025},
    # Fewer epochs keep this, which takes several times the passes of plain training, to minutes.
    ("course", "digits"): {"epochs": 50},
    ("course", "fashion-mnist"): {"epochs": 1},
}
"""What adversarial training by steps of a gradient wants otherwise."""


class PgdSettings(Settings):
    """The shared settings, and the attack that images are trained under."""

    eps: float = setting(8 / 255, "Linf radius of the attack", "above 0, at most 1", gt=0, le=1)
    step_size: float = setting(2 / 255, "length of its steps", "a number above 0", gt=0)
    steps: int = setting(7, "how many steps it takes", "at least 1", ge=1)


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
