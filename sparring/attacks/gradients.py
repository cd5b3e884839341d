"""What gradient attacks are made of: the gradient, and wrappers that give a better one."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.attacks.files import where
from sparring.attacks.options import Options, integer
from sparring.backend import keras, ops
from sparring.defenses.defense import Defense
from sparring.errors import SettingsError, printable, shown, told
from sparring.networks.allconv import AllConv
from sparring.randomness import Chance
from sparring.tensors import Images, Logits


@backend.isolated
def gradient(losses: Callable[[Images], Any], x: Images) -> Any:
    """Differentiate losses by images, on every backend.

    In one's own framework its own way does as well.

    Args:
        losses: a function of images [B, H, W, C] that gives losses [B], each of its own image.
        x: images float32 [B, H, W, C].

    Returns:
        Each image's gradient of its own loss, [B, H, W, C].
    """
    return backend.input_gradient(lambda images: ops.sum(losses(images)), x)


class Wrapped(ABC):
    """A defense seen through a wrapper: other `logits`, for their gradient; the same answers.

    What a wrapper does not define is the defense's.

    Attributes:
        defense: the defense, or another wrapper.
    """

    defense: Any

    def __getattr__(self, name: str) -> Any:
        """Give what the defense within has."""
        if name.startswith("__") or name == "defense":  # as when one is unpickled
            raise AttributeError(name)
        return getattr(self.defense, name)

    @abstractmethod
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        """Compute logits [B, K] of images [B, H, W, C]; arguments are those of Defense.logits."""

    def compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        """As Defense.compiled; an equal wrapper around the same defense shares it."""
        return self.defense.compiled((self, *key), function)

    def around(self, defense: Any) -> Self:
        """Copy the wrapper, and the wrappers within it, around another defense."""
        inner = self.defense.around(defense) if isinstance(self.defense, Wrapped) else defense
        wrapper = copy.copy(self)
        object.__setattr__(wrapper, "defense", inner)  # wrappers are frozen
        return wrapper


def unwrapped(defense: Defense | Wrapped) -> tuple[Defense, str]:
    """Find the defense within wrappers.

    Args:
        defense: a defense or a wrapper around one.

    Returns:
        The defense, and the wrappers in words, outermost first, as "EOT(draws=20)"; without any
        the text is empty.

    Raises:
        SettingsError: there is no defense in it.
    """
    names = []
    while isinstance(defense, Wrapped):
        settings = ", ".join(
            f"{name}={printable(getattr(value, '__name__', None) or shown(value))}"
            for name, value in vars(defense).items()
            if name != "defense"
        )
        names.append(f"{type(defense).__name__}({settings})")
        defense = defense.defense
    return _defense("defense", defense), " of ".join(names)


def _defense(name: str, value: Any) -> Any:
    if isinstance(value, Defense | Wrapped):
        return value
    raise SettingsError(
        f"{name}: expected a Defense, as sparring.load gives it, or a wrapper around one, got "
        f"{shown(value)}"
    )


_WITHIN = {"read": _defense}


@final
@dataclass(frozen=True)
class EOT(Options, Wrapped):
    """Expectation over transformation: logits averaged over draws of a stochastic defense.

    An attack on EOT(defense) follows the mean gradient of `draws` draws; a step costs that many, in
    time and in memory: `evaluate(batch_size=)` gives the attack fewer images at a time.
    Athalye et al. 2018, https://arxiv.org/abs/1707.07397.

    Attributes:
        defense: the defense, or another wrapper.
        draws: how many are averaged: those of the seeds from the given one on.
    """

    defense: Any = field(metadata=_WITHIN)
    draws: int = integer(20)

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        logits = self.defense.logits(*drawn(x, self.draws, chance))  # [draws * B, K]
        return ops.mean(ops.reshape(logits, (self.draws, x.shape[0], -1)), axis=0)


def drawn(x: Images, draws: int, chance: Chance | None = None) -> tuple[Images, Chance]:
    """Copy images for several draws of a stochastic defense.

    Args:
        x: images float32 [B, H, W, C].
        draws: how many.
        chance: of the first draw; None means that of seed 0. The seeds of the others follow it.

    Returns:
        The copies [draws * B, H, W, C], all images once for each draw, and their random numbers.
    """
    copies = ops.tile(x, (draws, 1, 1, 1))
    seeds = np.repeat(np.arange(draws, dtype=np.int32), x.shape[0])  # [draws * B]
    if chance is not None:
        first = ops.broadcast_to(ops.cast(chance.seed, "int32"), (x.shape[0],))  # [B]
        seeds = ops.tile(first, (draws,)) + ops.convert_to_tensor(seeds)
    return copies, Chance(copies, seeds)


def straight_through(
    exact: Callable[[Any], Any], smooth: Callable[[Any], Any], name: str = "smooth"
) -> Any:
    """Make the function that is `exact` forward and has the gradient of `smooth`.

    Args:
        exact: a function of a tensor.
        smooth: one that gives the same shape and dtype.
        name: what `smooth` is called in the message of an error.

    Returns:
        A function of a tensor, which raises SettingsError for another shape or dtype.
    """

    def both(x: Any) -> Any:
        answer, stand_in = exact(x), smooth(x)
        if _form(stand_in) != _form(answer):
            raise SettingsError(
                f"{name}: expected a stand-in that gives {_form(answer)} for {_form(x)}, as what "
                f"it stands in for does, got {_form(stand_in)}"
            )
        return stand_in + ops.stop_gradient(answer - stand_in)

    return both


def _form(value: Any) -> str:
    """Dtype and shape of a tensor, as "float32 [2, 8, 8, 1]"; of anything else its type."""
    if not ops.is_tensor(value):
        return type(value).__name__
    return f"{keras.backend.standardize_dtype(value.dtype)} {list(value.shape)}"


def _function(name: str, value: Any) -> Any:
    if value is None or callable(value):
        return value
    raise SettingsError(f"{name}: expected a function of a tensor, or None, got {shown(value)}")


@final
@dataclass(frozen=True)
class BPDA(Options, Wrapped):
    """Backward pass differentiable approximation: a smooth stand-in on the backward pass only.

    Forward nothing changes. Athalye et al. 2018, https://arxiv.org/abs/1802.00420.

    Attributes:
        defense: the defense, or another wrapper.
        transform: a function of a tensor that stands in for the one its networks apply to images
            first, and gives the same shape and dtype, and finite values; None leaves that as it
            is.
        activation: likewise for what follows each convolution.
    """

    defense: Any = field(metadata=_WITHIN)
    transform: Callable[[Any], Any] | None = field(default=None, metadata={"read": _function})
    activation: Callable[[Any], Any] | None = field(default=None, metadata={"read": _function})

    @override
    def __post_init__(self) -> None:
        """Check the options, and the stand-ins on two images."""
        super().__post_init__()
        for net in self.defense.nets[:1]:
            images = np.linspace(0, 1, 2 * math.prod(self.defense.info.shape), dtype=np.float32)
            x = ops.reshape(ops.convert_to_tensor(images), (2, *self.defense.info.shape))
            filters = net.kernels[0].shape[-1] if isinstance(net, AllConv) else 1
            units = ops.tile(2 * x[..., :1] - 1, (1, 1, 1, filters))  # of both signs
            for name, probe in (("transform", x), ("activation", units)):
                if (smooth := getattr(self, name)) is not None:
                    _try_out(net, name, smooth, probe)

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        # Copies, since other threads may ask the same networks meanwhile.
        defense = copied(unwrapped(self.defense)[0])
        defense.nets = [copied(net) for net in defense.nets]
        for net in defense.nets:
            for hook in ("transform", "activation"):
                if (smooth := getattr(self, hook)) is not None:
                    # Past Keras's own __setattr__, which would track what is set.
                    object.__setattr__(
                        net, hook, straight_through(getattr(net, hook), smooth, hook)
                    )
        around = isinstance(self.defense, Wrapped)
        return (self.defense.around(defense) if around else defense).logits(x, chance)


def _try_out(net: Any, name: str, smooth: Callable[[Any], Any], x: Any) -> None:
    if not hasattr(net, name):
        raise SettingsError(f"{name}: expected None, as the network has none to stand in for")
    try:
        answer = straight_through(getattr(net, name), smooth, name)(x)
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(
            f"{name}: expected a stand-in for {_form(x)}; it raised {told(error)}{where(error)}"
        ) from error
    try:
        finite = np.isfinite(ops.convert_to_numpy(answer)).all()
    except Exception:  # within a function that is being compiled there are no values
        return
    if not finite:
        raise SettingsError(f"{name}: expected a stand-in that gives finite values, got NaN or inf")


def copied(thing: Any, kind: type | None = None) -> Any:
    """Copy a defense or a network shallowly; Keras's layers copy themselves otherwise, deep.

    Args:
        thing: the defense or network.
        kind: the class of the copy, if not the same.
    """
    copy: Any = object.__new__(kind or type(thing))
    vars(copy).update(vars(thing))
    return copy
