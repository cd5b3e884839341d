"""How each defense holds and how it breaks, on the digits: what the project exists for.

The bounds are each defense's `expected`; docs/fast.md has the figures that they leave ten points
and more to, for other processors round otherwise.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from keras import ops

from sparring import attacks
from sparring.attacks import PGD, Noise
from sparring.data import load
from sparring.defenses import DEFENSES, get
from sparring.defenses.defense import Defense
from sparring.threat import Linf
from tests.conftest import Zoo

SMALL, LARGE = 0.1, 0.15


@cache
def answered_rightly(defense: Defense, images: int) -> tuple[np.ndarray, np.ndarray]:
    """The first test images [images, 8, 8, 1] that a defense answers rightly, and their labels."""
    data = load("digits")
    x, y = data.x_test[:120].astype(np.float32) / 255, data.y_test[:120]
    right = (defense.broken_share(x, y) == 0) & (defense.detect(x) <= defense.threshold)
    assert right.sum() >= images
    return x[right][:images], y[right][:images]


def broken(defense: Defense, attack: Any, eps: float, images: int = 60) -> float:
    """The share of images that an attack breaks within eps, after checking that they are valid."""
    x, y = answered_rightly(defense, images)
    threat = Linf(eps)
    given = attack(defense, ops.convert_to_tensor(x), ops.convert_to_tensor(y), threat)
    found = np.array(ops.convert_to_numpy(given))
    assert found.min() >= 0
    assert found.max() <= 1
    assert (threat.distance(found, x) <= eps + threat.rounding(x[0].size)).all()
    return float(defense.broken_share(found, y).mean())


@pytest.mark.parametrize("name", DEFENSES)
def test_noise_breaks_little(zoo: Zoo, name: str) -> None:
    # 0 to 5 % of 60 images at the best of three draws.
    assert broken(zoo(name), Noise(draws=3), SMALL) <= 0.12


@pytest.mark.parametrize("name", DEFENSES)
def test_how_it_holds(zoo: Zoo, name: str) -> None:
    least, most = get(name).expected.pgd
    images = 30 if zoo(name).stochastic else 60
    success = broken(zoo(name), PGD(steps=20), SMALL, images)
    assert least <= success <= most


@pytest.mark.parametrize("name", DEFENSES)
def test_how_it_breaks(zoo: Zoo, name: str) -> None:
    expected, defense = get(name).expected, zoo(name)
    reference = attacks.get("reference", defense=name)
    success = broken(defense, reference, LARGE, expected.images)
    plain = broken(defense, PGD(steps=20), LARGE, expected.images)
    assert success >= expected.reference
    assert success >= plain + expected.gain


def test_saturated_logits_hide_the_gradient_of_the_cross_entropy_alone(zoo: Zoo) -> None:
    # 33 and 72 %.
    temperature = zoo("temperature")
    margin = broken(temperature, PGD(steps=20, loss="margin"), SMALL)
    assert margin >= 0.55
    assert margin >= broken(temperature, PGD(steps=20), SMALL) + 0.2


@pytest.mark.parametrize("name", ["advtrain", "pgdtrain", "trades"])
def test_adversarial_training_holds_where_the_baseline_breaks(zoo: Zoo, name: str) -> None:
    strong = PGD(steps=20, loss="margin")
    assert broken(zoo(name), strong, SMALL) <= broken(zoo("baseline"), strong, SMALL) - 0.35
