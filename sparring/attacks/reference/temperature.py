"""The reference attack on temperature; try yourself first.

The softmax is saturated, the logits are not: follow their margin.
"""

from __future__ import annotations

from sparring.attacks import PGD

attack = PGD(steps=100, loss="margin", restarts=2)
