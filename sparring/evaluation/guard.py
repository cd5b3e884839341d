"""The guard: finds what an attack changed of a defense, and puts it back; and second copies."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np

from sparring.attacks.gradients import copied
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.threat import ThreatModel

_ABSENT = object()

_CLOSED = (".info", ".settings", ".nets", ".arrays", "_hooks")
"""Dicts and lists of a defense that nothing may be added to, besides its own attributes."""

_NOTED_BY_PYTHON = ("_abc_", "__annot", "__slotnames__")
"""What Python itself notes in classes: by copying, pickling, asking for annotations."""


class Guard:
    """A defense as it was when the guard was made.

    Watched are the values of its variables and arrays, its attributes and those of its networks,
    with the lists and dicts in them, and the attributes of the classes of all these. An integer
    that asking the defense moves, as a count of its queries, may be moved that way.

    Args:
        defense: the defense, once it has answered; what is compiled later may be added to it.
        threat: the threat model, whose class is watched too.
    """

    def __init__(self, defense: Defense, threat: ThreatModel) -> None:
        """Note how everything is."""
        self._defense = defense
        self._variables = [
            (f"{variable.name} of network {number}", variable, _values(variable))
            for number, net in enumerate(defense.nets, 1)
            for variable in net.variables
        ]
        self._kinds = [
            (name, owner, type(owner))
            for name, owner in (
                ("defense", defense),
                *((f"defense.nets[{number}]", net) for number, net in enumerate(defense.nets)),
            )
        ]
        self._parts: list[_Part] = []
        self._arrays: list[tuple[str, np.ndarray, np.ndarray]] = []
        seen: set[int] = set()
        for name, owner in (
            ("defense", defense),
            ("defense.info", defense.info),
            ("defense.settings", defense.settings),
            *((f"defense.nets[{number}]", net) for number, net in enumerate(defense.nets)),
        ):
            self._watch(name, getattr(owner, "__dict__", {}), seen, owner in defense.nets)
        for kind in {type(each) for each in (defense, threat, *defense.nets)}:
            for base in kind.__mro__[:-1]:
                if id(base) not in seen:
                    seen.add(id(base))
                    self._parts.append(_Part(base.__name__, base, dict(vars(base))))

    def _watch(self, name: str, value: Any, seen: set[int], of_net: bool = False) -> None:
        """Note what a dict, list or tuple holds, and all within it."""
        if isinstance(value, np.ndarray):
            self._arrays.append((name, value, value.copy()))
        if not isinstance(value, dict | list | tuple) or id(value) in seen:
            return
        seen.add(id(value))
        content = _content(value)
        self._parts.append(_Part(name, value, content, of_net))
        for key, inner in content.items():
            self._watch(f"{name}.{key}", inner, seen)

    def restore(self) -> list[str]:
        """Put back what is not as it was.

        Returns:
            What that is, in words.
        """
        changed, counts = self._put_back()
        if counts:
            x = ops.zeros((1, *self._defense.info.shape))
            for ask in (self._defense.logits, self._defense.probabilities, self._defense.scores):
                ask(x)
            _, own = self._put_back()
            for name, (part, key, moved) in counts.items():
                if name in own and moved * own[name][2] > 0:
                    part.before[key] += moved
                    part.put(key, part.before[key])
                    changed.remove(name)
        return changed

    def _put_back(self) -> tuple[list[str], dict[str, tuple[_Part, Any, int]]]:
        """Put back what is not as it was; tell what that is, and by how much integers moved."""
        changed: list[str] = []
        counts = {}
        for name, owner, kind in self._kinds:
            if type(owner) is not kind:
                owner.__class__ = kind
                changed.append(f"{name}.__class__")
        for part in self._parts:
            for key, moved in part.restore():
                changed.append(f"{part.name}.{key}")
                if moved:
                    counts[changed[-1]] = part, key, moved
        for name, array, before in self._arrays:
            if array.tobytes() != before.tobytes():
                array.setflags(write=True)
                array[...] = before
                changed.append(name)
        for name, variable, before in self._variables:
            if not np.array_equal(_values(variable), before, equal_nan=True):
                _assign(variable, before)
                changed.append(name)
        return changed, counts


@dataclass(frozen=True)
class _Part:
    """A dict, list, tuple or class, and what it held.

    Of a network's attributes those are passed over that Keras and PyTorch keep for themselves.
    """

    name: str
    of: Any
    before: dict[Any, Any]
    of_net: bool = False

    def restore(self) -> Iterator[tuple[Any, int]]:
        """Put back what it held; give the keys of what was changed, and how far integers moved."""
        now = _content(self.of)
        for key in {**self.before, **now}:
            value = self.before.get(key, _ABSENT)
            if now.get(key, _ABSENT) is value or self._may_change(key, value):
                continue
            self.put(key, value)
            left = now.get(key, _ABSENT)
            count = isinstance(self.of, dict | type) and type(left) is type(value) is int
            yield key, left - value if count else 0

    def put(self, key: Any, value: Any) -> None:
        """Let a key have a value again, or none; a list gets all of its own again."""
        if isinstance(self.of, list):
            self.of[:] = self.before.values()
        elif isinstance(self.of, type):
            delattr(self.of, key) if value is _ABSENT else setattr(self.of, key, value)
        elif value is _ABSENT:
            del self.of[key]
        else:
            self.of[key] = value

    def _may_change(self, key: Any, before: Any) -> bool:
        """Whether answers do not depend on this."""
        if self.of_net:
            private = key.startswith("_") and not key.endswith("_hooks")
            return private or key == "training"
        if isinstance(self.of, type):
            return key.startswith(_NOTED_BY_PYTHON)
        # What a defense itself keeps while it answers, as what it has compiled, may grow.
        return before is _ABSENT and "." in self.name and not self.name.endswith(_CLOSED)


def second_copy(defense: Defense) -> Defense:
    """Copy a defense with its weights, so that what is done to the copy is not done to it.

    Networks are those of `Defense.second_nets`. What a defense of one's own keeps besides arrays,
    tensors, lists and dicts is shared.
    """
    twin: Defense = copied(defense)
    for name, value in vars(defense).items():
        setattr(twin, name, _own(value))
    twin._compiled = {}
    twin.nets = defense.second_nets()
    return twin


def _own(value: Any) -> Any:
    """Copy arrays and tensors, alone or in lists and dicts; data set and settings are values."""
    if isinstance(value, dict):
        return {key: _own(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_own, value))
    if ops.is_tensor(value):
        return ops.copy(value)
    return copy.copy(value) if isinstance(value, np.ndarray) or is_dataclass(value) else value


def _content(value: Any) -> dict[Any, Any]:
    """What a dict, list, tuple or class holds, by key or index."""
    if isinstance(value, type):
        return dict(vars(value))
    return dict(value) if isinstance(value, dict) else dict(enumerate(value))


def _values(variable: Any) -> np.ndarray:
    """A variable's values, copied; an empty array where an attack has deleted them."""
    try:
        return np.array(ops.convert_to_numpy(variable.value))
    except RuntimeError:
        return np.empty(0)


def _assign(variable: Any, before: np.ndarray) -> None:
    """Give a variable its values; a new tensor where its own has another shape, or takes none."""
    try:
        variable.assign(before)
    except RuntimeError:
        variable._initialize(before)
