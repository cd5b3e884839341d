"""Reference attacks: for every defense one that is known to break it. Try yourself first.

sparring exercise blur          writes attack_blur.py for you to fill in
sparring attack blur reference  runs the attack of blur.py in this folder
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparring.attacks import Strong
from sparring.errors import SettingsError

if TYPE_CHECKING:
    from sparring.defenses.defense import Defense

STRONGEST = Strong(queries=2000)
"""The strongest we have, one attack after the other: for defenses that hold."""


def get(defense: str | Defense) -> Any:
    """Find the reference attack on a defense.

    Args:
        defense: the defense, or the name of one of Sparring's own.

    Returns:
        The attack.

    Raises:
        SettingsError: it has none.
    """
    if not isinstance(defense, str):
        kind = type(defense)
        if kind.reference_attack is not None:
            return kind.reference_attack
        if kind.origin is not None:
            raise SettingsError(
                f"no reference attack on {kind.name!r}: its class has no reference_attack "
                f"({kind.origin})"
            )
        defense = defense.name
    missing = SettingsError(f"no reference attack on {defense!r}: see sparring/attacks/reference/")
    if not defense.isidentifier():  # a defense of one's own may have any name
        raise missing
    try:
        module = import_module(f"sparring.attacks.reference.{defense}")
    except ModuleNotFoundError as error:
        if error.name != f"sparring.attacks.reference.{defense}":
            raise
        raise missing from None
    return module.attack
