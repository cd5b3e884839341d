"""What is asked for: one training, a plan of many, and what a plan finds; all of it plain JSON.

Command line, Python and config file build a `TrainingRequest`, and everything down to the loop
passes it on whole. Its fields are the command line's options too: each holds its help.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import ConfigDict, InstanceOf, TypeAdapter, ValidationError
from typing_extensions import override

from sparring import data as datasets
from sparring import defenses as registry
from sparring.data import Dataset
from sparring.errors import SettingsError, describe_invalid, unknown_name
from sparring.training.settings import PRESETS

_LARGEST = 2**63


def option(default: Any, text: str, metavar: str = "", *names: str) -> Any:
    """Declare a field that is an option of the command line too (`sparring.cli.options`).

    Args:
        default: the field's default, or a function that makes it.
        text: the option's help, a sentence.
        metavar: what stands for the value in the help; by default its type.
        *names: as --seed; by default made of the field's name.

    Returns:
        A dataclass field.
    """
    own: dict[str, Any] = {"default_factory" if callable(default) else "default": default}
    return field(**own, metadata={"help": text, "metavar": metavar, "names": names})


class Request:
    """A dataclass that goes through JSON, whatever JSON values, paths and such it is made of."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    _not_json: ClassVar[str] = (
        "{name}: expected a name or a path in a request as JSON, got {value!r:.80}"
    )

    def as_json(self) -> dict[str, Any]:
        """Give the fields as plain JSON values; `from_json` reads them back.

        Raises:
            SettingsError: a field holds a thing in place of its name.
        """
        values = {}
        for name, value in vars(self).items():
            try:
                values[name] = json.loads(json.dumps(value, default=_plain))
            except TypeError as error:
                message = self._not_json.format(name=name, value=value, error=error)
                raise SettingsError(message) from error
        return values

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read what `as_json` gave; SettingsError names what is not as it should be."""
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise SettingsError(f"{cls.__name__}: {describe_invalid(error)}") from error

    def _take_numpy(self) -> None:
        """Make Python numbers of the fields that are numpy's."""
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())

    def _expect_counts(self, least: int, *names: str) -> None:
        """Raise SettingsError unless the fields of these names are integers of `least` or more."""
        self._take_numpy()
        for name in names:
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SettingsError(
                    f"{name}: expected an integer of {least} or more, got {value!r:.80}"
                )
            if value >= _LARGEST:
                raise SettingsError(f"{name}: expected an integer below 2^63, got a larger one")

    def _expect(self, what: str, kinds: Any, *names: str) -> None:
        """Raise SettingsError unless the fields of these names are of some types."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
                raise SettingsError(f"{name}: expected {what}, got {value!r:.80}")

    def _take_paths(self, *names: str) -> None:
        """Make paths of the fields of these names that are texts; None stays."""
        for name in names:
            if (value := getattr(self, name)) is None:
                continue
            try:
                path = Path(value).expanduser()
            except (TypeError, RuntimeError) as error:  # RuntimeError: nobody's home
                raise SettingsError(f"{name}: expected a path, got {value!r:.80}") from error
            if value == "" or "\0" in str(path):
                raise SettingsError(f"{name}: expected a path, got {value!r:.80}")
            object.__setattr__(self, name, path)


def _plain(value: Any) -> Any:
    """What stands in JSON for a value that has no form of its own there."""
    if isinstance(value, Request):
        return value.as_json()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


@dataclass(frozen=True, kw_only=True)
class TrainingRequest(Request):
    """Everything that one training needs.

    Raises:
        SettingsError: for a value of another type, or a negative number.
    """

    _not_json = (
        "a training in another process needs the name or the path of a data set, "
        "got a Dataset, which is in this process's memory; sparring.train takes it ({error})"
    )
    defense: str | InstanceOf[type]
    """Name of the defense, as in `sparring list`, or a file with its class, as mydefense.py; within
    one process also the class."""
    data: str | InstanceOf[Dataset] = "digits"
    """A built-in data set's name, or the path of an .npz or parquet file or a folder of images;
    within one process also a Dataset."""
    preset: str = option(
        "course",
        "How it learns: by the course's recipe, or by Muon in far fewer steps.",
        "course|fast",
    )
    data_dir: Path | None = option(
        None, "Folder with the data set's files, instead of downloading them."
    )
    resize: int | None = option(
        None,
        "Bring a folder's images to N x N pixels: the shorter side resampled, then the middle.",
        "N",
    )
    limit_train: int | None = option(None, "Use only the first N training images.", "N")
    limit_test: int | None = option(None, "Use only the first N test images.", "N")
    seed: int = option(0, "Everything random follows from it.", "N")
    device: str | None = option(None, "cpu, gpu, gpu:1, ... Default: a GPU if any.", "NAME")
    threads: int | None = option(
        None, "Threads to compute with on a CPU, with PyTorch. Default: by timed steps.", "N"
    )
    out: Path = option(Path("runs"), "Folder of runs.")
    eval_every: int = option(1, "Epochs between tests; 0 tests only at the end.", "N")
    restarts: int = option(0, "If training diverges, try again with the next N seeds.", "N")
    force: bool = option(False, "Train anew where there is a run already.")
    tensorboard: bool = option(False, "Log for TensorBoard too, in the run's folder.")
    wait: float = 0.0
    """Seconds to wait for another process that trains the same."""
    network: int | None = None
    """The one network of an ensemble to train, counted from 0; None for the whole defense."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings by name; the rest is the defense's own."""

    def __post_init__(self) -> None:
        """Check the types, and take texts for paths and numpy's numbers for Python's."""
        object.__setattr__(self, "data", datasets.accepted(self.data))
        self._expect_counts(0, "seed", "restarts", "eval_every")
        datasets.checked_resize(self.resize)
        limits = ("limit_train", "limit_test")
        self._expect_counts(1, *(name for name in limits if getattr(self, name) is not None))
        if self.threads is not None:
            self._expect_counts(1, "threads")
            if self.threads > 4096:
                raise SettingsError(f"threads: expected at most 4096, got {self.threads}")
        self._expect("a name, a file or a class", str | type, "defense")
        self._expect("a name", str, "preset")
        self._expect("a name as 'cpu' or 'gpu:1', or None", str | None, "device")
        self._expect("an integer", int | None, "network")
        self._expect("a number of seconds", int | float, "wait")
        self._expect("True or False", bool, "force", "tensorboard")
        self._expect("settings by name", Mapping, "settings")
        self._expect("a path", str | Path, "out")
        self._take_paths("out", "data_dir")
        plain = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in self.settings.items()
        }
        object.__setattr__(self, "settings", plain)

    @property
    def name(self) -> str:
        """What the defense is called in messages: as it was given, a class by its name."""
        return self.defense if isinstance(self.defense, str) else self.defense.__name__

    @override
    def as_json(self) -> dict[str, Any]:
        if isinstance(self.defense, str):
            return super().as_json()
        kind = registry.get(self.defense)
        name = None if kind.origin is None else kind.origin.elsewhere()
        return replace(self, defense=name or kind.name).as_json()

    @classmethod
    def of(
        cls,
        defense: str | Path | type | Self,
        data: str | Dataset,
        settings: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> Self:
        """Build a request from the arguments of `sparring.train`.

        Args:
            defense: its name, file or class; or a request, of which all that follows changes some
                fields.
            data: a name, a path or a Dataset; "digits" leaves a request's.
            settings: by name.
            options: fields of the request; other names are taken for settings.
        """
        valid = {part.name for part in fields(cls)} - {"defense", "data", "settings"}
        own = {name: value for name, value in options.items() if name in valid}
        rest = {name: value for name, value in options.items() if name not in valid}
        if not isinstance(settings, Mapping | None):
            raise SettingsError(f"settings: expected settings by name, got {settings!r:.80}")
        if twice := sorted({*(settings or {})} & {*rest}):
            raise SettingsError(f"{', '.join(twice)}: given in settings and by itself; give one")
        changes = {**(settings or {}), **rest}
        if isinstance(defense, cls):
            data = defense.data if isinstance(data, str) and data == "digits" else data
            return replace(defense, data=data, settings={**defense.settings, **changes}, **own)
        if not isinstance(defense, str | Path | type):
            raise SettingsError(
                f"expected a defense's name or a TrainingRequest, got {defense!r:.80}; a file with "
                "its class, or the class, names one too"
            )
        named = str(defense) if isinstance(defense, Path) else defense
        return cls(defense=named, data=data, settings=changes, **own)

    def check_names(self, defenses: Sequence[str], data: Sequence[str]) -> None:
        """Refuse names that are none before anything is loaded or a framework imported.

        Raises:
            SettingsError: for a defense, preset or data set that is none, listing the valid ones.
        """
        if self.preset not in PRESETS:
            raise SettingsError(unknown_name("preset", self.preset, PRESETS))
        for name in defenses if list(defenses) != ["all"] else ():
            registry.describe(name)
        for name in data:
            datasets.file_of(name)

    def from_anywhere(self) -> Self:
        """Give the request with absolute paths, for a process that runs in another folder."""
        data = self.data
        if isinstance(data, str) and data not in datasets.NAMES:
            data = str(Path(data).expanduser().absolute())
        data_dir = None if self.data_dir is None else self.data_dir.absolute()
        own = self.defense
        defense = registry.anywhere(own) if isinstance(own, str) else own
        out = self.out.absolute()
        return replace(self, defense=defense, data=data, data_dir=data_dir, out=out)


@dataclass(frozen=True, kw_only=True)
class PlanRequest(Request):
    """Many trainings: each of the defenses on each of the data sets with each of the seeds."""

    defenses: Sequence[str]
    """Names; "all" alone stands for all."""
    data: Sequence[str]
    """Names, or paths."""
    seeds: Sequence[int] = ()
    """Each trains into out/seed-N; without any, the common one's trains into out."""
    common: TrainingRequest
    """All the rest. Its defense and data are not looked at."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun(Request):
    """One run of a plan: what the schedule has to know of it."""

    request: TrainingRequest
    """What to train, with absolute paths."""
    path: Path
    """Its run directory."""
    title: str
    """What people know it by."""
    networks: int = 1
    """How many are trained; one also where weights are borrowed."""
    epochs: int = 0
    """Of each network; 0 where nothing is trained."""
    work: float = 0.0
    """How long a network takes, beside others of the plan."""
    status: str = "new"
    """new, training, diverged or finished."""
    needs: Path | None = None
    """The run directory that has to be finished before."""
    error: str = ""
    """Why it cannot be trained."""


@dataclass(frozen=True)
class Plan(Request):
    """What a plan found."""

    devices: Sequence[str]
    """The backend's, the default one first."""
    runs: Sequence[PlannedRun]
    """All of them, finished ones too; a run comes after the one it needs."""
    notes: Sequence[str] = ()
    """What a user should know of how the data were read."""


@dataclass(frozen=True)
class Answer:
    """What the process of a job said at its end, as one line of JSON."""

    result: Any = None
    """What was asked for, where it is more than to do something."""
    message: str = ""
    """What the error said that ended it; empty where none did."""
    code: int = 0
    """The exit code, negative where a signal ended the process."""

    def as_line(self) -> str:
        """Give what the process prints: {"result": ...} or {"error": MESSAGE}."""
        return json.dumps({"error": self.message} if self.message else {"result": self.result})

    @classmethod
    def from_line(cls, line: str, code: int) -> Self:
        """Read what a process printed; where it was killed, the code is all there is to say."""
        try:
            values = json.loads(line)
            if not isinstance(message := values.get("error", ""), str):
                raise ValueError(message)
            return cls(values.get("result"), message, code)
        except (ValueError, AttributeError):
            return cls(message=f"exit code {code}" if code else "", code=code)
