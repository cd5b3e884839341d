"""What a user wrote as YAML, on the command line or in a file: values, and nothing that works.

Numbers, texts, true, false and null are YAML 1.2's, whose numbers are Python's too: 1e-2 is one,
`yes` and 1:40 are texts. Aliases, anchors, tags, names given twice and deep nesting are refused.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from typing_extensions import override

from sparring.errors import SettingsError

MOST_BYTES = 32 << 10
"""How long a config file or a value may be."""

_MOST_LEVELS = 10
_LARGEST = 10**18  # of integers: fits in 64 bits
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Entry(NamedTuple):
    """What a config file says of one name."""

    name: str
    """The name, with underscores."""
    value: Any
    """A number, text, true, false, None, list or dictionary of such."""
    place: str
    """The file and the line, for messages."""
    texts: Sequence[str]
    """The value, or those of a list, as written: 1e3, which as a value is 1000.0."""


def read_value(text: str) -> Any:
    """Read one value that was written as YAML.

    Args:
        text: such as "0.01", "true", "margin" or "[1, 2]".

    Returns:
        A number, text, true, false, None, list or dictionary of such.

    Raises:
        SettingsError: for what is no YAML, is more than values, or is very long.
    """
    if len(text) > MOST_BYTES:
        raise SettingsError(f"expected at most {MOST_BYTES:,} characters, got {len(text):,}")
    try:
        node = yaml.compose(text, Loader=_Composer)
        return None if node is None else _value(node)
    except yaml.YAMLError as error:
        raise SettingsError(_sentence(error)) from error


def read_file(path: Path) -> list[Entry]:
    """Read a file of lines `name: value`.

    Args:
        path: a file in UTF-8 of at most `MOST_BYTES`.

    Returns:
        Its entries in their order; those below `settings` have the name "settings.NAME".

    Raises:
        SettingsError: naming the file and the line of what is wrong.
    """
    try:
        status = path.stat()  # opening a pipe would wait for its writer
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(f"{path}: expected a file, found a folder, pipe or device")
        if status.st_size > MOST_BYTES:
            raise SettingsError(
                f"{path}: expected a file of at most {MOST_BYTES:,} bytes, found {status.st_size:,}"
            )
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=_Composer)
        return [] if node is None else list(_entries(node, path))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: expected text in UTF-8 ({error})") from error
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}, {_sentence(error)}") from error


def _entries(node: yaml.Node, path: Path, prefix: str = "") -> Iterator[Entry]:
    """List the lines of a mapping, and of the one called settings in it."""
    for name, value in _pairs(node, "expected lines of name: value").items():
        place = f"{path}, line {value.start_mark.line + 1}"
        if name == "settings" and not prefix:
            if not (isinstance(value, yaml.ScalarNode) and _value(value) is None):
                yield from _entries(value, path, "settings.")
        else:
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            texts = [part.value for part in parts if isinstance(part, yaml.ScalarNode)]
            yield Entry(prefix + name.replace("-", "_"), _value(value), place, texts)


class _Composer(yaml.BaseLoader):
    """Makes nodes of YAML; refuses what values have no need of before it is made."""

    _level = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise _Refused(event, "aliases and anchors (* and &) are not taken: write values out")
        if event.tag:
            raise _Refused(event, "tags (!) are not taken: write plain values")
        if self._level >= _MOST_LEVELS:
            raise _Refused(event, f"expected at most {_MOST_LEVELS} lists within another")
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node


class _Refused(yaml.MarkedYAMLError):
    def __init__(self, at: Any, problem: str) -> None:
        super().__init__(problem=problem, problem_mark=at.start_mark)


def _sentence(error: yaml.YAMLError) -> str:
    """Say in one line what YAML's parser found, and in which line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return f"line 1: {error}".replace("\n", " ")


def _pairs(node: yaml.Node, expected: str) -> dict[str, yaml.Node]:
    """Give the nodes of a mapping by name."""
    if not isinstance(node, yaml.MappingNode):
        raise _Refused(node, expected)
    pairs: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused(key, "expected a name before the colon")
        name = key.value.replace("-", "_")
        if name in pairs:
            raise _Refused(key, f"{key.value} is given twice")
        pairs[name] = value
    return pairs


def _value(node: Any) -> Any:
    """Make the value of a node."""
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {name: _value(item) for name, item in _pairs(node, "").items()}
    if node.style is not None:  # quoted, or a block of text
        return node.value
    if node.value in _CONSTANTS:
        return _CONSTANTS[node.value]
    try:
        return _number(node.value)
    except SettingsError as error:
        raise _Refused(node, str(error)) from error
    except ValueError:
        return node.value


def _number(text: str) -> int | float:
    """Read a number as Python does; ValueError for a text that is none."""
    if "_" in text:  # Python's numbers have them, YAML's have not
        raise ValueError(text)
    number: int | float
    try:
        number = int(text, 0)
    except ValueError:
        number = float(text)
    if re.match(r"[-+]?0[0-9]", text):
        raise SettingsError(f"expected a number without 0 before it, or {text!r} in quotes")
    overflown = abs(number) == math.inf and text[-1].isdigit()  # 1e400, not inf
    if overflown or (isinstance(number, int) and abs(number) > _LARGEST):
        raise SettingsError(f"expected a smaller number, got {text:.20}")
    return number
