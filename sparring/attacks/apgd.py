"""APGD: PGD that chooses its step size by itself, image by image.

Reference: Croce and Hein 2020, https://arxiv.org/abs/2003.01690.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

from typing_extensions import override

from sparring.attacks.ascent import ORDERS, Ascent, Rise
from sparring.attacks.losses import LOSSES
from sparring.attacks.options import choice, flag, integer
from sparring.backend import ops
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel

MOMENTUM = 0.75
"""The share of the step in where a point moves; the rest is the last move, taken again."""

LEAST_RISES = 0.75
"""In which share of the steps between two checkpoints the loss has to rise."""


@dataclass(frozen=True)
class APGD(Ascent):
    """Auto-PGD: steps of twice eps that are halved where they gain nothing more.

    At checkpoints, which come ever closer, an image's step size is halved if its loss rose in too
    few steps since the last one, or if its best loss stayed where it was without being halved then;
    it goes on from its best point. What is given is the point at which an image was broken, else
    the one of its highest loss.

    Attributes:
        steps: how many, in each restart.
        restarts: how often it starts, from random points; images that are broken already are left
            out.
        loss: "ce", "margin" or "dlr", the difference of logits ratio.
        early_stopping: False takes all steps with all images, as a stochastic defense has it.
        seed: of the first start; each further one adds 1.
        targets: above 0, how many other classes are aimed at in turn, at most.
        order: which of them are first, "logits" or "malt", see `Ascent`.

    Raises:
        SettingsError: for wrong values.
    """

    steps: int = integer(100)
    restarts: int = integer(1)
    loss: str = choice("ce", LOSSES)
    early_stopping: bool = flag(True)
    seed: int = integer(0, least=0)
    targets: int = integer(0, least=0)
    order: str = choice("logits", ORDERS)

    kept: ClassVar[int] = 2

    @override
    def moving(self, start: Images) -> Sequence[Any]:
        zeros = ops.zeros((start.shape[0],))
        lowest = zeros - inf
        return (
            # points, those before, the best, and the gradient there, [B, H, W, C]
            *(start, start, start, ops.zeros_like(start)),
            # number of the step, and its size as a share of 2 eps, [B]
            *(zeros, zeros + 1),
            # losses [B]: the best, the last, the best at the last checkpoint
            *(lowest, -lowest, lowest),
            # since that one: how often the loss rose, and whether the size was halved there
            *(zeros, zeros),
        )

    @override
    def step(self, rise: Rise, threat: ThreatModel) -> Callable[..., Any]:
        numbers, periods = zip(*checkpoints(self.steps), strict=True)

        def step(moving: Sequence[Any], x: Images, y: Labels, target: Any) -> Any:
            x_adv, before, best, slope, number, size, highest, last, then, rises, halved = moving
            losses, gradient, looks_broken = rise(x_adv, y, target)  # [B], [B, H, W, C], [B]
            better = losses > highest  # [B]
            best, slope = _where(better, x_adv, best), _where(better, gradient, slope)
            highest = ops.where(better, losses, highest)
            rises = rises + ops.cast(losses > last, "float32")
            # At a checkpoint: has it risen too seldom, or not at all?
            here = ops.cast(number[:, None] == ops.convert_to_tensor(numbers, "float32"), "float32")
            due = ops.sum(here, axis=-1) > 0
            period = ops.sum(here * ops.convert_to_tensor(periods, "float32"), axis=-1)  # [B]
            stuck = ops.logical_and(highest <= then, halved == 0)
            halve = ops.logical_and(due, ops.logical_or(rises < LEAST_RISES * period, stuck))
            size = ops.where(halve, size / 2, size)
            then, rises = ops.where(due, highest, then), ops.where(due, 0.0, rises)
            halved = ops.where(due, ops.cast(halve, "float32"), halved)
            x_adv, gradient = _where(halve, best, x_adv), _where(halve, slope, gradient)
            # A step, of which the first is taken whole, and a part of the last move
            length = 2 * threat.eps * _wide(size)
            ahead = threat.moved(x_adv, gradient, x, length)
            share = _wide(ops.where(number == 0, 1.0, MOMENTUM))
            ahead = x_adv + share * (ahead - x_adv) + (1 - share) * (x_adv - before)
            points = threat.project(ahead, x), x_adv, best, slope
            counts = number + 1, size, highest, losses, then, rises, halved
            return (*points, *counts), looks_broken

        return step


def checkpoints(steps: int) -> list[tuple[int, int]]:
    """List at which steps the step size is looked at, from 0 on, and how many lie before each.

    22 % of the steps lie before the first, each time 3 % fewer before the next, 6 % at least.
    """
    found, period = [(0, 0)], max(int(0.22 * steps), 1)
    while found[-1][0] < steps:
        found.append((found[-1][0] + period, period))
        period = max(period - max(int(0.03 * steps), 1), int(0.06 * steps), 1)
    return found


def _wide(values: Any) -> Any:
    """[B] as [B, 1, 1, 1]."""
    return ops.reshape(values, (-1, 1, 1, 1))


def _where(condition: Any, yes: Any, no: Any) -> Any:
    """Choose images [B, H, W, C] by a condition [B]."""
    return ops.where(_wide(condition), yes, no)
