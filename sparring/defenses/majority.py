"""majority: three networks vote.

Three networks, trained with different amounts of noise, have to be fooled alike; where all three
disagree the input is rejected. A vote has no gradient, but the sum of the networks' margins has,
and adversarial examples transfer.

    sparring train majority --data digits

Test accuracy with its settings (seed 0, PyTorch): digits 96.94 % (0.3 % rejected), Fashion-MNIST
83.09 % (0.4 % rejected).

Reference: a defense of the self-study course in evaluating adversarial robustness.
"""

from __future__ import annotations

from typing import Any, final

from keras import ops

from sparring.data import DatasetInfo
from sparring.defenses.defense import Defense
from sparring.training.recipe import Recipe, Settings

VOTERS = 3


class NoisyRecipe(Recipe):
    """The shared recipe, with Gaussian noise of std i/10 added for network i after augmentation."""

    def augment(self, x: Any, y: Any) -> tuple[Any, Any]:
        x, y = super().augment(x, y)
        if self.network:
            x = x + self.network / 10 * self.random.normal(x.shape)
        return x, y


@final
class Majority(Defense):
    """One-hot of the class that two networks name; rejected when all three differ.

    `logits` is the mean of the networks' logits, which has a gradient; the vote has none.
    """

    name = "majority"
    idea = "three networks vote; rejects when all three differ"
    outside = "the vote, and the rejection when all three differ"
    networks = "3"
    detects = True

    @classmethod
    def recipes(cls, info: DatasetInfo, settings: Settings, seed: int) -> list[Recipe]:
        each = settings.replace(
            filters=max(1, 2 * (settings.filters // 3)), epochs=max(1, settings.epochs // 2)
        )
        return [NoisyRecipe(info, each, seed, network) for network in range(VOTERS)]

    def votes(self, x: Any) -> Any:
        """How many networks name each class, [B, K]."""
        answers = [ops.argmax(net(x), axis=-1) for net in self.nets]
        return sum(ops.one_hot(answer, self.info.classes) for answer in answers)

    def logits(self, x: Any) -> Any:
        return sum(net(x) for net in self.nets) / VOTERS

    def probabilities(self, x: Any) -> Any:
        # Without a majority the first class named once stands there; such inputs are rejected.
        return ops.one_hot(ops.argmax(self.votes(x), axis=-1), self.info.classes)

    def scores(self, x: Any) -> Any:
        return ops.cast(ops.max(self.votes(x), axis=-1) < 2, "float32")
