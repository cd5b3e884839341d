"""advtrain: the network is trained on images moved along their own loss gradient.

Each image is trained on as it is and once more a random distance along the gradient of its loss:
single-step adversarial training in L2. It is the one defense of the course that holds in part;
strong attacks (many steps, restarts, AutoAttack) say how much.

    sparring train advtrain --data digits

Test accuracy with its settings (seed 0, PyTorch): digits 98.33 %, Fashion-MNIST 85.73 %.

Reference: a defense of the self-study course in evaluating adversarial robustness; adversarial
training is of Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

from sparring import backend
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.tensors import Images, Labels
from sparring.training.recipe import Recipe, Settings, cross_entropy, hits


@dataclass(frozen=True, kw_only=True)
class AdvTrainSettings(Settings):
    """The shared settings, and how far images are moved."""

    weight_decay: float = 0.0
    radius: float = 2.0  # the largest L2 distance, for 32x32x3 images


def unit(gradient: Any) -> Any:
    """Scale gradients [B, H, W, C] to L2 norm 1 an image; a zero one stays zero."""
    norms = ops.sqrt(ops.sum(ops.square(gradient), axis=(1, 2, 3), keepdims=True))
    return gradient / ops.where(norms > 0, norms, 1.0)


class AdvTrainRecipe(Recipe):
    """CE(x) + CE(x + g): g along the gradient of CE(x), as long as U(0, radius), per image."""

    settings: AdvTrainSettings

    @override
    def loss(self, net: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        gradient = backend.input_gradient(lambda images: cross_entropy(y, net(images)), x)
        distances = self.settings.radius * self.random.uniform((x.shape[0], 1, 1, 1))
        moved = ops.clip(x + distances * unit(gradient), 0.0, 1.0)  # [B, H, W, C]
        clean = net(x)  # [B, K]
        return cross_entropy(y, clean) + cross_entropy(y, net(moved)), hits(y, clean)


@final
class AdvTrain(Defense):
    """The shared answer."""

    name = "advtrain"
    idea = "trains on images moved along their loss gradient, one step in L2"
    step_cost = 2.6
    recipe = AdvTrainRecipe
    course_settings = AdvTrainSettings()
    # Twice the L2 eps it is usually attacked at, as the course's 2.
    adapted = {"digits": {"radius": 1.5}}
    # At the course's rate one of two seeds diverged. Muon at the others' 0.05 answers 87.2 % of
    # held-out images rightly, and PGD breaks 18 % of them; at 0.02 it is 86.5 and 24 %, beside the
    # course preset's 85.7 and 24 %.
    tuned = {
        "course": {"fashion-mnist": {"learning_rate": 0.02}},
        "fast": {"fashion-mnist": {"learning_rate": 0.02}},
    }
