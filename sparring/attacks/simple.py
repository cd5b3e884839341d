"""noise: a random point of the ball; whatever it breaks was never robust. And attacks in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring.attacks.files import Attack, checked
from sparring.attacks.options import LARGEST, Options, integer
from sparring.attacks.search import Attempt, Search, Way, arrays, best_of, run
from sparring.backend import ops
from sparring.errors import SettingsError, shown
from sparring.randomness import Chance
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel, checked_threat


def uniforms(x: Images, seed: int) -> Any:
    """Draw from [0, 1) in the shape of the images: a function of seed and image alone."""
    size = int(np.prod(x.shape[1:]))
    return ops.reshape(Chance(x, seed & LARGEST).uniform(size), x.shape)


@final
@dataclass(frozen=True)
class Noise(Options):
    """Random points of the ball: the first of `draws` that breaks an image, else the last.

    Attributes:
        draws: how many points an image is tried at, at most.
        seed: of the first draw; each further one adds 1.
    """

    draws: int = integer(1)
    seed: int = integer(0, least=0)

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        checked_threat(threat)
        images, labels = arrays(x, y)
        draws = _Draws(images, threat, self.seed)
        draws.way = Way(repr(self), "Noise")
        return run(draws, defense, images, labels, self.draws)


class _Draws(Search):
    """A new random point at every step."""

    def __init__(self, images: np.ndarray, threat: ThreatModel, seed: int) -> None:
        self.points = self._images = images
        self._threat, self._seed = threat, seed

    @override
    def step(self) -> tuple[Images, Any]:
        x = ops.convert_to_tensor(self._images)
        self.points = ops.convert_to_numpy(self._threat.start(x, uniforms(x, self._seed)))
        self._seed += 1
        return self.points, np.ones(len(self._images), bool)

    @override
    def keep(self, rows: np.ndarray) -> None:
        self._images, self.points = self._images[rows], self.points[rows]


def _attacks(name: str, value: Any) -> tuple[Attack, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise SettingsError(f"{name}: expected a tuple of attacks, got {shown(value)}")
    return tuple(checked(attack, "attacks: ") for attack in value)


@final
@dataclass(frozen=True)
class InTurn(Options):
    """Several attacks one after the other, each on the images that are not broken yet.

    Attributes:
        attacks: callables attack(defense, x, y, threat) -> x_adv.
    """

    attacks: tuple[Callable[..., Any], ...] = field(metadata={"read": _attacks})

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give each image's best adversarial image, float32 [B, H, W, C]."""
        images, labels = arrays(x, y)

        def attempt(attack: Any) -> Attempt:
            return lambda rows: attack(
                defense,
                ops.convert_to_tensor(images[rows]),
                ops.convert_to_tensor(labels[rows]),
                threat,
            )

        return best_of(map(attempt, self.attacks), defense, images, labels)
