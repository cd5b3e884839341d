"""transform: every image is strongly augmented before the network answers.

Trained and served on random color changes, shifts and flips, the network never answers the same
image twice alike, and a perturbation made for one draw may miss the next. Averaging the gradient
over many draws (EOT) finds perturbations that hold for most of them.

    sparring train transform --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness; EOT is of
Athalye et al. 2018, https://arxiv.org/abs/1707.07397.
"""

from __future__ import annotations

from typing import final

from typing_extensions import override

from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.networks.augment import STRONG_DRAWS, strong
from sparring.randomness import Chance
from sparring.tensors import Images, Labels, Logits
from sparring.training.recipe import Recipe


class TransformRecipe(Recipe):
    """The shared recipe with strong augmentation in place of the weak one."""

    @override
    def augment(self, x: Images, y: Labels) -> tuple[Images, Labels]:
        draws = self.random.uniform((STRONG_DRAWS, x.shape[0], 1))
        return strong(x, draws, bool(self.settings.flip)), y


@final
class Transform(Defense):
    """One strongly augmented draw, then the shared answer."""

    name = "transform"
    idea = "augments images strongly and at random before it answers"
    hints = (
        "Ask about the same image several times. In how many draws is your adversarial image "
        "broken?",
        "Every answer sees other colors and another place of the image. A perturbation has to "
        "work in most of them, not in one.",
        "Follow the mean gradient over several fresh draws at every step (EOT), with "
        "momentum, and let a draw stop counting once it is fooled.",
    )
    outside = "the random augmentation before each answer"
    step_cost = 1.2
    recipe = TransformRecipe
    stochastic = True
    course_files = CourseFiles(folders=("transform",))
    published_success = 71
    expected = Expected(accuracy=0.95, pgd=(0.05, 0.35), reference=0.4, gain=0.05, images=20)

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        draws = ops.transpose((chance or Chance(x)).uniform(STRONG_DRAWS))[:, :, None]
        return self.nets[0](strong(x, draws, bool(self.settings.flip)))
