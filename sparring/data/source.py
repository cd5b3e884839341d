"""`Source`: what a file of this package has to say of the data set that it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from sparring.data.dataset import Dataset


class Source(ABC):
    """A built-in data set: its name, its usual eps, and where its images come from."""

    name: ClassVar[str]
    """The name that `sparring train --data NAME` takes, and the data set's key."""
    description: ClassVar[str]
    """One line: the images, their number and size."""
    usual_eps: ClassVar[Mapping[str, float]] = MappingProxyType({})
    """The radius of the threat model unless told otherwise, by norm ("Linf", "L2"), for images in
    [0, 1]. Without one for a norm, users have to give eps."""

    @abstractmethod
    def load(self, folder: Path | None) -> Dataset:
        """Read the images and labels.

        Args:
            folder: folder with the files, which exists; None downloads them or takes those kept
                from a download. An embedded data set needs neither.

        Returns:
            The data set, of any name: `sparring.data.load` sets its name and key.

        Raises:
            DataError: for files that are missing, damaged or of another kind.
        """

    def files(self, folder: Path | None) -> list[Path]:
        """List the files that `load` reads, without reading them; none for an embedded data set.

        Args:
            folder: as for `load`; None stands for those kept from a download.

        Raises:
            DataError: when one is missing; names it.
        """
        return []
