"""Options of attacks: declared with what they may be, and checked when an attack is made.

    @dataclass(frozen=True)
    class Mine(Options):
        steps: int = integer(40)

NumPy's numbers are taken as Python's. What is declared otherwise is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from sparring.errors import SettingsError, shown, unknown_name

RUN = "run"
"""In the metadata of a field: it may be a run directory, a text, in whose place `sparring.evaluate`
puts the defense."""

LARGEST = 2**31 - 1
"""The largest integer that an option may be: tensors' integers are of 32 bits."""


@dataclass(frozen=True)
class Options:
    """A frozen dataclass whose fields are options, each checked when it is made.

    Raises:
        SettingsError: for a wrong value.
    """

    def __post_init__(self) -> None:
        """Check the options."""
        for option in fields(self):
            if read := option.metadata.get("read"):
                value = read(option.name, getattr(self, option.name))
                object.__setattr__(self, option.name, value)


def integer(default: int, least: int = 1) -> Any:
    """Declare an integer of `least` or more, at most LARGEST."""

    def read(name: str, value: Any) -> int:
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
            raise SettingsError(
                f"{name}: expected an integer of {least} or more, got {shown(value)}"
            )
        if int(value) > LARGEST:
            raise SettingsError(f"{name}: expected at most {LARGEST}, got {shown(value)}")
        return int(value)

    return field(default=default, metadata={"read": read})


def number(
    default: float | None,
    expected: str = "a finite number",
    within: Callable[[float], bool] = math.isfinite,
) -> Any:
    """Declare a number.

    Args:
        default: its default; where that is None, None is taken too.
        expected: in words, what it has to be.
        within: whether a number, NaN and infinity included, is so.
    """

    def read(name: str, value: Any) -> float | None:
        if value is None and default is None:
            return None
        if not isinstance(value, Real) or isinstance(value, bool) or not within(_float(value)):
            raise SettingsError(f"{name}: expected {expected}, got {shown(value)}")
        return int(value) if isinstance(value, Integral) else float(value)

    return field(default=default, metadata={"read": read})


def _float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def flag(default: bool) -> Any:
    """Declare true or false."""

    def read(name: str, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise SettingsError(f"{name}: expected true or false, got {shown(value)}")
        return bool(value)

    return field(default=default, metadata={"read": read})


def choice(default: str, valid: Collection[str]) -> Any:
    """Declare one of several names."""

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise SettingsError(f"{name}: expected {' or '.join(valid)}, got {shown(value)}")
        if value not in valid:
            raise SettingsError(unknown_name(name, value, list(valid)))
        return str(value)

    return field(default=default, metadata={"read": read})
