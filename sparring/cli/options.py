"""Options made of dataclasses, and what several verbs take."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer


class Backend(enum.StrEnum):
    """What --backend takes."""

    torch = "torch"
    tensorflow = "tensorflow"
    jax = "jax"


BackendOption = Annotated[
    Backend | None,
    typer.Option(help="Default: KERAS_BACKEND, else the first of these that is installed."),
]
"""The type of a parameter `backend`."""


def from_fields(verb: Callable[..., None]) -> Callable[..., None]:
    """Give typer an option for each field of a verb's parameters that are dataclasses.

    A parameter annotated with a dataclass gets an instance made of its options. One annotated
    `partial[Dataclass]` gets the dataclass with its options filled in, to be called with the fields
    that are no options. A field is an option when its metadata have a help text, as those declared
    with `sparring.experiments.request.option`, or when it is annotated with a typer.Option; fields
    that the verb takes itself, by the same name, are not.

    Args:
        verb: a function for `app.command()`; other parameters of it stay as they are.
    """
    hints = get_type_hints(verb, include_extras=True)
    parameters: list[inspect.Parameter] = []
    kinds: dict[str, tuple[type, list[str], bool]] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        hint = hints[name]
        partly = get_origin(hint) is functools.partial
        kind = get_args(hint)[0] if partly else hint
        if not is_dataclass(kind):
            parameters.append(parameter.replace(annotation=hint, kind=parameter.KEYWORD_ONLY))
            continue
        own = [part for part in _options_of(kind) if part.name not in hints]  # type: ignore[arg-type]
        kinds[name] = kind, [option.name for option in own], partly  # type: ignore[assignment]
        parameters += own

    def call(**values: Any) -> None:
        for name, (kind, own, partly) in kinds.items():
            filled = functools.partial(kind, **{option: values.pop(option) for option in own})
            values[name] = filled if partly else filled()
        verb(**values)

    call.__name__, call.__doc__ = verb.__name__, verb.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {part.name: part.annotation for part in parameters}
    return call


def _options_of(kind: type) -> list[inspect.Parameter]:
    """List the options of a dataclass as parameters that typer understands."""
    hints = get_type_hints(kind, include_extras=True)
    options = []
    for part in fields(kind):
        hint = hints[part.name]
        if "help" in part.metadata:
            hint = Annotated[hint, _typer_option(part)]
        elif get_origin(hint) is not Annotated:
            continue
        default = part.default if part.default_factory is MISSING else part.default_factory()
        options.append(
            inspect.Parameter(
                part.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
            )
        )
    return options


def option_of(kind: type, name: str, made_by: Callable[..., Any] = typer.Option) -> Any:
    """Make what typer knows of a field, for a verb that takes it as another type.

    Args:
        kind: the dataclass.
        name: the field's.
        made_by: typer.Option or typer.Argument.
    """
    [part] = [part for part in fields(kind) if part.name == name]
    return _typer_option(part, made_by)


def _typer_option(part: Field[Any], made_by: Callable[..., Any] = typer.Option) -> Any:
    """Make the option of a field; one that is False unless given has no --no-... beside it."""
    names = part.metadata["names"]
    if part.default is False and not names:
        names = (f"--{part.name.replace('_', '-')}",)
    metavar = part.metadata["metavar"] or None
    return made_by(*names, metavar=metavar, help=part.metadata["help"])


def assignments(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Read the values that an option gave as NAME=VALUE; they are YAML's, and 1e-4 is a number.

    Raises:
        typer.BadParameter: for a text that is none, or no YAML.
    """
    import yaml

    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{option}: expected NAME=VALUE, got {text!r}")
        try:
            values[name.strip().replace("-", "_")] = number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{option}: {text!r}: {error}") from error
    return values


def number(value: Any) -> Any:
    """Give what YAML takes for text though it is a number, as 1e-4, as one; else the value."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
