"""Figures for people: shares with their intervals, means over seeds, durations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Rate(NamedTuple):
    """A share of images with its 95 % interval.

    The interval is Wilson's: E. B. Wilson, Probable inference, the law of succession, and
    statistical inference, JASA 22, 1927.

    Attributes:
        value: in [0, 1]; NaN of no images.
        n: how many images.
        low: the interval's lower end, in [0, 1].
        high: its upper end.
    """

    value: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, shares: np.ndarray) -> Rate:
        """Take the mean over images.

        For shares between 0 and 1, of stochastic defenses, the interval is wider than it need be.

        Args:
            shares: of draws, one an image, [n] in [0, 1].
        """
        n = len(shares)
        if n == 0:
            return cls(math.nan, 0, 0.0, 1.0)
        p, z2 = float(np.mean(shares)), 1.959964**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
        return cls(p, n, max(0.0, middle - half), min(1.0, middle + half))

    def __repr__(self) -> str:
        """Give the numbers, rounded to four digits after the point."""
        value, low, high = (round(share, 4) for share in (self.value, self.low, self.high))
        return f"Rate({value}, n={self.n}, low={low}, high={high})"

    def __str__(self) -> str:
        """Give the share in percent, with its interval."""
        if not self.n:
            return "- (no images)"
        interval = f"95 % interval {100 * self.low:.1f} to {100 * self.high:.1f}"
        return f"{100 * self.value:.1f} % ({interval}; n = {self.n})"


class Mean(NamedTuple):
    """A mean over seeds.

    Attributes:
        value: the mean.
        std: the sample standard deviation; None for one seed.
        n: how many seeds.
    """

    value: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean | None:
        """Take the mean of values, one a seed; None when there are none."""
        if not values:
            return None
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, len(values))

    def percent(self, digits: int) -> str:
        """Write a mean of shares as 98.06 ± 0.31 %, with so many digits after the point."""
        spread = "" if self.std is None else f" ± {100 * self.std:.{digits}f}"
        return f"{100 * self.value:.{digits}f}{spread} %"


def duration(seconds: float) -> str:
    """Write seconds as 0:07 or 1:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
