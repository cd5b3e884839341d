"""temperature: the network is trained at a rising softmax temperature and served at none.

Trained on logits divided by T, the network learns logits T times as large; served undivided, its
softmax saturates in float32 and the gradient of the cross entropy vanishes. Attacks that follow
that gradient stand still; attacks on the logits themselves do not notice.

    sparring train temperature --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness; the idea is
that of defensive distillation, Papernot et al. 2016, https://arxiv.org/abs/1511.04508, and of how
it fails, Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644.
"""

from __future__ import annotations

from typing import Any, final

from typing_extensions import override

from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.networks.allconv import AllConv
from sparring.tensors import Images, Labels
from sparring.training.recipe import Recipe, cross_entropy, hits
from sparring.training.settings import Settings, setting


class TemperatureSettings(Settings):
    """The shared settings, and how fast the temperature rises."""

    base: float = setting(
        1.15,
        "factor of the temperature with every hundredth of the training",
        "from 1 to 2.4",  # 2.4^100 is the largest that float32 holds
        ge=1,
        le=2.4,
    )


def temperature(base: float, progress: Any) -> Any:
    """Compute T at progress p in [0, 1]: base^(100 p); 1.15 takes it from 1 to 1.2 million."""
    return base ** (100 * progress)


class TemperatureNet(AllConv):
    """The network with the temperature it is being trained at; its logits are undivided."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Make the network, with a temperature that ramps."""
        super().__init__(*arguments, **options)
        self.temperature = self.ramp("temperature")


class TemperatureRecipe(Recipe):
    """Cross entropy of logits / T."""

    settings: TemperatureSettings

    @override
    def on_progress(self, net: Any, progress: Any) -> None:
        net.temperature.assign(temperature(self.settings.base, progress))

    @override
    def loss(self, net: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        logits = net(x)
        return cross_entropy(y, logits / net.temperature), hits(y, logits)


@final
class Temperature(Defense):
    """Softmax of the undivided logits."""

    name = "temperature"
    idea = "trains at a rising softmax temperature, so that gradients of the served softmax vanish"
    hints = (
        "Print the gradient of the cross entropy: for how many images is it exactly zero?",
        "The logits are so far apart that the softmax is 0 and 1 in float32, so nothing can "
        "change it. Are the logits themselves saturated?",
        "Follow the margin of the logits in place of the cross entropy, and aim at several "
        "other classes in turn: the nearest one at first need not be the one that can be "
        "reached.",
    )
    network = TemperatureNet
    recipe = TemperatureRecipe
    settings_class = TemperatureSettings
    settings_table = {
        ("*", "*"): {"weight_decay": 1e-5},
        # In a tenth of CIFAR-10's steps logits cannot follow T to a million: docs/fast.md. T up to
        # 50 still saturates the softmax.
        ("*", "digits"): {"base": 1.04},
        ("*", "fashion-mnist"): {"base": 1.04},
    }
    course_files = CourseFiles(folders=("temperature",))
    published_success = 89
    expected = Expected(accuracy=0.95, pgd=(0.1, 0.5), reference=0.85, gain=0.25)
