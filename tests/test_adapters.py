"""Other libraries' attacks, called as ours: the real ones where they are, and stand-ins."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring import attacks, backend
from sparring.attacks import PGD, adapters
from sparring.defenses.defense import Defense
from sparring.errors import SettingsError
from sparring.threat import L2, Linf, ThreatModel
from tests.conftest import Linear

torch = pytest.importorskip("torch")

on_torch = pytest.mark.skipif(backend.name != "torch", reason="adapters run on PyTorch")

MADE: dict[str, Callable[[ThreatModel], Any]] = {
    "pyautoattack": lambda threat: adapters.AutoAttack(attacks="apgd-ce"),
    "foolbox": lambda threat: adapters.Foolbox(
        f"{threat.norm}PGD", steps=40, rel_stepsize=2.5 / 40
    ),
    "torchattacks": lambda threat: adapters.Torchattacks("APGD", steps=40),
    "art": lambda threat: adapters.ART("AutoProjectedGradientDescent", max_iter=40),
    "adv_lib": lambda threat: adapters.AdvLib("apgd", n_iter=40, loss_function="ce"),
}
"""One attack of every library, for a threat model's norm."""

libraries = pytest.mark.parametrize("library", MADE)


def grays(labels: list[int]) -> tuple[Any, Any]:
    """Images of one gray, and their labels."""
    return ops.full((len(labels), 8, 8, 1), 0.5), ops.convert_to_tensor(np.array(labels))


def random_states() -> tuple[Any, ...]:
    """What PyTorch, numpy and Python draw from."""
    numpy_s = np.random.get_state(legacy=False)["state"]["key"]
    return torch.get_rng_state().tolist(), numpy_s.tolist(), random.getstate()


class Detecting(Linear):
    """Rejects images whose first pixel is moved up by more than 0.02."""

    name, detects = "detecting", True

    def scores(self, x: Any, chance: Any = None) -> Any:
        return ops.cast(x[:, 0, 0, 0] > 0.52, "float32")


class Noisy(Linear):
    """Adds noise of its own to every image's logits."""

    name, stochastic = "noisy", True

    def logits(self, x: Any, chance: Any = None) -> Any:
        return super().logits(x) + (chance.uniform(1) if self.stochastic else 0)


class TenClasses(Linear):
    """Has ten classes, of which eight are never answered."""

    name = "ten-classes"

    def __init__(self, direction: np.ndarray, bias: float) -> None:
        super().__init__(direction, bias)
        self.info = self.info.__class__(
            "ten", direction.shape, tuple("abcdefghij"), False, 1, 1, ""
        )

    def logits(self, x: Any, chance: Any = None) -> Any:
        return ops.pad(super().logits(x), [[0, 0], [0, 8]], constant_values=-9.0)


Calls = list[dict[str, Any]]
Library = Callable[..., Calls]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Library:
    """Puts a module in place of adv_lib, whose pgd_linf gives what a function gives."""

    def put(found: Callable[[Any, Any, Any, float], Any]) -> Calls:
        calls: Calls = []

        def pgd_linf(model: Any, inputs: Any, labels: Any, ε: float, steps: int = 40) -> Any:
            calls.append({"model": model, "labels": labels.tolist(), "ε": ε, "steps": steps})
            return found(model, inputs, labels, ε)

        module = ModuleType("adv_lib.attacks")
        vars(module)["pgd_linf"] = pgd_linf
        monkeypatch.setitem(sys.modules, "adv_lib", ModuleType("adv_lib"))
        monkeypatch.setitem(sys.modules, "adv_lib.attacks", module)
        return calls

    return put


# What they find


@on_torch
@libraries
@pytest.mark.parametrize("threat", [Linf(4 / 64), L2(4 / 8)])
def test_the_nearest_point_behind_a_hyperplane_is_found(
    linear: Linear, library: str, threat: ThreatModel
) -> None:
    # A logit of 4 falls by 64 eps in Linf and by 8 eps in L2, where all is done right.
    pytest.importorskip(library)
    attack, (x, y) = MADE[library](threat), grays([1, 1, 1])
    for factor, broken in ((1.03, True), (0.97, False)):
        scaled = threat.scaled(factor)
        x_adv = attack(linear, x, y, scaled)
        assert scaled.check(x_adv, ops.convert_to_numpy(x)).valid.all()
        assert linear.broken(x_adv, y).tolist() == [broken] * 3


@on_torch
@libraries
def test_each_breaks_of_the_digits_what_pgd_breaks(digits_baseline: Defense, library: str) -> None:
    pytest.importorskip(library)
    threat, n = Linf(0.1), 50
    ours = sparring.evaluate(digits_baseline, PGD(steps=40), threat, n=n, check=False)
    made = MADE[library](threat)
    theirs = sparring.evaluate(digits_baseline, made, threat, n=n, check=False)
    assert {*theirs.reason.tolist()} <= {"broken", "label unchanged", "clean image misclassified"}
    # On some 49 images three are 6 points, as in tests/test_ecosystem.py.
    assert theirs.success_rate.value >= ours.success_rate.value - 0.065
    assert 0.5 < ours.success_rate.value < 0.95  # there is something to tell


# Rejection


@on_torch
def test_what_is_rejected_answers_its_label_with_the_logits_gradient(linear: Linear) -> None:
    from sparring.attacks.torch_defense import Decisions

    defense = Detecting(linear.direction, linear.bias)
    x = torch.full((3, 1, 8, 8), 0.5)
    x[1:] -= 0.1 * torch.from_numpy(linear.direction).permute(2, 0, 1)  # logit -2.4, rejected
    x[2, 0, 0, 0] = 0.5  # logit -2.3, not rejected
    module = Decisions(defense, 1)
    given = x.clone().requires_grad_()
    logits = module(given)
    expected = [[0.0, 4.0], [0.0, 1.0], [0.0, -2.3]]
    torch.testing.assert_close(logits.detach(), torch.tensor(expected), rtol=0, atol=1e-5)
    logits[:, 1].sum().backward()
    direction = torch.from_numpy(linear.direction).permute(2, 0, 1)
    torch.testing.assert_close(given.grad, direction.expand(3, 1, 8, 8))
    # Where the label is answered, its logit stays what it is, rejected or not.
    rejected = x[:1].clone()
    rejected[0, 0, 0, 0] = 0.6
    torch.testing.assert_close(Decisions(defense, 1)(rejected), Decisions(linear, 1)(rejected))


@on_torch
def test_images_of_a_defense_that_detects_go_label_by_label(
    linear: Linear, stand_in: Library
) -> None:
    def candidates(model: Any, inputs: Any, labels: Any, eps: float) -> Any:
        """The first that the model answers otherwise: all moved at first, then the first pixel not.

        The model is asked about one row at a time, in an order of the library's.
        """
        found = inputs.clone()
        signs = torch.from_numpy(linear.direction).permute(2, 0, 1)
        for row in reversed(range(len(inputs))):
            moved = inputs[row] - eps * signs * (2 * labels[row] - 1)
            spared = moved.clone()
            spared[0, 0, 0] = 0.5
            for candidate in (spared, moved):
                if model(candidate[None]).argmax() != labels[row]:
                    found[row] = candidate
        return found

    calls = stand_in(candidates)
    x, y = grays([1, 0, 1, 0])
    shifted = Detecting(linear.direction, 0.0)  # both labels are broken by any step
    x_adv = adapters.AdvLib("pgd_linf")(shifted, x, y, Linf(0.1))
    assert [call["labels"] for call in calls] == [[0, 0], [1, 1]]
    # Of label 1 the first pixel moved up would be rejected; of label 0 it moves down.
    np.testing.assert_allclose(x_adv[:, 0, 0, 0], [0.5, 0.4, 0.5, 0.4], atol=1e-6)
    assert shifted.broken(x_adv, y).all()
    calls.clear()
    adapters.AdvLib("pgd_linf")(linear, x, y, Linf(0.1))
    assert [call["labels"] for call in calls] == [[1, 0, 1, 0]]


@on_torch
def test_a_stochastic_defense_draws_anew_at_every_call(linear: Linear, stand_in: Library) -> None:
    differ = []

    def twice(model: Any, inputs: Any, labels: Any, eps: float) -> Any:
        differ.append(not torch.equal(model(inputs), model(inputs)))
        return inputs + eps * torch.rand(inputs.shape)

    stand_in(twice)
    x, y = grays([1, 1])
    before = random_states()
    first, again, other = (
        adapters.AdvLib("pgd_linf", seed=seed)(defense, x, y, Linf(0.1))
        for seed, defense in ((0, Noisy(linear.direction, -4.0)), (0, linear), (1, linear))
    )
    assert differ == [True, False, False]
    assert not np.array_equal(again, other)
    stand_in(lambda model, inputs, labels, eps: inputs + eps * torch.rand(inputs.shape))
    np.testing.assert_array_equal(adapters.AdvLib("pgd_linf")(linear, x, y, Linf(0.1)), again)
    after = random_states()
    assert before == after
    assert first.shape == (2, 8, 8, 1)


# What comes back


@on_torch
def test_rounding_is_brought_back_and_nothing_else(linear: Linear, stand_in: Library) -> None:
    beyond = torch.tensor([1 + 5e-5, 1.01, math.nan, 0.5])[:, None, None, None]
    stand_in(lambda model, inputs, labels, eps: inputs + eps * beyond)
    x, y = grays([1, 1, 1, 1])
    x_adv = adapters.AdvLib("pgd_linf")(linear, x, y, Linf(0.1))
    assert x_adv.dtype == np.float32
    np.testing.assert_allclose(x_adv[:, 0, 0, 0], [0.6, 0.601, math.nan, 0.55], rtol=0, atol=6e-8)
    checked = Linf(0.1).check(x_adv, ops.convert_to_numpy(x))
    assert checked.valid.tolist() == [True, False, False, True]


# What libraries are given


@on_torch
def test_arguments_of_the_threat_model_and_of_the_user(
    linear: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: Calls = []

    class APGD:
        def __init__(
            self,
            model: Any,
            norm: str = "Linf",
            eps: float = 8 / 255,
            alpha: float = 2 / 255,
            steps: int = 10,
            seed: int = 5,
            n_classes: int = 10,
            verbose: bool = True,
        ) -> None:
            given.append({**locals()})

        def set_device(self, device: Any) -> None:
            assert device.type == "cpu"

        def __call__(self, images: Any, labels: Any) -> Any:
            assert images.shape == (2, 1, 8, 8)
            assert labels.dtype == torch.int64
            return images

    class ProjectedGradientDescent:
        def __init__(
            self,
            estimator: Any,
            norm: float = math.inf,
            eps: float = 0.3,
            eps_step: float = 0.1,
            max_iter: int = 100,
            targeted: bool = True,
        ) -> None:
            given.append({**locals()})

        def generate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
            assert x.shape == (2, 1, 8, 8)
            assert y.tolist() == [1, 0]
            return x

    for name, content in (
        ("torchattacks", {"APGD": APGD, "__version__": "9.9"}),
        ("art", {}),
        ("art.attacks.evasion", {"ProjectedGradientDescent": ProjectedGradientDescent}),
        ("art.estimators.classification", {"PyTorchClassifier": dict}),
    ):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    x, y = grays([1, 0])
    attack = adapters.Torchattacks("APGD", steps=np.int64(3), seed=7)
    assert repr(attack) == (
        "Torchattacks('APGD', steps=np.int64(3), seed=7, library='torchattacks 9.9')"
    )
    attack(linear, x, y, L2(0.5))
    expected: dict[str, Any] = {"norm": "L2", "eps": 0.5, "alpha": 0.125, "steps": 3, "seed": 7}
    expected |= {"n_classes": 2, "verbose": False}
    assert given[-1].items() >= expected.items()
    adapters.ART("ProjectedGradientDescent", eps_step=0.01)(linear, x, y, Linf(0.1))
    expected = {"norm": math.inf, "eps": 0.1, "eps_step": 0.01, "max_iter": 100, "targeted": False}
    assert given[-1].items() >= expected.items()
    classifier = given[-1]["estimator"]
    assert (classifier["nb_classes"], classifier["clip_values"]) == (2, (0.0, 1.0))
    assert classifier["input_shape"] == (1, 8, 8)
    adapters.ART("ProjectedGradientDescent")(linear, x, y, L2(0.6))
    assert given[-1]["norm"] == 2
    assert given[-1]["eps_step"] == pytest.approx(0.2)  # a third of eps, as theirs


@on_torch
def test_the_official_autoattack_comes_first_and_chooses_its_version(
    linear: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Official:
        def __init__(self, model: Any, **options: Any) -> None:
            self.options, self.apgd_targeted, self.fab = options, ModuleType("a"), ModuleType("f")
            for attack in (self.apgd_targeted, self.fab):
                vars(attack)["n_target_classes"] = 9
            made.append(self)

        def run_standard_evaluation(self, x: Any, y: Any, bs: int) -> Any:
            self.targets = (vars(self.apgd_targeted) | vars(self.fab))["n_target_classes"]
            assert bs == len(x)
            return x

    module = ModuleType("autoattack")
    vars(module)["AutoAttack"] = Official
    monkeypatch.setitem(sys.modules, "autoattack", module)
    x, y = grays([1, 1])
    attack = adapters.AutoAttack(seed=3)
    assert attack.library == "autoattack"
    ten = TenClasses(linear.direction, linear.bias)
    attack(ten, x, y, L2(0.5))
    options = {"norm": "L2", "eps": 0.5, "seed": 3, "verbose": False}
    assert made[-1].options.items() >= {"version": "standard", **options}.items()
    assert made[-1].targets == 9
    noisy = type("NoisyTen", (TenClasses,), {"stochastic": True})(linear.direction, linear.bias)
    attack(noisy, x, y, L2(0.5))
    assert made[-1].options["version"] == "rand"
    adapters.AutoAttack("plus")(noisy, x, y, L2(0.5))
    assert made[-1].options["version"] == "plus"
    adapters.AutoAttack(attacks=("apgd-ce", "fab-t"))(linear, x, y, L2(0.5))
    assert made[-1].options["version"] == "custom"
    assert made[-1].options["attacks_to_run"] == ["apgd-ce", "fab-t"]
    assert made[-1].targets == 1


@on_torch
def test_autoattack_itself_runs(digits_baseline: Defense) -> None:
    pytest.importorskip("pyautoattack")
    attack = adapters.AutoAttack()
    assert attack.library.startswith("pyautoattack 0.")
    threat = Linf(0.15)
    verdict = sparring.evaluate(digits_baseline, attack, threat, n=20, check=False)
    assert verdict.success_rate.value == 1
    assert verdict.about.attack == (
        f"AutoAttack(version='auto', attacks=(), seed=0, library={attack.library!r})"
    )


@on_torch
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_foolbox_measures_the_norms_that_its_attacks_are_listed_by(norm: str) -> None:
    foolbox = pytest.importorskip("foolbox")
    p = {"Linf": math.inf, "L2": 2}[norm]
    for name in adapters.Foolbox.attacks[norm].split():
        options = {"constraint": norm.lower()} if name == "HopSkipJumpAttack" else {}
        assert getattr(foolbox.attacks, name)(**options).distance.p == p


# What is refused


@pytest.mark.backend
def test_another_backend_or_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("autoattack", "pyautoattack", "foolbox.attacks", "torchattacks"):
        monkeypatch.setitem(sys.modules, name, None)
    for make, package in (
        (adapters.AutoAttack, "pyautoattack"),
        (lambda: adapters.Foolbox("LinfPGD"), "foolbox"),
        (lambda: adapters.Torchattacks("APGD"), "torchattacks"),
    ):
        if backend.name == "torch":
            expected = rf"cannot be imported \(.*\)\. Install it: pip install {package}$"
        else:
            expected = f"expected the backend torch, running is {backend.name}; set KERAS_BACKEND"
        with pytest.raises(SettingsError, match=expected):
            make()


@on_torch
def test_wrong_use_is_refused(linear: Linear) -> None:
    pytest.importorskip("foolbox")
    pytest.importorskip("pyautoattack")
    x, y = grays([1, 1])
    with pytest.raises(SettingsError, match=r"unknown attack of Foolbox 'LinfPDG'\. Did you mean"):
        adapters.Foolbox("LinfPDG")
    with pytest.raises(SettingsError, match=r"option of LinfPGD 'step'.*Valid: rel_stepsize, abs"):
        adapters.Foolbox("LinfPGD", step=3)
    with pytest.raises(SettingsError, match="unknown option of HopSkipJumpAttack 'constraint'"):
        adapters.Foolbox("HopSkipJumpAttack", constraint="l2")
    with pytest.raises(SettingsError, match="seed: expected an integer of 0 or more, got -1"):
        adapters.Foolbox("LinfPGD", seed=-1)
    with pytest.raises(SettingsError, match=r"attack of L2: BoundaryAttack, .*; got L2\(0\.5\)"):
        adapters.Foolbox("LinfPGD")(linear, x, y, L2(0.5))
    with pytest.raises(SettingsError, match="expected a threat model"):
        adapters.Foolbox("LinfPGD")(linear, x, y, 0.1)  # type: ignore[arg-type]
    with pytest.raises(
        SettingsError, match=r"unknown version 'best'\. Valid: auto, standard, plus"
    ):
        adapters.AutoAttack("best")
    with pytest.raises(SettingsError, match=r"unknown attack of AutoAttack 'pgd'.*Valid: apgd-ce"):
        adapters.AutoAttack(attacks=("square", "pgd"))
    with pytest.raises(SettingsError, match=r"attacks: expected some of apgd-ce, .* got 3"):
        adapters.AutoAttack(attacks=3)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="4 classes or more for apgd-t, the defense has 2"):
        adapters.AutoAttack()(linear, x, y, Linf(0.1))


@on_torch
def test_they_have_names_on_the_command_line() -> None:
    pytest.importorskip("foolbox")
    pytest.importorskip("pyautoattack")
    made = attacks.get("foolbox", {"attack": "L2PGD", "steps": 3})
    assert made == adapters.Foolbox("L2PGD", steps=3)
    made = attacks.get("autoattack", {"attacks": "apgd-ce,square"})
    assert made == adapters.AutoAttack(attacks=("apgd-ce", "square"))
    with pytest.raises(
        SettingsError, match=r"unknown option of the attack 'steps'\. Valid: version"
    ):
        attacks.get("autoattack", {"steps": 3})
    with pytest.raises(
        SettingsError, match=r"unknown attack of Foolbox ''\. Valid: BoundaryAttack"
    ):
        attacks.get("foolbox", {})
    with pytest.raises(SettingsError, match=r"Valid: noise, .*, autoattack, foolbox, torchattacks"):
        attacks.get("nothing")


def test_no_library_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, sparring; sparring.adapters.Foolbox; print({*sys.modules} & "
        "{'autoattack', 'pyautoattack', 'foolbox', 'torchattacks', 'art', 'adv_lib'})"
    )
    command = [sys.executable, "-P", "-c", code]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    assert answer.stdout == "set()\n"
