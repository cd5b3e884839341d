"""majority: three networks vote.

Three networks, trained with different amounts of noise, have to be fooled alike; where all three
disagree the input is rejected. A vote has no gradient, but the sum of the networks' margins has,
and adversarial examples transfer.

    sparring train majority --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness.
"""

from __future__ import annotations

from typing import Any, final

from typing_extensions import override

from sparring.backend import ops
from sparring.data import DatasetInfo
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.randomness import Chance
from sparring.tensors import Images, Labels, Logits, Scores
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings

VOTERS = 3


class NoisyRecipe(Recipe):
    """The shared recipe, with Gaussian noise of std i/10 added for network i after augmentation."""

    @override
    def augment(self, x: Images, y: Labels) -> tuple[Images, Labels]:
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
    hints = (
        "A vote has no gradient. What do the three networks say by themselves about your "
        "adversarial images?",
        "Two networks are enough, if they name the same other class; three that differ are "
        "rejected.",
        "Sum the two largest of the networks' margins for one class, let a network that is "
        "fooled well enough stop counting, and stay with one target class for a whole run.",
    )
    outside = "the vote, and the rejection when all three differ"
    networks = "3"
    detects = True
    recipe = NoisyRecipe
    course_files = CourseFiles(folders=("diverse-0", "diverse-1", "diverse-2"))
    published_success = 62
    expected = Expected(accuracy=0.94, pgd=(0.4, 0.75), reference=0.8, images=15)

    @classmethod
    @override
    def network_settings(cls, info: DatasetInfo, settings: Settings) -> list[Settings]:
        own = settings.replace(
            filters=max(1, 2 * (settings.filters // 3)), epochs=max(1, settings.epochs // 2)
        )
        return [own] * VOTERS

    def votes(self, x: Any) -> Any:
        """Count how many networks name each class, [B, K]."""
        answers = [ops.argmax(net(x), axis=-1) for net in self.nets]
        return sum(ops.one_hot(answer, self.info.classes) for answer in answers)

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        return sum(net(x) for net in self.nets) / VOTERS

    @override
    def probabilities(self, x: Images, chance: Chance | None = None) -> Any:
        # Without a majority the first class named once stands there; such inputs are rejected.
        return ops.one_hot(ops.argmax(self.votes(x), axis=-1), self.info.classes)

    @override
    def scores(self, x: Images, chance: Chance | None = None) -> Scores:
        return ops.cast(ops.max(self.votes(x), axis=-1) < 2, "float32")
