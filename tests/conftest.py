"""What tests share: a tiny data set that can be learned, and marks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sparring.data import Dataset


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
