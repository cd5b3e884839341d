"""SPOILER: transform. What holds for most draws is found by following the mean over many.

The margin of every draw counts only until that draw is fooled, so the others are worked on; new
draws at every step and momentum average further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from keras import ops

from sparring.attacks import PGD, margins
from sparring.threat import ThreatModel

ENOUGH = 1.0  # a margin at which a draw counts as fooled


@final
@dataclass(frozen=True)
class OverDraws(PGD):
    """PGD on the mean over draws of the margins, each as far as it matters."""

    draws: int = 10

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> np.ndarray:
        defense.tell_averaged()
        return super().__call__(defense, x, y, threat)

    def objective(self, defense: Any, x: Any, y: Any) -> tuple[Any, Any]:
        numbers = ops.repeat(ops.arange(self.draws, dtype="int32"), x.shape[0])
        with defense.drawing(numbers):
            logits = defense.logits(ops.tile(x, (self.draws, 1, 1, 1)))
        each = ops.reshape(margins(ops.tile(y, (self.draws,)), logits), (self.draws, -1))
        return ops.mean(ops.minimum(each, ENOUGH), axis=0), ops.mean(each, axis=0) > 0


attack = OverDraws(steps=100, momentum=0.9, draws=5)
