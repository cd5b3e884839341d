"""PGD and FGSM: follow the gradient of a loss, stay within the threat model.

Reference: Madry et al. 2018, https://arxiv.org/abs/1706.06083 (PGD); Goodfellow et al. 2015,
https://arxiv.org/abs/1412.6572 (FGSM); Dong et al. 2018, https://arxiv.org/abs/1710.06081
(momentum).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring.attacks.ascent import ORDERS, Ascent, Rise
from sparring.attacks.losses import LOSSES
from sparring.attacks.options import choice, flag, integer, number
from sparring.backend import ops
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class PGD(Ascent):
    """Projected gradient descent.

    Every step moves along the gradient of a loss, in the direction that gains most in the norm, and
    back into the ball. Images leave the attack when they are answered wrongly and not rejected. A
    subclass with another `objective` follows another loss, and one with another `aimed` does with
    targets.

    Attributes:
        steps: how many, in each restart.
        step_size: as a share of eps; None takes 2.5 / steps.
        restarts: how often it starts, from random points after the first time; images that are
            broken already are left out.
        momentum: in [0, 1]; above 0, steps follow a sum of the gradients so far, each scaled to
            mean absolute value 1, older ones decayed by it.
        loss: "ce", "margin" or "dlr".
        random_start: whether the first start is a random point of the ball too.
        early_stopping: False takes all steps with all images, as a stochastic defense has it.
        seed: of the first start; each further one adds 1.
        targets: above 0, how many other classes are aimed at in turn, at most.
        order: which of them are first, "logits" or "malt", see `Ascent`.

    Raises:
        SettingsError: for wrong values.
    """

    steps: int = integer(40)
    step_size: float | None = number(None, "a number above 0", lambda size: 0 < size < inf)
    restarts: int = integer(1)
    momentum: float = number(0.0, "0 to 1", lambda momentum: 0 <= momentum <= 1)
    loss: str = choice("ce", LOSSES)
    random_start: bool = flag(True)
    early_stopping: bool = flag(True)
    seed: int = integer(0, least=0)
    targets: int = integer(0, least=0)
    order: str = choice("logits", ORDERS)

    @override
    def moving(self, start: Images) -> Sequence[Any]:
        return start, ops.zeros_like(start)

    @override
    def step(self, rise: Rise, threat: ThreatModel) -> Callable[..., Any]:
        size = threat.eps * (self.step_size or 2.5 / self.steps)

        def step(moving: Sequence[Any], x: Images, y: Labels, target: Any) -> Any:
            x_adv, velocity = moving  # [B, H, W, C] twice
            _, gradient, looks_broken = rise(x_adv, y, target)  # [B, H, W, C], [B]
            if self.momentum:
                sizes = ops.mean(ops.abs(gradient), axis=(1, 2, 3), keepdims=True)  # [B, 1, 1, 1]
                velocity = self.momentum * velocity + gradient / ops.maximum(sizes, 1e-30)
                gradient = velocity
            return (threat.moved(x_adv, gradient, x, size), velocity), looks_broken

        return step


@final
@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method: PGD's one step as long as eps, on the cross entropy."""

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        one = PGD(steps=1, step_size=1.0, random_start=False, early_stopping=False)
        return one(defense, x, y, threat)
