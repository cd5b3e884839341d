"""PGD and FGSM: follow the gradient of a loss, stay within the threat model.

Reference: Madry et al. 2018, https://arxiv.org/abs/1706.06083 (PGD); Goodfellow et al. 2015,
https://arxiv.org/abs/1412.6572 (FGSM); Dong et al. 2018, https://arxiv.org/abs/1710.06081
(momentum).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.attacks.losses import LOSSES
from sparring.attacks.options import Options, choice, flag, integer, number
from sparring.attacks.search import Search, best_of, run
from sparring.attacks.simple import uniforms
from sparring.backend import ops
from sparring.networks.allconv import padded_size
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel, checked_threat


@dataclass(frozen=True)
class PGD(Options):
    """Projected gradient descent.

    Every step moves along the gradient of a loss, in the direction that gains most in the norm, and
    back into the ball. Images leave the attack when they are answered wrongly and not rejected. A
    subclass with another `objective` follows another loss.

    Attributes:
        steps: how many, in each restart.
        step_size: as a share of eps; None takes 2.5 / steps.
        restarts: how often it starts, from random points after the first time; images that are
            broken already are left out.
        momentum: in [0, 1]; above 0, steps follow a sum of the gradients so far, each scaled to
            mean absolute value 1, older ones decayed by it.
        loss: "ce" or "margin".
        random_start: whether the first start is a random point of the ball too.
        early_stopping: False takes all steps with all images, as a stochastic defense has it.
        seed: of the first start; each restart adds 1.

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

    def objective(self, defense: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        """Compute what the attack rises along.

        Args:
            defense: the defense or a wrapper around one.
            x: points float32 [B, H, W, C].
            y: labels, integers [B].

        Returns:
            Losses float32 [B], differentiable by x, and which points look broken, bool [B].
        """
        logits = defense.logits(x)  # [B, K]
        return LOSSES[self.loss](y, logits), ops.argmax(logits, axis=-1) != ops.cast(y, "int32")

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        checked_threat(threat)

        def attempt(images: np.ndarray, labels: np.ndarray, restart: int) -> np.ndarray:
            return self._run(defense, images, labels, threat, restart)

        attempts = (partial(attempt, restart=restart) for restart in range(self.restarts))
        return best_of(attempts, defense, x, y)

    def _run(
        self,
        defense: Any,
        images: np.ndarray,
        labels: np.ndarray,
        threat: ThreatModel,
        restart: int,
    ) -> np.ndarray:
        """Take one start for every image, to the end."""
        step = defense.compiled(("pgd", self, threat), self._step(defense, threat))
        rows = _filled(np.arange(len(images)))
        x, y = (ops.convert_to_tensor(array[rows]) for array in (images, labels))
        start = x
        if self.random_start or restart:
            start = threat.start(x, uniforms(x, self.seed + restart))
        every = 10 if defense.detects else 1  # asking for scores costs more than a step
        if defense.stochastic or not self.early_stopping:
            every = 0
        return run(_Climb(step, x, y, start), defense, images, labels, self.steps, every)

    def _step(self, defense: Any, threat: ThreatModel) -> Callable[..., Any]:
        size = threat.eps * (self.step_size or 2.5 / self.steps)

        def step(x_adv: Images, x: Images, y: Labels, velocity: Any) -> tuple[Images, Any, Any]:
            def total(images: Images) -> tuple[Any, Any]:
                losses, looks_broken = self.objective(defense, images, y)  # [B], [B]
                return ops.sum(losses), ops.cast(looks_broken, "float32")

            gradient, looks_broken = backend.input_gradient_and(total, x_adv)  # [B, H, W, C], [B]
            # Without this, NaN would spread to the points, which no defense takes.
            gradient = ops.where(ops.isfinite(gradient), gradient, 0.0)
            if self.momentum:
                sizes = ops.mean(ops.abs(gradient), axis=(1, 2, 3), keepdims=True)  # [B, 1, 1, 1]
                velocity = self.momentum * velocity + gradient / ops.maximum(sizes, 1e-30)
                gradient = velocity
            return threat.moved(x_adv, gradient, x, size), velocity, looks_broken

        return step


class _Climb(Search):
    """PGD's way from one start. A step looks at the points that it leaves."""

    def __init__(self, step: Callable[..., Any], x: Images, y: Labels, start: Images) -> None:
        self._step, self.points = step, start
        self._x, self._y, self._velocity = x, y, ops.zeros_like(x)

    @override
    def step(self) -> tuple[Images, Any]:
        left = self.points
        self.points, self._velocity, looks_broken = self._step(
            left, self._x, self._y, self._velocity
        )
        return left, looks_broken

    @override
    def keep(self, rows: np.ndarray) -> None:
        rows = ops.convert_to_tensor(_filled(rows).astype(np.int32))
        everything = (self._x, self._y, self.points, self._velocity)
        self._x, self._y, self.points, self._velocity = (
            ops.take(tensor, rows, axis=0) for tensor in everything
        )


@final
@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method: PGD's one step as long as eps, on the cross entropy."""

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        one = PGD(steps=1, step_size=1.0, random_start=False, early_stopping=False)
        return one(defense, x, y, threat)


def _filled(rows: np.ndarray) -> np.ndarray:
    """Fill rows up to a batch by repetition where a new size would be compiled anew."""
    return np.resize(rows, padded_size(len(rows)))
