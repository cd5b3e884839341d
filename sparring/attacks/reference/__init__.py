"""Reference attacks: for every defense one that is known to break it. Try yourself first.

sparring exercise blur          writes attack_blur.py for you to fill in
sparring attack blur reference  runs the attack of blur.py in this folder
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sparring.attacks import Strong
from sparring.errors import SettingsError

STRONGEST = Strong(queries=2000)
"""The strongest we have, one attack after the other: for defenses that hold."""


def get(defense: str) -> Any:
    """Find the reference attack on a defense by its name; raises SettingsError if it has none."""
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
