"""The reference attack on trades; try yourself first.

It holds: the strongest we have, one attack after the other.
"""

from __future__ import annotations

from sparring.attacks import PGD, InTurn, Square

attack = InTurn(
    (
        PGD(steps=100, loss="ce"),
        PGD(steps=100, loss="margin", restarts=4),
        PGD(steps=100, loss="margin", momentum=0.75, restarts=2, seed=100),
        Square(queries=2000),
    )
)
