"""Watching: a defense that tells somebody which points an attack comes to.

Searches tell of their steps by themselves, see `search.run`. Of other attacks, as those in a user's
file or another library, it is known what they ask the defense about.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.attacks.gradients import SeparatelyCompiled, Wrapped, unwrapped
from sparring.attacks.search import Watcher
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.randomness import Chance
from sparring.tensors import Images, Logits


class Onlooker(Watcher):
    """A watcher that is told, too, what the defense is asked about besides the steps."""

    @abstractmethod
    def asked(self, points: np.ndarray) -> None:
        """Take note of points [B, H, W, C], or one [H, W, C], of any values."""


@final
class Watched(SeparatelyCompiled):
    """A defense that tells a watcher what it is asked.

    Attributes:
        defense: the defense.
        watcher: who is told.
    """

    def __init__(self, defense: Defense, watcher: Onlooker) -> None:
        """Watch a defense."""
        super().__init__(defense)
        self.watcher = watcher
        self._quiet = 0

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        self._tell(x)
        return self.defense.logits(x, chance)

    def probabilities(self, x: Images, chance: Chance | None = None) -> Any:
        """As Defense.probabilities."""
        self._tell(x)
        return self.defense.probabilities(x, chance)

    def classify(self, x: Any, seed: int = 0) -> np.ndarray:
        """As Defense.classify."""
        self._tell(x)
        return self.defense.classify(x, seed)

    def broken_share(self, x: Any, y: Any, draws: int = 10) -> np.ndarray:
        """As Defense.broken_share."""
        self._tell(x)
        return self.defense.broken_share(x, y, draws)

    @override
    def compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = super().compiled(key, function)

        def call(*arguments: Any) -> Any:
            with self._silence():  # these are steps, which are told of once they are taken
                return compiled(*arguments)

        return call

    @contextmanager
    def _silence(self) -> Iterator[None]:
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    def _tell(self, x: Any) -> None:
        if self._quiet:
            return
        if ops.is_tensor(x):
            backend.look(x, self.watcher.asked)
        elif isinstance(x, np.ndarray):
            self.watcher.asked(x)


def watched(defense: Defense | Wrapped, watcher: Onlooker) -> Wrapped:
    """Let somebody watch an attack on a defense.

    Args:
        defense: the defense, or a wrapper around one.
        watcher: who is told.

    Returns:
        What the attack is to be given in its place; wrappers stay around what is watched.
    """
    inner = Watched(unwrapped(defense)[0], watcher)
    return defense.around(inner) if isinstance(defense, Wrapped) else inner
