"""Threat models: how far an attack may move an image, used by attacks and by the judge alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.backend import ops
from sparring.errors import SettingsError, shown, unknown_name
from sparring.tensors import Images


@dataclass(frozen=True, repr=False)
class ThreatModel(ABC):
    """A ball of radius eps around an image, within the cube [0, 1] that images live in.

    What attacks use works on tensors of the running backend, float32 [B, H, W, C]; what the judge
    uses works on numpy arrays in float64, so that it does not repeat an attack's rounding.

    Attributes:
        eps: the radius, a float above 0; also taken as text, such as "4/255" or "0.0157".
        norm: the name of the norm it is measured in.

    Raises:
        SettingsError: for another eps.
    """

    eps: float
    norm: ClassVar[str]
    largest: ClassVar[float]
    """The largest eps there may be."""
    hint: ClassVar[str]
    """What is told of a larger one; {eps} stands for it."""

    @final
    def __post_init__(self) -> None:
        """Read eps, and check it."""
        object.__setattr__(self, "eps", _number(self.eps))
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise SettingsError(f"eps: expected a number above 0, got {self.eps!r}")
        if self.eps > self.largest:
            raise SettingsError(
                f"eps: expected at most {self.largest:g} for {self.norm}, got {self.eps:g}; "
                + self.hint.format(eps=f"{self.eps:g}")
            )

    def __repr__(self) -> str:
        """Give the norm and eps, as Linf(0.1)."""
        return f"{type(self).__name__}({self.eps:.6g})"

    @final
    def scaled(self, factor: float) -> ThreatModel:
        """Make a threat model of the same norm with eps times `factor`, as far as there is one."""
        return replace(self, eps=min(self.largest, self.eps * factor))

    @abstractmethod
    def unlimited(self, shape: tuple[int, ...]) -> ThreatModel:
        """Make one of the same norm within which every image [H, W, C] of `shape` lies."""

    @abstractmethod
    def start(self, x: Images, uniform: Any) -> Images:
        """Give a random point of each ball.

        Args:
            x: images [B, H, W, C], the middles.
            uniform: draws from [0, 1), [B, H, W, C].
        """

    @abstractmethod
    def direction(self, gradient: Any) -> Any:
        """Give the step of size 1 in this norm that gains most along a gradient; 0 where it is 0.

        Args:
            gradient: [B, H, W, C].
        """

    @abstractmethod
    def project(self, x_adv: Images, x: Images) -> Images:
        """Give the nearest points to x_adv in the balls around images x, then clip to [0, 1]."""

    @abstractmethod
    def distance(self, x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Measure distances, float64 [B], of numpy arrays [B, H, W, C]."""

    @abstractmethod
    def rounding(self, size: int) -> float:
        """Bound how far float32 rounding may carry an image with `size` values beyond eps."""

    @final
    def moved(self, x_adv: Images, gradient: Any, x: Images, size: Any) -> Images:
        """Take one step along a gradient and back into the balls.

        Args:
            x_adv: points [B, H, W, C].
            gradient: [B, H, W, C].
            x: images [B, H, W, C], the middles of the balls.
            size: of the step, in this norm; a number, or one for each image, [B, 1, 1, 1].

        Returns:
            The new points [B, H, W, C].
        """
        return self.project(x_adv + size * self.direction(gradient), x)

    @final
    def check(self, x_adv: np.ndarray, x: np.ndarray) -> Checked:
        """Check which adversarial images are valid: finite, in [0, 1], and not too far.

        Args:
            x_adv: what an attack gave, float32 [B, H, W, C].
            x: the originals, float32 [B, H, W, C].
        """
        flat = x_adv.reshape(len(x), -1)  # [B, H * W * C]
        finite = np.isfinite(flat).all(axis=1)
        inside = finite & (flat.min(axis=1) >= 0) & (flat.max(axis=1) <= 1)
        images = np.where(inside[:, None, None, None], x_adv, x)
        distance = np.where(inside, self.distance(images, x), np.nan)  # [B]
        near = distance <= self.eps + self.rounding(flat.shape[1])
        reasons = np.full(len(x), "", dtype=object)
        reasons[~near] = f"too far: {self.norm} distance above eps"
        reasons[~inside] = "outside [0, 1]"
        reasons[~finite] = "not finite: NaN or infinite values"
        return Checked(images, near, distance, reasons.tolist())


class Checked(NamedTuple):
    """What the rule for adversarial images says of a batch."""

    images: np.ndarray
    """Images float32 [B, H, W, C]; the original where values are not finite or outside [0, 1]."""
    valid: np.ndarray
    """Which ones are valid, bool [B]."""
    distance: np.ndarray
    """Distances float64 [B], NaN where values are not finite or outside [0, 1]."""
    reasons: list[str]
    """Why each is not valid; empty where it is."""


def ascend(
    objective: Callable[[Images], Any],
    x: Images,
    start: Images,
    threat: ThreatModel,
    steps: int,
    step_size: float,
) -> Images:
    """Find points of the balls around images where an objective is large.

    Projected gradient ascent (Madry et al. 2018, https://arxiv.org/abs/1706.06083).

    Args:
        objective: a function of points [B, H, W, C] that gives a scalar.
        x: images [B, H, W, C], the middles of the balls.
        start: the first points [B, H, W, C].
        threat: the threat model.
        steps: how many to take.
        step_size: in the threat model's norm.

    Returns:
        The last points [B, H, W, C], constants for what is differentiated around them.
    """
    x_adv = start
    for _ in range(steps):
        x_adv = threat.moved(x_adv, backend.input_gradient(objective, x_adv), x, step_size)
    return x_adv


@final
class Linf(ThreatModel):
    """Every value of an image moves by at most eps, which is at most 1.

    Sparring's images are floats in [0, 1]: eps 8/255 allows 8 levels of the usual 255.
    """

    norm, largest = "Linf", 1.0
    hint = "pixels are in [0, 1]. Did you mean {eps}/255?"

    @override
    def unlimited(self, shape: tuple[int, ...]) -> Linf:
        return Linf(1.0)

    @override
    def start(self, x: Images, uniform: Any) -> Images:
        return ops.clip(x + self.eps * (2 * uniform - 1), 0.0, 1.0)

    @override
    def direction(self, gradient: Any) -> Any:
        return ops.sign(gradient)

    @override
    def project(self, x_adv: Images, x: Images) -> Images:
        near = ops.minimum(ops.maximum(x_adv, x - self.eps), x + self.eps)
        return ops.clip(near, 0.0, 1.0)

    @override
    def distance(self, x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
        moved = x_adv.astype(np.float64) - x.astype(np.float64)
        return np.abs(moved).reshape(len(x), -1).max(axis=1)

    @override
    def rounding(self, size: int) -> float:
        # x + eps in [0, 1] is off by half a unit in the last place, 2^-25, and eps by as much.
        return 2.0**-24


@final
class L2(ThreatModel):
    """The Euclidean length of the change, over all values of an image, is at most eps."""

    norm, largest = "L2", 1e6  # in float32 the steps of far larger ones are infinite
    hint = "images of N values in [0, 1] are at most sqrt(N) apart"

    @override
    def unlimited(self, shape: tuple[int, ...]) -> L2:
        return L2(math.sqrt(math.prod(shape)))

    @override
    def start(self, x: Images, uniform: Any) -> Images:
        # A random direction, and a length that spreads points evenly along the radius.
        moved = 2 * uniform - 1
        lengths = uniform[:, :1, :1, :1]
        return ops.clip(x + self.eps * lengths * self.direction(moved), 0.0, 1.0)

    @override
    def direction(self, gradient: Any) -> Any:
        norms = _lengths(gradient)
        return gradient / ops.where(norms > 0, norms, 1.0)

    @override
    def project(self, x_adv: Images, x: Images) -> Images:
        moved = x_adv - x
        # Clipping to the cube afterwards brings a point only nearer to x, which lies in it.
        factor = ops.minimum(1.0, self.eps / ops.maximum(_lengths(moved), 1e-30))
        return ops.clip(x + moved * factor, 0.0, 1.0)

    @override
    def distance(self, x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
        moved = x_adv.astype(np.float64) - x.astype(np.float64)
        return np.sqrt(np.square(moved).reshape(len(x), -1).sum(axis=1))

    @override
    def rounding(self, size: int) -> float:
        # Each value off by 2^-25, and the length of the change by some units in the last place.
        return math.sqrt(size) * 2.0**-25 + 8 * 2.0**-24 * self.eps


THREATS: dict[str, type[ThreatModel]] = {"Linf": Linf, "L2": L2}
"""The threat models by name."""


def threat_model(norm: str, eps: float | str) -> ThreatModel:
    """Make a threat model.

    Args:
        norm: its name, in upper or lower case.
        eps: the radius, a number above 0 or text such as "4/255".

    Raises:
        SettingsError: for an unknown name, listing the valid ones, and for a wrong eps.
    """
    for name, kind in THREATS.items():
        if str(norm).lower() == name.lower():
            return kind(eps)  # type: ignore[arg-type] # text is read by __post_init__
    raise SettingsError(unknown_name("norm", str(norm), list(THREATS)))


def checked_threat(threat: Any) -> ThreatModel:
    """Give what should be a threat model; raise SettingsError when it is none."""
    if isinstance(threat, ThreatModel):
        return threat
    raise SettingsError(
        f"threat: expected a threat model, such as Linf(0.1) or L2(0.5), got {shown(threat)}"
    )


def _number(eps: Any) -> float:
    """A number, or text of one or of two integers with / between; nothing larger is built."""
    try:
        if isinstance(eps, str):
            numerator, slash, denominator = eps.partition("/")
            return int(numerator) / int(denominator) if slash else float(eps)
        if isinstance(eps, Real) and not isinstance(eps, bool):
            return float(eps)
    except (ValueError, ZeroDivisionError, OverflowError):
        pass  # no number, or one that no float can hold
    raise SettingsError(f"eps: expected a number such as 4/255, got {shown(eps)}")


def _lengths(x: Any) -> Any:
    return ops.sqrt(ops.sum(ops.square(x), axis=(1, 2, 3), keepdims=True))
