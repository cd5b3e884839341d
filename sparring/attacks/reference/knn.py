"""The reference attack on knn; try yourself first.

A soft vote of the stored embeddings has the gradient that the hard one lacks.

Every stored image votes, with a weight that falls steeply with its distance; the votes of the label
are to become fewer than those of all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, final

from typing_extensions import override

from sparring.attacks import PGD
from sparring.attacks.options import number
from sparring.backend import ops
from sparring.tensors import Images, Labels


@final
@dataclass(frozen=True)
class SoftNeighbors(PGD):
    """PGD on the logarithm of the others' votes to the label's."""

    sharpness: float = number(50.0, "a number above 0", lambda sharpness: 0 < sharpness < inf)
    """How steeply weights rise with cosine similarity."""

    @override
    def objective(self, defense: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        similarities = ops.matmul(defense.embed(x), defense.embeddings)
        same = ops.cast(defense.labels, "int32")[None, :] == ops.cast(y, "int32")[:, None]
        weights = self.sharpness * similarities
        others = ops.logsumexp(ops.where(same, -1e30, weights), axis=-1)
        label = ops.logsumexp(ops.where(same, weights, -1e30), axis=-1)
        answer = ops.argmax(defense.count(similarities), axis=-1)
        return others - label, ops.cast(answer, "int32") != ops.cast(y, "int32")


attack = SoftNeighbors(steps=100, restarts=2)
