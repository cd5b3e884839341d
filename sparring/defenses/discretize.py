"""discretize: pixels are turned into a code of bits.

Each channel becomes 20 bits, a thermometer read downwards: bit k says whether the value is below
0.05 (k + 1). The code has no gradient, so a gradient attack gets none at all until it puts a smooth
stand-in for the steps on the backward pass (BPDA).

    sparring train discretize --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness; the code is of
Buckman et al. 2018, "Thermometer Encoding", https://openreview.net/forum?id=S18Su--CW.
"""

from __future__ import annotations

from typing import Any, final

from typing_extensions import override

from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.networks.allconv import AllConv
from sparring.tensors import Images

BITS = 20


def discretized(x: Any) -> Any:
    """Code images [B, H, W, C] as [B, H, W, 20 C], bit k of channel c at 20 c + k."""
    thresholds = (ops.arange(BITS, dtype="float32") + 1) / BITS
    bits = ops.cast(ops.expand_dims(x, -1) < thresholds, "float32")  # [B, H, W, C, 20]
    return ops.reshape(bits, (-1, *x.shape[1:3], BITS * x.shape[3]))


class CodeNet(AllConv):
    """The network on the code, which is made a batch at a time on the device."""

    @override
    def transform(self, x: Images) -> Any:
        return discretized(x)


@final
class Discretize(Defense):
    """The code first, in training and in answering."""

    name = "discretize"
    idea = "turns each channel into 20 bits, which have no gradient"
    hints = (
        "Print the gradient by the images. What is it, and which layer made it so?",
        "Pixels become bits, by steps that are flat everywhere else. Forward nothing else has "
        "to change: only the way back is missing.",
        "Let a sum of sigmoids, one around each of the code's steps, stand in on the backward "
        "pass (BPDA).",
    )
    step_cost = 1.3
    differentiable = False
    network = CodeNet
    # Half of the code's bits are set, so the first layer's steps are large: twice the course's rate
    # blew up; the course's itself was not tried.
    settings_table = {("course", "fashion-mnist"): {"learning_rate": 0.02}}
    course_files = CourseFiles(folders=("discretize",), channels=BITS)
    published_success = 97
    expected = Expected(accuracy=0.97, pgd=(0.0, 0.1), reference=0.9, gain=0.8)
