"""advtrain: the network is trained on images moved along their own loss gradient.

Each image is trained on as it is and once more a random distance along the gradient of its loss:
single-step adversarial training in L2. It is the one defense of the course that holds in part;
strong attacks (many steps, restarts, AutoAttack) say how much.

    sparring train advtrain --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness; adversarial
training is of Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572.
"""

from __future__ import annotations

from typing import Any, final

from typing_extensions import override

from sparring import backend
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.tensors import Images, Labels
from sparring.training.recipe import Recipe, cross_entropy, hits
from sparring.training.settings import Settings, setting


class AdvTrainSettings(Settings):
    """The shared settings, and how far images are moved."""

    radius: float = setting(
        2.0,
        "largest L2 distance that images are moved by; the default is for 32x32x3",
        "0 or more",
        ge=0,
    )


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
    hints = (
        "It holds in part. Which of your images are nearest to breaking, and does the loss "
        "still rise at the last step?",
        "It was trained against single steps in L2. What do many small steps find that one "
        "large step does not?",
        "Several attacks in turn, each on what is left: APGD on the cross entropy, targeted "
        "losses on the logits, and a search without gradients.",
    )
    step_cost = 2.6
    recipe = AdvTrainRecipe
    settings_class = AdvTrainSettings
    settings_table = {
        ("*", "*"): {"weight_decay": 0},
        # Twice the L2 eps it is usually attacked at, as the course's 2.
        ("*", "digits"): {"radius": 1.5},
        # At the course's rate a seed diverged. Muon answers more images rightly at the shared rate
        # and holds better; with this one it is nearest to the course's preset.
        ("*", "fashion-mnist"): {"learning_rate": 0.02},
    }
    course_files = CourseFiles(folders=("advtrain",))
    published_success = 48
    expected = Expected(accuracy=0.96, pgd=(0.0, 0.3), reference=0.5, images=20)
