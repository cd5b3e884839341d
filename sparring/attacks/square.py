"""Square: random search with squares. It needs no gradient, so masked ones do not stop it.

Reference: Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring.attacks.losses import IN_WORDS, margins
from sparring.attacks.options import Options, integer, number
from sparring.attacks.search import Search, Way, arrays, run
from sparring.backend import ops
from sparring.networks.allconv import in_batches
from sparring.randomness import Chance
from sparring.tensors import Images, Labels
from sparring.threat import L2, ThreatModel, checked_threat


@final
@dataclass(frozen=True)
class Square(Options):
    """The Square attack in Linf and L2, on the margin of the logits.

    Images leave when they are answered wrongly and not rejected.

    Attributes:
        queries: how often the defense is asked about each image, at most.
        first_share: of the image's area, what the first squares cover, above 0 and at most 1; the
            paper's schedule shrinks it.
        seed: of the random squares.

    Raises:
        SettingsError: for wrong values.
    """

    queries: int = integer(1000)
    first_share: float = number(0.8, "a number above 0, at most 1", lambda share: 0 < share <= 1)
    seed: int = integer(0, least=0)

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        checked_threat(threat)
        images, labels = arrays(x, y)
        logits = defense.compiled(("logits",), defense.logits)

        def lost_by(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
            answers = ops.convert_to_tensor(in_batches(logits, points))  # [rows, K]
            return np.array(ops.convert_to_numpy(margins(labels[rows], answers)))

        squares = _Pyramids if isinstance(threat, L2) else _Squares
        draws = _Draws(Chance(x, self.seed))
        search = _RandomSearch(self, squares(images, threat.eps), draws, lost_by)
        return run(search, defense, images, labels, self.queries)

    def _share(self, query: int) -> float:
        """Compute the share of the image's area a square covers: halved at the paper's queries."""
        at = query / self.queries * 10_000
        halvings = sum(at > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
        return self.first_share / 2**halvings


class _RandomSearch(Search):
    """A proposal for each image at every step, taken where it gains. The first step asks the start.

    `rows` are positions among the original images, which random numbers belong to.
    """

    def __init__(
        self, attack: Square, squares: _Squares, draws: _Draws, lost_by: Callable[..., np.ndarray]
    ) -> None:
        self.way = Way(repr(attack), "Square", IN_WORDS["margin"])
        self._attack, self._squares, self._draws, self._lost_by = attack, squares, draws, lost_by
        self._rows, self._query = np.arange(len(squares.images)), 0
        self._best = squares.start(draws)  # [B, H, W, C]
        self._loss = np.full(len(self._best), -np.inf)  # [B]

    @property
    def points(self) -> np.ndarray:
        return self._best[self._rows]

    @override
    def losses(self, points: Images) -> Any:
        return self._lost_by(points, self._rows)

    @override
    def step(self) -> tuple[Images, Any]:
        rows, tried = self._rows, self.points
        if self._query:
            side = self._squares.side(self._attack._share(self._query))
            tried = self._squares.propose(self._best, rows, side, self._draws)
        self._query += 1
        gained = self._lost_by(tried, rows)  # [rows]
        better = gained > self._loss[rows]
        self._best[rows[better]], self._loss[rows[better]] = tried[better], gained[better]
        return tried, better & (gained > 0)

    @override
    def keep(self, rows: np.ndarray) -> None:
        self._rows = self._rows[rows]


class _Draws:
    """Random numbers for each image, as numpy arrays; they follow from seed and image alone."""

    def __init__(self, chance: Chance) -> None:
        self._uniform = chance.on_host()

    def uniform(self, count: int) -> np.ndarray:
        return self._uniform(count)

    def signs(self, *shape: int) -> np.ndarray:
        """-1 and 1, float32 [B, *shape]."""
        drawn = self.uniform(int(np.prod(shape))).reshape(-1, *shape)
        return np.where(drawn < 0.5, -1, 1).astype(np.float32)


class _Squares:
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


class _Pyramids(_Squares):
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
