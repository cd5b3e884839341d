"""What a defense says of itself for those who do not import it, and for other rooms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from sparring.errors import DefenseError

_PUBLISHED_FOR = "cifar10", "Linf", 4 / 255
"""Data set, norm and radius that `published_success` is of."""


@dataclass(frozen=True)
class Description:
    """What a defense is, readable without a framework; `Defense` describes the attributes."""

    name: str
    idea: str
    hints: tuple[str, ...]
    networks: str
    stochastic: bool
    differentiable: bool
    detects: bool
    threshold: float
    borrows: str | None
    outside: str
    published_success: int | None
    step_cost: float

    @classmethod
    def of(cls, defense: Any) -> Self:
        """Describe a class, or a defense; what it is not itself is `Defense`'s."""
        return cls(**{part.name: getattr(defense, part.name) for part in fields(cls)})

    def published_for(self, key: str | None, norm: str, eps: float) -> float | None:
        """Give the course's best published success, where it was published for just that.

        Args:
            key: `Dataset.key`.
            norm: of the threat model.
            eps: its radius.

        Returns:
            The share broken of all images, those misclassified unattacked included; None where
            nobody published one for this data set and threat model.
        """
        same = (key, norm) == (_PUBLISHED_FOR[:2]) and math.isclose(eps, _PUBLISHED_FOR[2])
        return self.published_success / 100 if same and self.published_success else None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the class of a defense came from that is not Sparring's own.

    Attributes:
        qualname: its name in its file or module.
        file: the path of its file; None of an installed class, and of one typed into a prompt.
        sha256: the hash of its file, but not of what that imports; None where there is no file.
        module: the name that it is imported by; None of a file that was run.
        distribution: the installed package that brought it.
        version: of that package.
    """

    qualname: str
    file: str | None = None
    sha256: str | None = None
    module: str | None = None
    distribution: str | None = None
    version: str | None = None

    def elsewhere(self) -> str | None:
        """Give what names the class in any folder and process; None where the defense's name does.

        Raises:
            DefenseError: it is in the memory of this process alone.
        """
        if self.module is None:
            return f"{self.file}:{self.qualname}"
        if self.distribution is not None:
            return None
        raise DefenseError(
            f"another process cannot find {self}, which is in this process's memory: put it into a "
            "file and name that, as mydefense.py, or do without other processes"
        )

    def same_code(self, other: Origin) -> bool:
        """Whether another one is of the same code, as far as hash and version tell."""
        own, theirs = (self.sha256, self.version), (other.sha256, other.version)
        return own == theirs

    def __str__(self) -> str:
        """Name it for people."""
        hashed = f", SHA-256 {self.sha256:.12}" if self.sha256 else ""
        if self.distribution is not None:
            package = f"{self.distribution} {self.version or ''}".rstrip()
            return f"{self.module}:{self.qualname} of the package {package}{hashed}"
        if self.module is not None:
            return f"the class {self.module}.{self.qualname}{hashed}"
        return f"{self.file}:{self.qualname}{hashed}"


@dataclass(frozen=True, kw_only=True)
class CourseArray:
    """An array that the course kept beside a defense's networks."""

    name: str
    """Its name in `Defense.arrays`."""
    file: str
    """Its file in the folder of the first network."""
    shape: tuple[int | str, ...]
    """Its sizes: numbers, or names. classes, height, width, channels and features (what enters the
    head) are known; any other name stands for one size, the same wherever it occurs."""
    dtype: str = "float32"
    """Its type here."""
    column: bool = False
    """Whether the course kept [N] as [N, 1]."""
    unit: bool = False
    """Whether its rows are scaled to length 1 when read."""

    def shape_for(self, found: Sequence[int], sizes: dict[str, int]) -> tuple[int, ...]:
        """Give the shape that it has to have.

        Args:
            found: the shape that it has.
            sizes: those that are known, by name; one that is not is found's, and noted here.
        """
        lengths = found if len(found) == len(self.shape) else [0] * len(self.shape)
        return tuple(
            sizes.setdefault(size, length) if isinstance(size, str) else size
            for size, length in zip(self.shape, lengths, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class CourseFiles:
    """How the course kept a defense, for the conversion from and to its checkpoints."""

    folders: tuple[str, ...]
    """The folder of each network, below the folder of checkpoints."""
    arrays: tuple[CourseArray, ...] = ()
    """What lies beside the networks."""
    classes: int | None = None
    """How many classes there are, where outputs of a network do not say it."""
    channels: int = 1
    """How many channels the transform makes of one."""
    served: tuple[tuple[str, str], ...] = ()
    """Settings used in answering, whose values the course's program has fixed: the name, and what
    that program does with it."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """How a defense has to do on the digits with the fast preset; tests hold it to that.

    Shares of images; of those answered rightly where an attack is concerned.
    """

    accuracy: float = 0.8
    """The least test accuracy."""
    pgd: tuple[float, float] = (0.0, 1.0)
    """The least and most that 20 steps along the cross entropy break within Linf 0.1."""
    reference: float = 0.0
    """The least that the reference attack breaks within Linf 0.15."""
    gain: float = -0.1
    """By how much more that is than what PGD breaks there."""
    images: int = 40
    """How many images the reference attack is tried on."""
