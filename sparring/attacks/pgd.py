"""PGD and FGSM: follow the gradient of a loss, stay within the threat model.

Reference: Madry et al. 2018, https://arxiv.org/abs/1706.06083 (PGD); Goodfellow et al. 2015,
https://arxiv.org/abs/1412.6572 (FGSM); Dong et al. 2018, https://arxiv.org/abs/1710.06081
(momentum).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from keras import ops

from sparring import backend
from sparring.attacks.gradients import cross_entropies, margins
from sparring.attacks.simple import uniforms
from sparring.errors import SettingsError, unknown_name
from sparring.networks.allconv import padded_size
from sparring.threat import ThreatModel

LOSSES: dict[str, Callable[[Any, Any], Any]] = {"ce": cross_entropies, "margin": margins}


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent.

    Every step moves by `step_size` (a share of eps; 2.5 / steps unless given) along the gradient,
    in the direction that gains most in the norm, and back into the ball. `loss` is "ce" or
    "margin". With `momentum` steps follow a sum of the gradients so far, each scaled to mean
    absolute value 1, older ones decayed by it. `restarts` repeats from random starts for images not
    broken yet; `random_start` applies to the first one too. Images leave the attack when they are
    answered wrongly and not rejected, unless `early_stopping` is off or the defense stochastic.

    A subclass with another `objective` follows another loss. Raises SettingsError for wrong values.
    """

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    momentum: float = 0.0
    loss: str = "ce"
    random_start: bool = True
    early_stopping: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise SettingsError(f"{name}: expected an integer of 1 or more, got {value!r}")
        if self.step_size is not None and not self.step_size > 0:
            raise SettingsError(f"step_size: expected a number above 0, got {self.step_size!r}")
        if not 0 <= self.momentum <= 1:
            raise SettingsError(f"momentum: expected 0 to 1, got {self.momentum!r}")
        if self.loss not in LOSSES:
            raise SettingsError(unknown_name("loss", self.loss, list(LOSSES)))

    def objective(self, defense: Any, x: Any, y: Any) -> tuple[Any, Any]:
        """Losses [B] to rise along, and which images look broken, bool [B]."""
        logits = defense.logits(x)
        return LOSSES[self.loss](y, logits), ops.argmax(logits, axis=-1) != ops.cast(y, "int32")

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> np.ndarray:
        """Adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        images, labels = np.array(ops.convert_to_numpy(x)), np.array(ops.convert_to_numpy(y))
        best, share = images.copy(), np.full(len(images), -1.0)
        left = np.arange(len(images))
        for restart in range(self.restarts):
            found = self._run(defense, images[left], labels[left], threat, restart)
            shares = defense.broken_share(found, labels[left])
            better = shares > share[left]
            best[left[better]] = found[better]
            share[left] = np.maximum(share[left], shares)
            left = np.flatnonzero(share < 1)
            if not len(left):
                break
        return best

    def _run(
        self,
        defense: Any,
        images: np.ndarray,
        labels: np.ndarray,
        threat: ThreatModel,
        restart: int,
    ) -> np.ndarray:
        """One start for every image, to the end."""
        step = defense.compiled(("pgd", self, threat), self._step(defense, threat))
        found = images.copy()
        # Positions of the images still attacked; then a batch filled up with repetitions of them.
        active = np.arange(len(images))
        rows = _filled(active)
        x, y = (ops.convert_to_tensor(array[rows]) for array in (images, labels))
        x_adv = x
        if self.random_start or restart:
            x_adv = threat.start(x, uniforms(x, self.seed + restart))
        velocity = ops.zeros_like(x)
        stopping = self.early_stopping and not defense.stochastic
        # Asking whether an input is rejected costs more than a step.
        every = 10 if defense.detects else 1
        for number in range(self.steps):
            before = x_adv
            x_adv, velocity, looks_broken = step(x_adv, x, y, velocity)
            if not stopping or number % every:
                continue
            candidates = ops.convert_to_numpy(looks_broken)[: len(active)].astype(bool)
            if not candidates.any():
                continue
            where = np.flatnonzero(candidates)
            points = ops.convert_to_numpy(before)[where]
            broken = defense.broken(points, labels[active[where]])
            if not broken.any():
                continue
            found[active[where[broken]]] = points[broken]
            keep = np.delete(np.arange(len(active)), where[broken])
            if not len(keep):
                return found
            active, rows = active[keep], _filled(keep)
            x, y, x_adv, velocity = (_rows(each, rows) for each in (x, y, x_adv, velocity))
        found[active] = ops.convert_to_numpy(x_adv)[: len(active)]
        return found

    def _step(self, defense: Any, threat: ThreatModel) -> Callable[..., Any]:
        size = threat.eps * (self.step_size or 2.5 / self.steps)

        def step(x_adv: Any, x: Any, y: Any, velocity: Any) -> tuple[Any, Any, Any]:
            def total(images: Any) -> tuple[Any, Any]:
                losses, looks_broken = self.objective(defense, images, y)
                return ops.sum(losses), ops.cast(looks_broken, "float32")

            gradient, looks_broken = backend.input_gradient_and(total, x_adv)
            if self.momentum:
                sizes = ops.mean(ops.abs(gradient), axis=(1, 2, 3), keepdims=True)
                velocity = self.momentum * velocity + gradient / ops.maximum(sizes, 1e-30)
                gradient = velocity
            moved = threat.project(x_adv + size * threat.direction(gradient), x)
            return moved, velocity, looks_broken

        return step


@final
@dataclass(frozen=True)
class FGSM:
    """One step as long as eps along the gradient of the cross entropy."""

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> np.ndarray:
        """Adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        one = PGD(steps=1, step_size=1.0, random_start=False, early_stopping=False)
        return one(defense, x, y, threat)


def _filled(rows: np.ndarray) -> np.ndarray:
    """Rows for a batch, filled up by repetition where a new size would be compiled anew."""
    return np.resize(rows, padded_size(len(rows)))


def _rows(tensor: Any, rows: np.ndarray) -> Any:
    return ops.take(tensor, ops.convert_to_tensor(rows.astype(np.int32)), axis=0)
