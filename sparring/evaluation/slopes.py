"""What the loss that an attack climbs says of the attack: its gradients, and how it rises.

They are the signs of Pintor et al. 2022, https://arxiv.org/abs/2106.09947, and of Carlini et al.
2019, https://arxiv.org/abs/1902.06705, for a gradient that is of no use and for steps too few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from sparring import backend
from sparring.attacks import (
    Ascent,
    Matching,
    Noise,
    Square,
    cross_entropies,
    drawn,
    gradient,
    margins,
)
from sparring.backend import ops
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel

if TYPE_CHECKING:
    from sparring.attacks import Wrapped
    from sparring.defenses.defense import Defense
    from sparring.evaluation.checks import Attempt

DIRECTIONS, DIFFERENCE = 8, 0.02
"""In how many directions gradients are compared with differences of the loss, and how far to a side
these reach, as a share of eps: less than an attack's step, and more than rounding tells."""

MISMATCHED = 0.25
"""From which share of the images on gradients are told that differ from the loss. A sound one does
where a class overtakes another between the points that are compared."""

ROUNDING = 1e-5
"""Which share of the loss, or of 1, rounding may make of a difference: of logits 10 times as large
as the loss it is some 10 units in float32's last place."""

LAST, RISING = 0.1, 0.5
"""Of the attack's steps which share are its last ones; and a loss still rises that does so in them
with more than that share of its mean speed."""

Sign = tuple[str, str]
"""Name and text of a warning."""


def gradients(attempt: Attempt) -> Iterator[Sign]:
    """What is odd about the gradients of the attack's loss, at images that it does not break."""
    defense, attack = attempt.defense, attempt.attack
    if not defense.gradients:
        return
    if isinstance(attack, Noise | Square) or (isinstance(attack, Ascent) and not _climbs(attack)):
        return  # it follows none, or one of a wrapper of its own
    own = attack if isinstance(attack, Ascent) else None

    def losses(images: Images, y: Labels) -> Any:
        if own is not None:
            return own.objective(defense, images, y)[0]
        # The cross entropy stands for the loss of an attack that does not say its own.
        return cross_entropies(y, defense.logits(images))

    def margins_or_own(images: Images, y: Labels) -> Any:
        if own is not None and type(own).objective is not Ascent.objective:
            return losses(images, y)
        # Where the label leads by far, a cross entropy is too close to 0 for differences of it.
        return margins(y, defense.logits(images))

    slope = _slopes(defense, attempt.x, attempt.y, ("slopes", own), losses)
    sizes = np.abs(slope).reshape(len(slope), -1)
    unbroken = attempt.success <= 0.5
    finite = np.isfinite(sizes).all(axis=1)
    zero = finite & (sizes == 0).all(axis=1)
    if bad := int(np.sum(~finite & unbroken)):
        yield "bad-gradients", f"gradients of {bad} of {len(sizes)} images are NaN or infinite"
    # An attack that breaks most of these images gets around their gradients.
    if np.sum(zero & unbroken) >= max(1, 0.1 * len(sizes)) and np.mean(unbroken[zero]) >= 0.5:
        yield "zero-gradients", f"gradients of {np.sum(zero)} of {len(sizes)} images are zero"
    if defense.stochastic:
        return  # every point has draws of its own, which differences would be made of
    differences, slope = measured(
        *(defense, attempt.x, attempt.y, attempt.threat, ("differences", own)), margins_or_own
    )
    odd = finite & ~zero & differences.off(slope)
    enough = max(2, MISMATCHED * len(odd))
    if np.sum(odd & unbroken) >= enough and np.mean(unbroken[odd]) >= 0.5:
        text = f"gradients of {np.sum(odd)} of {len(odd)} images are off by more than half"
        yield "gradient-mismatch", f"{text} from finite differences"


Losses = Callable[[Images, Labels], Any]
"""Gives losses [B] of points [B, H, W, C] and labels int [B]."""


def _slopes(
    defense: Defense | Wrapped, x: np.ndarray, y: np.ndarray, key: tuple[Any, ...], losses: Losses
) -> np.ndarray:
    """The gradients [B, H, W, C] of losses, at the images; a key tells them from other losses."""
    compiled = defense.compiled(key, lambda x, y: gradient(lambda images: losses(images, y), x))
    labels = ops.convert_to_tensor(y.astype(backend.label_dtype))
    return np.array(ops.convert_to_numpy(compiled(ops.convert_to_tensor(x), labels)))


@dataclass(frozen=True)
class Differences:
    """How losses change along random directions at images, by central differences.

    Attributes:
        moves: the directions, as far as they reach to a side, [directions, B, H, W, C].
        found: by how much the losses change from one side to the other, [directions, B].
        rounding: what rounding may make of the length of `found`, [B].
    """

    moves: np.ndarray
    found: np.ndarray
    rounding: np.ndarray

    @property
    def told(self) -> np.ndarray:
        """Of which images they say more than rounding, bool [B]."""
        return np.array(np.linalg.norm(self.found, axis=0) > self.rounding)

    def off(self, slope: np.ndarray, share: float = 0.5) -> np.ndarray:
        """Which gradients are not what the differences say, bool [B].

        Args:
            slope: gradients [B, H, W, C].
            share: of the length of both, as vectors of that many numbers, by which they may differ.
        """
        expected = 2 * np.einsum("dbhwc,bhwc->db", self.moves, slope, dtype=np.float64)
        apart, *lengths = (
            np.linalg.norm(along, axis=0) for along in (self.found - expected, self.found, expected)
        )
        return np.array(apart > np.maximum(np.maximum(*lengths) * share, self.rounding))


def measured(
    defense: Defense | Wrapped,
    x: np.ndarray,
    y: np.ndarray,
    threat: ThreatModel,
    key: tuple[Any, ...],
    losses: Losses,
) -> tuple[Differences, np.ndarray]:
    """Measure how losses change at images.

    Args:
        defense: whose losses they are.
        x: images float32 [B, H, W, C] in [0, 1].
        y: their labels, int [B].
        threat: differences reach as far as a small share of its radius.
        key: tells the losses from others, for what is compiled.
        losses: the losses.

    Returns:
        The differences, and the losses' own gradients [B, H, W, C].
    """
    reach = DIFFERENCE * min(threat.eps, threat.unlimited(x.shape[1:]).eps)
    copies, chance = drawn(ops.convert_to_tensor(x), DIRECTIONS)
    centered = ops.reshape(chance.uniform(x[0].size), copies.shape) - 0.5
    moves = reach * np.array(ops.convert_to_numpy(threat.direction(centered)))
    moves = moves.reshape(DIRECTIONS, *x.shape)
    compiled = defense.compiled(key, losses)
    labels = ops.convert_to_tensor(y.astype(backend.label_dtype))

    def at(points: np.ndarray) -> np.ndarray:
        found = compiled(ops.convert_to_tensor(points), labels)
        return np.array(ops.convert_to_numpy(found), np.float64)

    with np.errstate(invalid="ignore"):  # infinite ones
        found = np.stack([at(x + move) - at(x - move) for move in moves])  # [directions, B]
    rounding = ROUNDING * np.maximum(1, np.abs(at(x)))
    slope = _slopes(defense, x, y, ("slopes of", *key), losses)
    return Differences(moves, found, rounding), slope


def _climbs(attack: Any) -> TypeGuard[Ascent]:
    """Whether an attack is an ascent that does nothing else when it is called."""
    return isinstance(attack, Ascent) and type(attack).__call__ is Ascent.__call__


def still_rising(attempt: Attempt) -> Iterator[Sign]:
    """Whether the attack stopped on its way up, at images that it does not break."""
    attack, left = attempt.attack, attempt.left
    # Of Matching the images that are left are no examples; of draws the loss is a matter of chance.
    if not _climbs(attack) or isinstance(attack, Matching) or attempt.defense.stochastic:
        return
    steps = attack.steps
    last = max(1, round(LAST * steps))
    after = [0, *range(max(1, steps - 2 * last), steps + 1)]
    x, y = attempt.x[left], attempt.y[left].astype(backend.label_dtype)
    losses = attack.losses(attempt.defense, x, y, attempt.threat, after)
    # A step size that is kept makes a loss sway, but what is best so far only rises.
    with np.errstate(invalid="ignore"):  # infinite ones
        highest = losses.max(axis=0)
        gained = highest - losses[:-last].max(axis=0)
        rising = gained > RISING * (highest - losses[0]) * last / steps
    if np.mean(rising) >= 0.5 and attempt.more(rising, np.zeros(len(left))):
        text = f"the loss of {np.sum(rising)} of the {len(left)} images that the attack did not"
        yield "still-rising", f"{text} break still rises in the last {last} of {steps} steps"
