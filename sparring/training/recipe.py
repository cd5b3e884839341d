"""How one network of a defense is trained."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from sparring import backend
from sparring.backend import keras, ops
from sparring.data import Dataset, DatasetInfo
from sparring.networks.allconv import AllConv
from sparring.networks.augment import SHIFT_FLIP_DRAWS, shift_flip
from sparring.randomness import Stream, spread
from sparring.tensors import Images, Labels, Logits, Scalar
from sparring.training.settings import Settings


class Recipe:
    """How one network is trained; this is the recipe that all defenses share.

    A defense overrides the hooks it changes. Hooks run inside the compiled training step, on
    tensors on the device.

    Args:
        info: of the data set.
        settings: this network's.
        seed: the user's.
        network: which of the defense's, from 0.
        kind: the network's class.

    Attributes:
        random: draws for augmentation and losses. The loop restarts it at every epoch, so that a
            resumed run draws what an uninterrupted one does.
    """

    outputs: ClassVar[int | None] = None
    """The network's number of logits; None for one a class."""

    def __init__(
        self,
        info: DatasetInfo,
        settings: Settings,
        seed: int,
        network: int = 0,
        kind: type[AllConv] = AllConv,
    ) -> None:
        """Keep what the training of one network follows."""
        self.info, self.settings = info, settings
        self.seed, self.network, self.kind = seed, network, kind
        self.random = backend.Random()

    def spread(self, stream: Stream, *place: int) -> int:
        """Derive a seed of this network's own from the user's.

        Args:
            stream: what it is for.
            *place: which one, where a use has several.
        """
        own = spread(self.seed, Stream.NETWORK, self.network) if self.network else self.seed
        return spread(own, stream, *place)

    def net(self) -> AllConv:
        """Make the network with its initial weights, a function of the seed alone.

        It holds everything that is trained and everything that transforms pixels.
        """
        return self.kind(
            self.info.shape,
            self.outputs or self.info.classes,
            self.settings.filters,
            self.settings.head_size,
            initializer=self.settings.initializer,
            seed=self.spread(Stream.WEIGHTS),
        )

    def augment(self, x: Images, y: Labels) -> tuple[Images, Labels]:
        """Make the batch that is trained on: shifted by up to an eighth and, if wanted, mirrored.

        Args:
            x: images float32 [B, H, W, C] in [0, 1].
            y: labels int32 [B].

        Returns:
            Images and labels, of which there may be more.
        """
        draws = self.random.uniform((SHIFT_FLIP_DRAWS, x.shape[0], 1))  # [3, B, 1]
        return shift_flip(x, draws, flip=bool(self.settings.flip)), y

    def loss(self, net: Any, x: Images, y: Labels) -> tuple[Scalar, Scalar]:
        """Compute the loss, without weight decay.

        Args:
            net: what `net` made.
            x: images as `augment` gave them.
            y: their labels.

        Returns:
            The mean over the batch, and how many images were answered correctly.
        """
        logits = net(x)  # [B, K]
        return cross_entropy(y, logits), hits(y, logits)

    def chance(self, net: Any) -> float:
        """Give the share of hits that guessing comes to; 0 where hits are no answers."""
        return 1 / int(net.head[1].shape[0])

    def on_progress(self, net: Any, progress: Scalar) -> None:
        """Assign the network's variables that ramp instead of being trained.

        Args:
            net: what `net` made.
            progress: of the training, in [0, 1]; all that a ramp may depend on.
        """

    def evaluate(self, net: Any, dataset: Dataset) -> float:
        """Measure the test accuracy that is reported while training, a share."""
        return float(np.mean(net.predict(dataset.x_test).argmax(axis=1) == dataset.y_test))

    def finish(self, net: Any, dataset: Dataset) -> dict[str, np.ndarray]:
        """Compute arrays that are saved with the trained weights, by name."""
        return {}


def cross_entropy(y: Labels, logits: Logits) -> Scalar:
    """Compute the mean cross entropy of softmax(logits) [B, K] against labels [B]."""
    losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    return ops.mean(losses)


def hits(y: Labels, logits: Logits) -> Scalar:
    """Count the images whose label's logit is on top, as a float32 scalar."""
    answers = ops.cast(ops.argmax(logits, axis=-1), y.dtype)
    return ops.sum(ops.cast(ops.equal(answers, y), "float32"))
