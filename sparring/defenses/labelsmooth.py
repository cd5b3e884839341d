"""labelsmooth: the network is trained against smoothed labels.

Every class gets a share of the target, so the network has no reason to push logits apart, and its
loss surface near the data is flatter. Flatter is not robust: plain gradient attacks with enough
steps succeed.

    sparring train labelsmooth --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness; label smoothing
is of Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.
"""

from __future__ import annotations

from typing import Any, final

from typing_extensions import override

from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.tensors import Images, Labels
from sparring.training.recipe import Recipe, hits


def smoothed(y: Any, classes: int) -> Any:
    """Smooth labels int [B] into targets [B, K]: (onehot + 1/8) / (1 + K/8)."""
    return (ops.one_hot(y, classes) + 1 / 8) / (1 + classes / 8)


class LabelSmoothRecipe(Recipe):
    """Cross entropy against the smoothed labels."""

    @override
    def loss(self, net: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        logits = net(x)
        targets = smoothed(y, self.info.classes)
        losses = -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)
        return ops.mean(losses), hits(y, logits)


@final
class LabelSmooth(Defense):
    """The shared answer."""

    name = "labelsmooth"
    idea = "trains against smoothed labels for a flatter loss"
    hints = (
        "The loss surface is flat. Does a sign of a small gradient point less well than that "
        "of a large one?",
        "Logits lie close together here, so that their order is easily changed; a loss is "
        "small all the same.",
        "PGD with enough steps; the margin of the logits tells when an image is broken, "
        "whatever the scale of the loss.",
    )
    recipe = LabelSmoothRecipe
    settings_table = {("*", "*"): {"weight_decay": 0}}
    course_files = CourseFiles(folders=("labelsmooth",))
    published_success = 98
    expected = Expected(accuracy=0.97, pgd=(0.4, 0.8), reference=0.9)
