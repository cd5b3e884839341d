"""noise: a random point of the ball. Whatever it breaks was never robust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from keras import ops

from sparring.randomness import Chance
from sparring.threat import ThreatModel


def uniforms(x: Any, seed: int) -> Any:
    """Draws from [0, 1) of the shape of the images: a function of seed and image alone."""
    size = int(np.prod(x.shape[1:]))
    return ops.reshape(Chance(x, seed).uniform(size), x.shape)


@final
@dataclass(frozen=True)
class Noise:
    """Random points of the ball: the best of `draws`."""

    draws: int = 1
    seed: int = 0

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        chosen = np.array(ops.convert_to_numpy(x))
        left = np.arange(len(chosen))
        labels = ops.convert_to_numpy(y)
        for draw in range(self.draws):
            part = ops.convert_to_tensor(ops.convert_to_numpy(x)[left])
            noisy = ops.convert_to_numpy(threat.start(part, uniforms(part, self.seed + draw)))
            chosen[left] = noisy
            left = left[~defense.broken(noisy, labels[left])]
            if not len(left):
                break
        return chosen


@final
@dataclass(frozen=True)
class InTurn:
    """Several attacks one after the other, each on the images that are not broken yet."""

    attacks: tuple[Any, ...]

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> np.ndarray:
        images, labels = np.array(ops.convert_to_numpy(x)), np.array(ops.convert_to_numpy(y))
        best, share = images.copy(), np.full(len(images), -1.0)
        for attack in self.attacks:
            left = np.flatnonzero(share < 1)
            if not len(left):
                break
            part, names = (ops.convert_to_tensor(array[left]) for array in (images, labels))
            found = ops.convert_to_numpy(attack(defense, part, names, threat))
            shares = defense.broken_share(found, labels[left])
            better = shares > share[left]
            best[left[better]], share[left[better]] = found[better], shares[better]
        return best
