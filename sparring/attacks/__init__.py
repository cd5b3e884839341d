"""Attacks: callables attack(defense, x, y, threat) -> x_adv, written once for all backends.

`x` are images, a tensor float32 [B, H, W, C] of the running backend in [0, 1]; `y` their labels,
integers [B]; `threat` a ThreatModel. What comes back has the shape of x, as tensor or numpy array;
`sparring.evaluate` checks it. Any function of that form is an attack.

    files.py      a user's own attacks
    options.py    what an attack's options may be
    losses.py     what gradient attacks follow
    gradients.py  the gradient, and wrappers such as EOT that give a better one
    estimation.py the same from answers alone
    search.py     the loop that drops broken images
    watching.py   a defense that tells which points an attack comes to
    ascent.py     what PGD and APGD share: losses, targets, restarts
    pgd.py        PGD and FGSM
    apgd.py       PGD that chooses its step size
    simple.py     noise, and several attacks in turn
    square.py     the Square attack
    adapters.py   AutoAttack and other libraries' attacks
    torch_defense.py  a defense as a module of PyTorch, which they attack
    smallest.py   the smallest perturbation
    transfer.py   attack another defense first
    matching.py   look like a clean image of another class
    strong.py     several attacks of different kinds
    reference/    one attack for each defense
    exercise.py   an attack to fill in
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.attacks.files import Attack, checked, from_file, with_options
from sparring.errors import SettingsError, unknown_name
from sparring.usercode import where

if TYPE_CHECKING:
    from sparring.attacks import adapters as adapters
    from sparring.attacks.apgd import APGD
    from sparring.attacks.ascent import Ascent
    from sparring.attacks.estimation import Estimated
    from sparring.attacks.gradients import (
        BPDA,
        EOT,
        Wrapped,
        drawn,
        gradient,
        logits_of_draws,
        unwrapped,
    )
    from sparring.attacks.losses import aimed_margins, cross_entropies, logit_ratios, margins
    from sparring.attacks.matching import Matching
    from sparring.attacks.pgd import FGSM, PGD
    from sparring.attacks.simple import InTurn, Noise
    from sparring.attacks.smallest import Smallest
    from sparring.attacks.square import Square
    from sparring.attacks.strong import Strong
    from sparring.attacks.transfer import Transfer
    from sparring.defenses.defense import Defense

_HOMES = {
    "apgd": ("APGD",),
    "ascent": ("Ascent",),
    "estimation": ("Estimated",),
    "gradients": ("BPDA", "EOT", "Wrapped", "drawn", "gradient", "logits_of_draws", "unwrapped"),
    "losses": ("aimed_margins", "cross_entropies", "logit_ratios", "margins"),
    "matching": ("Matching",),
    "pgd": ("FGSM", "PGD"),
    "simple": ("InTurn", "Noise"),
    "smallest": ("Smallest",),
    "square": ("Square",),
    "strong": ("Strong",),
    "transfer": ("Transfer",),
}
_HOME = {name: file for file, names in _HOMES.items() for name in names}

__all__ = [
    "APGD",
    "ATTACKS",
    "BPDA",
    "EOT",
    "FGSM",
    "LIBRARIES",
    "NAMES",
    "PGD",
    "Ascent",
    "Attack",
    "Estimated",
    "InTurn",
    "Matching",
    "Noise",
    "Smallest",
    "Square",
    "Strong",
    "Transfer",
    "Wrapped",
    "aimed_margins",
    "checked",
    "cross_entropies",
    "drawn",
    "get",
    "gradient",
    "is_name",
    "logit_ratios",
    "logits_of_draws",
    "margins",
    "unwrapped",
    "where",
]

_CLASSES = {
    "noise": "simple.Noise",
    "fgsm": "pgd.FGSM",
    "pgd": "pgd.PGD",
    "apgd": "apgd.APGD",
    "square": "square.Square",
    "transfer": "transfer.Transfer",
    "matching": "matching.Matching",
    "strong": "strong.Strong",
}
"""Our attacks: the file and the class of each name."""

NAMES = (*_CLASSES, "reference")
"""What an attack may be called; asking for them imports no framework."""

LIBRARIES = {
    "autoattack": "AutoAttack",
    "foolbox": "Foolbox",
    "torchattacks": "Torchattacks",
    "art": "ART",
    "adv_lib": "AdvLib",
}
"""Other libraries by the names they have on the command line, with their classes in `adapters`."""


def is_name(word: str) -> bool:
    """Say whether a word is what an attack may be called: a name, a library's, or a Python file."""
    return word in NAMES or word in LIBRARIES or word.endswith(".py")


class _Registry(Mapping[str, "Callable[..., Attack]"]):
    """Our attacks by name; each is imported when its class is asked for."""

    def __getitem__(self, name: str) -> Callable[..., Attack]:
        file, _, kind = _CLASSES[name].partition(".")
        made: Callable[..., Attack] = getattr(import_module(f"sparring.attacks.{file}"), kind)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


ATTACKS = _Registry()
"""Our attacks by name; what makes them takes their options."""


def __getattr__(name: str) -> Any:
    # Nearly every file imports keras, and so fixes the backend; that waits until a name is used.
    if name == "adapters":
        return import_module("sparring.attacks.adapters")
    if name not in _HOME:
        raise AttributeError(f"module 'sparring.attacks' has no attribute {name!r}")
    return getattr(import_module(f"sparring.attacks.{_HOME[name]}"), name)


def get(
    name: str | Path, options: Mapping[str, Any] | None = None, defense: str | Defense = ""
) -> Attack:
    """Find an attack and set its options.

    Args:
        name: one of ATTACKS, or of LIBRARIES; "reference" for the reference attack on a
            defense; or a Python file, which is run and has to define a function
            `attack(defense, x, y, threat)` or a class `Attack` whose instances are called so.
        options: arguments of the class, or keyword arguments of the function, such as steps=100.
        defense: the defense whose reference attack is meant, or its name, if it is Sparring's own.

    Raises:
        SettingsError: for unknown names and options.
        AttackError: for a file that defines no attack.
    """
    options = dict(options or {})
    name = str(name)
    if name.endswith(".py"):
        return from_file(Path(name), options)
    if name == "reference":
        from sparring.attacks import reference

        return with_options(reference.get(defense), options)
    if name in LIBRARIES:
        from sparring.attacks import adapters

        return adapters.made(getattr(adapters, LIBRARIES[name]), options)
    if name not in ATTACKS:
        valid = [*ATTACKS, "reference", "a file ending in .py", *LIBRARIES]
        raise SettingsError(unknown_name("attack", name, valid))
    return with_options(ATTACKS[name], options)
