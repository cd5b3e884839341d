"""Planted adversarial examples: does an attack find what is known to be there?

Where an attack breaks little, the defense holds or the attack fails. To tell them apart the last
layer is replaced by one for which an adversarial example surely exists, and the same attack has to
find it: the binarization test of Zimmermann et al. 2022, https://arxiv.org/abs/2206.13991. The new
layer here takes the logits, which every defense has: what hides their gradient hides the new ones'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self, final

import numpy as np
from typing_extensions import override

from sparring.attacks import Matching, Wrapped, drawn, unwrapped
from sparring.attacks.gradients import copied
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.evaluation.slopes import Sign
from sparring.networks.allconv import AllConv, in_batches
from sparring.randomness import Chance
from sparring.tensors import Images, Logits
from sparring.threat import ThreatModel

if TYPE_CHECKING:
    from sparring.evaluation.checks import Attempt

POINTS = 64
"""How many random points of the ball are kept apart from the planted one, and among how many of its
surface that one is the farthest out."""

CLOSENESS = 0.9
"""Where the answer changes on the way from the last of those points, at 0, to the planted, at 1."""


@dataclass
class _Notes:
    """Whether the networks are asked for logits just now, and whether they were otherwise."""

    asking: bool = False
    bypassed: bool = False


class Bypassed(AttributeError):
    """An attack asked a network of a planted defense itself, past the new last layer."""


class Layer(NamedTuple):
    """The last layer of each of N images: lead - slope . (logits - origin), by which a label leads.

    All are float32 but `label` and `rival`.
    """

    images: np.ndarray
    """The images, [N, H, W, C]."""
    label: np.ndarray
    """Their labels, int [N]."""
    rival: np.ndarray
    """The class, int [N], that wins where the lead is below 0."""
    lead: np.ndarray
    """By how much the label leads at the image, as it does without the layer, [N]."""
    origin: np.ndarray
    """The logits of the image, [N, K]."""
    slope: np.ndarray
    """How fast the lead falls with the logits, [N, K]."""


@final
class Planted(Defense):
    """A defense with another last layer, by which images have an adversarial example each.

    A point gets the layer of the image that is nearest to it, so answers do not follow from the
    batch. Nothing is rejected. A network that an attack asks past `logits` raises Bypassed.

    Args:
        defense: one that draws nothing, of networks that are AllConv.
        layer: of the images.

    Attributes:
        layer: as given.
        notes: what was asked.
    """

    name = "planted"
    idea = "another defense with a last layer that has adversarial examples, to test an attack"

    def __init__(self, defense: Defense, layer: Layer) -> None:
        """Put the layer behind a defense."""
        self.notes = _Notes()
        super().__init__(defense.info, defense.settings, [*map(self._noting, defense.nets)])
        self._defense, self.layer = defense, layer

    @classmethod
    def around(
        cls, defense: Defense, threat: ThreatModel, x: np.ndarray, y: np.ndarray
    ) -> tuple[Self, np.ndarray] | None:
        """Plant an adversarial example in the ball around each image, where there can be one.

        Args:
            defense: one that draws nothing, of networks that are AllConv.
            threat: the threat model.
            x: images float32 [N, H, W, C] in [0, 1].
            y: their labels, int [N].

        Returns:
            The defense with the new layer, and the rows of the images that have one, int [M]. None
            if there are none.
        """
        compiled = defense.compiled(("logits",), defense.logits)

        def logits(points: Any) -> np.ndarray:
            flat = in_batches(compiled, points.reshape(-1, *x.shape[1:]))
            return flat.reshape(-1, len(x), flat.shape[1]).astype(np.float64)  # [P, N, K]

        inner, surface = (logits(points) for points in _points(threat, x))
        origin = logits(x)
        rows = np.arange(len(x))
        others = origin[0].copy()  # [N, K]
        others[rows, y] = -np.inf
        rival = others.argmax(axis=1)
        with np.errstate(invalid="ignore"):  # logits that are not finite have no line and no lead
            slope, far, there = _line(origin[0], np.concatenate([origin, inner]), surface)
            lead = origin[0, rows, y] - others[rows, rival]
        rows = np.flatnonzero(there & (lead > 0))
        if not len(rows):
            return None
        slope = slope[rows] * (lead / far)[rows, None]
        numbers = (a.astype(np.float32) for a in (lead[rows], origin[0, rows], slope))
        return cls(defense, Layer(x[rows], y[rows], rival[rows], *numbers)), rows

    def _noting(self, net: Any) -> Any:
        """A copy of a network that can be asked within `logits` alone."""
        notes = self.notes

        class Noting(type(net)):  # type: ignore[misc] # not known before
            @override
            def features(self, x: Images, chance: Chance | None = None) -> Any:
                if not notes.asking:
                    notes.bypassed = True
                    raise Bypassed("a planted defense answers by its logits alone")
                return super().features(x, chance)

        return copied(net, Noting)

    @contextmanager
    def _asking(self) -> Iterator[Defense]:
        """The defense within, with the networks that this one has by now."""
        within = copied(self._defense)
        within.nets = self.nets  # which a wrapper may have replaced
        self.notes.asking = True
        try:
            yield within
        finally:
            self.notes.asking = False

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        with self._asking() as within:
            logits = within.logits(x)  # [B, K]
        layer, near = self.layer, self._nearest(x)

        def own(values: np.ndarray) -> Any:
            return ops.take(ops.convert_to_tensor(values), near, axis=0)

        moved = logits - own(layer.origin)
        lead = own(layer.lead) - ops.sum(own(layer.slope) * moved, axis=-1)  # [B]
        one_hot = np.eye(logits.shape[1], dtype=np.float32)
        label, rival = one_hot[layer.label], one_hot[layer.rival]  # [N, K]
        # The other classes stay below the larger of both, wherever the point is.
        rest = layer.lead[:, None] * (1 - label - rival)
        return lead[:, None] * own((label - rival) / 2) - own(rest)

    def _nearest(self, x: Images) -> Any:
        """Which image each point is nearest to, int [B]."""
        images = self.layer.images.reshape(len(self.layer.images), -1)  # [N, D]
        squares = ops.convert_to_tensor(np.square(images).sum(axis=1))
        points = ops.reshape(x, (x.shape[0], -1))  # [B, D]
        products = ops.matmul(points, ops.convert_to_tensor(images.T))
        # |x - image|^2 less |x|^2, which is the same for all images
        return ops.argmin(squares - 2 * products, axis=1)


def _points(threat: ThreatModel, x: np.ndarray) -> list[np.ndarray]:
    """Random points of each ball, and random ones of its surface, twice [POINTS * N, H, W, C]."""
    copies, chance = drawn(ops.convert_to_tensor(x), POINTS)  # all images once a draw
    inner, outward = (ops.reshape(chance.uniform(x[0].size), copies.shape) for _ in range(2))
    points = threat.start(copies, inner), threat.moved(copies, outward - 0.5, copies, threat.eps)
    return [np.array(ops.convert_to_numpy(each)) for each in points]


def _line(
    origin: np.ndarray, inner: np.ndarray, surface: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the line along which one point of the surface is farthest from those within.

    It is that of Fisher's discriminant: what changes much within the ball counts little.

    Args:
        origin: logits of the images, float64 [N, K].
        inner: logits of points of their balls, [P, N, K].
        surface: logits of points of the surfaces, [Q, N, K].

    Returns:
        Directions [N, K]; how far from the image along them the answer is to change, [N]; and
        whether the point stands out from those within, bool [N].
    """
    images, classes = origin.shape
    size = np.abs(origin).max(axis=1)  # [N]
    inner, surface = inner - origin, surface - origin
    mean = inner.mean(axis=0)  # [N, K]
    moved = inner - mean
    spread = np.einsum("pnk,pnl->nkl", moved, moved) / len(inner)
    # What is constant but for rounding, as saturated logits, is no direction to go.
    sizes = np.einsum("nkk->n", spread) / classes
    ridge = (1e-3 * sizes + np.square(1e-4 * size) + 1e-30)[:, None, None] * np.eye(classes)
    inverse = np.linalg.inv(spread + ridge)  # [N, K, K]
    outward = surface - mean
    squares = np.einsum("qnk,nkl,qnl->qn", outward, inverse, outward)
    farthest = squares.argmax(axis=0)  # [N]
    line = np.einsum("nkl,nl->nk", inverse, outward[farthest, np.arange(images)])
    last = np.einsum("pnk,nk->pn", inner, line).max(axis=0)  # [N]
    planted = np.einsum("nk,nk->n", surface[farthest, np.arange(images)], line)
    # By one standard deviation of the points within, along the line
    stands_out = planted - last > np.sqrt(squares.max(axis=0))
    return line, np.where(stands_out, last + CLOSENESS * (planted - last), 1.0), stands_out


def found(attempt: Attempt) -> Iterator[Sign]:
    """Whether the attack finds adversarial examples that are planted in the same balls."""
    attack, (defense, _) = attempt.attack, unwrapped(attempt.defense)
    # Matching goes to logits of other images, which the planted layer of this one does not have.
    if isinstance(attack, Matching) or defense.stochastic:
        return
    if not all(isinstance(net, AllConv) for net in defense.nets):
        return  # an attack could go by others unnoticed
    made = Planted.around(defense, attempt.threat, attempt.x, attempt.y)
    if made is None:
        return
    planted, rows = made
    wrapper = attempt.defense
    given = wrapper.around(planted) if isinstance(wrapper, Wrapped) else planted
    try:
        success = attempt.again(rows=rows, defense=given)
    except Exception as error:
        if planted.notes.bypassed or isinstance(error, AttributeError):
            return  # it goes by parts of the defense that its answers do not pass through here
        raise
    if not planted.notes.bypassed and attempt.more(np.ones(len(rows)), success):
        text = f"the attack finds {np.sum(success):.0f} of {len(rows)} planted adversarial examples"
        yield "planted", text
