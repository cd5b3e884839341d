"""The reference attack on trades; try yourself first.

It holds: the strongest we have, one attack after the other.
"""

from __future__ import annotations

from sparring.attacks.reference import STRONGEST

attack = STRONGEST
