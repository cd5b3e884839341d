"""The registry of defenses: one file each, one line each here."""

from __future__ import annotations

from sparring.defense import Defense
from sparring.defenses.baseline import Baseline
from sparring.errors import SettingsError, unknown_name

DEFENSES: dict[str, type[Defense]] = {defense.name: defense for defense in (Baseline,)}


def get(name: str) -> type[Defense]:
    """The defense of that name. Raises SettingsError, listing the valid ones, for any other."""
    if name not in DEFENSES:
        raise SettingsError(unknown_name("defense", name, list(DEFENSES)))
    return DEFENSES[name]
