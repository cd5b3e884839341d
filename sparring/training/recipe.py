"""How one network of a defense is trained: its settings and its recipe."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar, get_type_hints

import numpy as np

from sparring import backend
from sparring.backend import keras, ops
from sparring.data import Dataset, DatasetInfo
from sparring.errors import SettingsError, unknown_name
from sparring.networks.allconv import AllConv
from sparring.networks.augment import SHIFT_FLIP_DRAWS, shift_flip
from sparring.randomness import Stream, spread

_Net = TypeVar("_Net", bound=AllConv)

_CHOICES = {
    "optimizer": ["sgd", "muon"],
    "schedule": ["cosine", "linear"],
    "initializer": ["glorot", "he"],
    "precision": ["float32", "bfloat16"],
}

PRESETS = ("course", "fast")

_FAST_RATE = 0.05


class _Scale(NamedTuple):
    """How a preset's settings are fitted to a data set; see Settings.scaled_to."""

    filters: int = 1  # divided by it, as epochs and batch size are
    epochs: int = 1
    batch_size: int = 1
    learning_rate: float = 1.0  # multiplied with it


# By preset and data set; "" is every other data set.
_SCALES = {
    "course": {
        "": _Scale(),
        "digits": _Scale(filters=2, batch_size=4, learning_rate=2.0),
        "fashion-mnist": _Scale(filters=4, epochs=25, batch_size=2),
    },
    "fast": {
        "": _Scale(epochs=10),
        "digits": _Scale(filters=2, epochs=5, batch_size=4),
        "fashion-mnist": _Scale(filters=4, epochs=100),
    },
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The hyperparameters of one training; the defaults are the course's.

    Unknown names and values out of range raise SettingsError.
    """

    filters: int = 64  # width of the first convolution
    head_size: int = 1  # side of the head's kernel; the course's old checkpoints have 3
    epochs: int = 100
    batch_size: int = 64  # the last, smaller batch of an epoch is trained on too
    optimizer: str = "sgd"  # or muon
    schedule: str = "cosine"  # of the learning rate: to 0.195 of it; or linear, to 0
    initializer: str = "glorot"  # of the kernels: glorot or he
    learning_rate: float = 0.03  # at its highest
    momentum: float = 0.9  # heavy-ball with sgd, Nesterov's with muon
    weight_decay: float = 1e-4  # a term of the loss, on kernels only
    ema_decay: float = 0.999  # of the averaged weights, reached after a warm-up
    flip: bool | None = None  # mirror half of the images; None: as the data set says
    precision: str = "float32"  # of convolutions and activations in training; or bfloat16

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            if hint is float and type(value) is int:
                value = float(value)
                object.__setattr__(self, field.name, value)
            if not isinstance(value, hint) or (type(value) is bool and hint is int):
                expected = getattr(hint, "__name__", str(hint))
                raise SettingsError(f"{field.name}: expected {expected}, got {value!r}")
        self._expect("filters", self.filters >= 1, "at least 1")
        self._expect("head_size", self.head_size in (1, 3), "1 or 3")
        self._expect("epochs", self.epochs >= 1, "at least 1")
        self._expect("batch_size", self.batch_size >= 1, "at least 1")
        for name, valid in _CHOICES.items():
            if (value := getattr(self, name)) not in valid:
                raise SettingsError(unknown_name(name, value, valid))
        rate = self.learning_rate
        self._expect("learning_rate", math.isfinite(rate) and rate > 0, "a number above 0")
        self._expect("momentum", 0 <= self.momentum < 1, "0 or more, below 1")
        decay = self.weight_decay
        self._expect("weight_decay", math.isfinite(decay) and decay >= 0, "0 or more")
        self._expect("ema_decay", 0 <= self.ema_decay < 1, "0 or more, below 1")

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise SettingsError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    @classmethod
    def names(cls) -> list[str]:
        """The names of all settings."""
        return [field.name for field in fields(cls)]

    def replace(self, **changes: Any) -> Settings:
        """These settings with some changed."""
        for name in changes:
            if name not in self.names():
                raise SettingsError(unknown_name("setting", name, self.names()))
        return replace(self, **changes)

    def scaled_to(self, dataset: str, preset: str = "course") -> Settings:
        """The settings for a data set of that name: most take the course's as they are.

        The preset fast trains the same networks with the same losses by Muon, from He's
        initialization, with a learning rate that falls to zero, for a tenth of the epochs and
        less; docs/fast.md has what each of these brought. What follows is the preset course.

        digits: at batch 64 its 1,437 images give 23 steps an epoch, and 100 epochs end at 89 %
        test accuracy with the network still learning. Batches of a quarter and twice the rate
        come to 98 %; half the filters keep that within a minute on two cores.

        fashion-mnist: a quarter of the filters and a twenty-fifth of the epochs, for minutes on two
        cores. Half the batch makes up for some of it: the baseline comes to 88.3 %; with whole
        batches five epochs come to 86.7 %. Twice the rate came to 89.8 % with seed 0, and diverged
        with seed 1.
        """
        if preset not in PRESETS:
            raise SettingsError(unknown_name("preset", preset, list(PRESETS)))
        settings = self
        if preset == "fast":
            settings = self.replace(
                optimizer="muon", schedule="linear", initializer="he", learning_rate=_FAST_RATE
            )
        scale = _SCALES[preset].get(dataset, _SCALES[preset][""])
        return settings.replace(
            filters=max(1, settings.filters // scale.filters),
            epochs=max(1, settings.epochs // scale.epochs),
            batch_size=max(1, settings.batch_size // scale.batch_size),
            learning_rate=scale.learning_rate * settings.learning_rate,
        )

    def as_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)


class Recipe:
    """How one network is trained; this is the recipe that all defenses share.

    A defense overrides the hooks it changes. Hooks run inside the compiled training step, on
    tensors on the device: images float32 [B, H, W, C] in [0, 1], labels int32 [B].

    Attributes: `info` (of the data set), `settings`, `seed` (the user's), `network` (which of the
    defense's, from 0), `random` (a `backend.Random` for augmentation; the loop restarts it at
    every epoch, so that a resumed run draws what an uninterrupted one does).
    """

    def __init__(self, info: DatasetInfo, settings: Settings, seed: int, network: int = 0) -> None:
        self.info, self.settings = info, settings
        self.seed, self.network = seed, network
        self.random = backend.Random()

    def spread(self, stream: Stream, *place: int) -> int:
        """A seed of this network's own for one use, from the user's."""
        own = spread(self.seed, Stream.NETWORK, self.network) if self.network else self.seed
        return spread(own, stream, *place)

    def net(self) -> AllConv:
        """A new network with its initial weights, a function of the seed alone."""
        return self.allconv(AllConv)

    def allconv(
        self,
        kind: type[_Net],
        shape: tuple[int, int, int] | None = None,
        outputs: int | None = None,
    ) -> _Net:
        """A network of that kind with this recipe's settings and seed.

        `shape` of what its transform gives and number of `outputs` are the data set's unless given.
        """
        return kind(
            shape or self.info.shape,
            outputs or self.info.classes,
            self.settings.filters,
            self.settings.head_size,
            initializer=self.settings.initializer,
            seed=self.spread(Stream.WEIGHTS),
        )

    def augment(self, x: Any, y: Any) -> tuple[Any, Any]:
        """The batch as it is trained on: shifted by up to an eighth and, where wanted, mirrored."""
        draws = self.random.uniform((SHIFT_FLIP_DRAWS, x.shape[0], 1))
        return shift_flip(x, draws, flip=bool(self.settings.flip)), y

    def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
        """The loss, a scalar mean over the batch, and how many images were answered correctly."""
        logits = net(x)
        return cross_entropy(y, logits), hits(y, logits)

    def chance(self, net: Any) -> float:
        """The share of hits that guessing comes to; 0 where hits are no answers."""
        return 1 / int(net.head[1].shape[0])

    def on_progress(self, net: Any, progress: Any) -> None:
        """Assign the net's non-trainable variables that ramp, at progress (a scalar) in [0, 1]."""

    def evaluate(self, net: Any, dataset: Dataset) -> float:
        """The share of test images that `net` answers correctly."""
        return float(np.mean(net.predict(dataset.x_test).argmax(axis=1) == dataset.y_test))

    def finish(self, net: Any, dataset: Dataset) -> dict[str, np.ndarray]:
        """Arrays to be saved with the trained weights, computed with them."""
        return {}


def cross_entropy(y: Any, logits: Any) -> Any:
    """Mean cross entropy of softmax(logits) [B, K] against labels int [B]."""
    losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    return ops.mean(losses)


def hits(y: Any, logits: Any) -> Any:
    """How many of the images have their label's logit on top, as a float32 scalar."""
    answers = ops.cast(ops.argmax(logits, axis=-1), y.dtype)
    return ops.sum(ops.cast(ops.equal(answers, y), "float32"))
