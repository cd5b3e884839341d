"""Ascent: what PGD and APGD share. Losses, targets, restarts, and each image's best point.

Reference: Melamed et al. 2024, https://arxiv.org/abs/2407.02240 (the order of targets "malt").
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.attacks.losses import AIMED, IN_WORDS, LOSSES, aimed_margins
from sparring.attacks.options import Options
from sparring.attacks.search import Search, Way, arrays, best_of, run
from sparring.attacks.simple import uniforms
from sparring.backend import ops
from sparring.errors import shown
from sparring.networks.allconv import in_batches, padded_size
from sparring.tensors import Images, Labels, Logits
from sparring.threat import ThreatModel, checked_threat

ORDERS = ("logits", "malt")
"""How other classes are ordered."""

CANDIDATES = 100
"""How many other classes "malt" looks at, those with the largest logits."""


Rise = Callable[[Images, Labels, Any], tuple[Any, Any, Any]]
"""Gives losses [B], their gradient [B, H, W, C] and which points look broken, float32 [B]."""


class Ascent(Options):
    """An attack that rises along the gradient of a loss, from several starts, at several targets.

    A subclass is a frozen dataclass that has the options below as fields, and says what a step is.
    Images leave when they are answered wrongly and not rejected; those of a stochastic defense
    never do, and their best is what is broken in the largest share of draws.

    Attributes:
        steps: how many, from each start.
        restarts: how often it starts; images that are broken already are left out.
        loss: its name in LOSSES.
        targets: 0 follows the loss; else this many other classes at most are aimed at, one after
            the other, the most promising first, with every restart.
        order: of the targets: "logits" puts large logits first, "malt" those that a linear model
            would reach first.
        random_start: whether the first start is a random point of the ball too.
        early_stopping: False takes all steps with all images, as a stochastic defense has it.
        seed: of the first start; each further one adds 1.
    """

    steps: int
    restarts: int
    loss: str
    targets: int
    order: str
    early_stopping: bool
    seed: int
    random_start: bool = True

    kept: ClassVar[int] = 0
    """Which of the tensors that move are the points to give, if none was broken."""

    def objective(self, defense: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        """Compute what the attack rises along; a subclass may follow something else.

        Args:
            defense: the defense or a wrapper around one.
            x: points float32 [B, H, W, C].
            y: labels, integers [B].

        Returns:
            Losses float32 [B], differentiable by x, and which points look broken, bool [B].
        """
        logits = defense.logits(x)  # [B, K]
        return LOSSES[self.loss](y, logits), looks_broken(logits, y)

    def aimed(self, defense: Any, x: Images, y: Labels, target: Any) -> tuple[Any, Any]:
        """Compute what it rises along instead with targets, for each image a class, int [B]."""
        logits = defense.logits(x)  # [B, K]
        return AIMED[self.loss](y, logits, target), looks_broken(logits, y)

    def aims(
        self, defense: Any, images: np.ndarray, labels: np.ndarray, threat: ThreatModel
    ) -> Iterable[np.ndarray]:
        """Give what to aim at, one after the other: here other classes, int [B]."""
        logits = in_batches(defense.compiled(("logits",), defense.logits), images)  # [B, K]
        rows = np.arange(len(labels))
        promise = logits - logits[rows, labels][:, None]
        promise[rows, labels] = -np.inf
        order = np.argsort(-promise, axis=1, kind="stable")[:, :-1]  # the label is the last
        if self.order == "malt":
            # To where a linear model changes its answer it is the margin over the gradient's size.
            sizes = defense.compiled(("malt", threat), _sizes(defense, threat))
            near = np.full_like(promise, -np.inf)
            wide = filled(rows)
            for target in order.T[:CANDIDATES]:
                size = sizes(*(ops.convert_to_tensor(a[wide]) for a in (images, labels, target)))
                size = np.maximum(ops.convert_to_numpy(size)[: len(rows)], 1e-30)
                near[rows, target] = promise[rows, target] / size
            order = np.argsort(-near, axis=1, kind="stable")[:, :-1]
        return order[:, : self.targets].T.astype(labels.dtype)

    @abstractmethod
    def moving(self, start: Images) -> Sequence[Any]:
        """Give the tensors [B, ...] that steps change, at a start [B, H, W, C]: points first."""

    @abstractmethod
    def step(self, rise: Rise, threat: ThreatModel) -> Callable[..., Any]:
        """Make a function of the moving tensors, x [B, H, W, C], y [B] and targets: one step.

        Args:
            rise: of points, y and targets.
            threat: the threat model.

        Returns:
            A function that gives the moving tensors anew, and which of the points that it is given
            look broken, float32 [B].
        """

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        return self.climb(defense, x, y, threat)

    def climb(
        self, defense: Any, x: Images, y: Labels, threat: ThreatModel, start: Any = None
    ) -> np.ndarray:
        """Do what calling the attack does.

        Args:
            defense: the defense or a wrapper around one.
            x: images float32 [B, H, W, C].
            y: labels, integers [B].
            threat: the threat model.
            start: points [B, H, W, C] that the first of the restarts begins at, in place of its
                own.

        Returns:
            Adversarial images, float32 [B, H, W, C].
        """
        checked_threat(threat)
        images, labels = arrays(x, y)
        first = images if start is None else ops.convert_to_numpy(start)
        known = start is not None or not self.random_start
        every = 10 if defense.detects else 1  # asking for scores costs more than a step
        if defense.stochastic or not self.early_stopping:
            every = 0
        step = defense.compiled(("ascent", self, threat), self.step(self._rise(defense), threat))

        def losses(*at: Any) -> Any:  # compiled where somebody watches
            return defense.compiled(("losses", self), partial(self._losses, defense))(*at)[0]

        def attempt(rows: np.ndarray, number: int, restart: int, aim: np.ndarray) -> np.ndarray:
            wide = filled(rows)
            begin, *fixed = (
                ops.convert_to_tensor(array[wide]) for array in (first, images, labels, aim)
            )
            if known and restart == 0:
                begin = threat.project(begin, fixed[0])
            else:
                begin = threat.start(fixed[0], uniforms(fixed[0], self.seed + number))
            climb = _Climb(step, losses, self.moving(begin), fixed, self.kept)
            climb.way = self._way(restart, number % len(aims) if self.targets else None)
            return run(climb, defense, images[rows], labels[rows], self.steps, every)

        aims = [*self.aims(defense, images, labels, threat)] if self.targets else [labels]
        ways = enumerate(product(range(self.restarts), aims))
        attempts = [
            partial(attempt, number=number, restart=restart, aim=aim)
            for number, (restart, aim) in ways
        ]
        return best_of(attempts, defense, images, labels)

    def _way(self, restart: int, aim: int | None) -> Way:
        own = type(self).objective if aim is None else type(self).aimed
        usual = own in (Ascent.objective, Ascent.aimed)
        loss = IN_WORDS[self.loss] if usual else "a loss of its own"
        return Way(shown(self, 500), type(self).__name__, loss, restart, aim)

    def losses(
        self, defense: Any, x: Images, y: Labels, threat: ThreatModel, after: Sequence[int]
    ) -> np.ndarray:
        """Follow the first start, at its first target, and measure the losses on the way.

        Args:
            defense: the defense or a wrapper around one.
            x: images float32 [B, H, W, C], numpy array or tensor.
            y: labels, integers [B], likewise.
            threat: the threat model.
            after: how many steps, ascending, at most `steps`.

        Returns:
            The losses [len(after), B] of the points that it would give after so many.
        """
        images, labels = arrays(x, y)
        aim = next(iter(self.aims(defense, images, labels, threat))) if self.targets else labels
        wide = filled(np.arange(len(images)))
        points, *fixed = (ops.convert_to_tensor(a[wide]) for a in (images, images, labels, aim))
        if self.random_start:
            points = threat.start(points, uniforms(points, self.seed))
        step = defense.compiled(("ascent", self, threat), self.step(self._rise(defense), threat))
        measure = defense.compiled(("losses", self), partial(self._losses, defense))
        moving, found = tuple(self.moving(points)), []
        for taken in range(after[-1] + 1):
            if taken:
                moving, _ = step(moving, *fixed)
            if taken in after:
                losses, _ = measure(moving[self.kept], *fixed[1:])
                found.append(ops.convert_to_numpy(losses)[: len(images)])
        return np.stack(found)

    def _losses(self, defense: Any, x: Images, y: Labels, target: Any) -> tuple[Any, Any]:
        """Losses [B], and which points look broken, [B]."""
        return self.aimed(defense, x, y, target) if self.targets else self.objective(defense, x, y)

    def _rise(self, defense: Any) -> Rise:
        def rise(points: Images, y: Labels, target: Any) -> tuple[Any, Any, Any]:
            def total(images: Images) -> tuple[Any, Any]:
                losses, broken = self._losses(defense, images, y, target)
                return ops.sum(losses), (losses, ops.cast(broken, "float32"))

            gradient, (losses, broken) = backend.input_gradient_and(total, points)
            # Without this, NaN would spread to the points, which no defense takes.
            return losses, ops.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0), broken

        return rise


class _Climb(Search):
    """The way up from one start. A step looks at the points that it leaves."""

    def __init__(
        self,
        step: Callable[..., Any],
        losses: Callable[..., Any],
        moving: Sequence[Any],
        fixed: Sequence[Any],
        kept: int,
    ) -> None:
        self._step, self._losses, self._kept = step, losses, kept
        self._moving, self._fixed = tuple(moving), fixed

    @property
    def points(self) -> Images:
        return self._moving[self._kept]

    @property
    def targets(self) -> Any:
        aim = self._fixed[-1]
        classes = self.way.aim is not None and len(aim.shape) == 1  # else examples, or the labels
        return aim if classes else None

    @override
    def losses(self, points: Images) -> Any:
        return self._losses(points, *self._fixed[1:])

    @override
    def step(self) -> tuple[Images, Any]:
        left = self._moving[0]
        self._moving, broken = self._step(self._moving, *self._fixed)
        return left, broken

    @override
    def keep(self, rows: np.ndarray) -> None:
        wide = ops.convert_to_tensor(filled(rows).astype(np.int32))
        self._moving = tuple(ops.take(tensor, wide, axis=0) for tensor in self._moving)
        self._fixed = [ops.take(tensor, wide, axis=0) for tensor in self._fixed]


def looks_broken(logits: Logits, y: Labels) -> Any:
    """Tell which logits [B, K] answer with another label than y, bool [B]."""
    return ops.argmax(logits, axis=-1) != ops.cast(y, "int32")


def filled(rows: np.ndarray) -> np.ndarray:
    """Fill rows up to a batch by repetition where a new size would be compiled anew."""
    return np.resize(rows, padded_size(len(rows)))


def _sizes(defense: Any, threat: ThreatModel) -> Callable[[Images, Labels, Labels], Any]:
    """Sizes [B] of the gradients of the targets' margins, in the dual norm of the threat's."""

    def sizes(x: Images, y: Labels, target: Labels) -> Any:
        gradient = backend.input_gradient(
            lambda images: ops.sum(aimed_margins(y, defense.logits(images), target)), x
        )
        return ops.sum(gradient * threat.direction(gradient), axis=(1, 2, 3))

    return sizes
