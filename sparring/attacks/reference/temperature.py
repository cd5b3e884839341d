"""The reference attack on temperature; try yourself first.

The softmax is saturated, the logits are not: follow their margin. Which other class is nearest at
first need not be the one that can be reached, so each is aimed at in turn.
"""

from __future__ import annotations

from sparring.attacks import APGD

attack = APGD(loss="margin", targets=9)
