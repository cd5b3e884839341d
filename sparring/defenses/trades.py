"""trades: accuracy and robustness are traded in the loss. Ours, not the course's.

The loss is the cross entropy on clean images plus six times how far the answers move in the worst
case nearby, found by projected gradient descent in Linf. With pgdtrain it is what robustness claims
are compared with, and it holds.

    sparring train trades --data digits

Reference: Zhang et al. 2019, "Theoretically Principled Trade-off between Robustness and Accuracy",
https://arxiv.org/abs/1901.08573.
"""

from __future__ import annotations

from typing import Any, final

from typing_extensions import override

from sparring.backend import ops
from sparring.defenses.adversarial import TABLE, PgdSettings
from sparring.defenses.defense import Defense
from sparring.defenses.facts import Expected
from sparring.tensors import Images, Labels
from sparring.threat import ascend
from sparring.training.recipe import Recipe, cross_entropy, hits
from sparring.training.settings import setting


class TradesSettings(PgdSettings):
    """The attack's settings, and the weight of robustness."""

    beta: float = setting(
        6.0, "weight of how far answers move, beside the cross entropy", "0 or more", ge=0
    )


def divergence(clean: Any, moved: Any) -> Any:
    """Average KL(softmax(clean) || softmax(moved)) over a batch of logits [B, K]."""
    log_clean, log_moved = ops.log_softmax(clean, -1), ops.log_softmax(moved, -1)
    return ops.mean(ops.sum(ops.exp(log_clean) * (log_clean - log_moved), axis=-1))


class TradesRecipe(Recipe):
    """CE(x) + beta KL(answers to x || answers to x moved to where that is largest)."""

    settings: TradesSettings

    @override
    def loss(self, net: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        # At x itself the divergence is zero and so is its gradient; noise of 0.001 leaves it.
        start = ops.clip(x + 0.001 * self.random.normal(x.shape), 0.0, 1.0)
        answers, settings = ops.stop_gradient(net(x)), self.settings  # [B, K]

        def objective(images: Images) -> Any:
            return divergence(answers, net(images))

        x_adv = ascend(objective, x, start, settings.threat, settings.steps, settings.step_size)
        clean = net(x)  # [B, K]
        robust = divergence(clean, net(x_adv))
        return cross_entropy(y, clean) + self.settings.beta * robust, hits(y, clean)


@final
class Trades(Defense):
    """The shared answer."""

    name = "trades"
    idea = "trades accuracy for answers that stay alike nearby (ours, after Zhang et al.)"
    hints = (
        "It is meant to hold. Compare your rate with that of the suite strong before you look "
        "for a mistake.",
        "The loss keeps the answer from moving, so the cross entropy is flat around an image; "
        "differences of logits are less so.",
        "Several attacks in turn, each on what is left: APGD on the cross entropy, targeted "
        "losses on the logits, and a search without gradients.",
    )
    step_cost = 9.1
    recipe = TradesRecipe
    settings_class = TradesSettings
    settings_table = {**TABLE, ("*", "*"): {"steps": 10}}
    expected = Expected(accuracy=0.93, pgd=(0.0, 0.25), reference=0.1, images=20)
