"""The reference attack on baseline; try yourself first.

Any gradient attack does; the margin loss wastes no step on large losses.
"""

from __future__ import annotations

from sparring.attacks import PGD

attack = PGD(steps=100, loss="margin", restarts=2)
