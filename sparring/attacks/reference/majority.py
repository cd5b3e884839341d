"""The reference attack on majority; try yourself first.

Two networks have to name the same other class; which two is open.

The loss is the sum of the two largest margins for a class; a network that is fooled well enough
stops counting. The three most promising classes are aimed at in turn: what is nearest at first
changes on the way, and an attack that changes its mind gets nowhere.
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
        sums, changed = _sums(defense, x, y)
        own = ops.one_hot(y, sums.shape[1])
        return ops.max(ops.where(own > 0, -1e30, sums), axis=-1), changed

    @override
    def aimed(self, defense: Any, x: Images, y: Labels, target: Any) -> tuple[Any, Any]:
        sums, changed = _sums(defense, x, y)
        return ops.sum(ops.one_hot(target, sums.shape[1]) * sums, axis=-1), changed


def _sums(defense: Any, x: Images, y: Labels) -> tuple[Any, Any]:
    """Sums of the two largest leads for each class [B, K]; whether two name another class, [B]."""
    answers = [net(x) for net in defense.nets]
    leads = ops.stack([ops.minimum(_leads(logits), ENOUGH) for logits in answers])
    votes = defense.votes(x)
    named, agreed = ops.argmax(votes, axis=-1), ops.max(votes, axis=-1) >= 2
    changed = ops.logical_and(ops.cast(named, "int32") != ops.cast(y, "int32"), agreed)
    return ops.sum(leads, axis=0) - ops.min(leads, axis=0), changed


def _leads(logits: Any) -> Any:
    """By how much each class [B, K] leads over the best of the others."""
    first, second = (ops.top_k(logits, 2)[0][:, i : i + 1] for i in range(2))
    return logits - ops.where(logits == first, second, first)


attack = TwoOfThree(steps=200, momentum=0.75, targets=3)
