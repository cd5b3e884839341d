"""The reference attack on blur; try yourself first.

The blur is linear: the gradient goes through it like through any layer.
"""

from __future__ import annotations

from sparring.attacks import APGD

attack = APGD(loss="margin", targets=9)
