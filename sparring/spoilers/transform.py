"""SPOILER: transform. The gradient averaged over draws (EOT) finds what holds for most of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from sparring.attacks import EOT, PGD
from sparring.threat import ThreatModel


@final
@dataclass(frozen=True)
class OverDraws(PGD):
    """PGD through the mean over draws."""

    draws: int = 20

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> np.ndarray:
        return super().__call__(EOT(defense, self.draws), x, y, threat)


attack = OverDraws(steps=50, loss="margin", momentum=0.9)
