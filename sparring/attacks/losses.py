"""Losses that attacks rise along, written once for all backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparring.backend import keras, ops
from sparring.tensors import Labels, Logits


def cross_entropies(y: Labels, logits: Logits) -> Any:
    """Compute the cross entropies [B] of softmax(logits) [B, K] against labels int [B]."""
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


def margins(y: Labels, logits: Logits) -> Any:
    """Compute by how much [B] the best other logit exceeds the label's; above 0 the label lost."""
    own = ops.one_hot(y, logits.shape[1])  # [B, K]
    label = ops.sum(own * logits, axis=-1)  # [B]
    return ops.max(ops.where(own > 0, -1e30, logits), axis=-1) - label


LOSSES: dict[str, Callable[[Any, Any], Any]] = {"ce": cross_entropies, "margin": margins}
"""By name, losses [B] of labels int [B] and logits [B, K]."""
