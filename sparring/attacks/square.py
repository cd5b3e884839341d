"""Square: random search with squares. It needs no gradient, so masked ones do not stop it.

Reference: Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, final

import numpy as np
from keras import ops

from sparring.attacks.gradients import margins
from sparring.errors import SettingsError
from sparring.networks.allconv import in_batches
from sparring.randomness import Chance
from sparring.threat import L2, ThreatModel


@final
@dataclass(frozen=True)
class Square:
    """The Square attack in Linf and L2, on the margin of the logits.

    `queries` an image at most; `first_share` of the image's area is what the first squares cover,
    which the paper's schedule shrinks. Images leave when they are answered wrongly and not
    rejected.
    """

    queries: int = 1000
    first_share: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.queries) is not int or self.queries < 1:
            raise SettingsError(f"queries: expected an integer of 1 or more, got {self.queries!r}")
        if not 0 < self.first_share <= 1:
            raise SettingsError(f"first_share: expected above 0, at most 1: {self.first_share!r}")

    def __call__(self, defense: Any, x: Any, y: Any, threat: ThreatModel) -> np.ndarray:
        """Adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        images, labels = np.array(ops.convert_to_numpy(x)), np.array(ops.convert_to_numpy(y))
        draws = _Draws(Chance(x, self.seed))
        search = (
            _L2Search(images, threat.eps) if isinstance(threat, L2) else _Search(images, threat.eps)
        )
        logits = defense.compiled(("logits",), defense.logits)

        def lost_by(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
            answers = ops.convert_to_tensor(in_batches(logits, points))
            return np.array(ops.convert_to_numpy(margins(labels[rows], answers)))

        rows = np.arange(len(images))
        best = search.start(draws)
        loss = lost_by(best, rows)
        rows = rows[~_broken(defense, best, labels, loss, rows)]
        for query in range(1, self.queries):
            if not len(rows):
                break
            side = search.side(self._share(query))
            tried = search.propose(best, rows, side, draws)
            gained = lost_by(tried, rows)
            better = gained > loss[rows]
            changed = rows[better]
            best[changed], loss[changed] = tried[better], gained[better]
            broken = changed[_broken(defense, best, labels, loss, changed)]
            rows = np.setdiff1d(rows, broken, assume_unique=True)
        return best

    def _share(self, query: int) -> float:
        """The share of the image's area that a square covers: halved at the paper's queries."""
        at = query / self.queries * 10_000
        halvings = sum(at > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
        return self.first_share / 2**halvings


def _broken(
    defense: Any, best: np.ndarray, labels: np.ndarray, loss: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Which of the rows are answered wrongly and not rejected."""
    answer = np.zeros(len(rows), bool)
    looks = np.flatnonzero(loss[rows] > 0)
    if len(looks):
        answer[looks] = defense.broken(best[rows[looks]], labels[rows[looks]])
    return answer


class _Draws:
    """Random numbers for each image, as numpy arrays; they follow from seed and image alone."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def uniform(self, count: int) -> np.ndarray:
        return np.array(ops.convert_to_numpy(self._chance.uniform(count)))

    def signs(self, *shape: int) -> np.ndarray:
        """-1 and 1, float32 [B, *shape]."""
        drawn = self.uniform(int(np.prod(shape))).reshape(-1, *shape)
        return np.where(drawn < 0.5, -1, 1).astype(np.float32)


class _Search:
    """Proposals in Linf: every value at -eps or eps, squares of one sign a channel."""

    def __init__(self, images: np.ndarray, eps: float) -> None:
        self.images, self.eps = images, np.float32(eps)
        self.height, self.width, self.channels = images.shape[1:]

    def start(self, draws: _Draws) -> np.ndarray:
        """Vertical stripes."""
        return self._kept(self.eps * draws.signs(1, self.width, self.channels), slice(None))

    def side(self, share: float) -> int:
        """Side of a square with that share of the image's area."""
        side = round(sqrt(share * self.height * self.width))
        return max(1, min(side, min(self.height, self.width) - 1))

    def propose(self, best: np.ndarray, rows: np.ndarray, side: int, draws: _Draws) -> np.ndarray:
        """The best points of the rows, each with a new square."""
        window = self._window(rows, side, draws)
        moved = best[rows] - self.images[rows]
        moved[window] = self.eps * draws.signs(1, 1, self.channels)[rows]
        return self._kept(moved, rows)

    def _window(self, rows: np.ndarray, side: int, draws: _Draws) -> tuple[np.ndarray, ...]:
        """An index of [len(rows), side, side, C] out of [len(rows), H, W, C], at random places."""
        drawn = draws.uniform(2)[rows]
        top = (drawn[:, 0] * (self.height - side + 1)).astype(int)
        left = (drawn[:, 1] * (self.width - side + 1)).astype(int)
        along = np.arange(side)
        return (
            np.arange(len(rows))[:, None, None],
            (top[:, None] + along)[:, :, None],
            (left[:, None] + along)[:, None, :],
        )

    def _kept(self, moved: np.ndarray, rows: Any) -> np.ndarray:
        images = self.images[rows]
        return np.clip(np.clip(images + moved, images - self.eps, images + self.eps), 0, 1)


class _L2Search(_Search):
    """Proposals in L2: pyramids take the budget of another window."""

    def start(self, draws: _Draws) -> np.ndarray:
        """A grid of pyramids."""
        side = max(self.side(0.04), 3)
        moved = np.zeros_like(self.images)
        tops = range((self.height % side) // 2, self.height - side + 1, side)
        lefts = range((self.width % side) // 2, self.width - side + 1, side)
        for top in tops:
            for left in lefts:
                window = slice(None), slice(top, top + side), slice(left, left + side)
                moved[window] = self._pyramid(side, draws)
        return self._kept(moved, slice(None))

    def side(self, share: float) -> int:
        side = max(super().side(share), 3)
        return side + 1 if side % 2 == 0 else side

    def propose(self, best: np.ndarray, rows: np.ndarray, side: int, draws: _Draws) -> np.ndarray:
        side = min(side, self.height, self.width)
        images = self.images[rows]
        moved = best[rows] - images
        given, taken = (self._window(rows, side, draws) for _ in range(2))
        unused = np.maximum(self.eps**2 - _squares(moved), 0) / self.channels
        either = np.zeros_like(moved)
        either[given] = either[taken] = 1
        budget = np.square(moved * either).sum(axis=(1, 2), keepdims=True) + unused
        old = moved[given]
        new = self._pyramid(side, draws)[rows] + old / (_norms(old, (1, 2)) + 1e-12)
        moved[taken] = 0
        moved[given] = new / (_norms(new, (1, 2)) + 1e-12) * np.sqrt(budget)
        return self._kept(moved, rows)

    def _pyramid(self, side: int, draws: _Draws) -> np.ndarray:
        """Two bumps of opposite sign, one above the other or side by side: [B, side, side, C]."""
        half = np.concatenate([_bump(side // 2, side), -_bump(side - side // 2, side)])
        half /= np.sqrt(np.square(half).sum())
        upright = draws.uniform(1)[:, :, None, None] < 0.5
        both = np.where(upright, half[None, :, :, None], half.T[None, :, :, None])
        return (both * draws.signs(1, 1, self.channels)).astype(np.float32)

    def _kept(self, moved: np.ndarray, rows: Any) -> np.ndarray:
        scaled = moved / (np.sqrt(_squares(moved)) + 1e-12) * self.eps
        return np.clip(self.images[rows] + scaled, 0, 1).astype(np.float32)


def _bump(height: int, width: int) -> np.ndarray:
    """The paper's bump: sums of ever larger squares around the middle, [height, width]."""
    bump = np.zeros((height, width), np.float32)
    top, left = height // 2, width // 2
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    for ring in range(max(top, left) + 1):
        inside = (abs(rows - top) <= ring) & (abs(columns - left) <= ring)
        bump += inside / (ring + 1) ** 2
    return bump


def _squares(moved: np.ndarray) -> np.ndarray:
    return np.square(moved).sum(axis=(1, 2, 3), keepdims=True)


def _norms(moved: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    return np.sqrt(np.square(moved).sum(axis=axis, keepdims=True))
