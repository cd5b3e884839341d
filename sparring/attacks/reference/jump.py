"""The reference attack on jump; try yourself first.

A steep sigmoid stands in for the jump on the backward pass (BPDA).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring.attacks import BPDA, PGD
from sparring.backend import ops
from sparring.networks.allconv import leaky_relu
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel

HEIGHT, STEEPNESS = 5, 2


def smooth(x: Any) -> Any:
    """Leaky ReLU and a jump of the height served, made of a sigmoid."""
    return leaky_relu(x) + HEIGHT * ops.sigmoid(STEEPNESS * x)


@final
@dataclass(frozen=True)
class SmoothJump(PGD):
    """PGD through the smooth activation."""

    @override
    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        return super().__call__(BPDA(defense, activation=smooth), x, y, threat)


attack = SmoothJump(steps=200, loss="margin", restarts=2, momentum=0.75)
