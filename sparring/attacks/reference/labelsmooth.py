"""The reference attack on labelsmooth; try yourself first.

Logits lie close together, their order is as easily changed as ever.
"""

from __future__ import annotations

from sparring.attacks import PGD

attack = PGD(steps=100, loss="margin", restarts=2)
