"""What each defense comes to on the digits with its own settings: examples that are also tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import sparring
from sparring.defense import Defense
from sparring.defenses import DEFENSES, get
from sparring.progress import Silent

# Some points below what seed 0 came to on PyTorch (in brackets); one image of 360 is 0.28 points.
LEAST = {
    "baseline": 0.97,  # 98.1
    "blur": 0.96,  # 98.3
    "temperature": 0.88,  # 92.8
    "labelsmooth": 0.95,  # 97.8
    "jump": 0.94,  # 96.9
    "mergebinary": 0.87,  # 89.2, 10.0 rejected; seeds 1 and 2 89.2 and 88.3
    "majority": 0.94,  # 96.7
    "discretize": 0.96,  # 98.9
    "randomneuron": 0.78,  # 84.2
    "transform": 0.92,  # 96.1
    "injection": 0.80,  # 88.6, 9.4 rejected
    "knn": 0.92,  # 96.1
    "advtrain": 0.95,  # 98.3
    "pgdtrain": 0.88,  # 92.2
    "trades": 0.90,  # 94.7
}


# The same with the preset fast, in a fifth of the steps.
LEAST_FAST = {
    "baseline": 0.97,  # 98.9
    "blur": 0.97,  # 98.9
    "temperature": 0.95,  # 97.8
    "labelsmooth": 0.97,  # 99.2
    "jump": 0.95,  # 97.8
    "mergebinary": 0.88,  # 91.1, 8.3 rejected
    "majority": 0.94,  # 96.4
    "discretize": 0.97,  # 98.9
    "randomneuron": 0.82,  # 88.9
    "transform": 0.95,  # 97.8
    "injection": 0.80,  # 85.8, 12.5 rejected
    "knn": 0.93,  # 96.4
    "advtrain": 0.96,  # 98.1
    "pgdtrain": 0.95,  # 98.1
    "trades": 0.93,  # 96.4
}


class Unwarned(Silent):
    """Expects to hear nothing of guessing."""

    def message(self, text: str) -> None:
        assert "guessing" not in text


Zoo = Callable[..., Defense]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """A defense trained with its own settings, by name and preset; each is trained once."""
    out = tmp_path_factory.mktemp("zoo")

    def trained(name: str, preset: str = "course") -> Defense:
        if (lender := get(name).borrows) is not None:
            trained(lender, preset)
        return sparring.train(
            *(name, "digits"), preset=preset, out=out / preset, eval_every=0, progress=Unwarned()
        )

    return trained


@pytest.mark.backend
def test_baseline_on_digits_reaches_97_percent(zoo: Zoo) -> None:
    # Seeds 0 to 2 came to 98.1, 98.6 and 98.6 % on PyTorch, two to 97.8 % and more elsewhere.
    assert zoo("baseline").results["test_accuracy"] >= LEAST["baseline"]


@pytest.mark.backend
def test_the_fast_baseline_reaches_97_percent(zoo: Zoo) -> None:
    assert zoo("baseline", "fast").results["test_accuracy"] >= LEAST_FAST["baseline"]


@pytest.mark.parametrize("name", [name for name in DEFENSES if name != "baseline"])
def test_every_defense_learns_the_digits_fast(zoo: Zoo, name: str) -> None:
    assert zoo(name, "fast").results["test_accuracy"] >= LEAST_FAST[name]


@pytest.mark.parametrize("name", [name for name in DEFENSES if name != "baseline"])
def test_every_defense_learns_the_digits(zoo: Zoo, name: str) -> None:
    defense = zoo(name)
    assert defense.results["test_accuracy"] >= LEAST[name]
    if not defense.detects:
        assert defense.results["rejected"] == 0


def test_temperature_saturates_the_softmax(zoo: Zoo) -> None:
    x = sparring.load_data("digits").x_test
    # What makes it a defense: for most images the other classes' probabilities vanish in float32.
    assert np.mean(zoo("temperature").classify(x).max(axis=1) == 1) > 0.8
    assert np.mean(zoo("baseline").classify(x).max(axis=1) == 1) < 0.5
