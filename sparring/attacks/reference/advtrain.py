"""The reference attack on advtrain; try yourself first.

It holds in part: the strongest we have, one attack after the other.
"""

from __future__ import annotations

from sparring.attacks.reference import STRONGEST

attack = STRONGEST
