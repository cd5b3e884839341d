"""Randomness: seeds for every use, and random numbers that follow from a seed and an image.

One user seed is spread into independent ones, one for each use (`spread`). Defenses that answer at
random draw from `Chance`: an image gets the same draws wherever in whatever batch it is asked
about, on every backend; another seed, or another image, gets others. Generators cannot do that:
their draws follow from the order of the calls.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from keras import ops

_LEVELS = 1 << 20
_STAGE, _PIXEL = 0x3504F335, 0x1E3779B9  # any odd constants: they keep uses apart


class Stream(IntEnum):
    """What a stream of random numbers is for; a value, once given, is never reused."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENTATION = 2
    NETWORK = 3
    PATTERNS = 4
    DRAWS = 5
    JUDGE = 6


def spread(seed: int, stream: Stream, *place: int) -> int:
    """A 31-bit seed for one place (a layer, an epoch, ...) of a stream of the user's seed.

    Neighboring user seeds share nothing: they go through numpy's SeedSequence. `seed` and `place`
    are integers of 0 and more.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(int(stream), *place))
    return int(sequence.generate_state(1)[0] >> 1)


def _mix(x: Any) -> Any:
    """A bijection of int32 that looks random: Wellons' lowbias32, on signed integers."""
    x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 16), 0xFFFF)) * 0x7FEB352D
    x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 15), 0x1FFFF)) * (0x846CA68B - 2**32)
    return ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 16), 0xFFFF))


class Chance:
    """Random numbers for a batch of images.

    Args:
        x: images float32 [B, H, W, C] in [0, 1]; told apart down to a millionth.
        seed: an int32 scalar.
    """

    def __init__(self, x: Any, seed: Any) -> None:
        levels = ops.reshape(ops.cast(x * _LEVELS, "int32"), (x.shape[0], -1))
        weights = _mix(ops.arange(levels.shape[1], dtype="int32") + _PIXEL)
        # Integers wrap around and add up to the same in every order.
        sums = ops.cast(ops.sum(levels * weights, axis=1), "int32")
        self._keys = _mix(ops.bitwise_xor(_mix(sums), _mix(ops.cast(seed, "int32") + _STAGE)))
        self._used = 0

    def uniform(self, count: int) -> Any:
        """The next `count` numbers in [0, 1) for every image: float32 [B, count]."""
        self._used += 1
        places = _mix(ops.arange(count, dtype="int32") + self._used * _PIXEL % 2**31)
        bits = _mix(ops.bitwise_xor(self._keys[:, None] * _STAGE, places[None, :]))
        return ops.cast(ops.bitwise_and(ops.right_shift(bits, 8), 0xFFFFFF), "float32") / 2**24
