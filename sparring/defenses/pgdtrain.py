"""pgdtrain: the network is trained on multi-step adversarial examples. Ours, not the course's.

Every batch is replaced by adversarial examples found by projected gradient descent in Linf. It is
what robustness claims are compared with, and it holds: strong attacks lower its accuracy by tens
of points, not to zero.

    sparring train pgdtrain --data digits

Reference: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
https://arxiv.org/abs/1706.06083.
"""

from __future__ import annotations

from typing import Any, final

from typing_extensions import override

from sparring.defenses.adversarial import TABLE, PgdSettings
from sparring.defenses.defense import Defense
from sparring.defenses.facts import Expected
from sparring.tensors import Images, Labels
from sparring.threat import ascend
from sparring.training.recipe import Recipe, cross_entropy, hits


class PgdTrainRecipe(Recipe):
    """Cross entropy of adversarial examples alone, from a random start in the Linf ball."""

    settings: PgdSettings

    @override
    def loss(self, net: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        settings, threat = self.settings, self.settings.threat
        start = threat.start(x, self.random.uniform(x.shape))  # [B, H, W, C]

        def objective(images: Images) -> Any:
            return cross_entropy(y, net(images))

        x_adv = ascend(objective, x, start, threat, settings.steps, settings.step_size)
        logits = net(x_adv)  # [B, K]
        return cross_entropy(y, logits), hits(y, logits)


@final
class PgdTrain(Defense):
    """The shared answer."""

    name = "pgdtrain"
    idea = "trains on multi-step Linf adversarial examples (ours, after Madry et al.)"
    hints = (
        "It is meant to hold. Compare your rate with that of the suite strong before you look "
        "for a mistake.",
        "Gradients are sound here, so what is left to gain comes from other losses and other "
        "starts.",
        "Several attacks in turn, each on what is left: APGD on the cross entropy, targeted "
        "losses on the logits, and a search without gradients.",
    )
    step_cost = 5.8
    recipe = PgdTrainRecipe
    settings_class = PgdSettings
    settings_table = TABLE
    expected = Expected(accuracy=0.95, pgd=(0.0, 0.3), reference=0.4, images=20)
