"""Threat models, against numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from keras import ops

from sparring.data import SOURCES
from sparring.data.usual import default_threat
from sparring.errors import SettingsError
from sparring.threat import L2, Linf, ThreatModel, threat_model

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
    with pytest.raises(SettingsError, match="a data set of your own has no usual eps for L2"):
        default_threat("L2", None)
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


def pairs(*images: list[float]) -> Any:
    """Several images of two values each, side by side."""
    return ops.convert_to_tensor(np.array(images, np.float32).reshape(len(images), 1, 2, 1))


@pytest.mark.parametrize("kind", [Linf, L2])
def test_eps_is_above_0_and_of_any_real_type(kind: type[ThreatModel]) -> None:
    assert kind(np.float32(0.5)).eps == 0.5  # type: ignore[arg-type] # not only Python's own
    assert type(kind(np.float64(0.5)).eps) is float
    assert type(kind(1).eps) is float
    assert kind(1e-9).eps == 1e-9
    assert kind(1).eps == 1  # the largest in Linf
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(SettingsError, match="eps: expected a number above 0, got"):
            kind(wrong)
    for text in ("", "4/0", "four", "1/2/3"):
        with pytest.raises(SettingsError, match=f"such as 4/255, got '{text}'"):
            kind(text)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="such as 4/255"):
        kind(1j)  # type: ignore[arg-type]


def test_eps_just_above_1_is_refused_in_linf() -> None:
    with pytest.raises(SettingsError, match=r"at most 1 for Linf, got 1\.001"):
        Linf(1.001)
    assert L2(1.001).eps == 1.001


def test_how_a_threat_model_is_written() -> None:
    assert repr(Linf(4 / 255)) == "Linf(0.0156863)"
    assert repr(L2(0.5)) == "L2(0.5)"
    assert (Linf.norm, L2.norm) == ("Linf", "L2")


def test_threat_models_are_equal_when_norm_and_eps_are() -> None:
    assert Linf("1/4") == Linf(0.25)  # type: ignore[arg-type]
    assert hash(Linf("1/4")) == hash(Linf(0.25))  # type: ignore[arg-type]
    different: list[ThreatModel] = [Linf(0.25), L2(0.25), Linf(0.5)]
    assert len(set(different)) == 3


def test_norms_are_named_in_any_case() -> None:
    for name in ("Linf", "linf", "LINF"):
        assert threat_model(name, 0.5) == Linf(0.5)
    for name in ("L2", "l2"):
        assert threat_model(name, 2) == L2(2)
        assert default_threat(name, "digits") == L2(0.75)


def test_usual_eps_of_every_data_set() -> None:
    for dataset, of_linf, of_l2 in [
        ("digits", 0.15, 0.75),
        ("fashion-mnist", 0.05, 1.0),
        ("cifar10", 4 / 255, 1.0),
    ]:
        assert default_threat("Linf", dataset) == Linf(of_linf)
        assert default_threat("L2", dataset) == L2(of_l2)
    assert list(SOURCES)[:3] == ["digits", "fashion-mnist", "cifar10"]


def test_scaling_keeps_the_norm_and_stays_within_the_cube() -> None:
    assert Linf(0.25).scaled(0.5) == Linf(0.125)
    assert Linf(0.25).scaled(2) == Linf(0.5)
    assert Linf(0.25).scaled(5) == Linf(1.0)
    assert L2(0.25).scaled(8) == L2(2.0)


def test_unlimited_is_the_diagonal_of_the_cube() -> None:
    assert Linf(0.1).unlimited((4, 4, 3)) == Linf(1.0)
    assert L2(0.1).unlimited((4, 4, 3)) == L2(math.sqrt(48))


def test_starts_by_hand() -> None:
    x = pairs([0.5, 0.5], [0.1, 0.9])
    # In Linf 0 and 1 are the ends of what a value moves by, 1/2 its middle.
    found = values(Linf(0.25).start(x, pairs([0.0, 0.5], [0.25, 1.0])))
    assert found == pytest.approx([0.25, 0.5, 0.0, 1.0])  # 0.1 - 0.125 and 0.9 + 0.25 are cut off
    # In L2 2u - 1 gives the direction, and the first draw the share of eps: along (0.6, -0.8) by
    # 0.4; along (-1, 0) by nothing, by 0.125, and by that to beyond black; along (1, 1) by 0.5.
    uniform = pairs([0.8, 0.1], [0.0, 0.5])
    assert values(L2(0.5).start(x, uniform)) == pytest.approx([0.74, 0.18, 0.1, 0.9])
    found = values(L2(0.5).start(x, pairs([0.25, 0.5], [1.0, 1.0])))
    assert found == pytest.approx([0.375, 0.5, 0.1 + 0.5 / math.sqrt(2), 1.0])
    found = values(L2(0.5).start(x, pairs([0.25, 0.5], [0.25, 0.5])))
    assert found == pytest.approx([0.375, 0.5, 0.0, 0.9])


def test_each_image_of_a_batch_is_projected_and_measured_by_itself() -> None:
    x = pairs([0.5, 0.5], [0.0, 1.0])
    away = pairs([0.8, 0.9], [0.3, 0.6])  # by (0.3, 0.4) and (0.3, -0.4)
    assert values(L2(0.25).project(away, x)) == pytest.approx([0.65, 0.7, 0.15, 0.8])
    assert values(L2(0.5).project(away, x)) == pytest.approx([0.8, 0.9, 0.3, 0.6])
    outside = pairs([0.8, 0.9], [-0.3, 1.4])  # by (-0.3, 0.4), which leaves the cube twice
    assert values(L2(0.25).project(outside, x)) == pytest.approx([0.65, 0.7, 0.0, 1.0])
    assert values(Linf(0.35).project(away, x)) == pytest.approx([0.8, 0.85, 0.3, 0.65])
    assert values(Linf(0.35).project(outside, x)) == pytest.approx([0.8, 0.85, 0.0, 1.0])
    slope = pairs([3.0, -4.0], [0.0, 1e-3])
    assert values(L2(0.25).direction(slope)) == pytest.approx([0.6, -0.8, 0.0, 1.0])
    assert values(Linf(0.25).direction(slope)) == [1, -1, 0, 1]
    one, other = (ops.convert_to_numpy(each) for each in (away, x))
    assert L2(0.1).distance(one, other) == pytest.approx([0.5, 0.5])
    assert Linf(0.1).distance(one, other) == pytest.approx([0.4, 0.4])
    apart = np.array([[0.1, -0.3], [0.0, 0.2]])
    assert Linf(0.1).distance(apart, np.zeros((2, 2))) == pytest.approx([0.3, 0.2])


@pytest.mark.parametrize("kind", [Linf, L2])
def test_distances_are_not_rounded_to_float32(kind: type[ThreatModel]) -> None:
    # 1/3 and 1e-9 as float32 differ by something that float32 cannot tell from 1/3.
    one, other = np.full((1, 1), 1 / 3, np.float32), np.full((1, 1), 1e-9, np.float32)
    found = kind(0.5).distance(one, other)
    assert found.dtype == np.float64
    assert found[0] == pytest.approx(float(one[0, 0]) - float(other[0, 0]), abs=1e-15)
    assert found[0] < float(one[0, 0])


def test_allowances_for_rounding() -> None:
    # Half a unit in the last place below 1 is 2^-25; twice that in Linf, however large the image.
    assert Linf(0.1).rounding(1) == Linf(0.9).rounding(3072) == 2.0**-24
    # In L2 that for each of 3,072 values, as a length, and 8 units of eps.
    assert L2(0.5).rounding(3072) == pytest.approx(
        math.sqrt(3072) * 2.0**-25 + 4 * 2.0**-24, rel=1e-12
    )
    assert L2(2.0).rounding(4) == pytest.approx(2 * 2.0**-25 + 16 * 2.0**-24, rel=1e-12)


def test_which_adversarial_images_are_valid_and_why_not() -> None:
    x = np.full((7, 2, 2, 1), 0.5, np.float32)
    given = x.copy()
    given[0, 0, 0, 0] = 0.625
    given[1] = 0.4375
    given[2, 0, 0, 0] = 0.6251
    given[3, 1, 1, 0] = 1.5
    given[4, 1, 1, 0] = -np.inf
    given[5, 0, 1, 0], given[5, 1, 1, 0] = np.nan, 2.0
    given[6, 0, 0, 0] = np.float32(0.5) + np.float32(0.125) + np.float32(2**-24)
    checked = Linf(0.125).check(given, x)
    assert checked.valid.tolist() == [True, True, False, False, False, False, True]
    assert checked.reasons == [
        "", "", "too far: Linf distance above eps", "outside [0, 1]",
        "not finite: NaN or infinite values", "not finite: NaN or infinite values", "",
    ]  # fmt: skip
    np.testing.assert_allclose(checked.distance[:3], [0.125, 0.0625, 0.1251], atol=1e-6)
    assert checked.distance.dtype == np.float64
    assert np.isnan(checked.distance[3:6]).all()
    # What is within [0, 1] is given as it is, be it too far; the original stands for the rest.
    np.testing.assert_array_equal(checked.images[[0, 1, 2, 6]], given[[0, 1, 2, 6]])
    np.testing.assert_array_equal(checked.images[3:6], x[3:6])
    assert L2(0.125).check(given, x).valid.tolist() == [True, True, False] + 3 * [False] + [True]


def test_one_step_goes_along_the_gradient_and_back() -> None:
    x = ops.convert_to_tensor(np.array([0.5, 0.95, 0.5], np.float32).reshape(1, 1, 1, 3))
    gradient = ops.convert_to_tensor(np.array([3.0, 0.25, -1.0], np.float32).reshape(1, 1, 1, 3))
    once = Linf(0.1).moved(x, gradient, x, 0.07)
    np.testing.assert_allclose(ops.convert_to_numpy(once).ravel(), [0.57, 1, 0.43], atol=1e-6)
    twice = Linf(0.1).moved(once, gradient, x, 0.07)
    np.testing.assert_allclose(ops.convert_to_numpy(twice).ravel(), [0.6, 1, 0.4], atol=1e-6)
