"""noise: a random point of the ball. Whatever it breaks was never robust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from keras import ops

from sparring.chance import Chance
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
