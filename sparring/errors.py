"""The errors Sparring raises for what a user can mend; anything else that escapes is a bug."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_LONGEST = 10_000  # letters of a message that is not ours


class SparringError(Exception):
    """Base of every error whose message tells the user what was expected and what came."""


class DataError(SparringError, ValueError):
    """A data set is missing, damaged, or not of the form that was expected."""


class SettingsError(SparringError, ValueError):
    """A name, a setting or an option is unknown or out of range."""


class RunError(SparringError, RuntimeError):
    """A run directory cannot be used: missing, unfinished, damaged, busy, or of other settings."""


class ConversionError(SparringError, RuntimeError):
    """A model could not be converted, or the converted one answers otherwise."""


class AttackError(SparringError, RuntimeError):
    """An attack raised, or ran past its time limit."""


class ModelError(SparringError, RuntimeError):
    """A model of one's own cannot be loaded, raised, or answers otherwise than was declared."""


class DefenseError(SparringError, RuntimeError):
    """The class of a defense of one's own cannot be found or loaded, or raised."""


class Diverged(SparringError, ArithmeticError):
    """Training met a loss or a weight that is not finite.

    Attributes:
        defense: its name.
        network: which of the defense's networks, counted from 0.
        seed: the seed it was trained with.
        epoch: counted from 1.
        step: within the epoch, counted from 1.
        learning_rate: at that step.
        losses: the last losses, at most 30, oldest first, the offending one last.
    """

    def __init__(
        self,
        what: str,
        *,
        defense: str,
        network: int,
        seed: int,
        epoch: int,
        step: int,
        learning_rate: float,
        losses: Sequence[float],
    ) -> None:
        """Make the message of `what` happened and where."""
        self.defense, self.network, self.seed = defense, network, seed
        self.epoch, self.step, self.learning_rate = epoch, step, learning_rate
        self.losses = list(losses)
        super().__init__(
            f"{defense} diverged: {what} in network {network + 1}, epoch {epoch}, step {step}, "
            f"at learning rate {learning_rate:.4g}, seed {seed}.\n"
            f"Last {len(self.losses)} losses: {' '.join(f'{loss:.4g}' for loss in self.losses)}\n"
            "Nothing was saved over earlier good weights. Another seed usually succeeds: "
            "--restarts 3 goes on with the next ones."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message and the attributes: what is unpickled is not initialized again."""
        return _made_of, (type(self), self.args), vars(self)


def _made_of(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    return kind.__new__(kind, *args)


def describe_invalid(error: Any) -> str:
    """Say what a pydantic ValidationError found, as "name: expected ..., got ...".

    Args:
        error: the ValidationError; typed loosely, so that this module needs no pydantic.

    Returns:
        One sentence a wrong value, separated by semicolons, without pydantic's links.
    """
    sentences = []
    for wrong in error.errors(include_url=False):
        name = ".".join(str(part) for part in wrong["loc"]) or "value"
        expected = wrong["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if wrong["type"] == "missing":
            sentences.append(f"{name}: expected a value, found none")
        else:
            sentences.append(f"{name}: expected {expected}, got {wrong['input']!r:.80}")
    return "; ".join(sentences)


def kind_of(value: object) -> str:
    """Give the name of a value's type, whatever a metaclass says."""
    name: str = vars(type)["__name__"].__get__(type(value))
    return name


def told(error: BaseException) -> str:
    """Give an error's type and message, as "TypeError: message", whatever its own code does."""
    try:
        message = str(error)
    except Exception:
        message = "its message cannot be shown"
    message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
    return f"{kind_of(error)}: {message}" if message else kind_of(error)


def printable(text: str) -> str:
    """Escape what does not print, line breaks and lone surrogates, as Python does."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def shown(value: object, limit: int = 80) -> str:
    """Show a value in a message, in one line, cut short; one whose repr fails by its type.

    Args:
        value: any.
        limit: how many characters there may be.
    """
    try:
        text = printable(re.sub(r"\s*\n\s*", " ", repr(value)))
    except Exception:
        text = f"<{kind_of(value)}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def unknown_name(what: str, name: str, valid: Sequence[str]) -> str:
    """Say that a name is none of the valid ones, and which one was likely meant.

    Args:
        what: the kind of thing that is named, such as "defense".
        name: the name that came.
        valid: every name there is.

    Returns:
        One line for an error's message.
    """
    from difflib import get_close_matches

    close = get_close_matches(name[:80], valid, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r:.80}.{hint} Valid: {', '.join(valid)}."
