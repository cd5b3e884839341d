"""Settings: the hyperparameters of one training, and the one function that decides them.

A defense says in one table, keyed by preset and data set, what it wants otherwise than the table
that all defenses share. `resolve` reads both and says where each value came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from sparring.errors import SettingsError, shown, unknown_name

PRESETS = ("course", "fast")
"""Ways to train: as the course did, or the same networks and losses in a fraction of the time."""

_KINDS: Mapping[Any, str] = {int: "an integer", float: "a number"}
# What tensors hold; Python's numbers are larger.
_LARGEST: Mapping[Any, float] = {int: 2**31 - 1, float: 3e38}
# pydantic takes True for the choice 1.
_no_bool = BeforeValidator(lambda value: str(value) if isinstance(value, bool) else value)
_Side = Annotated[Literal[1, 3], _no_bool]

Table = Mapping[tuple[str, str], Mapping[str, Any]]
"""Settings by preset and key of a built-in data set; "*" stands for any."""


def setting(default: Any, text: str, expected: str = "", **bounds: Any) -> Any:
    """Declare one setting.

    Args:
        default: the value where nothing else decides.
        text: one line of help, without a period.
        expected: the range in words, for help and errors; empty where the type says it.
        **bounds: the range as pydantic's constraints: ge, gt, le, lt.

    Returns:
        A pydantic field.
    """
    return Field(default, description=text, json_schema_extra={"expected": expected}, **bounds)


class Settings(BaseModel):
    """The hyperparameters of one training; the defaults are the course's.

    A defense with settings of its own declares them in a subclass. Integers are taken for floats.

    Raises:
        SettingsError: for an unknown name, another type, or a value out of range.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    filters: int = setting(64, "width of the first convolution", "from 1 to 4096", ge=1, le=4096)
    head_size: _Side = setting(1, "side of the head's kernel; old checkpoints have 3")
    epochs: int = setting(100, "how often every image is trained on", "at least 1", ge=1)
    batch_size: int = setting(64, "images a step; the last may have fewer", "at least 1", ge=1)
    optimizer: Literal["sgd", "muon"] = setting("sgd", "what makes steps of gradients")
    schedule: Literal["cosine", "linear"] = setting(
        "cosine", "how the learning rate falls: to 0.195 of it, or to 0"
    )
    initializer: Literal["glorot", "he"] = setting("glorot", "what kernels are drawn from")
    learning_rate: float = setting(0.03, "learning rate at its highest", "a number above 0", gt=0)
    momentum: float = setting(
        0.9, "heavy-ball with sgd, Nesterov's with muon", "0 or more, below 1", ge=0, lt=1
    )
    weight_decay: float = setting(1e-4, "L2 term of the loss, on kernels only", "0 or more", ge=0)
    ema_decay: float = setting(
        0.999, "of the averaged weights, after a warm-up", "0 or more, below 1", ge=0, lt=1
    )
    flip: bool | None = setting(None, "mirror half of the images; none: as the data set says")
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "of convolutions and activations in training"
    )

    def __init__(self, **values: Any) -> None:
        """Check and keep the values."""
        if unknown := [name for name in values if name not in self.names()]:
            raise SettingsError(unknown_name("setting", unknown[0], self.names()))
        # numpy's numbers are taken as Python's.
        plain = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in values.items()
        }
        try:
            super().__init__(**plain)
        except ValidationError as error:
            raise SettingsError(self._sentence(error)) from None
        for name, field in type(self).model_fields.items():
            largest, value = _LARGEST.get(field.annotation), getattr(self, name)
            if largest is not None and value > largest:
                raise SettingsError(f"{name}: expected at most {largest:.10g}, got {value!r:.40}")

    @classmethod
    def _sentence(cls, error: ValidationError) -> str:
        """Say what is wrong with the first wrong value."""
        first = error.errors(include_url=False)[0]
        name, value = str(first["loc"][0]), first["input"]
        field = cls.model_fields[name]
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if choices and isinstance(choices[0], str):
            return unknown_name(name, str(value), choices)
        if choices:
            expected = " or ".join(map(str, choices))
        elif first["type"].endswith("_type"):
            kind, limits = _KINDS.get(field.annotation, "true or false"), _range(field)
            expected = limits if limits.startswith(kind) else f"{kind}, {limits}".rstrip(", ")
        else:
            expected = _range(field) or first["msg"].removeprefix("Input should be ")
            value = float(value) if field.annotation is float else value
        return f"{name}: expected {expected}, got {shown(value)}"

    @classmethod
    def names(cls) -> list[str]:
        """List the names of all settings, the shared ones first."""
        return list(cls.model_fields)

    @classmethod
    def help(cls) -> dict[str, str]:
        """Give one line of help a setting, by name: what it is, and its range or choices."""
        lines = {}
        for name, field in cls.model_fields.items():
            choices = get_args(field.annotation) if name != "flip" else ()
            expected = " or ".join(map(str, choices)) or _range(field)
            lines[name] = (
                f"{field.description} ({expected})" if expected else f"{field.description}"
            )
        return lines

    def replace(self, **changes: Any) -> Self:
        """Copy these settings with some changed, checked like new ones."""
        return type(self)(**{**self.as_json(), **changes})

    def as_json(self) -> dict[str, Any]:
        """Give the settings as plain JSON values, by name."""
        return self.model_dump()


def _range(field: FieldInfo) -> str:
    """Give the range of a setting in words; empty where its type says it."""
    extra = field.json_schema_extra
    return str(extra["expected"]) if isinstance(extra, dict) else ""


# docs/fast.md has what was measured. The digits are few, so smaller batches make enough steps of
# them; half the filters, on Fashion-MNIST a quarter, and few epochs are for minutes on two cores.
# There, half the batch makes up for some of it; at a higher rate some seeds diverge.
SHARED_TABLE: Table = {
    ("fast", "*"): {
        "optimizer": "muon",
        "schedule": "linear",
        "initializer": "he",
        "learning_rate": 0.05,
        "epochs": 10,
    },
    ("*", "digits"): {"filters": 32, "batch_size": 16},
    ("course", "digits"): {"learning_rate": 0.06},
    ("fast", "digits"): {"epochs": 20},
    ("*", "fashion-mnist"): {"filters": 16},
    ("course", "fashion-mnist"): {"epochs": 4, "batch_size": 32},
    ("fast", "fashion-mnist"): {"epochs": 1},
}
"""What the built-in data sets and the fast preset change for every defense."""


@dataclass(frozen=True)
class Resolved:
    """Settings, and where each value came from."""

    settings: Settings
    """The settings to train with."""
    origins: Mapping[str, str]
    """By setting's name, in plain words, where its value came from."""


def resolve(
    kind: type[Settings],
    tables: Mapping[str, Table],
    preset: str = "course",
    given: Mapping[str, Any] = MappingProxyType({}),
    key: str | None = None,
    mirror: bool | None = None,
) -> Resolved:
    """Decide every setting: the first of these places that has a value for it wins.

    1. `given`.
    2. The tables, in their order. In each the entry for preset and data set comes first, then that
       for the data set, that for the preset, and that for anything.
    3. The default.

    At the end, a `flip` of None becomes what the data set says.

    Args:
        kind: which settings there are.
        tables: a table's name, used in origins, and the table. The shared one follows them.
        preset: one of PRESETS.
        given: what the user asks for, by name.
        key: the name of a built-in data set; None for any other.
        mirror: whether the data set's classes survive being mirrored; None where none is known.

    Returns:
        The settings and their origins.

    Raises:
        SettingsError: for an unknown preset or setting, or a value out of range.
    """
    if preset not in PRESETS:
        raise SettingsError(unknown_name("preset", preset, PRESETS))
    values = dict(given)
    origins = dict.fromkeys(given, "given")
    keyed = {} if key is None else {(preset, key): f"the {preset} preset on {key}", ("*", key): key}
    places = {**keyed, (preset, "*"): f"the {preset} preset", ("*", "*"): ""}
    for owner, table in {**tables, "the shared table": SHARED_TABLE}.items():
        for place, words in places.items():
            for name, value in table.get(place, {}).items():
                if name not in values:
                    values[name] = value
                    origins[name] = f"{owner} for {words}" if words else owner
    settings = kind(**values)
    if settings.flip is None and mirror is not None:
        settings = settings.replace(flip=mirror)
        survive = "keep their class" if mirror else "lose their class"
        origins["flip"] = f"the data set: mirrored images {survive}"
    all_origins = {name: origins.get(name, "the default") for name in kind.names()}
    return Resolved(settings, all_origins)


def check_table(kind: type[Settings], table: Table) -> None:
    """Raise SettingsError unless every entry of a defense's table holds valid settings."""
    for (preset, _), entry in table.items():
        if preset not in (*PRESETS, "*"):
            raise SettingsError(unknown_name("preset", preset, (*PRESETS, "*")))
        kind(**entry)
