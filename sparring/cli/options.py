"""Options made of dataclasses, and what several verbs take."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import chain
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from sparring.backend import choice as backend_choice
from sparring.errors import SettingsError

if TYPE_CHECKING:  # it needs YAML's parser
    from sparring.cli.config import Entry


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


def option_of(
    kind: type, name: str, made_by: Callable[..., Any] = typer.Option, words: Sequence[str] = ()
) -> Any:
    """Make what typer knows of a field, for a verb that takes it as another type.

    Args:
        kind: the dataclass.
        name: the field's.
        made_by: typer.Option or typer.Argument.
        words: what a shell may complete; by default those that the field's metavar lists.
    """
    [part] = [part for part in fields(kind) if part.name == name]
    return _typer_option(part, made_by, words)


def completed(*words: str | Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """Give what typer's `autocompletion` takes: a function of the beginning of a word.

    Args:
        words: what may be typed, and functions that list more of it when it is asked for.
    """

    def beginning(incomplete: str) -> list[str]:
        listed = [[word] if isinstance(word, str) else word() for word in words]
        return [word for word in chain.from_iterable(listed) if word.startswith(incomplete)]

    return beginning


def _known_backend(name: str | None) -> str | None:
    """Refuse a name of --backend that is none."""
    if name not in (None, *backend_choice.NAMES):
        *others, last = backend_choice.NAMES
        raise typer.BadParameter(f"expected {', '.join(others)} or {last}, got {name!r:.80}")
    return name


BackendOption = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(backend_choice.NAMES),
        help="Default: KERAS_BACKEND, else the first of these that is installed.",
        autocompletion=completed(*backend_choice.NAMES),
        callback=_known_backend,
    ),
]
"""The type of a parameter `backend`."""


def _typer_option(
    part: Field[Any], made_by: Callable[..., Any] = typer.Option, words: Sequence[str] = ()
) -> Any:
    """Make the option of a field; one that is False unless given has no --no-... beside it."""
    names = part.metadata["names"]
    if part.default is False and not names:
        names = (f"--{part.name.replace('_', '-')}",)
    metavar = part.metadata["metavar"]
    # Of "N|auto" and "NAME|FILE.yaml", auto is a word to be typed.
    choices = [word for word in metavar.split("|") if not word.isalpha() or not word.isupper()]
    words = words or [word for word in choices if word and "." not in word]
    # A path that is an option is a folder's; of other types typer does not look at `file_okay`.
    return made_by(
        *names,
        metavar=metavar or None,
        help=part.metadata["help"],
        file_okay=False,
        autocompletion=completed(*words) if words else None,
    )


def taken(entry: Entry, option: Any, context: typer.Context) -> Any:
    """Make the value of an option of what a config file says of it.

    Args:
        entry: the line of the file.
        option: the parameter of the command.
        context: of the command.

    Returns:
        What the option would be had it been given on the command line; None, which stands for its
        default, of null.

    Raises:
        typer.BadParameter: for a value of another kind, naming file and line.
    """
    value = entry.value
    if value is None or (isinstance(value, bool) and option.is_flag):
        return value
    values = value if option.multiple and isinstance(value, list) else [value]
    odd = any(isinstance(item, bool | list | dict | NoneType) for item in values)
    if option.is_flag or odd or not values:
        expected = "true or false" if option.is_flag else "a number or text"
        raise typer.BadParameter(
            f"{entry.place}: {option.name}: expected {expected}, got {value!r:.80}"
        )
    # As they were written, for a folder called 1e3; as Python has them, for an integer of 1e3.
    for texts in (entry.texts, [str(item) for item in values]):
        given = texts if option.multiple else texts[0]
        try:
            option.process_value(context, given)
        except typer.BadParameter as error:
            wrong = error.message
        else:
            return given
    raise typer.BadParameter(f"{entry.place}: {option.opts[0]!r}: {wrong}")


def assignments(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Read the values that an option gave as NAME=VALUE, as `sparring.cli.config` reads them.

    Raises:
        typer.BadParameter: for a text that is none, or a value that is no YAML.
    """
    from sparring.cli.config import read_value

    values = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals:
            raise typer.BadParameter(f"{option}: expected NAME=VALUE, got {text!r:.80}")
        try:
            values[name.replace("-", "_")] = read_value(value)
        except SettingsError as error:
            raise typer.BadParameter(f"{option}: {text!r:.80}: {error}") from error
    return values
