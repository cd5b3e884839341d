"""SPOILER: majority. All three networks are led to the same other class, by their summed margins.

A network that is fooled well enough stops counting, so the others are worked on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from keras import ops

from sparring.attacks import PGD, margins

ENOUGH = 1.0  # a margin at which a network counts as fooled


@final
@dataclass(frozen=True)
class CommonTarget(PGD):
    """PGD on the sum of the networks' margins for the class that is ahead in all of them."""

    def objective(self, defense: Any, x: Any, y: Any) -> tuple[Any, Any]:
        answers = [net(x) for net in defense.nets]
        own = ops.one_hot(y, answers[0].shape[1])
        target = ops.argmax(ops.where(own > 0, -1e30, sum(answers)), axis=-1)
        # margins() is by how much others lead over a class; here the class is to lead.
        losses = sum(ops.minimum(-margins(target, each), ENOUGH) for each in answers)
        named = [ops.cast(ops.argmax(each, axis=-1) == target, "int32") for each in answers]
        return losses, sum(named) >= 2


attack = CommonTarget(steps=200, restarts=3)
