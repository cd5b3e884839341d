"""jump: the activation has a jump at zero.

A step of height h is added to leaky ReLU where its input is positive. The derivative does not see
the step, so gradients point wrongly while the outputs change abruptly. A smooth stand-in for the
step on the backward pass (BPDA) repairs the gradient.

    sparring train jump --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness; BPDA is of
Athalye et al. 2018, https://arxiv.org/abs/1802.00420.
"""

from __future__ import annotations

from typing import Any, final

from typing_extensions import override

from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.networks.allconv import AllConv, leaky_relu
from sparring.training.recipe import Recipe


def height(progress: Any) -> Any:
    """Compute the jump's height at progress p in [0, 1]: 5 min(1, 2p)."""
    return 5 * ops.minimum(1.0, 2 * progress)


class JumpNet(AllConv):
    """The network with leaky ReLU(x) + height * [x > 0] in place of leaky ReLU."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Make the network, with a height that ramps."""
        super().__init__(*arguments, **options)
        self.height = self.ramp("height")

    @override
    def activation(self, x: Any) -> Any:
        return leaky_relu(x) + ops.cast(x > 0, x.dtype) * ops.cast(self.height, x.dtype)


class JumpRecipe(Recipe):
    """The shared recipe while the jump grows."""

    @override
    def on_progress(self, net: Any, progress: Any) -> None:
        net.height.assign(height(progress))


@final
class Jump(Defense):
    """The shared answer, with the jump at its full height of 5."""

    name = "jump"
    idea = "adds a jump to the activation that its gradient does not see"
    hints = (
        "Compare the gradient with finite differences of a larger and larger radius. From "
        "where on do they disagree?",
        "The activation has a jump that its derivative does not see: forward the outputs "
        "change abruptly, backward nothing is known of it.",
        "Put a smooth step, such as a steep sigmoid, in the place of the jump on the backward "
        "pass alone (BPDA), and give momentum and restarts to what is still rough.",
    )
    step_cost = 1.1
    network = JumpNet
    recipe = JumpRecipe
    settings_table = {
        # At twice the course's rate, and a jump that grows in thousands of steps, the loss blew up;
        # the course's itself was not tried.
        ("course", "fashion-mnist"): {"learning_rate": 0.02},
        # Muon copes, but is the better the slower, and the more evenly PGD breaks it then:
        # docs/fast.md.
        ("fast", "*"): {"learning_rate": 0.03},
        ("fast", "fashion-mnist"): {"learning_rate": 0.01},
    }
    course_files = CourseFiles(folders=("jump",))
    published_success = 92
    expected = Expected(accuracy=0.95, pgd=(0.5, 0.92), reference=0.9)
