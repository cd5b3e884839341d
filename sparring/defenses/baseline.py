"""baseline: a plain network, no defense at all.

What every other defense is measured against: the all-convolutional network, trained by the shared
recipe as it stands, answering with the softmax of its logits. Anybody's first gradient attack
should break it; an attack that does not is broken itself.

    sparring train baseline --data digits

Reference: the self-study course in evaluating adversarial robustness this project succeeds; the
architecture is that of Springenberg et al., "Striving for Simplicity: The All Convolutional Net",
2015, https://arxiv.org/abs/1412.6806, with average pooling.
"""

from __future__ import annotations

from typing import final

from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected


@final
class Baseline(Defense):
    """The shared recipe and the shared answer, unchanged."""

    name = "baseline"
    idea = "a plain network, no defense: what the others are measured against"
    hints = (
        "Nothing is in the way: print how the loss changes from step to step. What makes it "
        "stop rising?",
        "Steps of the sign of the gradient, brought back into the ball after each, need to "
        "add up to more than eps.",
        "Projected gradient descent (PGD): some 40 steps of eps / 10 from a random start; the "
        "margin of the logits wastes no step on images that are broken already.",
    )
    course_files = CourseFiles(folders=("baseline",))
    published_success = 97
    expected = Expected(accuracy=0.97, pgd=(0.55, 0.9), reference=0.85)
