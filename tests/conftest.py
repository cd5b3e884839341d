"""What tests share: a tiny data set that can be learned, and marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from keras import ops

import sparring
from sparring.data import Dataset, DatasetInfo
from sparring.defenses import get
from sparring.defenses.defense import Defense
from sparring.training.callbacks import EpochMetrics, Silent
from sparring.training.settings import Settings

KNOWN = (
    *("baseline", "blur", "temperature", "labelsmooth", "jump", "mergebinary", "majority"),
    *("discretize", "randomneuron", "transform", "injection", "knn", "advtrain", "pgdtrain"),
    "trades",
)
"""The defenses that tests have numbers of, worked out by hand or measured; there may be more."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "backend: runs on every backend, in a process of its own")


def patterns(images: int, channels: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise 8x8 under one of four patterns: flat, rows, columns, checkers."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((8, 8)) % 2
    kinds = np.stack([np.zeros((8, 8)), rows, columns, (rows + columns) % 2])
    y = np.arange(images, dtype=np.int32) % 4
    noise = random.integers(0, 80, (images, 8, 8, channels))
    return (noise + 160 * kinds[y][..., None]).astype(np.uint8), y


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    def make(train: int = 40, test: int = 16, channels: int = 1) -> Dataset:
        x_train, y_train = patterns(train, channels)
        x_test, y_test = patterns(test, channels, seed=1)
        return Dataset("patterns", x_train, y_train, x_test, y_test, tuple("abcd"), mirror=False)

    return make


@pytest.fixture
def dataset(make_dataset: Callable[..., Dataset]) -> Dataset:
    """40 training and 16 test images, 8x8x1, four classes: more than two batches of 16."""
    return make_dataset()


class Linear(Defense):
    """Two classes told apart by where an image lies along a direction: logits 0 and w.x - b."""

    name = "linear"
    idea = "a hyperplane, for tests"

    def __init__(self, direction: np.ndarray, bias: float) -> None:
        shape = cast(tuple[int, int, int], direction.shape)
        info = DatasetInfo("linear", shape, ("a", "b"), False, 1, 1, "")
        super().__init__(info, Settings(), [])
        self.direction, self.bias = direction.astype(np.float32), bias

    def logits(self, x: Any, chance: Any = None) -> Any:
        along = ops.sum(x * ops.convert_to_tensor(self.direction), axis=(1, 2, 3)) - self.bias
        return ops.stack([ops.zeros_like(along), along], axis=-1)


@pytest.fixture
def linear() -> Linear:
    """64 pixels in alternating directions; of one gray, an image has logit 4 for class b."""
    signs = np.where(np.indices((8, 8, 1)).sum(axis=0) % 2, 1.0, -1.0)
    return Linear(signs, -4.0)


class Stop(BaseException):
    """What a test interrupts a training with."""


class Recorder(Silent):
    """Remembers messages; interrupts after an epoch when told to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.messages: list[str] = []
        self.stop_after = stop_after

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        if metrics.epoch == self.stop_after:
            raise Stop

    def message(self, text: str) -> None:
        self.messages.append(text)


class Unwarned(Silent):
    """Expects to hear nothing of guessing."""

    def message(self, text: str) -> None:
        assert "guessing" not in text


Zoo = Callable[..., Defense]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """A defense trained on the digits with its own settings, by name and preset.

    Each is trained once for all tests of a process: zoo("blur"), zoo("blur", "course").
    """
    out = tmp_path_factory.mktemp("zoo")
    trained: dict[tuple[str, str], Defense] = {}

    def get_trained(name: str, preset: str = "fast") -> Defense:
        if (name, preset) not in trained:
            if (lender := get(name).borrows) is not None:
                get_trained(lender, preset)
            trained[name, preset] = sparring.train(
                *(name, "digits"),
                preset=preset,
                out=out / preset,
                eval_every=0,
                progress=Unwarned(),
            )
        return trained[name, preset]

    return get_trained


@pytest.fixture(scope="session")
def digits_baseline(zoo: Zoo) -> Defense:
    """The baseline on the digits."""
    return zoo("baseline")
