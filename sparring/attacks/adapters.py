"""Adapters: attacks of other libraries, as ours are called: AutoAttack, foolbox and three more.

    sparring.evaluate(defense, sparring.adapters.AutoAttack(), sparring.Linf(0.1))
    sparring.evaluate(defense, sparring.adapters.Foolbox("LinfPGD", steps=40), sparring.Linf(0.1))
    sparring attack baseline foolbox -o attack=LinfPGD -o steps=40

They run on PyTorch. A library is imported when one of its attacks is made, and sees a module of
PyTorch, NCHW, in which an image that the defense rejects answers its true label: no success. Such a
module has to know the label, and libraries ask it about any rows of a batch; so the images of a
defense that detects are given to the library label by label. A defense that answers at random draws
anew at every call.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.attacks.files import Attack, with_options
from sparring.attacks.options import Options, choice, integer
from sparring.backend import ops
from sparring.errors import SettingsError, shown, told, unknown_name
from sparring.randomness import seeded
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel, checked_threat

_EPS = ("eps", "max_epsilon", "ε")
"""What libraries call the radius."""

_STEPS = ("alpha", "eps_step")
"""What they call a step whose default goes with that of the radius."""

_SET = {*_EPS, "norm", "constraint", "targeted", "seed", "callback", "summary_writer"}
_SET |= {"model", "estimator", "classifier", "inputs", "labels"}
"""Arguments that are no options: the threat model and the adapter set them."""


class Adapter(ABC):
    """An attack of another library.

    Attributes:
        seed: of PyTorch's, numpy's and Python's random numbers while it runs.
        library: its name and version.
    """

    seed: int
    library: str

    @final
    @backend.isolated
    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images.

        Args:
            defense: the defense or a wrapper around one.
            x: images float32 [B, H, W, C] in [0, 1], a tensor of PyTorch.
            y: labels, integers [B].
            threat: the threat model.

        Returns:
            What the library found, float32 [B, H, W, C]. What lies outside of the ball by no more
            than rounding, a ten-thousandth of eps, is brought back; what is farther is left for the
            judge to refuse.

        Raises:
            SettingsError: the attack has another norm, or needs more classes.
        """
        import torch

        from sparring.attacks.torch_defense import Decisions

        checked_threat(threat)
        images, labels = x.permute(0, 3, 1, 2).contiguous(), y.long()  # [B, C, H, W], [B]
        found = torch.empty_like(images)
        with seeded(self.seed, images.device), torch.enable_grad():
            for rows in _by_label(labels) if defense.detects else [slice(None)]:
                module = Decisions(defense, int(labels[rows][0])).eval().requires_grad_(False)
                given = self.find(module, images[rows].clone(), labels[rows].clone(), threat)
                found[rows] = torch.as_tensor(given, device=found.device).detach().float()
        given = found.permute(0, 2, 3, 1).contiguous()  # [B, H, W, C]
        array = np.array(ops.convert_to_numpy(given))
        near = threat.scaled(1 + 1e-4).check(array, ops.convert_to_numpy(x)).valid  # [B]
        array[near] = ops.convert_to_numpy(threat.project(given, x))[near]
        return array

    @abstractmethod
    def find(self, module: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        """Run the library.

        Args:
            module: Decisions, which gives logits [B, K] of images [B, C, H, W].
            x: images float32 [B, C, H, W] in [0, 1].
            y: labels int64 [B].
            threat: the threat model.

        Returns:
            Images [B, C, H, W], a tensor of PyTorch or a numpy array.
        """


def _by_label(labels: Any) -> list[Any]:
    """The rows, bool [B], of each label that there is among int [B]."""
    return [labels == label for label in labels.unique()]


def _imported(who: str, package: str, *names: str) -> ModuleType:
    """Import the first of several modules that is there; `package` is what pip calls the last."""
    if backend.name != "torch":
        raise SettingsError(
            f"{who}: expected the backend torch, running is {backend.name}; set "
            "KERAS_BACKEND=torch and load the run again, whichever backend trained it"
        )
    for name in names:
        try:
            return import_module(name)
        except Exception as error:  # whatever a broken library raises
            failed = error
    raise SettingsError(
        f"{who}: expected the library {names[-1].partition('.')[0]}, which cannot be imported "
        f"({told(failed)}). Install it: pip install {package}"
    ) from failed


def _called(module: ModuleType) -> str:
    """A library's name and version."""
    name = module.__name__.partition(".")[0]
    return " ".join([name, *filter(None, [getattr(import_module(name), "__version__", None)])])


# AutoAttack

_PARTS = {"apgd-ce": 2, "apgd-dlr": 3, "fab": 2, "square": 2, "apgd-t": 4, "fab-t": 2}
"""AutoAttack's attacks, and how many classes each needs at least."""

_VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}


def _parts(name: str, value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise SettingsError(f"{name}: expected some of {', '.join(_PARTS)}, got {shown(value)}")
    for part in parts:
        if part not in _PARTS:
            raise SettingsError(unknown_name("attack of AutoAttack", str(part), list(_PARTS)))
    return tuple(parts)


@final
@dataclass(frozen=True)
class AutoAttack(Options, Adapter):
    """AutoAttack itself: the official `autoattack` where it is installed, else `pyautoattack`.

    Croce and Hein 2020, https://arxiv.org/abs/2003.01690. Where there are fewer than ten classes,
    its targeted attacks go for all the others.

    Attributes:
        version: "standard", "plus" or "rand"; "auto" is rand for a stochastic defense, whose
            gradients are averaged over 20 draws, else standard.
        attacks: some of its attacks in place of a version, as ("apgd-ce", "square"), or in one text
            "apgd-ce,square". What these come to is not AutoAttack's number.
        seed: of its random numbers.
        library: its name and version.

    Raises:
        SettingsError: for wrong values, on other backends than PyTorch, and without the library.
    """

    version: str = choice("auto", ("auto", *_VERSIONS))
    attacks: tuple[str, ...] | str = field(default=(), metadata={"read": _parts})
    seed: int = integer(0, least=0)
    library: str = field(init=False)

    @override
    def __post_init__(self) -> None:
        """Check the options, and import the library."""
        super().__post_init__()
        object.__setattr__(self, "library", _called(self._imported()))

    def _imported(self) -> ModuleType:
        return _imported("AutoAttack", "pyautoattack", "autoattack", "pyautoattack")

    @override
    def find(self, module: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        defense, library = module.asked.defense, self._imported()
        version = ("rand" if defense.stochastic else "standard") if self.version == "auto" else ""
        version = "custom" if self.attacks else version or self.version
        parts, classes = self.attacks or _VERSIONS[version], defense.info.classes
        if short := [part for part in parts if classes < _PARTS[part]]:
            valid = [part for part in _PARTS if classes >= _PARTS[part]]
            raise SettingsError(
                f"AutoAttack: expected {_PARTS[short[0]]} classes or more for {short[0]}, the "
                f"defense has {classes}; choose its attacks among {', '.join(valid)}"
            )
        official = library.__name__ == "autoattack"
        own: dict[str, Any] = {"verbose": False} if official else {}
        if self.attacks:
            own["attacks_to_run" if official else "attacks"] = list(parts)
        run = library.AutoAttack(
            module,
            norm=threat.norm,
            eps=threat.eps,
            version=version,
            seed=self.seed,
            device=x.device,
            **own,
        )
        for attack in (run.apgd_targeted, run.fab):
            attack.n_target_classes = min(attack.n_target_classes, classes - 1)
        size = {"bs" if official else "batch_size": len(x)}
        found = run.run_standard_evaluation(x, y, **size)
        return found if official else found[0]


# The others, each with many attacks


@dataclass(frozen=True, init=False, repr=False)
class _Library(Adapter):
    """One of a library's attacks, by its name there.

    Steps whose default goes with that of the radius (alpha, eps_step) keep their share of it.

    Args:
        attack: its name.
        seed: of its random numbers.
        options: the other arguments it takes in its library; eps and the norm are the threat
            model's.

    Raises:
        SettingsError: for an unknown name or option, on other backends than PyTorch, and without
            the library.
    """

    attack: str
    options: tuple[tuple[str, Any], ...]
    seed: int
    library: str = field(init=False)

    module: ClassVar[str]
    """Where its attacks are."""
    package: ClassVar[str]
    """What pip calls it."""
    attacks: ClassVar[Mapping[str, str]]
    """The names of its attacks by norm, with spaces between."""
    norms: ClassVar[Mapping[str, Any]]
    """What it calls a norm."""

    def __init__(self, attack: str = "", *, seed: int = 0, **options: Any) -> None:
        """Check the options, and import the library."""
        who, names = type(self).__name__, " ".join(self.attacks.values()).split()
        if attack not in names:
            valid = sorted(set(names))
            raise SettingsError(unknown_name(f"attack of {who}", str(attack), valid))
        module = _imported(who, self.package, self.module)
        valid = [name for name in _parameters(getattr(module, attack)) if name not in _SET]
        for name in options:
            if name not in valid:
                raise SettingsError(unknown_name(f"option of {attack}", name, valid))
        values = {"attack": attack, "options": tuple(options.items()), "library": _called(module)}
        values["seed"] = integer(0, least=0).metadata["read"]("seed", seed)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """Give the call that makes it, and the library's version."""
        options = "".join(f", {name}={value!r}" for name, value in self.options)
        return (
            f"{type(self).__name__}({self.attack!r}{options}, seed={self.seed}, "
            f"library={self.library!r})"
        )

    @final
    @override
    def find(self, module: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
        if self.attack not in (valid := self.attacks[threat.norm].split()):
            raise SettingsError(
                f"{self.attack}: expected a threat model of another norm, or an attack of "
                f"{threat.norm}: {', '.join(valid)}; got {threat}"
            )
        maker = getattr(import_module(self.module), self.attack)
        usual, norm = _parameters(maker), self.norms[threat.norm]
        classes = module.asked.defense.info.classes
        given = dict.fromkeys(_EPS, threat.eps) | {"norm": norm, "constraint": norm}
        given |= {"targeted": False, "verbose": False, "n_classes": classes, "seed": self.seed}
        for step in _STEPS:
            if step in usual:
                given[step] = usual[step] / usual["eps"] * threat.eps
        given = {name: value for name, value in given.items() if name in usual}
        return self.run(partial(maker, **given | dict(self.options)), module, x, y, threat.eps)

    @abstractmethod
    def run(self, maker: Callable[..., Any], module: Any, x: Any, y: Any, eps: float) -> Any:
        """Run an attack.

        Args:
            maker: the library's class or function, with its options.
            module: as for `find`, as are x and y.
            x: images.
            y: labels.
            eps: the radius.
        """


def _parameters(maker: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a class or function by name, with their defaults."""
    parameters = inspect.signature(maker).parameters.values()
    return {part.name: part.default for part in parameters if part.kind != part.VAR_KEYWORD}


@final
class Foolbox(_Library):
    """An attack of foolbox, https://github.com/bethgelab/foolbox (Rauber et al. 2017)."""

    module, package = "foolbox.attacks", "foolbox"
    norms = {"Linf": "linf", "L2": "l2"}
    attacks = {
        "Linf": "FGSM HopSkipJumpAttack LInfFMNAttack LinfAdamPGD LinfAdditiveUniformNoiseAttack "
        "LinfBasicIterativeAttack LinfDeepFoolAttack LinfFastGradientAttack LinfPGD "
        "LinfProjectedGradientDescentAttack LinfRepeatedAdditiveUniformNoiseAttack MIFGSM",
        "L2": "BoundaryAttack DDNAttack FGM HopSkipJumpAttack L2AdamPGD "
        "L2AdditiveGaussianNoiseAttack L2BasicIterativeAttack L2CarliniWagnerAttack "
        "L2ContrastReductionAttack L2DeepFoolAttack L2FMNAttack L2FastGradientAttack "
        "L2MomentumIterativeFastGradientMethod L2PGD L2ProjectedGradientDescentAttack "
        "L2RepeatedAdditiveGaussianNoiseAttack",
    }

    @override
    def run(self, maker: Callable[..., Any], module: Any, x: Any, y: Any, eps: float) -> Any:
        foolbox = import_module("foolbox")
        model = foolbox.PyTorchModel(module, bounds=(0, 1), device=x.device)
        return maker()(model, x, y, epsilons=eps)[1]


@final
class Torchattacks(_Library):
    """An attack of torchattacks, https://github.com/Harry24k/adversarial-attacks-pytorch."""

    module = package = "torchattacks"
    norms = {"Linf": "Linf", "L2": "L2"}
    attacks = {
        "Linf": "APGD APGDT BIM DIFGSM EOTPGD FAB FFGSM FGSM Jitter MIFGSM NIFGSM PGD PIFGSM "
        "PIFGSMPP RFGSM SINIFGSM SPSA Square TIFGSM TPGD UPGD VMIFGSM VNIFGSM",
        "L2": "APGD APGDT CW DeepFool FAB PGDL2 Square",
    }

    @override
    def run(self, maker: Callable[..., Any], module: Any, x: Any, y: Any, eps: float) -> Any:
        attack = maker(module)
        attack.set_device(x.device)
        return attack(x, y)


@final
class ART(_Library):
    """An attack of the Adversarial Robustness Toolbox, Nicolae et al. 2018.

    https://github.com/Trusted-AI/adversarial-robustness-toolbox.
    """

    module, package = "art.attacks.evasion", "adversarial-robustness-toolbox"
    norms = {"Linf": math.inf, "L2": 2}
    attacks = {
        "Linf": "AutoConjugateGradient AutoProjectedGradientDescent BasicIterativeMethod "
        "CarliniLInfMethod FastGradientMethod HopSkipJump MomentumIterativeMethod "
        "ProjectedGradientDescent SquareAttack",
        "L2": "AutoConjugateGradient AutoProjectedGradientDescent BoundaryAttack CarliniL2Method "
        "DeepFool FastGradientMethod HopSkipJump MomentumIterativeMethod NewtonFool "
        "ProjectedGradientDescent SquareAttack ZooAttack",
    }

    @override
    def run(self, maker: Callable[..., Any], module: Any, x: Any, y: Any, eps: float) -> Any:
        import torch

        classifier = import_module("art.estimators.classification").PyTorchClassifier(
            model=module,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=module.asked.defense.info.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if x.device.type == "cpu" else "gpu",
        )
        return maker(classifier).generate(x=x.cpu().numpy(), y=y.cpu().numpy())


@final
class AdvLib(_Library):
    """An attack of Adversarial Library, https://github.com/jeromerony/adversarial-library."""

    module, package = "adv_lib.attacks", "adv-lib"
    norms = {"Linf": math.inf, "L2": 2}
    attacks = {
        "Linf": "apgd apgd_targeted carlini_wagner_linf df fab fmn pdpgd pgd_linf",
        "L2": "alma apgd apgd_targeted carlini_wagner_l2 ddn df fab fmn pdgd pdpgd sdf",
    }

    @override
    def run(self, maker: Callable[..., Any], module: Any, x: Any, y: Any, eps: float) -> Any:
        return maker(module, x, y)


def made(kind: type[Adapter], options: Mapping[str, Any]) -> Attack:
    """Make the attack of a library.

    Args:
        kind: the class of its adapter.
        options: of the adapter; `attack` names the attack where there are several.

    Raises:
        SettingsError: for wrong options, on other backends than PyTorch, and without the library.
    """
    return kind(**options) if issubclass(kind, _Library) else with_options(kind, options)
