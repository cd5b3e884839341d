"""The reference attack on discretize; try yourself first.

Sigmoids stand in for the twenty steps on the backward pass (BPDA).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring.attacks import BPDA, PGD
from sparring.backend import ops
from sparring.defenses.discretize import BITS
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel

STEEPNESS = 20


def smooth(x: Any) -> Any:
    """The code with slopes in place of steps: [B, H, W, 20 C] of images [B, H, W, C]."""
    thresholds = (ops.arange(BITS, dtype="float32") + 1) / BITS
    bits = ops.sigmoid(STEEPNESS * (thresholds - ops.expand_dims(x, -1)))
    return ops.reshape(bits, (*x.shape[:3], BITS * x.shape[3]))


@final
@dataclass(frozen=True)
class SmoothCode(PGD):
    """PGD through the smooth code."""

    @override
    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        return super().__call__(BPDA(defense, transform=smooth), x, y, threat)


attack = SmoothCode(steps=100, loss="margin", restarts=2, momentum=0.75)
