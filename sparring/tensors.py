"""Names of tensors in signatures: tensors of the running backend, whose type only it knows."""

from __future__ import annotations

from typing import Any, TypeAlias

Images: TypeAlias = Any
"""Images, float32 [B, H, W, C] in [0, 1]."""

Labels: TypeAlias = Any
"""Class numbers, int32 [B], counted from 0; attacks get int64 on PyTorch, as its losses want."""

Logits: TypeAlias = Any
"""Logits, float32 [B, K] for K classes."""

Scores: TypeAlias = Any
"""Detection scores, float32 [B]; an input is rejected where its score is above the threshold."""

Scalar: TypeAlias = Any
"""A float32 scalar."""
