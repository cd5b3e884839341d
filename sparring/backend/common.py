"""Backend functions that TensorFlow and JAX share: keras.ops does them at full speed there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops


class Random:
    """Numbers of one generator on the device."""

    def __init__(self) -> None:
        """Make a generator of seed 0."""
        self._generator = keras.random.SeedGenerator(0)
        self.variables: list[Any] = [self._generator.state]

    def seed(self, seed: int) -> None:
        """Restart from a seed."""
        self._generator.state.assign([seed, 0])

    def uniform(self, shape: Sequence[int]) -> Any:
        """Draw from [0, 1)."""
        return keras.random.uniform(shape, seed=self._generator)

    def normal(self, shape: Sequence[int]) -> Any:
        """Draw from the standard normal distribution."""
        return keras.random.normal(shape, seed=self._generator)


def moving_average(averages: Sequence[Any], values: Sequence[Any], decay: Any) -> None:
    """Assign one average after the other."""
    for average, value in zip(averages, values, strict=True):
        average.assign(average * decay + value * (1 - decay))


def conv2d(x: Any, kernel: Any, bias: Any) -> Any:
    """Convolve by keras.ops."""
    kernel, bias = (ops.cast(weights, x.dtype) for weights in (kernel, bias))
    return ops.conv(x, kernel, padding="same", data_format="channels_last") + bias


def lay_out(variables: Sequence[Any]) -> None:
    """Leave the order to the frameworks' compilers."""


def average_pool2d(x: Any) -> Any:
    """Average by keras.ops."""
    # Keras 3.15 on JAX takes strides from an expanded pool size unless they are given.
    return ops.average_pool(x, 2, 2, data_format="channels_last")


@contextmanager
def undone(variables: Sequence[Any]) -> Iterator[None]:
    """Copy the values before the block, assign them after it."""
    before = [ops.copy(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def threads() -> int | None:
    """Know of none: both frameworks start theirs once and for all."""
    return None


def set_threads(count: int) -> None:
    """Do nothing."""
