"""Smallest: how little an image has to change, by bisection over the radius of the threat model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from sparring.attacks.files import checked
from sparring.attacks.options import Options, integer
from sparring.attacks.search import arrays
from sparring.backend import ops
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel, checked_threat


def _attack(name: str, value: Any) -> Any:
    return checked(value)


@final
@dataclass(frozen=True)
class Smallest(Options):
    """An attack at ever other radii, until each image's smallest perturbation is known.

    The radii are eps times k / 2^rounds. After the whole eps, each round halves the radii between
    which an image's smallest lies: where it holds, and where it is broken, in more than half of
    the draws of a stochastic defense. What is given is the nearest point that broke it, so a
    verdict's distances give the success at every radius up to eps (`Verdict.success_within`).

    Attributes:
        attack: any attack.
        rounds: how often the radii are halved.
    """

    attack: Any = field(metadata={"read": _attack})
    rounds: int = integer(5)

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        checked_threat(threat)
        images, labels = arrays(x, y)
        parts = 2**self.rounds
        best, held = images.copy(), np.zeros(len(images), int)  # in parts of eps
        broken_at, level = np.full(len(images), parts + 1), np.full(len(images), parts)
        while (left := np.flatnonzero(broken_at - held > 1)).size:
            # Images at one radius are attacked together.
            for part in np.unique(level[left]):
                rows = left[level[left] == part]
                within = threat if part == parts else threat.scaled(part / parts)
                given = self.attack(
                    *(defense, ops.convert_to_tensor(images[rows])),
                    *(ops.convert_to_tensor(labels[rows]), within),
                )
                points, valid, distance, _ = within.check(
                    np.array(ops.convert_to_numpy(given), np.float32), images[rows]
                )
                broken = valid & (defense.broken_share(points, labels[rows]) > 0.5)
                best[rows[broken]] = points[broken]
                held[rows[~broken]] = part
                # A point may lie nearer than the radius that it was looked for in.
                reached = np.ceil(parts * distance[broken] / threat.eps)
                broken_at[rows[broken]] = np.clip(reached, 1, part)
            level = (held + broken_at) // 2
        return best
