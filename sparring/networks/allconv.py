"""The all-convolutional network that every defense trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from math import log2
from typing import Any

import numpy as np

from sparring import backend
from sparring.backend import keras, ops
from sparring.randomness import Chance, Stream, spread
from sparring.tensors import Images, Logits

PREDICTION_BATCH = 128
"""Images that go through a network at a time when nothing is trained; bounds the memory."""

HOOKS = ("transform", "activation", "head_activation", "output")
"""The methods of AllConv, functions of one tensor, that a defense may override."""

_INITIALIZERS = {
    "glorot": keras.initializers.GlorotUniform,
    "he": keras.initializers.HeUniform,
}


def to_float(images: Any) -> Images:
    """Bring uint8 images on the device to float32 in [0, 1]."""
    return ops.cast(images, "float32") / 255


def leaky_relu(x: Any) -> Any:
    """Give x where it is positive, 0.2 x elsewhere."""
    return ops.leaky_relu(x, negative_slope=0.2)


def number_of_scales(height: int, width: int) -> int:
    """Count how often an image is halved: round(log2 R) - 2, R the shorter side, at least 8."""
    return round(log2(min(height, width))) - 2


class AllConv(keras.layers.Layer):
    """All-convolutional network: no batch norm, no dropout, no dense layer.

    Scale s has conv3x3 to filters * 2^s, conv3x3 to filters * 2^(s + 1), each followed by the
    activation, then 2x2 average pooling; there are round(log2 R) - 2 scales. The head is one
    convolution to the outputs, averaged over space.

    A defense changes it by overriding `transform`, `activation`, `head_activation`, `output` and
    `drop`. One layer holds all of it, because a call of a Keras layer costs about as much Python
    time on PyTorch as a small convolution. It is built when made: kernels [height, width, in, out]
    drawn from Glorot's or He's uniform distribution, biases zero.

    Args:
        shape: (height, width, channels) of the images, sides of 8 and more.
        outputs: number of logits.
        filters: width of the first convolution.
        head_size: side of the head's kernel; 1, or 3 as in the course's old checkpoints.
        initializer: of the kernels, glorot or he (https://arxiv.org/abs/1502.01852).
        seed: of the initial kernels.

    Attributes:
        scales: kernel and bias of the convolutions of each scale.
        head: kernel and bias of the last one.
        precision: the dtype of convolutions and activations; weights, what follows the average over
            space, and with it losses and gradients by weights stay float32.
    """

    precision = "float32"

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        filters: int,
        head_size: int = 1,
        initializer: str = "glorot",
        seed: int = 0,
    ) -> None:
        """Make the weights."""
        with backend.isolated:  # Keras cannot take a decorated __init__
            super().__init__(name="allconv", dtype="float32", autocast=False)
            self._initializer = _INITIALIZERS[initializer]
            self.scales: list[list[tuple[Any, Any]]] = []
            self._seed, self._made = seed, 0
            height, width, channels = self.transformed_shape(shape)
            for scale in range(number_of_scales(height, width)):
                convs = []
                for size in (filters * 2**scale, filters * 2 ** (scale + 1)):
                    convs.append(self._conv(f"conv_{self._made}", 3, channels, size))
                    channels = size
                self.scales.append(convs)
            self.head = self._conv("head", head_size, channels, outputs)
            backend.lay_out(self.kernels)
            self.built = True

    def _conv(self, name: str, side: int, inputs: int, outputs: int) -> tuple[Any, Any]:
        initializer = self._initializer(seed=spread(self._seed, Stream.WEIGHTS, self._made))
        self._made += 1
        kernel = self.add_weight(
            shape=(side, side, inputs, outputs), initializer=initializer, name=f"{name}_kernel"
        )
        return kernel, self.add_weight(shape=(outputs,), name=f"{name}_bias", initializer="zeros")

    def ramp(self, name: str) -> Any:
        """Add a scalar variable that is not trained, for Recipe.on_progress to assign."""
        return self.add_weight(shape=(), name=name, initializer="zeros", trainable=False)

    @property
    def convs(self) -> list[tuple[Any, Any]]:
        """Kernel and bias of every convolution, the head last."""
        return [conv for scale in self.scales for conv in scale] + [self.head]

    @property
    def kernels(self) -> list[Any]:
        """The convolutions' kernels, which weight decay applies to."""
        return [kernel for kernel, _ in self.convs]

    def transformed_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Tell the (height, width, channels) that `transform` makes of images of a shape."""
        _, height, width, channels = self.transform(ops.zeros((1, *shape))).shape
        return height, width, channels

    # What a defense may change

    def transform(self, x: Images) -> Any:
        """Change images before the first convolution.

        The network is made for what this gives for zeros: it is called once with them before a
        subclass's own attributes exist.
        """
        return x

    def activation(self, x: Any) -> Any:
        """Apply what follows every convolution but the head."""
        return leaky_relu(x)

    def head_activation(self, x: Any) -> Any:
        """Apply what follows the head's convolution, before the average over space."""
        return x

    def output(self, logits: Logits) -> Logits:
        """Change what the average over space gave, [B, outputs]."""
        return logits

    def drop(self, units: Any, chance: Chance) -> Any:
        """Drop units [B, H, W, C] at random after each activation, the head's included.

        Asked only where the network is given random numbers; `chance` are those of the batch.
        """
        return units

    # What it computes

    def features(self, x: Images, chance: Chance | None = None) -> Any:
        """Compute what enters the head.

        Args:
            x: images float32 [B, H, W, C].
            chance: random numbers for `drop`; None drops nothing.

        Returns:
            [B, H / 2^scales, W / 2^scales, filters * 2^scales] of dtype `precision`.
        """
        x = ops.cast(self.transform(x), self.precision)
        for convs in self.scales:
            for kernel, bias in convs:
                x = self.activation(backend.conv2d(x, kernel, bias))  # [B, h, w, filters * 2^s]
                x = x if chance is None else self.drop(x, chance)
            x = backend.average_pool2d(x)  # [B, h / 2, w / 2, filters * 2^s]
        return x

    def head_logits(self, features: Any, chance: Chance | None = None) -> Logits:
        """Compute the logits float32 [B, outputs] of what `features` gave."""
        outputs = self.head_activation(backend.conv2d(features, *self.head))  # [B, h, w, outputs]
        outputs = outputs if chance is None else self.drop(outputs, chance)
        return self.output(ops.mean(ops.cast(outputs, "float32"), axis=(1, 2)))

    def call(self, x: Images, chance: Chance | None = None) -> Logits:
        """Compute the logits float32 [B, outputs]; arguments are those of `features`."""
        return self.head_logits(self.features(x, chance), chance)

    @backend.isolated
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Compute logits float32 [N, outputs] of uint8 images [N, H, W, C], in batches."""
        return in_batches(self._predict, images)

    @cached_property
    def _predict(self) -> Callable[[Any], Any]:
        return backend.compile(lambda images: self(to_float(images)), self.variables)


def in_batches(function: Callable[[Any], Any], images: np.ndarray) -> np.ndarray:
    """Apply a compiled function to images, a batch at a time.

    Args:
        function: of a tensor [B, ...] that gives one [B, ...].
        images: [N, ...], one at least.

    Returns:
        What it gives for all of them, a numpy array [N, ...].
    """
    starts = range(0, len(images), PREDICTION_BATCH)
    batches = [images[start : start + PREDICTION_BATCH] for start in starts]
    count = len(batches[-1])
    batches[-1] = np.resize(batches[-1], (padded_size(count), *images.shape[1:]))
    answers = [ops.convert_to_numpy(function(ops.convert_to_tensor(batch))) for batch in batches]
    return np.concatenate([*answers[:-1], answers[-1][:count]])


def padded_size(count: int) -> int:
    """Tell how many images to give a compiled function in place of `count`.

    Where every size is compiled anew, few sizes are to be used: powers of two, up to
    PREDICTION_BATCH.
    """
    if not backend.whole_batches or count >= PREDICTION_BATCH:
        return count
    return min(PREDICTION_BATCH, 1 << (count - 1).bit_length())
