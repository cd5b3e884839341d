"""Augmentation of a batch on the device, drawn for each image by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparring.backend import ops
from sparring.tensors import Images

SHIFT_FLIP_DRAWS = 3
"""Random numbers in [0, 1) that shift_flip takes for an image."""

JITTER_DRAWS = 8
"""Random numbers in [0, 1) that color_jitter takes for an image."""

STRONG_DRAWS = JITTER_DRAWS + SHIFT_FLIP_DRAWS
"""Random numbers in [0, 1) that strong takes for an image."""


def shift_flip(x: Images, draws: Any, flip: bool) -> Images:
    """Shift every image by up to an eighth of its size and mirror half of them.

    The same as padding by reflection, R/8 rounded on each side, and cropping at random, without
    making the padded images: what a shift moves in is read from the mirrored place.

    Args:
        x: images [B, H, W, C] of any dtype.
        draws: uniform random numbers in [0, 1), [SHIFT_FLIP_DRAWS, B, 1].
        flip: whether half of the images are mirrored left to right.

    Returns:
        Images of the same shape and dtype.
    """
    batch, height, width, channels = x.shape
    rows = _shifted(height, draws[0])  # [B, H]
    columns = _shifted(width, draws[1])  # [B, W]
    if flip:
        columns = ops.where(draws[2] < 0.5, width - 1 - columns, columns)
    first = ops.arange(batch, dtype="int32")[:, None, None] * (height * width)  # [B, 1, 1]
    pixels = first + rows[:, :, None] * width + columns[:, None, :]  # [B, H, W]
    return ops.take(ops.reshape(x, (-1, channels)), pixels, axis=0)


def color_jitter(x: Images, draws: Any) -> Images:
    """Change brightness, contrast, saturation and hue of every image, in an order of its own.

    SimCLR's jitter at strength 1/2 (Chen et al. 2020, https://arxiv.org/abs/2002.05709):
    brightness by up to 0.4 added, contrast and saturation by factors in [0.6, 1.4], hue by up to
    0.1 of its circle, clipped to [0, 1] after each. One-channel images have no saturation and hue.

    Args:
        x: images float32 [B, H, W, C] in [0, 1].
        draws: uniform random numbers in [0, 1), [JITTER_DRAWS, B, 1].

    Returns:
        Images of the same shape, in [0, 1].
    """
    centered = 2 * ops.reshape(draws, (JITTER_DRAWS, -1, 1, 1, 1)) - 1
    changes: list[Callable[[Any], Any]] = [
        lambda x: x + 0.4 * centered[4],
        lambda x: _contrast(x, 1 + 0.4 * centered[5]),
        lambda x: _saturation(x, 1 + 0.4 * centered[6]),
        lambda x: _hue(x, 0.1 * centered[7]),
    ][: 4 if x.shape[3] == 3 else 2]
    # Every image takes the changes in the order of its first draws.
    order = ops.argsort(draws[: len(changes), :, 0], axis=0)
    for stage in range(len(changes)):
        turn = order[stage][:, None, None, None]
        changed = x
        for index, change in enumerate(changes):
            changed = ops.where(ops.equal(turn, index), change(x), changed)
        x = ops.clip(changed, 0.0, 1.0)
    return x


def strong(x: Images, draws: Any, flip: bool) -> Images:
    """Apply color_jitter, then shift_flip; draws [STRONG_DRAWS, B, 1]."""
    return shift_flip(color_jitter(x, draws[:JITTER_DRAWS]), draws[JITTER_DRAWS:], flip)


def _contrast(x: Any, factor: Any) -> Any:
    mean = ops.mean(x, axis=(1, 2), keepdims=True)
    return mean + factor * (x - mean)


def _saturation(x: Any, factor: Any) -> Any:
    """Saturation as in hue, saturation, value: the largest channel stays, the others move."""
    value = ops.max(x, axis=3, keepdims=True)
    spread = value - ops.min(x, axis=3, keepdims=True)
    # Full saturation brings the smallest channel to zero; no factor goes beyond it.
    factor = ops.minimum(factor, value / ops.maximum(spread, 1e-6))
    return value - factor * (value - x)


def _hue(x: Any, shift: Any) -> Any:
    """Turn the hue by `shift` of its circle, value and saturation kept."""
    value = ops.max(x, axis=3, keepdims=True)
    spread = value - ops.min(x, axis=3, keepdims=True)
    red, green, blue = x[..., :1], x[..., 1:2], x[..., 2:]
    safe = ops.maximum(spread, 1e-6)
    sector = ops.where(
        ops.equal(value, red),
        (green - blue) / safe,
        ops.where(ops.equal(value, green), 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # A channel falls from value to value - spread with its distance from the hue, in sixths.
    turned = sector + 6 * shift
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = ops.mod(offset + turned, 6.0)
        fall = ops.clip(ops.minimum(place, 4 - place), 0.0, 1.0)
        channels.append(value - spread * fall)
    return ops.concatenate(channels, axis=3)


def _shifted(size: int, draws: Any) -> Any:
    """Where each of `size` places reads from, [B, size], shifted by draws [B, 1] in [0, 1)."""
    reach = round_half_up(size / 8)
    shift = ops.cast(ops.floor(draws * (2 * reach + 1)), "int32") - reach
    places = ops.abs(ops.arange(size, dtype="int32") + shift)
    return (size - 1) - ops.abs((size - 1) - places)


def round_half_up(value: float) -> int:
    """Round to the nearest integer, halves up (Python's own round takes 2.5 to 2)."""
    return int(value + 0.5)
