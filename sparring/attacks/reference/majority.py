"""The reference attack on majority; try yourself first.

Two networks have to name the same other class; which two is open.

The loss is the sum of the two largest margins for the class where that sum is largest; a network
that is fooled well enough stops counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

from sparring.attacks import PGD
from sparring.backend import ops
from sparring.tensors import Images, Labels

ENOUGH = 1.0  # a margin at which a network counts as fooled


@final
@dataclass(frozen=True)
class TwoOfThree(PGD):
    """PGD on the two networks that are nearest to naming one other class."""

    @override
    def objective(self, defense: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        answers = [net(x) for net in defense.nets]
        leads = ops.stack([ops.minimum(_leads(logits), ENOUGH) for logits in answers])
        both = ops.sum(leads, axis=0) - ops.min(leads, axis=0)
        own = ops.one_hot(y, both.shape[1])
        named = ops.argmax(defense.votes(x), axis=-1)
        agreed = ops.max(defense.votes(x), axis=-1) >= 2
        changed = ops.logical_and(ops.cast(named, "int32") != ops.cast(y, "int32"), agreed)
        return ops.max(ops.where(own > 0, -1e30, both), axis=-1), changed


def _leads(logits: Any) -> Any:
    """By how much each class [B, K] leads over the best of the others."""
    first, second = (ops.top_k(logits, 2)[0][:, i : i + 1] for i in range(2))
    return logits - ops.where(logits == first, second, first)


attack = TwoOfThree(steps=200, restarts=3)
