"""The reference attack on transform; try yourself first.

What holds for most draws is found by following the mean over many.

The margin of every draw counts only until that draw is fooled, so the others are worked on; new
draws at every step and momentum average further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

from sparring.attacks import PGD, logits_of_draws, margins
from sparring.attacks.options import integer
from sparring.backend import ops
from sparring.tensors import Images, Labels

ENOUGH = 1.0  # a margin at which a draw counts as fooled


@final
@dataclass(frozen=True)
class OverDraws(PGD):
    """PGD on the mean over draws of the margins, each as far as it matters."""

    draws: int = integer(10)

    @override
    def objective(self, defense: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        logits = logits_of_draws(defense, x, self.draws)  # [draws, B, K]
        logits = ops.reshape(logits, (-1, logits.shape[-1]))  # [draws * B, K]
        leads = ops.reshape(margins(ops.tile(y, (self.draws,)), logits), (self.draws, -1))
        return ops.mean(ops.minimum(leads, ENOUGH), axis=0), ops.mean(leads, axis=0) > 0


attack = OverDraws(steps=100, momentum=0.9, draws=5)
