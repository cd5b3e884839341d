"""The reference attack on injection; try yourself first.

Change the label and look ordinary at the same time.

Three things at once, each only as far as needed: another class ahead; features unlike that class's
signature; and, under the other classes' patterns, features and answers as the patterns' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, final

from typing_extensions import override

from sparring.attacks import PGD, margins
from sparring.attacks.options import number
from sparring.backend import ops
from sparring.defenses.injection import TOO_LIKE, TOO_UNLIKE, cosine, suspicious
from sparring.tensors import Images, Labels


@final
@dataclass(frozen=True)
class Ordinary(PGD):
    """PGD on the margin less what makes an input suspicious."""

    lead: float = number(2.0)
    """By how much the other class has to be ahead."""
    weight: float = number(5.0, "a number of 0 or more", lambda weight: 0 <= weight < inf)
    """Of cosines against logits."""

    @override
    def objective(self, defense: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        net, signatures = defense.nets[0], defense.signatures
        images, (classes, *_) = x.shape[0], defense.patterns.shape
        patterned = x[:, None] + defense.settings.strength * defense.patterns[None]
        everything = ops.concatenate([x, ops.reshape(patterned, (-1, *x.shape[1:]))], axis=0)
        features, logits = net.mean_features(everything)
        under = ops.reshape(features[images:], (images, classes, -1))
        answers = ops.reshape(logits[images:], (images * classes, classes))
        likeness = cosine(features[:images, None], signatures[None])
        unders = cosine(under, signatures[None])
        pattern = ops.tile(ops.arange(classes, dtype="int32"), (images,))
        own = ops.one_hot(y, classes)
        target = ops.argmax(ops.where(own > 0, -1e30, logits[:images]), axis=-1)
        aimed = ops.one_hot(target, classes)
        loss = ops.minimum(margins(y, logits[:images]), self.lead)
        like = ops.sum(aimed * likeness, axis=-1)
        loss = loss - self.weight * ops.maximum(like, TOO_LIKE - 0.1)
        others = 1 - aimed
        kept = ops.sum(others * ops.minimum(unders, TOO_UNLIKE + 0.05), axis=-1)
        works = ops.reshape(ops.minimum(-margins(pattern, answers), 1.0), (images, classes))
        loss = loss + self.weight * kept / classes + ops.sum(others * works, axis=-1) / classes
        named = ops.argmax(ops.reshape(logits[images:], (images, classes, classes)), axis=-1)
        label = ops.argmax(logits[:images], axis=-1)
        rejected = suspicious(likeness, label, unders, named)
        changed = ops.cast(label, "int32") != ops.cast(y, "int32")
        return loss, ops.logical_and(changed, rejected < 0.5)


attack = Ordinary(steps=200, restarts=2)
