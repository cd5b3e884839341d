"""Attacks: callables attack(defense, x, y, threat) -> x_adv, written once for all backends.

`x` are images, a tensor float32 [B, H, W, C] of the running backend in [0, 1]; `y` their labels,
int32 [B]; `threat` a ThreatModel. What comes back has the shape of x, as tensor or numpy array;
`sparring.evaluate` checks it. Any function of that form is an attack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparring.attacks.gradients import BPDA, EOT, cross_entropies, gradient, margins
from sparring.attacks.pgd import FGSM, PGD
from sparring.attacks.simple import Noise
from sparring.attacks.square import Square
from sparring.errors import SettingsError, unknown_name

Attack = Callable[[Any, Any, Any, Any], Any]

__all__ = [
    "ATTACKS",
    "BPDA",
    "EOT",
    "FGSM",
    "PGD",
    "Attack",
    "Noise",
    "Square",
    "cross_entropies",
    "get",
    "gradient",
    "margins",
]

ATTACKS: dict[str, type] = {"noise": Noise, "fgsm": FGSM, "pgd": PGD, "square": Square}


def get(name: str) -> type:
    """The attack's class of that name. Raises SettingsError, listing the valid names."""
    if name not in ATTACKS:
        raise SettingsError(unknown_name("attack", name, list(ATTACKS)))
    return ATTACKS[name]
