"""Estimated: gradients from answers alone, for defenses that have no useful ones.

References: Ilyas et al. 2018, https://arxiv.org/abs/1804.08598 (NES: normal directions); Uesato et
al. 2018, https://arxiv.org/abs/1802.05666 (SPSA: directions of signs).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import pi
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.attacks.gradients import WITHIN, Wrapped
from sparring.attacks.options import Options, choice, integer, number
from sparring.backend import ops
from sparring.randomness import Chance
from sparring.tensors import Images, Logits

DIRECTIONS = ("spsa", "nes")
"""Which directions: of signs, or normally distributed."""


@final
@dataclass(frozen=True)
class Estimated(Options, Wrapped):
    """Logits whose gradient is estimated from how they differ on both sides of an image.

    Forward nothing changes. Their slopes along random directions, each asked for on both sides, are
    put together to the gradient, so a step of an attack costs 2 * samples + 1 answers for an image
    and no backward pass. Around EOT, for a defense that answers at random.

    Attributes:
        defense: the defense, or another wrapper.
        samples: how many directions.
        radius: how far to each side, as a change of each pixel; what is rounded or cut needs one
            that reaches beyond.
        directions: "spsa" or "nes".

    Raises:
        SettingsError: for wrong values.
    """

    defense: Any = field(metadata=WITHIN)
    samples: int = integer(50)
    radius: float = number(0.01, "a number above 0 and at most 1", lambda radius: 0 < radius <= 1)
    directions: str = choice("spsa", DIRECTIONS)

    @property
    def gradients(self) -> bool:
        """As Defense.gradients: there are some, whatever it is around."""
        return True

    @property
    def asks(self) -> int:
        """As Defense.asks."""
        return (2 * self.samples + 1) * int(self.defense.asks)

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        # Directions are traced, or gone again, as often as the backend likes.
        logits: Logits = self.defense.passes.counted(
            lambda: self._estimated(x, chance), self.asks * x.shape[0], gradient=False
        )
        return logits

    def _estimated(self, x: Images, chance: Chance | None) -> Logits:
        here, seed = ops.stop_gradient(x), 0 if chance is None else chance.seed
        rows = np.arange(self.samples, dtype=np.int32)

        def slopes(x: Images, row: Any) -> Logits:
            """Slopes of the logits along one direction, [B, K]."""
            ahead = self.radius * self._direction(x, row)
            first, second = (
                self.defense.logits(side, Chance(side, seed)) for side in (x + ahead, x - ahead)
            )
            return (first - second) / (2 * self.radius)

        def along(x: Images, row: Any) -> Any:
            """How far x lies from here in that direction, [B]: 0, with a gradient."""
            return ops.sum((x - here) * self._direction(here, row), axis=(1, 2, 3))

        slope = ops.stop_gradient(backend.one_by_one(slopes, here, rows))  # [samples, B, K]
        move = backend.one_by_one(along, x, rows)  # [samples, B]
        logits = ops.stop_gradient(self.defense.logits(here, chance))
        return logits + ops.mean(slope * move[:, :, None], axis=0)  # [B, K]

    def _direction(self, x: Images, row: Any) -> Images:
        """One direction for each image, [B, H, W, C]: of mean 0 and variance 1, independent."""
        chance = Chance(x, row)
        size = int(np.prod(x.shape[1:]))
        values = chance.uniform(size)  # [B, H * W * C]
        if self.directions == "spsa":
            values = ops.where(values < 0.5, -1.0, 1.0)
        else:  # Box and Muller
            length = ops.sqrt(-2 * ops.log(1 - values))
            values = length * ops.cos(2 * pi * chance.uniform(size))
        return ops.reshape(values, (-1, *x.shape[1:]))
