"""Randomness: seeds for every use, and random numbers that follow from a seed and an image.

One user seed is spread into independent ones, one for each use (`spread`). Defenses that answer at
random draw from `Chance`: an image gets the same draws wherever in whatever batch it is asked
about, on every backend; another seed, or another image, gets others. Generators cannot do that:
their draws follow from the order of the calls.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from itertools import count as count_from
from typing import Any

import numpy as np

from sparring.backend import ops
from sparring.tensors import Images

_LEVELS = 1 << 20
_STAGE, _PIXEL = 0x3504F335, 0x1E3779B9  # any odd constants: they keep uses apart


class Stream(IntEnum):
    """Name what a stream of random numbers is for; a value, once given, is never reused."""

    WEIGHTS = 0
    """Initial weights."""
    ORDER = 1
    """The order of the images in each epoch."""
    AUGMENTATION = 2
    """Augmentation, and what else a training step draws."""
    NETWORK = 3
    """The networks of a defense that trains several."""
    PATTERNS = 4
    """Trapdoor patterns."""
    DRAWS = 5
    """The draws in which attacks ask stochastic defenses whether images are broken."""
    JUDGE = 6
    """The draws in which the judge asks."""
    TASK = 7
    """What makes a fresh instance of a defense for a task."""


def spread(seed: int, stream: Stream, *place: int) -> int:
    """Derive a 31-bit seed for one place of a stream from the user's seed.

    Neighboring user seeds share nothing: they go through numpy's SeedSequence.

    Args:
        seed: the user's seed, 0 or more.
        stream: what the random numbers are for.
        *place: integers of 0 or more that say where: a layer, an epoch, ...

    Returns:
        An integer in [0, 2^31).
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(int(stream), *place))
    return int(sequence.generate_state(1)[0] >> 1)


def _mix(x: Any, of: Any = ops) -> Any:
    """A bijection of int32 that looks random: Wellons' lowbias32, on signed integers.

    What computes on integers, here and below, is keras.ops or numpy, which have the same names.
    """
    x = of.bitwise_xor(x, of.bitwise_and(of.right_shift(x, 16), 0xFFFF)) * 0x7FEB352D
    x = of.bitwise_xor(x, of.bitwise_and(of.right_shift(x, 15), 0x1FFFF)) * (0x846CA68B - 2**32)
    return of.bitwise_xor(x, of.bitwise_and(of.right_shift(x, 16), 0xFFFF))


def _draw(keys: Any, calls: Any, count: int, of: Any = ops) -> Any:
    """Integers in [0, 2^24), int32 [B, count], of keys int32 [B] in the call of that number."""
    offset = of.bitwise_and(calls * _PIXEL, 2**31 - 1)
    places = _mix(of.arange(count, dtype="int32") + offset, of)  # [count]
    bits = _mix(of.bitwise_xor(keys[:, None] * _STAGE, places[None, :]), of)  # [B, count]
    return of.bitwise_and(of.right_shift(bits, 8), 0xFFFFFF)


@contextmanager
def seeded(seed: int, device: Any = None) -> Iterator[None]:
    """Seed what foreign code draws from, of Python, numpy and PyTorch, and put it back afterwards.

    Args:
        seed: from 0 to 2^32 - 1.
        device: of PyTorch, on which it may draw too; None for the CPU alone.
    """
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    torch: Any = sys.modules.get("torch")  # which draws nothing until it is imported
    try:
        if torch is None:
            yield
        else:
            on_gpu = device is not None and device.type == "cuda"
            with torch.random.fork_rng([device] if on_gpu else []):
                torch.manual_seed(seed)
                yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


class Chance:
    """Random numbers for a batch of images, each image's from its own pixels and a seed.

    Successive calls of `uniform` continue the sequence; two objects made from the same images and
    seed give the same numbers.

    Args:
        x: images float32 [B, H, W, C] in [0, 1]; told apart down to a millionth.
        seed: an integer, or one for each image, int32 [B], as tiled copies of images need.

    Attributes:
        seed: the seed or seeds, as given.
    """

    def __init__(self, x: Images, seed: Any = 0) -> None:
        """Mix the seed with what tells the images apart."""
        self.seed = seed
        levels = ops.reshape(ops.cast(x * _LEVELS, "int32"), (x.shape[0], -1))  # [B, H * W * C]
        weights = _mix(ops.arange(levels.shape[1], dtype="int32") + _PIXEL)  # [H * W * C]
        # Integers wrap around and add up to the same in every order.
        sums = ops.cast(ops.sum(levels * weights, axis=1), "int32")  # [B]
        self._keys = _mix(ops.bitwise_xor(_mix(sums), _mix(ops.cast(seed, "int32") + _STAGE)))
        self._used: Any = 0

    def after(self, calls: Any) -> Chance:
        """Give the random numbers that come after so many further calls of `uniform`.

        Args:
            calls: an integer, or a tensor int32 [].
        """
        later = copy.copy(self)
        later._used = self._used + calls
        return later

    def uniform(self, count: int) -> Any:
        """Draw the next `count` numbers in [0, 1) for every image: float32 [B, count]."""
        self._used += 1
        drawn = _draw(self._keys, ops.cast(self._used, "int32"), count)
        return ops.cast(drawn, "float32") / 2**24

    def on_host(self) -> Callable[[int], np.ndarray]:
        """Give what draws the same numbers as `uniform` from here on, by numpy.

        For many small draws, which cost a framework more than the numbers themselves; the images
        have to have values.

        Returns:
            A function of a count that gives the next numbers, float32 [B, count].
        """
        keys, numbers = np.array(ops.convert_to_numpy(self._keys)), count_from(self._used + 1)

        def uniform(count: int) -> np.ndarray:
            calls = np.array([next(numbers)], np.int32)
            return _draw(keys, calls, count, np).astype(np.float32) / np.float32(2**24)

        return uniform
