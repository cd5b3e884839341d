"""mergebinary: one network for each class, each answering yes or no.

Many one-against-the-rest networks have to be fooled together: one must say no, another yes, and the
answer is rejected unless one class stands out. The largest margin over the networks is a
differentiable objective for an attack.

    sparring train mergebinary --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring.backend import ops
from sparring.data import Dataset, DatasetInfo
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.networks.allconv import AllConv
from sparring.randomness import Chance
from sparring.tensors import Images, Labels, Logits, Scores
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings

LEAST_PROBABILITY = 0.7


def merged_logits(margins: Any) -> Any:
    """Compute logits [B, K] of the margins P(yes) - P(no) [B, K]: 5 sigmoid(5 d)."""
    return 5 * ops.sigmoid(5 * margins)


class BinaryRecipe(Recipe):
    """The shared recipe on the question whether an image is of class `network`; output 1 is yes."""

    outputs = 2

    @override
    def augment(self, x: Images, y: Labels) -> tuple[Images, Labels]:
        x, y = super().augment(x, y)
        return x, ops.cast(ops.equal(y, self.network), "int32")

    @override
    def evaluate(self, net: AllConv, dataset: Dataset) -> float:
        answers = net.predict(dataset.x_test).argmax(axis=1)
        return float(np.mean(answers == (dataset.y_test == self.network)))


@final
class MergeBinary(Defense):
    """Softmax of the merged logits; rejected when its largest probability is below 0.7."""

    name = "mergebinary"
    idea = "one yes-or-no network a class; rejects when none stands out"
    hints = (
        "Which images get another label and still do not count? Look at what is rejected, and "
        "when.",
        "Two things have to happen in different networks: one has to say no, another one yes, "
        "and no third. The probabilities are saturated; the networks' own logits are not.",
        "Of the two shortfalls work on the larger one: raise the margin of one other class "
        "over all networks, and aim at each of the other classes in turn.",
    )
    outside = "the merging, and the rejection when none stands out"
    networks = "one a class"
    detects = True
    recipe = BinaryRecipe
    settings_table = {
        # On the digits, larger batches take a third of the time and cost little accuracy.
        ("*", "digits"): {"batch_size": 64},
        ("course", "digits"): {"learning_rate": 0.2},
        # Some networks of 4 filters never learned to say yes. Fewer epochs answer, and PGD breaks,
        # far fewer images: docs/fast.md.
        ("*", "fashion-mnist"): {"filters": 32},
        ("course", "fashion-mnist"): {"epochs": 6},
    }
    course_files = CourseFiles(
        folders=tuple(f"binary_models/class_{label}" for label in range(10)), classes=10
    )
    published_success = 90
    expected = Expected(accuracy=0.88, pgd=(0.2, 0.6), reference=0.8, gain=0.1, images=20)

    @classmethod
    @override
    def network_settings(cls, info: DatasetInfo, settings: Settings) -> list[Settings]:
        return [settings.replace(filters=max(1, settings.filters // 4))] * info.classes

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        answers = [ops.softmax(net(x), axis=-1) for net in self.nets]  # K of [B, 2]
        return merged_logits(ops.stack([yes[:, 1] - yes[:, 0] for yes in answers], axis=-1))

    @override
    def scores(self, x: Images, chance: Chance | None = None) -> Scores:
        largest = ops.max(self.probabilities(x, chance), axis=-1)  # [B]
        return ops.cast(largest < LEAST_PROBABILITY, "float32")
