"""pgdtrain: the network is trained on multi-step adversarial examples. Ours, not the course's.

Every batch is replaced by adversarial examples found by projected gradient descent in Linf. It is
what robustness claims are compared with, and it holds: strong attacks lower its accuracy by tens
of points, not to zero.

    sparring train pgdtrain --data digits

Results: docs/results.md and docs/fast.md.

Reference: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
https://arxiv.org/abs/1706.06083.
"""

from __future__ import annotations

from typing import Any, final

from keras import ops

from sparring.defenses.adversarial import TABLE, PgdSettings, ascend
from sparring.defenses.defense import Defense
from sparring.defenses.facts import Expected
from sparring.training.recipe import Recipe, cross_entropy, hits


class PgdTrainRecipe(Recipe):
    """Cross entropy of adversarial examples alone, from a random start in the Linf ball."""

    settings: PgdSettings

    def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
        noise = self.settings.eps * (2 * self.random.uniform(x.shape) - 1)
        start = ops.clip(x + noise, 0.0, 1.0)
        images = ascend(lambda x: cross_entropy(y, net(x)), x, start, self.settings)
        logits = net(images)
        return cross_entropy(y, logits), hits(y, logits)


@final
class PgdTrain(Defense):
    """The shared answer."""

    name = "pgdtrain"
    idea = "trains on multi-step Linf adversarial examples (ours, after Madry et al.)"
    step_cost = 5.8
    recipe = PgdTrainRecipe
    settings_class = PgdSettings
    settings_table = TABLE
    expected = Expected(accuracy=0.95, pgd=(0.0, 0.3), reference=0.4, images=20)
