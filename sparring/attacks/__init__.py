"""Attacks: callables attack(defense, x, y, threat) -> x_adv, written once for all backends.

`x` are images, a tensor float32 [B, H, W, C] of the running backend in [0, 1]; `y` their labels,
int32 [B]; `threat` a ThreatModel. What comes back has the shape of x, as tensor or numpy array;
`sparring.evaluate` checks it. Any function of that form is an attack.

    gradients.py  losses, and wrappers such as EOT that give better gradients
    search.py     the loop that drops broken images
    pgd.py        PGD and FGSM
    simple.py     noise, and several attacks in turn
    square.py     the Square attack
    reference/    one attack for each defense
    exercise.py   an attack to fill in
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, cast

from sparring.attacks.gradients import (
    BPDA,
    EOT,
    Wrapped,
    cross_entropies,
    drawn,
    gradient,
    margins,
    unwrapped,
)
from sparring.attacks.pgd import FGSM, PGD
from sparring.attacks.simple import InTurn, Noise
from sparring.attacks.square import Square
from sparring.errors import AttackError, SettingsError, unknown_name

Attack = Callable[[Any, Any, Any, Any], Any]
"""attack(defense, x, y, threat) gives adversarial images [B, H, W, C], tensor or numpy array."""

__all__ = [
    "ATTACKS",
    "BPDA",
    "EOT",
    "FGSM",
    "PGD",
    "Attack",
    "InTurn",
    "Noise",
    "Square",
    "Wrapped",
    "cross_entropies",
    "drawn",
    "get",
    "gradient",
    "margins",
    "unwrapped",
]

ATTACKS: dict[str, Callable[..., Attack]] = {
    "noise": Noise,
    "fgsm": FGSM,
    "pgd": PGD,
    "square": Square,
}
"""Our attacks by name; what makes them takes their options."""


def get(name: str | Path, options: Mapping[str, Any] | None = None, defense: str = "") -> Attack:
    """Find an attack and set its options.

    Args:
        name: one of ATTACKS; "reference" for the reference attack on a defense; or a Python file,
            which is run and has to define a function `attack(defense, x, y, threat)` or a class
            `Attack` whose instances are called so.
        options: arguments of the class, or keyword arguments of the function, such as steps=100.
        defense: the name of the defense whose reference attack is meant.

    Raises:
        SettingsError: for unknown names and options.
        AttackError: for a file that defines no attack.
    """
    options = dict(options or {})
    if str(name).endswith(".py"):
        return _from_file(Path(name), options)
    if name == "reference":
        from sparring.attacks import reference

        return _with_options(reference.get(defense), options)
    if name not in ATTACKS:
        valid = [*ATTACKS, "reference", "a file ending in .py"]
        raise SettingsError(unknown_name("attack", str(name), valid))
    return _with_options(ATTACKS[str(name)], options)


class _AsItStands(SourceFileLoader):
    """Compiles a file each time: Python's cache misses edits within a second that keep the size."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _from_file(path: Path, options: Mapping[str, Any]) -> Attack:
    if not path.is_file():
        raise AttackError(f"{path}: no such file")
    name = f"sparring_attack_{path.stem}"
    loader = _AsItStands(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        loader.exec_module(module)
    except Exception as error:
        raise AttackError(f"{path}: {type(error).__name__}: {error}") from error
    for attack in (getattr(module, "Attack", None), getattr(module, "attack", None)):
        if callable(attack):
            return _with_options(attack, options)
    raise AttackError(
        f"{path}: expected a function attack(defense, x, y, threat) or a class Attack in it"
    )


def _with_options(attack: Callable[..., Any], options: Mapping[str, Any]) -> Attack:
    if is_dataclass(attack) and not isinstance(attack, type):
        return _with_options(partial(type(attack), **vars(attack)), options)
    parameters = inspect.signature(attack).parameters.values()
    valid = [part.name for part in parameters if part.default is not part.empty]
    for name in options:
        if name not in valid:
            raise SettingsError(unknown_name("option of the attack", name, valid or ["none"]))
    if inspect.isclass(attack) or (isinstance(attack, partial) and inspect.isclass(attack.func)):
        return cast(Attack, attack(**options))
    return partial(attack, **options) if options else attack
