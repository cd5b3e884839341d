"""What gradient attacks are made of: losses, the gradient, and wrappers that give a better one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import keras
from keras import ops

from sparring import backend
from sparring.errors import SettingsError


def cross_entropies(y: Any, logits: Any) -> Any:
    """Cross entropy [B] of softmax(logits) [B, K] against labels int [B]."""
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


def margins(y: Any, logits: Any) -> Any:
    """By how much [B] the best other class's logit exceeds the label's; above 0 the label lost."""
    own = ops.one_hot(y, logits.shape[1])
    label = ops.sum(own * logits, axis=-1)
    return ops.max(ops.where(own > 0, -1e30, logits), axis=-1) - label


def gradient(losses: Callable[[Any], Any], x: Any) -> Any:
    """Gradient [B, H, W, C] of losses(x) [B] by the images, each image's of its own loss.

    For an attack that is written once for every backend; in one's own framework its own way does
    as well.
    """
    return backend.input_gradient(lambda images: ops.sum(losses(images)), x)


class Wrapped(ABC):
    """A defense seen through a wrapper: other `logits`, for their gradient; the same answers."""

    defense: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.defense, name)

    @abstractmethod
    def logits(self, x: Any) -> Any:
        """Logits [B, K] of images float32 [B, H, W, C]."""

    def compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        """As Defense.compiled; an equal wrapper around the same defense shares it."""
        return self.defense.compiled((self, *key), function)


@final
@dataclass(frozen=True)
class EOT(Wrapped):
    """Expectation over transformation: logits averaged over draws of a stochastic defense.

    An attack on EOT(defense) follows the mean gradient of `draws` draws; a step costs that many, in
    time and in memory: `evaluate(batch_size=)` gives the attack fewer images at a time.
    Athalye et al. 2018, https://arxiv.org/abs/1707.07397.
    """

    defense: Any
    draws: int = 20

    def __post_init__(self) -> None:
        if type(self.draws) is not int or self.draws < 1:
            raise SettingsError(f"draws: expected at least 1, got {self.draws!r}")

    def compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        """As Defense.compiled; what is compiled already averages without asking `drawing` again."""
        self.defense.tell_averaged()
        return super().compiled(key, function)

    def logits(self, x: Any) -> Any:
        images = x.shape[0]
        copies = ops.tile(x, (self.draws, 1, 1, 1))
        numbers = ops.repeat(ops.arange(self.draws, dtype="int32"), images)
        with self.defense.drawing(numbers):
            logits = self.defense.logits(copies)
        return ops.mean(ops.reshape(logits, (self.draws, images, -1)), axis=0)


def straight_through(exact: Callable[[Any], Any], smooth: Callable[[Any], Any]) -> Any:
    """The function that is `exact` forward and has the gradient of `smooth`."""

    def both(x: Any) -> Any:
        stand_in = smooth(x)
        return stand_in + ops.stop_gradient(exact(x) - stand_in)

    return both


@final
@dataclass(frozen=True)
class BPDA(Wrapped):
    """Backward pass differentiable approximation: a smooth stand-in on the backward pass only.

    `transform` and `activation` stand in for what a defense's networks do to images first and after
    each convolution: functions of a tensor that give one of the same shape as those do. Forward
    nothing changes. Athalye et al. 2018, https://arxiv.org/abs/1802.00420.
    """

    defense: Any
    transform: Callable[[Any], Any] | None = None
    activation: Callable[[Any], Any] | None = None

    def logits(self, x: Any) -> Any:
        with ExitStack() as stack:
            for net in self.defense.nets:
                for hook in ("transform", "activation"):
                    if (smooth := getattr(self, hook)) is not None:
                        stack.enter_context(_replaced(net, hook, smooth))
            return self.defense.logits(x)


@contextmanager
def _replaced(net: Any, hook: str, smooth: Callable[[Any], Any]) -> Iterator[None]:
    exact = getattr(net, hook)
    # Past Keras's own __setattr__, which would track what is set.
    object.__setattr__(net, hook, straight_through(exact, smooth))
    try:
        yield
    finally:
        object.__delattr__(net, hook)
