"""Augmentation of a batch on the device, drawn for each image by itself."""

from __future__ import annotations

from typing import Any

from keras import ops


def shift_flip(x: Any, random: Any, flip: bool) -> Any:
    """Shift every image by up to an eighth of its size and mirror half of them.

    The same as padding by reflection, R/8 rounded on each side, and cropping at random, without
    making the padded images: what a shift moves in is read from the mirrored place.

    Args:
        x: images [B, H, W, C] of any dtype.
        random: a `backend.Random`; one call draws 3 numbers an image.
        flip: whether half of the images are mirrored left to right.

    Returns: images of the same shape and dtype.
    """
    batch, height, width, channels = x.shape
    draws = random.uniform((3, batch, 1))
    rows = _shifted(height, draws[0])
    columns = _shifted(width, draws[1])
    if flip:
        columns = ops.where(draws[2] < 0.5, width - 1 - columns, columns)
    first = ops.arange(batch, dtype="int32")[:, None, None] * (height * width)
    pixels = first + rows[:, :, None] * width + columns[:, None, :]
    return ops.take(ops.reshape(x, (-1, channels)), pixels, axis=0)


def _shifted(size: int, draws: Any) -> Any:
    """Where each of `size` places reads from, [B, size], shifted by draws [B, 1] in [0, 1)."""
    reach = round_half_up(size / 8)
    shift = ops.cast(ops.floor(draws * (2 * reach + 1)), "int32") - reach
    places = ops.abs(ops.arange(size, dtype="int32") + shift)
    return (size - 1) - ops.abs((size - 1) - places)


def round_half_up(value: float) -> int:
    """The nearest integer, halves up (Python's own round takes 2.5 to 2)."""
    return int(value + 0.5)
