"""The reference attack on baseline; try yourself first.

Any gradient attack does. The margin loss wastes no step on large losses, and of the other classes
that which is nearest at first need not be the one that can be reached: each is aimed at in turn.
"""

from __future__ import annotations

from sparring.attacks import APGD

attack = APGD(loss="margin", targets=9)
