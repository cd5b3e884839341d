"""Threat models, against numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from keras import ops

from sparring.errors import SettingsError
from sparring.threat import L2, Linf, ThreatModel, default_threat, threat_model

pytestmark = pytest.mark.backend


def tensor(values: Any) -> Any:
    return ops.convert_to_tensor(np.array(values, np.float32).reshape(1, 1, 2, 1))


def values(x: Any) -> list[float]:
    return [float(value) for value in ops.convert_to_numpy(x).ravel()]


@pytest.mark.parametrize(
    ("eps", "expected"),
    [
        ("4/255", 4 / 255),
        ("0.0157", 0.0157),
        ("1e-2", 0.01),
        (0.5, 0.5),
        (1, 1.0),
        (" 8 / 255", 8 / 255),
    ],
)
def test_eps_is_taken_as_number_or_text(eps: Any, expected: float) -> None:
    assert Linf(eps).eps == pytest.approx(expected)
    assert threat_model("linf", eps) == Linf(expected)


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (4, r"at most 1 for Linf, got 4; pixels are in \[0, 1\]. Did you mean 4/255\?"),
        (0, "a number above 0, got 0"),
        (-0.1, "a number above 0"),
        (math.nan, "a number above 0"),
        (math.inf, "a number above 0"),
        ("much", "such as 4/255, got 'much'"),
        ("1/0", "such as 4/255, got '1/0'"),
        (None, "such as 4/255, got None"),
        (True, "such as 4/255, got True"),
    ],
)
def test_wrong_eps_is_refused(eps: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Linf(eps)


def test_l2_may_exceed_1() -> None:
    assert L2(4).eps == 4


def test_unknown_norm_lists_the_valid_ones() -> None:
    with pytest.raises(SettingsError, match=r"unknown norm 'L1'.*Valid: Linf, L2"):
        threat_model("L1", 1)


def test_usual_eps() -> None:
    assert default_threat("Linf", "cifar10") == Linf(4 / 255)
    assert default_threat("l2", "cifar10") == L2(1.0)
    with pytest.raises(SettingsError, match="mine has no usual eps for Linf; give one"):
        default_threat("Linf", "mine")
    with pytest.raises(SettingsError, match="unknown norm"):
        default_threat("L3", "cifar10")


def test_linf_by_hand() -> None:
    threat, x = Linf(0.25), tensor([0.5, 0.9])
    assert values(threat.project(tensor([0.9, 0.95]), x)) == pytest.approx([0.75, 0.95])
    assert values(threat.project(tensor([0.1, 2.0]), x)) == pytest.approx([0.25, 1.0])
    assert values(threat.direction(tensor([-3.0, 0.0]))) == [-1, 0]
    assert values(threat.start(x, tensor([0.0, 0.75]))) == pytest.approx([0.25, 1.0])
    assert threat.distance(np.array([[0.5, 0.2]]), np.array([[0.4, 0.5]])) == pytest.approx([0.3])


def test_l2_by_hand() -> None:
    threat, x = L2(0.5), tensor([0.0, 0.0])
    assert values(threat.project(tensor([0.6, 0.8]), x)) == pytest.approx([0.3, 0.4])
    assert values(threat.project(tensor([0.3, 0.0]), x)) == pytest.approx([0.3, 0.0])
    assert values(threat.project(tensor([-1.0, 0.0]), x)) == [0, 0]  # back into the cube
    assert values(threat.direction(tensor([3.0, 4.0]))) == pytest.approx([0.6, 0.8])
    assert values(threat.direction(tensor([0.0, 0.0]))) == [0, 0]
    assert threat.distance(np.array([[0.3, 0.4]]), np.zeros((1, 2))) == pytest.approx([0.5])


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("eps", [1e-3, 4 / 255, 0.3, 1.0])
def test_what_is_projected_lies_within_eps_up_to_rounding(
    kind: type[ThreatModel], eps: float
) -> None:
    random = np.random.default_rng(0)
    x = random.random((200, 16, 16, 3), dtype=np.float32)
    far = x + random.normal(0, 1, x.shape).astype(np.float32)
    threat = kind(eps)
    near = ops.convert_to_numpy(
        threat.project(ops.convert_to_tensor(far), ops.convert_to_tensor(x))
    )
    assert near.min() >= 0
    assert near.max() <= 1
    assert (threat.distance(near, x) <= eps + threat.rounding(x[0].size)).all()
    assert threat.rounding(x[0].size) < 1e-5  # a fortieth of a gray level


def test_unlimited_reaches_every_image() -> None:
    black, white = np.zeros((1, 4, 4, 3)), np.ones((1, 4, 4, 3))
    for threat in (Linf(0.1), L2(0.1)):
        largest = threat.unlimited((4, 4, 3))
        assert largest.distance(white, black) <= largest.eps
        assert threat.scaled(2).eps == pytest.approx(0.2)
    assert Linf(0.8).scaled(2) == Linf(1.0)
