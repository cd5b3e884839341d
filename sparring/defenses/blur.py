"""blur: images are blurred before the network sees them.

The hope is that averaging neighboring pixels washes an adversarial perturbation out, and that a
network trained on blurred images loses little. The blur is a fixed linear layer, so a gradient
passes through it as through any other, and an attack that includes it does not notice.

    sparring train blur --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness.
"""

from __future__ import annotations

from typing import Any, final

from typing_extensions import override

from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.networks.allconv import AllConv
from sparring.tensors import Images


def blur(x: Any) -> Any:
    """Zero-pad images [B, H, W, C] by 1, average every 2x2 at stride 1: [B, H + 1, W + 1, C]."""
    padded = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    upper, lower = padded[:, :-1], padded[:, 1:]
    return (upper[:, :, :-1] + upper[:, :, 1:] + lower[:, :, :-1] + lower[:, :, 1:]) / 4


class BlurNet(AllConv):
    """The network behind a blur."""

    @override
    def transform(self, x: Images) -> Any:
        return blur(x)


@final
class Blur(Defense):
    """Blur first, in training and in answering."""

    name = "blur"
    idea = "blurs images before the network sees them"
    hints = (
        "Is what you differentiate what the defense answers with, the blur included?",
        "The blur is a linear layer: a gradient goes through it like through any other. What "
        "does it do to a perturbation that changes from pixel to pixel?",
        "Plain PGD through defense.logits is enough, with as many steps as on a network "
        "without a defense; smooth perturbations survive the blur by themselves.",
    )
    network = BlurNet
    course_files = CourseFiles(folders=("blur",))
    published_success = 95
    expected = Expected(accuracy=0.97, pgd=(0.4, 0.8), reference=0.85)
