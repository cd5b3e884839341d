"""Options of attacks, eps, and what wrappers are made of: what is refused, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from keras import ops

import sparring
from sparring.attacks import ATTACKS, BPDA, EOT, FGSM, PGD, InTurn, Noise, Square, reference
from sparring.attacks.simple import uniforms
from sparring.defenses import get as defense_named
from sparring.errors import SettingsError
from sparring.threat import L2, Linf
from tests.conftest import KNOWN, Linear

pytestmark = pytest.mark.backend

LARGE = 10**400
"""No float can hold it."""


def kinds() -> list[type]:
    """Every class of attacks with options, the reference attacks' too."""
    ours = [attack() for name, attack in ATTACKS.items() if name != "transfer"]  # needs a source
    made = ours + [reference.get(name) for name in KNOWN]
    parts = [part for attack in made for part in getattr(attack, "attacks", [attack])]
    return sorted({type(part) for part in parts}, key=lambda kind: kind.__name__)


OPTIONS = [(kind, part.name, part.default) for kind in kinds() for part in fields(kind)]
WRONG: dict[type, list[Any]] = {
    int: [
        -1,
        1.5,
        True,
        math.nan,
        math.inf,
        "x",
        "3",
        [3],
        2**31,
        LARGE,
        np.float64(3),
        np.int8(-1),
    ],
    float: ["x", "1e-2", math.nan, math.inf, -math.inf, True, [1], LARGE, 1j, np.float32("nan")],
    bool: [0, 1, 3, "true", None, [], np.int64(1)],
    str: ["x", "CE", "", 3, None, ["ce"], b"ce", True],
}


@pytest.mark.parametrize(
    ("kind", "name", "default"),
    OPTIONS,
    ids=[f"{kind.__name__}-{name}" for kind, name, _ in OPTIONS],
)
def test_wrong_values_of_every_option_are_refused(kind: type, name: str, default: Any) -> None:
    wrong = WRONG[float if default is None else type(default)]
    if type(default) is int:
        wrong = [*wrong, None] if name in ("seed", "targets") else [*wrong, None, 0]
    for value in wrong:
        with pytest.raises(SettingsError, match=rf"^{name}: expected|^unknown {name} ") as caught:
            kind(**{name: value})
        assert len(str(caught.value)) < 250


def test_there_are_options_of_every_type() -> None:
    assert {type(default) for *_, default in OPTIONS} == {int, float, bool, str, type(None)}
    assert {kind.__name__ for kind, *_ in OPTIONS} > {"PGD", "Noise", "Square", "OverDraws"}


def test_a_wrong_step_size_and_a_wrong_share() -> None:
    for wrong in (0, -0.1, math.nan):
        with pytest.raises(SettingsError, match="step_size: expected a number above 0, got"):
            PGD(step_size=wrong)
        with pytest.raises(SettingsError, match="first_share: expected a number above 0, at most"):
            Square(first_share=wrong)
    with pytest.raises(SettingsError, match=r"unknown loss 'hinge'\. Valid: ce, margin, dlr\."):
        PGD(loss="hinge")
    with pytest.raises(SettingsError, match="seed: expected at most 2147483647, got 2147483648"):
        PGD(seed=2**31)


def test_numbers_of_numpy_are_taken_as_python_s() -> None:
    options: dict[str, Any] = {
        "steps": np.int64(3),
        "step_size": np.float32(0.25),
        "restarts": np.uint8(2),
        "momentum": Fraction(1, 2),
        "random_start": np.bool_(False),
        "loss": np.str_("margin"),
        "seed": np.int32(7),
    }
    made = PGD(**options)
    assert made == PGD(3, 0.25, 2, 0.5, "margin", False, True, 7)
    assert [type(value) for value in vars(made).values()] == [
        *(int, float, int, float, str, bool, bool, int, int, str),
    ]
    assert repr(made).startswith("PGD(steps=3, step_size=0.25, restarts=2, momentum=0.5, ")
    assert type(Noise(draws=np.int64(2)).draws) is int  # type: ignore[arg-type]
    assert type(Square(first_share=1).first_share) is int


def test_the_largest_seed_has_successors() -> None:
    x = ops.full((2, 8, 8, 1), 0.5)
    last, first = (ops.convert_to_numpy(uniforms(x, seed)) for seed in (2**31, 0))
    np.testing.assert_array_equal(last, first)
    assert Noise(draws=2, seed=2**31 - 1).seed == 2**31 - 1


@pytest.mark.parametrize("threat", [0.1, "Linf", None, Linf, ("Linf", 0.1)])
def test_what_is_no_threat_model_is_refused(linear: Linear, threat: Any) -> None:
    x, y = ops.full((2, 8, 8, 1), 0.5), ops.ones(2, "int32")
    for attack in (FGSM(), PGD(steps=1), Noise(), Square(queries=1), InTurn((PGD(steps=1),))):
        with pytest.raises(SettingsError, match=r"threat: expected a threat model, such as Linf"):
            attack(linear, x, y, threat)
    if threat is not None:
        with pytest.raises(SettingsError, match=r"threat: expected a threat model, such as Linf"):
            sparring.evaluate(linear, "pgd", threat)


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize(
    "eps",
    [
        *("x", "", "nan", "inf", "-inf", "1e400", "-1", "0", "1e99999999", "1e-99999999", "1/0"),
        *("1/-2", "0/5", "1/2/3", "1.5/2", "9" * 5000, "9" * 5000 + "/1", "1/" + "9" * 4000, "0x8"),
        *(math.nan, math.inf, -1, 0, True, None, LARGE, 1j, [0.1], b"0.1", np.float32("nan")),
        *(Fraction(LARGE), Fraction(-1, 3), np.array(0.1), np.bool_(True), "8/255 px", Linf),
    ],
    ids=lambda eps: f"{type(eps).__name__}-{str(eps)[:9]}",
)
def test_every_wrong_eps_is_refused_at_once(kind: Any, eps: Any) -> None:
    with pytest.raises(SettingsError, match=r"^eps: expected a number") as caught:
        kind(eps)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "eps", ["8/255", " 8 / 255 ", Fraction(8, 255), 8 / 255, np.float64(8 / 255)]
)
def test_every_form_of_an_eps_is_the_same_number(eps: Any) -> None:
    assert Linf(eps).eps == L2(eps).eps == 8 / 255
    assert Linf(cast(Any, "3.1372549019607843e-2")).eps == 8 / 255


def test_an_eps_is_bounded_in_both_norms() -> None:
    with pytest.raises(SettingsError, match=r"at most 1 for Linf, got 2; .* Did you mean 2/255\?"):
        Linf(2)
    with pytest.raises(SettingsError, match=r"at most 1e\+06 for L2, got 1e\+300; .* sqrt\(N\)"):
        L2(1e300)
    assert (Linf(0.75).scaled(2), L2(1e6).scaled(2), L2(1).scaled(2)) == (Linf(1), L2(1e6), L2(2))
    x = ops.full((2, 8, 8, 1), 0.5)
    assert np.isfinite(ops.convert_to_numpy(L2(1e6).start(x, 0 * x))).all()


# What is no attack


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (PGD, r"or an instance such as PGD\(\), got the class PGD$"),
        (dict, "got the class dict$"),
        (3, "a name such as 'pgd' or a file ending in .py, got 3$"),
        (None, "got None$"),
        (lambda x, y: x, r"got <lambda>\(x, y\): too many positional arguments$"),
        (lambda defense, x, y, threat, *, steps: x, "missing a required .*argument: 'steps'$"),
        (Linf(0.1), r"got Linf\(0\.1\)$"),
    ],
)
def test_what_is_no_attack_is_refused_before_anything_runs(
    linear: Linear, attack: Any, message: str
) -> None:
    expected = r"attack: expected a function attack\(defense, x, y, threat\).*"
    with pytest.raises(SettingsError, match=expected + message):
        sparring.evaluate(linear, attack, Linf(0.1))
    with pytest.raises(SettingsError, match=expected.replace("attack:", "attacks:") + message):
        InTurn((PGD(), attack))


@pytest.mark.parametrize("wrong", [3, None, (), PGD(), "pgd", {"a": PGD()}])
def test_attacks_in_turn_are_several(wrong: Any) -> None:
    with pytest.raises(SettingsError, match="attacks: expected a tuple of attacks, got"):
        InTurn(wrong)
    assert InTurn([PGD(), Noise()]) == InTurn((PGD(), Noise()))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["moat", "", "a.b", "../blur", "blur.x", "a b"])
def test_a_defense_of_any_name_may_have_no_reference_attack(name: str) -> None:
    with pytest.raises(SettingsError, match="no reference attack on"):
        reference.get(name)


@pytest.mark.parametrize("defense", [3, None, Linear, [1]])
def test_what_is_no_defense_is_not_evaluated(defense: Any) -> None:
    with pytest.raises(SettingsError, match=r"defense: expected a Defense, as sparring.load gives"):
        sparring.evaluate(defense, "pgd", Linf(0.1))


# Wrappers


@pytest.mark.parametrize("defense", [3, None, "baseline", Linear, [1]])
def test_wrappers_are_around_a_defense(defense: Any) -> None:
    message = "defense: expected a Defense, as sparring.load gives it, or a wrapper around one, got"
    for wrap in (EOT, BPDA):
        with pytest.raises(SettingsError, match=message):
            wrap(defense)


def test_wrappers_around_one_another_are_evaluated(linear: Linear) -> None:
    x = np.full((4, 8, 8, 1), 128, np.uint8)
    data = sparring.Dataset("linear", x, np.ones(4, int), x, np.ones(4, int), ("a", "b"))
    for wrapped in (EOT(linear), EOT(BPDA(linear), 2), BPDA(EOT(linear, 2))):
        verdict = sparring.evaluate(wrapped, "fgsm", Linf(0.1), data, 4, check=False)
        assert verdict.success_rate.value == 1
    with pytest.raises(SettingsError, match="draws: expected an integer of 1 or more, got 0"):
        EOT(linear, 0)


class Plain:
    """A network that rounds images."""

    variables: tuple[()] = ()

    def transform(self, x: Any) -> Any:
        return ops.round(x)

    def __call__(self, x: Any) -> Any:
        return ops.mean(self.transform(x), axis=(1, 2))


class Rounding(Linear):
    """A defense of one network, without weights."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return self.nets[0](x)


@pytest.fixture
def rounding(linear: Linear) -> Rounding:
    defense = Rounding(linear.direction, 0)
    defense.nets = [Plain()]
    return defense


def _raises(x: Any) -> Any:
    raise ArithmeticError("mine")


@pytest.mark.parametrize(
    ("smooth", "message"),
    [
        (lambda x: x[:1], r"gives float32 \[2, 8, 8, 1\] for .* got float32 \[1, 8, 8, 1\]$"),
        (lambda x: ops.mean(x), r"got float32 \[\]$"),
        (lambda x: x[..., 0], r"got float32 \[2, 8, 8\]$"),
        (lambda x: ops.cast(x, "float16"), r"got float16 \[2, 8, 8, 1\]$"),
        (lambda x: ops.cast(x, "int32"), r"got int32 \[2, 8, 8, 1\]$"),
        (lambda x: None, "got NoneType$"),
        (lambda x: 0.5, "got float$"),
        (lambda x: ops.convert_to_numpy(x), "got ndarray$"),
        (lambda x: ops.log(x - 2), "expected a stand-in that gives finite values, got NaN or inf"),
        (lambda x: x / 0, "expected a stand-in that gives finite values, got NaN or inf"),
        (_raises, r"it raised ArithmeticError: mine \(.*test_attack_options\.py, line \d+\)$"),
        (3, "expected a function of a tensor, or None, got 3$"),
        ("smooth", "expected a function of a tensor, or None, got 'smooth'$"),
    ],
)
def test_stand_ins_that_do_not_fit_are_refused(
    rounding: Any, smooth: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=f"^transform: .*{message}"):
        BPDA(rounding, transform=smooth)


def test_stand_ins_are_held_against_the_images_at_hand_too(rounding: Any) -> None:
    wrapped = BPDA(rounding, transform=lambda x: ops.zeros((2, 8, 8, 1)) + x[:1])
    assert tuple(wrapped.logits(ops.zeros((2, 8, 8, 1))).shape) == (2, 1)
    with pytest.raises(SettingsError, match=r"\[3, 8, 8, 1\] for .* got float32 \[2, 8, 8, 1\]"):
        wrapped.logits(ops.zeros((3, 8, 8, 1)))
    assert vars(rounding.nets[0]) == {}
    with pytest.raises(SettingsError, match=r"activation: expected a function .* or None, got 3"):
        BPDA(rounding, activation=3)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="activation: expected None, as the network has none"):
        BPDA(rounding, activation=ops.square)


def test_stand_ins_of_a_real_network_s_hooks() -> None:
    from sparring.networks.allconv import AllConv

    info = sparring.data.DatasetInfo("x", (8, 8, 3), ("a", "b"), False, 1, 1, "")
    defense = defense_named("baseline")(
        info, sparring.training.settings.Settings(), [AllConv((8, 8, 3), 2, filters=2)]
    )
    BPDA(defense, activation=lambda x: x * ops.ones((2,)))  # of the first convolution's channels
    with pytest.raises(SettingsError, match=r"activation: .* got float32 \[1, 8, 8, 2\]"):
        BPDA(defense, activation=lambda x: x[:1])
    BPDA(defense, transform=ops.square, activation=ops.square)
