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
from sparring.attacks.options import Options, integer
from sparring.backend import keras, ops
from sparring.defenses.defense import Defense
from sparring.defenses.passes import uncounted
from sparring.errors import SettingsError, printable, shown, told, unknown_name
from sparring.networks.allconv import PREDICTION_BATCH, AllConv
from sparring.randomness import Chance
from sparring.tensors import Images, Logits
from sparring.usercode import where


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

    def settings_to_show(self) -> dict[str, Any]:
        """Give what there is to say of the wrapper, by name."""
        return {name: value for name, value in vars(self).items() if name != "defense"}

    def around(self, defense: Any) -> Self:
        """Copy the wrapper, and the wrappers within it, around another defense."""
        inner = self.defense.around(defense) if isinstance(self.defense, Wrapped) else defense
        wrapper = copy.copy(self)
        object.__setattr__(wrapper, "defense", inner)  # wrappers are frozen
        return wrapper


class SeparatelyCompiled(Wrapped):
    """A wrapper that keeps what is compiled for it, so that nothing of it stays with the defense.

    Attributes:
        defense: the defense.
    """

    def __init__(self, defense: Defense) -> None:
        """Compile nothing yet."""
        self.defense = defense
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    @override
    def compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        if key not in self._compiled:
            compiled = backend.compile(function, self.defense.variables)
            self._compiled[key] = self.defense.passes.of_compiled(compiled)
        return self._compiled[key]


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
            for name, value in defense.settings_to_show().items()
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


WITHIN = {"read": _defense}
"""Metadata of the field of a wrapper that holds the defense."""


@final
@dataclass(frozen=True)
class EOT(Options, Wrapped):
    """Expectation over transformation: logits averaged over draws of a stochastic defense.

    An attack on EOT(defense) follows the mean gradient of `draws` draws. A step costs the time of
    that many, and the memory of few: see `logits_of_draws`.
    Athalye et al. 2018, https://arxiv.org/abs/1707.07397.

    Attributes:
        defense: the defense, or another wrapper.
        draws: how many are averaged: those of the seeds from the given one on.
    """

    defense: Any = field(metadata=WITHIN)
    draws: int = integer(20)

    @property
    def asks(self) -> int:
        """As Defense.asks."""
        return self.draws * int(self.defense.asks)

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        return ops.mean(logits_of_draws(self.defense, x, self.draws, chance), axis=0)


def logits_of_draws(defense: Any, x: Images, draws: int, chance: Chance | None = None) -> Any:
    """Compute logits in several draws of a stochastic defense.

    Many are computed some at a time, in the memory that PREDICTION_BATCH images take, and again
    for the gradient, by x alone and once.

    Args:
        defense: the defense or a wrapper around one.
        x: images float32 [B, H, W, C].
        draws: how many.
        chance: of the first draw; None means that of seed 0. The seeds of the others follow it.

    Returns:
        float32 [draws, B, K].
    """
    count, first = x.shape[0], 0 if chance is None else chance.seed

    def some(x: Images, chance: Chance | None) -> Any:
        """Logits [s, B, K] in s draws, of which the first is that given."""
        with uncounted():  # this is traced, or made again, as often as the backend likes
            logits = defense.logits(*drawn(x, at_once, chance))
        return ops.reshape(logits, (at_once, count, -1))

    def after(x: Images, start: Any) -> Any:
        """The same, of which the first is this many after that given."""
        return some(x, Chance(x, first + start))

    def all_of_them() -> Any:
        if at_once == draws:
            return some(x, chance)
        starts = np.arange(0, draws, at_once, dtype=np.int32)
        logits = backend.one_by_one(after, x, starts)  # [draws / s, s, B, K]
        return ops.reshape(logits, (draws, count, -1))

    at_once = max(1, PREDICTION_BATCH // count)
    at_once = max(size for size in range(1, min(at_once, draws) + 1) if draws % size == 0)
    return defense.passes.counted(all_of_them, draws * count * defense.asks)


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
    exact: Callable[..., Any], smooth: Callable[..., Any], name: str = "smooth"
) -> Any:
    """Make the function that is `exact` forward and has the gradient of `smooth`.

    Args:
        exact: a function of a tensor, and of whatever else.
        smooth: one of the same, that gives the same shape and dtype.
        name: what `smooth` is called in the message of an error.

    Returns:
        A function of the same, which raises SettingsError for another shape or dtype.
    """

    def both(x: Any, *others: Any, **named: Any) -> Any:
        answer, stand_in = exact(x, *others, **named), smooth(x, *others, **named)
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


def _functions(name: str, value: Any) -> tuple[tuple[str, Callable[..., Any]], ...]:
    """Stand-ins by name, as a tuple, which can be hashed."""
    try:
        pairs = tuple(sorted(dict(value).items()))
    except (TypeError, ValueError):
        pairs = ((None, None),)
    if not all(isinstance(key, str) and callable(smooth) for key, smooth in pairs):
        raise SettingsError(f"{name}: expected functions by their names, got {shown(value)}")
    return pairs


def _has(owner: Any, name: str) -> bool:
    return not name.startswith("_") and callable(getattr(owner, name, None))


def _methods(owner: Any) -> list[str]:
    """Methods of Sparring's own and of users' classes: those that Keras has are many."""
    kinds = [kind for kind in type(owner).__mro__ if not kind.__module__.startswith("keras")]
    names = {name for kind in kinds for name in vars(kind) if _has(owner, name)}
    return sorted(names)


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
        functions: by their names, stand-ins for other methods of its networks or of the defense
            itself, as {"votes": soft_votes}; each takes what the method takes. Of methods that both
            have the networks' are meant. Kept as a tuple of names and functions.

    Raises:
        SettingsError: there is no such method, or a stand-in gives something else than what it
            stands in for.
    """

    defense: Any = field(metadata=WITHIN)
    transform: Callable[[Any], Any] | None = field(default=None, metadata={"read": _function})
    activation: Callable[[Any], Any] | None = field(default=None, metadata={"read": _function})
    functions: Any = field(default=(), metadata={"read": _functions})

    @override
    def __post_init__(self) -> None:
        """Check the options, and stand-ins for functions of one tensor on two images."""
        super().__post_init__()
        defense = unwrapped(self.defense)[0]
        for name, _ in self.functions:
            if not any(_has(owner, name) for owner in (*defense.nets[:1], defense)):
                valid = [name for owner in (*defense.nets[:1], defense) for name in _methods(owner)]
                raise SettingsError(unknown_name("function of the defense", name, valid))
        for net in self.defense.nets[:1]:
            images = np.linspace(0, 1, 2 * math.prod(self.defense.info.shape), dtype=np.float32)
            x = ops.reshape(ops.convert_to_tensor(images), (2, *self.defense.info.shape))
            filters = net.kernels[0].shape[-1] if isinstance(net, AllConv) else 1
            units = ops.tile(2 * x[..., :1] - 1, (1, 1, 1, filters))  # of both signs
            for name, probe in (("transform", x), ("activation", units)):
                if (smooth := getattr(self, name)) is not None:
                    _try_out(net, name, smooth, probe)

    @override
    def settings_to_show(self) -> dict[str, Any]:
        named = super().settings_to_show()
        return named | dict(named.pop("functions"))

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        # Copies, since other threads may ask the same networks meanwhile.
        defense = copied(unwrapped(self.defense)[0])
        defense.nets = [copied(net) for net in defense.nets]
        hooks = [("transform", self.transform), ("activation", self.activation), *self.functions]
        for name, smooth in hooks:
            if smooth is not None:
                of_nets = any(_has(net, name) for net in defense.nets)
                for owner in defense.nets if of_nets else [defense]:
                    both = straight_through(getattr(owner, name), smooth, name)
                    # Past Keras's own __setattr__, which would track what is set.
                    object.__setattr__(owner, name, both)
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
