"""strong: several attacks of different kinds in turn, each on the images that still hold.

What one misses another may find: APGD on the cross entropy; APGD aimed at other classes, by the
difference of logits ratio and then by the margin; and Square, which needs no gradient.
The idea is that of Croce and Hein 2020, https://arxiv.org/abs/2003.01690, whose AutoAttack has a
version of its own of all but the third, and FAB in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from sparring.attacks.apgd import APGD
from sparring.attacks.gradients import EOT
from sparring.attacks.options import Options, integer
from sparring.attacks.simple import InTurn
from sparring.attacks.square import Square
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel


@final
@dataclass(frozen=True)
class Strong(Options):
    """APGD, APGD with targets of two losses, and Square, until an image is broken.

    Attributes:
        steps: of each attack that has steps, from each start.
        targets: how many other classes are aimed at, at most.
        queries: of Square.
        draws: how many a stochastic defense's logits are averaged over, by EOT.
        seed: of all of them.
    """

    steps: int = integer(100)
    targets: int = integer(9)
    queries: int = integer(5000)
    draws: int = integer(20)
    seed: int = integer(0, least=0)

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        ratio = "dlr" if defense.info.classes >= 4 else "margin"
        steps, targets, seed = self.steps, self.targets, self.seed
        attacks = (
            APGD(steps=steps, seed=seed),
            APGD(steps=steps, loss=ratio, targets=targets, seed=seed),
            APGD(steps=steps, loss="margin", targets=targets, seed=seed),
            Square(queries=self.queries, seed=seed),
        )
        if defense.stochastic and not isinstance(defense, EOT):
            defense = EOT(defense, self.draws)
        return InTurn(attacks)(defense, x, y, threat)
