"""Attacks of a user's own: from a file, and with options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sparring.errors import (
    AttackError,
    SettingsError,
    SparringError,
    kind_of,
    shown,
    told,
    unknown_name,
)
from sparring.usercode import module_name, run, where

_WHAT = "attack"  # what files are run for

Attack = Callable[[Any, Any, Any, Any], Any]
"""attack(defense, x, y, threat) gives adversarial images [B, H, W, C], tensor or numpy array."""


def from_file(path: Path, options: Mapping[str, Any]) -> Attack:
    """Run a Python file and take the attack that it defines.

    Args:
        path: of the file.
        options: of its attack.

    Returns:
        An instance of its class `Attack`, else its function `attack`.

    Raises:
        AttackError: there is no such file, it cannot be run, or it defines no attack.
        SettingsError: an option is unknown or wrong, or its attack cannot be called as one.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise AttackError(f"{path}: {found}; expected a Python file that defines attack")
    module = run(path, _WHAT, AttackError)
    for name in ("Attack", "attack"):
        attack = vars(module).get(name)
        if callable(attack) and attack is not Attack:  # which a file may import as a type
            try:
                return checked(with_options(attack, options), f"{path}: {name}: ")
            except (SparringError, KeyboardInterrupt):
                raise
            except BaseException as error:  # its own, SystemExit, ...
                raise AttackError(f"{path}: {name}: {told(error)}{where(error, False)}") from error
    raise AttackError(
        f"{path}: expected a function attack(defense, x, y, threat) or a class Attack in it"
    )


def defined(path: Path, names: Collection[str]) -> dict[str, Callable[..., Any]]:
    """Give functions that a file defines besides its attack.

    Args:
        path: of the file, which `from_file` ran in this process.
        names: which functions; those that it does not define are left out.

    Returns:
        They, by name.
    """
    module = sys.modules.get(module_name(path, _WHAT))
    own = {} if module is None else vars(module)
    return {name: own[name] for name in names if callable(own.get(name))}


def with_options(attack: Callable[..., Any], options: Mapping[str, Any]) -> Attack:
    """Set the options of an attack.

    Args:
        attack: a class, whose arguments they are; an instance of a dataclass, whose fields they
            are; or a function, whose arguments with a default they are.
        options: by name.

    Raises:
        SettingsError: an option is unknown or wrong, or one that the class needs is missing.
    """
    if is_dataclass(attack) and not isinstance(attack, type):
        given = {part.name: getattr(attack, part.name) for part in fields(attack) if part.init}
        return with_options(partial(type(attack), **given), options) if options else attack
    is_class = inspect.isclass(attack.func if isinstance(attack, partial) else attack)
    named = _parameters(attack)
    needed = [part.name for part in named if part.default is part.empty]
    valid = [part.name for part in named if is_class or part.name not in needed]
    for name in options:
        if name not in valid:
            raise SettingsError(unknown_name("option of the attack", name, valid or ["none"]))
    if not is_class:
        return partial(attack, **options) if options else attack
    if missing := [name for name in needed if name not in options]:
        name = getattr(attack, "func", attack).__name__
        raise SettingsError(
            f"{name}: expected a value for {', '.join(missing)}, got none; give an "
            f"option (-o {missing[0]}=...), or a default in the class"
        )
    return attack(**options)


def _parameters(attack: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that have a name; none of what is written in C and does not tell."""
    try:
        signature = inspect.signature(attack, follow_wrapped=False)
    except (TypeError, ValueError):
        return []
    parameters = signature.parameters.values()
    return [part for part in parameters if part.kind not in (part.VAR_POSITIONAL, part.VAR_KEYWORD)]


def checked(attack: Any, whose: str = "attack: ") -> Attack:
    """Check that something can be called as an attack is, without calling it.

    Args:
        attack: what should be an attack.
        whose: begins the message of an error.

    Returns:
        The attack.

    Raises:
        SettingsError: it cannot.
    """
    expected = f"{whose}expected a function attack(defense, x, y, threat)"
    if inspect.isclass(attack):
        name = attack.__name__
        raise SettingsError(f"{expected} or an instance such as {name}(), got the class {name}")
    if not callable(attack):
        raise SettingsError(
            f"{expected}, a name such as 'pgd' or a file ending in .py, got {shown(attack)}"
        )
    try:
        signature = inspect.signature(attack, follow_wrapped=False)
    except Exception:  # what is written in C may have none
        return attack
    try:
        signature.bind("defense", "x", "y", "threat")
    except TypeError as error:
        name = getattr(attack, "__name__", kind_of(attack))
        raise SettingsError(f"{expected}, got {name}{signature}: {error}") from None
    return attack
