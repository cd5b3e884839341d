"""Searches: the loop that asks the defense and lets broken images leave, and best of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparring.backend import ops
from sparring.tensors import Images, Labels

Attempt = Callable[[np.ndarray], Any]
"""Gives adversarial images [rows, H, W, C] of some rows of the images, int [rows]."""


@dataclass(frozen=True)
class Way:
    """What a search is a part of, for people who watch it.

    Attributes:
        attack: the attack in words, with its options; "" where it is not known.
        name: the attack's short name.
        loss: what it rises along, in words; "" if there is no such thing.
        restart: which of its starts this is, counted from 0.
        aim: which of the targets of each image, counted from 0; None without any.
    """

    attack: str = ""
    name: str = ""
    loss: str = ""
    restart: int = 0
    aim: int | None = None


class Watcher(ABC):
    """Is told of every point that the searches on a defense come to, see `watching.watched`."""

    @abstractmethod
    def step(self, search: Search, number: int, images: np.ndarray, points: Images) -> None:
        """Take note of a step.

        Args:
            search: which came to the points.
            number: of the step, counted from 0.
            images: the originals of its rows, float32 [rows, H, W, C].
            points: what it came to, [rows or more, H, W, C]; at the end what it gives.
        """


class Search(ABC):
    """A search for adversarial images of a batch, one step at a time, for `run` to drive.

    Its rows are the images that are still attacked. What it gives may have more rows than that at
    the end, which fill up a batch and are not looked at.
    """

    points: Images
    """The points [rows, H, W, C] that it has come to, numpy array or tensor."""
    way = Way()
    """What it is a part of."""
    targets: Any = None
    """The classes that the rows are aimed at, int [rows or more]; None where there are none."""

    def losses(self, points: Images) -> Any:
        """Compute what it rises along, for who watches; None where there is no such thing.

        Args:
            points: of its rows, [rows or more, H, W, C].

        Returns:
            Losses float32 [rows or more].
        """
        return None

    @abstractmethod
    def step(self) -> tuple[Images, Any]:
        """Take one step.

        Returns:
            Points [rows, H, W, C] that may be adversarial, and which of them look so, bool [rows];
            a search that cannot tell says all. None of them has been given before.
        """

    @abstractmethod
    def keep(self, rows: np.ndarray) -> None:
        """Go on with these rows alone, int [rows], counted among the present ones."""


def run(
    search: Search,
    defense: Any,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
    every: int = 1,
) -> np.ndarray:
    """Run a search over a batch; images leave it once the defense is asked and they are broken.

    Args:
        search: at its start.
        defense: to ask which points are broken; only those that look so are shown to it. If it is
            `watched`, its watcher is told of every step.
        images: the originals, float32 [B, H, W, C].
        labels: int [B].
        steps: how many to take at most.
        every: at which steps the defense is asked, the first one included; 0 asks it never.

    Returns:
        For every image the point at which it was broken, else the one that the search ended at.
    """
    best, active = images.copy(), np.arange(len(images))
    watcher: Watcher | None = getattr(defense, "watcher", None)
    for number in range(steps):
        points, suspects = search.step()
        if watcher is not None:
            watcher.step(search, number, images[active], points)
        if every == 0 or number % every:
            continue
        suspicious = ops.convert_to_numpy(suspects)[: len(active)]
        looks = np.flatnonzero(suspicious)  # rows to ask about
        if not len(looks):
            continue
        shown = ops.convert_to_numpy(points)[looks]
        broken = defense.broken(shown, labels[active[looks]])
        if not broken.any():
            continue
        best[active[looks[broken]]] = shown[broken]
        left = np.delete(np.arange(len(active)), looks[broken])
        if not len(left):
            return best
        active = active[left]
        search.keep(left)
    if watcher is not None:
        watcher.step(search, steps, images[active], search.points)
    best[active] = ops.convert_to_numpy(search.points)[: len(active)]
    return best


def best_of(attempts: Iterable[Attempt], defense: Any, x: Images, y: Labels) -> np.ndarray:
    """Attempt one after the other and keep each image's best, broken in the largest share of draws.

    Args:
        attempts: each gets the rows of the images that are not broken in all draws yet.
        defense: to ask for the shares.
        x: images float32 [B, H, W, C], tensor or numpy array.
        y: labels int [B], likewise.

    Returns:
        float32 [B, H, W, C]; of equally good points the first.
    """
    images, labels = arrays(x, y)
    attempts = list(attempts)
    if len(attempts) == 1:  # nothing to compare it with, so the defense need not be asked
        return np.array(ops.convert_to_numpy(attempts[0](np.arange(len(images)))))
    best, share = images.copy(), np.full(len(images), -1.0)
    for attempt in attempts:
        left = np.flatnonzero(share < 1)
        if not len(left):
            break
        points = ops.convert_to_numpy(attempt(left))
        shares = defense.broken_share(points, labels[left])
        better = shares > share[left]
        best[left[better]], share[left[better]] = points[better], shares[better]
    return best


def arrays(x: Images, y: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Copy images and labels into numpy arrays."""
    return np.array(ops.convert_to_numpy(x)), np.array(ops.convert_to_numpy(y))
