"""Losses that attacks rise along, written once for all backends: labels [B], logits [B, K] -> [B].

References: Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644 (margin); Croce and Hein 2020,
https://arxiv.org/abs/2003.01690 (difference of logits ratio); Gowal et al. 2019,
https://arxiv.org/abs/1910.09338 (aiming at one class at a time).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparring.backend import keras, ops
from sparring.errors import SettingsError
from sparring.tensors import Labels, Logits


def cross_entropies(y: Labels, logits: Logits) -> Any:
    """Compute the cross entropies [B] of softmax(logits) [B, K] against labels int [B]."""
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


def margins(y: Labels, logits: Logits) -> Any:
    """Compute by how much [B] the best other logit exceeds the label's; above 0 the label lost."""
    own = ops.one_hot(y, logits.shape[1])  # [B, K]
    label = ops.sum(own * logits, axis=-1)  # [B]
    return ops.max(ops.where(own > 0, -1e30, logits), axis=-1) - label


def logit_ratios(y: Labels, logits: Logits) -> Any:
    """Compute the difference of logits ratios [B]: margins over the first less the third logit.

    They stay the same when all logits are scaled, where a cross entropy saturates.

    Args:
        y: labels int [B].
        logits: float32 [B, K], of 3 classes or more.

    Raises:
        SettingsError: there are fewer classes.
    """
    first, _, third = _largest(logits, 3, "dlr")
    return margins(y, logits) / (first - third + _TINY)


def aimed_cross_entropies(y: Labels, logits: Logits, target: Labels) -> Any:
    """Compute the cross entropies [B] against targets int [B], with the sign turned."""
    return -cross_entropies(target, logits)


def aimed_margins(y: Labels, logits: Logits, target: Labels) -> Any:
    """Compute by how much [B] the target's logit exceeds the label's."""
    both = ops.one_hot(target, logits.shape[1]) - ops.one_hot(y, logits.shape[1])  # [B, K]
    return ops.sum(both * logits, axis=-1)


def aimed_logit_ratios(y: Labels, logits: Logits, target: Labels) -> Any:
    """Compute the same over the first less the mean of the third and the fourth logit, [B].

    Args:
        y: labels int [B].
        logits: float32 [B, K], of 4 classes or more.
        target: labels int [B] that are aimed at.

    Raises:
        SettingsError: there are fewer classes.
    """
    first, _, third, fourth = _largest(logits, 4, "dlr with targets")
    return aimed_margins(y, logits, target) / (first - (third + fourth) / 2 + _TINY)


LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "ce": cross_entropies,
    "margin": margins,
    "dlr": logit_ratios,
}
"""By name, losses [B] of labels int [B] and logits [B, K]."""

IN_WORDS = {"ce": "cross entropy", "margin": "margin", "dlr": "difference of logits ratio"}
"""What each is called."""

AIMED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "ce": aimed_cross_entropies,
    "margin": aimed_margins,
    "dlr": aimed_logit_ratios,
}
"""The same, aimed at a class for each image: of labels, logits and target labels int [B]."""

_TINY = 1e-12


def _largest(logits: Logits, count: int, loss: str) -> list[Any]:
    """The largest logits in falling order, `count` of [B]."""
    if logits.shape[1] < count:
        raise SettingsError(
            f"loss: {loss} needs {count} classes or more, got {logits.shape[1]}; take margin"
        )
    values = ops.top_k(logits, count)[0]  # [B, count]
    return [values[:, place] for place in range(count)]
