"""One user seed made into many independent ones."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream of random numbers is for; a value, once given, is never reused."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENTATION = 2
    NETWORK = 3
    PATTERNS = 4
    DRAWS = 5
    JUDGE = 6


def spread(seed: int, stream: Stream, *place: int) -> int:
    """A 31-bit seed for one place (a layer, an epoch, ...) of a stream of the user's seed.

    Neighboring user seeds share nothing: they go through numpy's SeedSequence. `seed` and `place`
    are integers of 0 and more.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(int(stream), *place))
    return int(sequence.generate_state(1)[0] >> 1)
