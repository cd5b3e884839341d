"""Threat models: how far an attack may move an image, used by attacks and by the judge alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, final

import numpy as np
from keras import ops

from sparring.errors import SettingsError, unknown_name


@dataclass(frozen=True, repr=False)
class ThreatModel(ABC):
    """A ball of radius eps around an image, within the cube [0, 1] that images live in.

    Attributes: `eps`, a float above 0; also taken as text, such as "4/255" or "0.0157". Raises
    SettingsError for anything else.

    Methods named in the plural sense of tensors work on batches float32 [B, H, W, C] of the running
    backend; `distance` works on numpy arrays in float64, so that the judge does not repeat an
    attack's rounding.
    """

    eps: float
    norm: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", _number(self.eps))
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise SettingsError(f"eps: expected a number above 0, got {self.eps!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.eps:.6g})"

    def scaled(self, factor: float) -> ThreatModel:
        """The same norm with eps times `factor`."""
        return replace(self, eps=self.eps * factor)

    @abstractmethod
    def unlimited(self, shape: tuple[int, ...]) -> ThreatModel:
        """The same norm with an eps within which every image [H, W, C] of `shape` lies."""

    @abstractmethod
    def start(self, x: Any, uniform: Any) -> Any:
        """A random point of the ball; `uniform` [B, H, W, C] are draws from [0, 1)."""

    @abstractmethod
    def direction(self, gradient: Any) -> Any:
        """The step of size 1 in this norm that gains most along a gradient; 0 where that is 0."""

    @abstractmethod
    def project(self, x_adv: Any, x: Any) -> Any:
        """The nearest points of the ball around x, then clipped to [0, 1]."""

    @abstractmethod
    def distance(self, x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Distances [B], in float64."""

    @abstractmethod
    def rounding(self, size: int) -> float:
        """How far float32 rounding of an image with `size` values may carry it beyond eps."""


@final
class Linf(ThreatModel):
    """Every value of an image moves by at most eps, which is at most 1.

    Sparring's images are floats in [0, 1]: eps 8/255 allows 8 levels of the usual 255.
    """

    norm = "Linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps > 1:
            raise SettingsError(
                f"eps: expected at most 1 for Linf, got {self.eps:g}; pixels are in [0, 1]. "
                f"Did you mean {self.eps:g}/255?"
            )

    def scaled(self, factor: float) -> Linf:
        return Linf(min(1.0, self.eps * factor))

    def unlimited(self, shape: tuple[int, ...]) -> Linf:
        return Linf(1.0)

    def start(self, x: Any, uniform: Any) -> Any:
        return ops.clip(x + self.eps * (2 * uniform - 1), 0.0, 1.0)

    def direction(self, gradient: Any) -> Any:
        return ops.sign(gradient)

    def project(self, x_adv: Any, x: Any) -> Any:
        near = ops.minimum(ops.maximum(x_adv, x - self.eps), x + self.eps)
        return ops.clip(near, 0.0, 1.0)

    def distance(self, x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
        moved = x_adv.astype(np.float64) - x.astype(np.float64)
        return np.abs(moved).reshape(len(x), -1).max(axis=1)

    def rounding(self, size: int) -> float:
        # x + eps in [0, 1] is off by half a unit in the last place, 2^-25, and eps by as much.
        return 2.0**-24


@final
class L2(ThreatModel):
    """The Euclidean length of the change, over all values of an image, is at most eps."""

    norm = "L2"

    def unlimited(self, shape: tuple[int, ...]) -> L2:
        return L2(math.sqrt(math.prod(shape)))

    def start(self, x: Any, uniform: Any) -> Any:
        # A random direction, and a length that spreads points evenly along the radius.
        moved = 2 * uniform - 1
        lengths = uniform[:, :1, :1, :1]
        return ops.clip(x + self.eps * lengths * self.direction(moved), 0.0, 1.0)

    def direction(self, gradient: Any) -> Any:
        norms = _lengths(gradient)
        return gradient / ops.where(norms > 0, norms, 1.0)

    def project(self, x_adv: Any, x: Any) -> Any:
        moved = x_adv - x
        # Clipping to the cube afterwards brings a point only nearer to x, which lies in it.
        factor = ops.minimum(1.0, self.eps / ops.maximum(_lengths(moved), 1e-30))
        return ops.clip(x + moved * factor, 0.0, 1.0)

    def distance(self, x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
        moved = x_adv.astype(np.float64) - x.astype(np.float64)
        return np.sqrt(np.square(moved).reshape(len(x), -1).sum(axis=1))

    def rounding(self, size: int) -> float:
        # Each value off by 2^-25, and the length of the change by some units in the last place.
        return math.sqrt(size) * 2.0**-25 + 8 * 2.0**-24 * self.eps


THREATS: dict[str, type[ThreatModel]] = {"Linf": Linf, "L2": L2}


def threat_model(norm: str, eps: float | str) -> ThreatModel:
    """The threat model of that name, in any case; raises SettingsError listing the valid ones."""
    for name, kind in THREATS.items():
        if norm.lower() == name.lower():
            return kind(eps)  # type: ignore[arg-type] # text is read by __post_init__
    raise SettingsError(unknown_name("norm", norm, list(THREATS)))


def _number(eps: Any) -> float:
    if isinstance(eps, str):
        try:
            return float(Fraction(eps.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            raise SettingsError(f"eps: expected a number such as 4/255, got {eps!r}") from None
    if isinstance(eps, bool) or not isinstance(eps, int | float | np.floating):
        raise SettingsError(f"eps: expected a number such as 4/255, got {eps!r}")
    return float(eps)


def _lengths(x: Any) -> Any:
    return ops.sqrt(ops.sum(ops.square(x), axis=(1, 2, 3), keepdims=True))
