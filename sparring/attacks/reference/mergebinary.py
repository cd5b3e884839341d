"""The reference attack on mergebinary; try yourself first.

The networks' own logits, not their saturated probabilities.

One other class's network has to say yes, the label's network no: the larger of the two shortfalls
is what to work on, and the other networks may stay as they are. What is left then is aimed at each
other class in turn, whose network has to say yes and all others no.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

from sparring.attacks import APGD, PGD, InTurn
from sparring.backend import ops
from sparring.defenses.mergebinary import LEAST_PROBABILITY, merged_logits
from sparring.tensors import Images, Labels

ENOUGH = 4.0  # a logit gap at which P(yes) - P(no) is 0.96


@final
@dataclass(frozen=True)
class LargestMargin(PGD):
    """PGD on the largest margin over the other networks and the least over the label's own."""

    @override
    def objective(self, defense: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        gaps = _gaps(defense, x)
        own = ops.one_hot(y, gaps.shape[1])
        other = ops.max(ops.where(own > 0, -1e30, gaps), axis=-1)
        label = ops.sum(own * gaps, axis=-1)
        return ops.minimum(other, ENOUGH) - ops.maximum(label, -ENOUGH), _broken(gaps, y)


@final
@dataclass(frozen=True)
class OneOverAll(APGD):
    """APGD on the margin of one network over all others."""

    @override
    def aimed(self, defense: Any, x: Images, y: Labels, target: Any) -> tuple[Any, Any]:
        gaps = _gaps(defense, x)
        aim = ops.one_hot(target, gaps.shape[1])
        wanted = ops.sum(aim * gaps, axis=-1)
        rest = ops.max(ops.where(aim > 0, -1e30, gaps), axis=-1)
        return ops.minimum(wanted, ENOUGH) - ops.maximum(rest, -ENOUGH), _broken(gaps, y)


def _gaps(defense: Any, x: Images) -> Any:
    """By how much each network's yes exceeds its no, [B, K]."""
    answers = [net(x) for net in defense.nets]
    return ops.stack([logits[:, 1] - logits[:, 0] for logits in answers], axis=-1)


def _broken(gaps: Any, y: Labels) -> Any:
    """Whether gaps [B, K] answer with another label than y and are accepted, bool [B]."""
    # P(yes) - P(no) is tanh(gap / 2); asking the defense would run its networks again.
    probabilities = ops.softmax(merged_logits(ops.tanh(gaps / 2)), axis=-1)
    changed = ops.argmax(probabilities, axis=-1) != ops.cast(y, "int32")
    accepted = ops.max(probabilities, axis=-1) >= LEAST_PROBABILITY
    return ops.logical_and(changed, accepted)


# The merged logits' own gradient finds some images that the first does not.
attack = InTurn((LargestMargin(steps=100, restarts=2), PGD(steps=100), OneOverAll(targets=9)))
