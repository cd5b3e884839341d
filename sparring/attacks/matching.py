"""matching: look to the network like a clean image of another class.

Where the loss of an answer has no useful gradient, what the network makes of an image may have one.
Reference: Sabour et al. 2016, https://arxiv.org/abs/1511.05122 (features).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring.attacks.apgd import APGD
from sparring.attacks.ascent import looks_broken
from sparring.attacks.options import choice, integer
from sparring.backend import ops
from sparring.errors import SettingsError
from sparring.networks.allconv import AllConv, in_batches
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel

KINDS = ("logits", "features")
"""What of an image is matched."""


@final
@dataclass(frozen=True)
class Matching(APGD):
    """APGD towards the logits, or the features, of clean images of other classes.

    The images of the batch are the examples, each image's nearest first: give a batch of many.

    Attributes:
        what: "logits" of the defense, or "features", the mean over space of what enters the heads
            of its networks.
        targets: at how many images of other classes each is aimed in turn, at most.

    Raises:
        SettingsError: for wrong values, and when called, for images of one class alone and for a
            defense whose networks have no features.
    """

    what: str = choice("logits", KINDS)
    targets: int = integer(3)

    @override
    def aims(
        self, defense: Any, images: np.ndarray, labels: np.ndarray, threat: ThreatModel
    ) -> Iterable[np.ndarray]:
        others = labels[:, None] != labels  # [B, B]
        if not others.any():
            raise SettingsError("matching: expected images of two classes or more in a batch")
        if self.what == "features" and not (
            defense.nets and all(isinstance(net, AllConv) for net in defense.nets)
        ):
            raise SettingsError(f"what: the networks of {defense.name} have no features")
        seen = in_batches(
            defense.compiled(("seen", self.what), lambda x: self._seen(defense, x)), images
        )  # [B, D]
        apart = np.square(seen[:, None] - seen).sum(axis=-1)  # [B, B]
        order = np.argsort(np.where(others, apart, np.inf), axis=1, kind="stable")
        # Of few images of other classes all are taken, whichever image has fewest.
        return [seen[order[:, place]] for place in range(min(self.targets, others.sum(1).min()))]

    @override
    def aimed(self, defense: Any, x: Images, y: Labels, target: Any) -> tuple[Any, Any]:
        seen = self._seen(defense, x)  # [B, D]
        logits = seen if self.what == "logits" else defense.logits(x)
        return -ops.sum(ops.square(seen - target), axis=-1), looks_broken(logits, y)

    def _seen(self, defense: Any, x: Images) -> Any:
        """What is matched, [B, D]."""
        if self.what == "logits":
            return defense.logits(x)
        means = [ops.mean(net.features(x), axis=(1, 2)) for net in defense.nets]
        return ops.cast(ops.concatenate(means, axis=-1), "float32")
