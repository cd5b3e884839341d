"""What every kind of model looks like from here on: a net, one small adapter for each kind."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NoReturn, Self

import numpy as np

from sparring.backend import ops
from sparring.errors import AttackError

WITHOUT_GRADIENTS = (
    "it gives answers alone, no gradients. Attacks that need none: square, noise, transfer with "
    "-o source=RUN, or an attack of your own on sparring.attacks.Estimated(defense)"
)


class Net(ABC):
    """A model, asked in its own layout.

    Attributes:
        variables: Keras variables, all that its answers follow from and that may be changed.
        notes: what its user should know of how it was taken.
        batch: how many images it takes at a time; None for any number.
    """

    kind: ClassVar[str]
    """What it is, in words."""
    layout: ClassVar[str] = "NCHW"
    """The usual order of axes, see `Form`."""
    outputs: ClassVar[str] = "logits"
    """What it usually gives."""
    gradients: ClassVar[bool] = True
    """Whether gradients may flow through it."""
    compiled: ClassVar[bool] = True
    """Whether the backend may trace it."""

    def __init__(self) -> None:
        """Have no variables."""
        self.variables: list[Any] = []
        self.notes: list[str] = []
        self.batch: int | None = None

    @abstractmethod
    def __call__(self, x: Any, seed: Any = None) -> Any:
        """Ask the model.

        Args:
            x: images float32 in [0, 1], a tensor of the running backend in the model's layout.
            seed: an integer, or a tensor int32 [], that draws follow from; None for a model that
                draws nothing.

        Returns:
            What it gives, tensors of the running backend of any float dtype.
        """

    def parts(self) -> Iterator[tuple[str, np.ndarray]]:
        """Give the arrays that tell its weights from others', by name, in an order that stays."""
        for number, variable in enumerate(self.variables):
            yield f"{number} {variable.path}", np.array(ops.convert_to_numpy(variable.value))

    def sha256(self) -> str | None:
        """Hash its weights as they are now; None where there is nothing to hash."""
        digest, some = hashlib.sha256(), False
        for name, array in self.parts():
            little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            digest.update(f"{name} {little_endian.dtype.str} {array.shape}\n".encode())
            digest.update(little_endian.tobytes())
            some = True
        return digest.hexdigest() if some else None

    def structure(self) -> str:
        """Say how it is put together, as far as it says that itself; alike in every process."""
        return ""

    def second(self) -> Self:
        """Copy it with its weights; itself where it cannot be copied."""
        return self

    @property
    def size(self) -> int:
        """The number of its weights, as far as it is known."""
        return sum(int(np.prod(variable.shape)) for variable in self.variables)


def refuse(name: str) -> NoReturn:
    """Raise AttackError for who wants the gradient of a model that has none.

    Args:
        name: of the model.
    """
    raise AttackError(f"{name}: the attack needs gradients of the model, and {WITHOUT_GRADIENTS}")


def integer(seed: Any) -> int:
    """Give a seed that has a value as an integer of Python's.

    Args:
        seed: an integer, or integers, of which the first counts; array or tensor.
    """
    values = ops.convert_to_numpy(seed) if ops.is_tensor(seed) else np.asarray(seed)
    return int(values.ravel()[0])
