"""EvaluationRequest: one evaluation as values, from the command line or Python to the judge.

It imports no framework; what the names in it stand for is looked up by `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from typing_extensions import override

from sparring import data as datasets
from sparring import defenses
from sparring.defenses.sources import InFile
from sparring.errors import SettingsError, shown, unknown_name
from sparring.evaluation.submission import Submission
from sparring.experiments.request import Request, option
from sparring.models.reference import Reference, is_reference

_RANGES = {
    "n": (1, None),
    "draws": (1, 10**6),
    "batch_size": (1, None),
    "seed": (0, 2**63 - 1),
    "chunks": (1, None),
}
"""The least and the largest value of each field that is an integer."""

_LONGEST = 1e8

_UNITS = {"memory_limit": "gibibytes", "output_limit": "mebibytes"}


@dataclass(frozen=True)
class EvaluationRequest(Request):
    """Everything that one evaluation needs; each field that is an option holds its help.

    Made of names and paths it is JSON both ways. In place of them `defense` and `transfer_from` may
    be a Defense, `attack` any attack, and `data` a Dataset.

    Raises:
        SettingsError: a number is out of range, or options are given to an attack without a name.
    """

    defense: Any
    """Name of a trained defense, or a run directory; a file with the class of a trained one, as
    mydefense.py; or what names a model of one's own, as model.py:build."""
    attack: Any = "pgd"
    """One of `sparring.attacks.NAMES` or `LIBRARIES`, or a file.py with a function attack(defense,
    x, y, threat)."""
    options: Mapping[str, Any] = option(
        dict, "Of the attack, as steps=100; repeatable.", "NAME=VALUE", "--option", "-o"
    )
    data: Any = option(
        None,
        "Data set of the defense named. Default: digits, or a run directory's own.",
        "NAME|FILE|FOLDER",
    )
    data_dir: Path | None = option(None, "Folder with the data set's files.")
    model: Mapping[str, Any] = option(
        dict,
        "Of a model of your own: name, layout, outputs, stochastic, detects, threshold, tensors.",
        "NAME=VALUE",
        "--model",
        "-m",
    )
    code: str | None = option(
        None,
        "Of a run directory whose defense's class is in a file of your own: the file, which runs.",
        "FILE.py[:CLASS]",
    )
    resize: int | None = option(
        None, "Side of the square that a model's images are brought to.", "SIDE"
    )
    other_data: bool = option(
        False, "Judge on DATA's images though they are not those the defense was tested on."
    )
    norm: str = option("Linf", "Norm of the threat model.", "Linf|L2")
    eps: str | float | None = option(
        None, "Its radius, as 0.03 or 8/255, or several. Default: the data set's.", "X,Y,..."
    )
    n: int = option(100, "How many test images.", "N", "--n", "-n")
    images: Sequence[int] | None = option(
        None, "Indices of test images, in place of the first N.", "I,J,..."
    )
    draws: int = option(20, "How often a stochastic defense is asked.", "N")
    batch_size: int = option(128, "Images given to the attack at a time.", "N")
    seed: int | None = option(
        None, "Of a stochastic defense's draws. Default: 0; drawn where images are judged.", "N"
    )
    check: bool = option(True, "Look for signs that the result should be distrusted.")
    min_eps: bool = option(
        False, "Find each image's smallest perturbation up to eps, by bisection, as Smallest does."
    )
    trace: bool = option(
        False, "Keep what the first 10 attacked images go through, step by step, and show it."
    )
    transfer: bool = True
    """Whether the checks try another defense's adversarial images too, where there is one."""
    transfer_from: Any = None
    """Whose: a run directory; None takes the baseline beside the defense's run."""
    threads: int | None = option(
        None, "Threads to compute with on a CPU, with PyTorch. Default: by timed steps.", "N"
    )
    time_limit: float | None = option(
        None, "For the attack: in all where it runs apart, else per batch.", "SECONDS"
    )
    apart: bool = False
    """Whether an attack from a file runs in a process of its own."""
    sandbox: bool = option(False, "Run a file's attack in bubblewrap too, which has no network.")
    cpu_limit: float | None = option(None, "CPU time of each process of a file's.", "SECONDS")
    memory_limit: float | None = option(
        None, "Memory of each process of a file's. Default: three quarters of all.", "GIB"
    )
    output_limit: float = option(10.0, "What is kept of what a file prints.", "MIB")
    runs: Path = option(Path("runs"), "Folder of runs.")
    save: bool = True
    """Whether the verdict is written, and an unfinished one of the same evaluation gone on with."""
    out: Path | None = option(None, "Folder of the verdict. Default: in the run.")
    force: bool = option(False, "Evaluate anew where there is a finished verdict already.")
    wait: float = 0.0
    """Seconds to wait for another process that writes the same verdict."""
    chunks: int = 1
    """Into how many the attacked images are cut, whole batches each. A verdict is put together from
    the chunks that are there, and what is missing of them is attacked."""
    chunk: int | None = None
    """The one chunk to attack, counted from 0, and nothing else; None for the whole verdict."""

    def __post_init__(self) -> None:
        """Check numbers, and take texts for paths."""
        for name, (least, most) in _RANGES.items():
            if (value := getattr(self, name)) is not None or name != "seed":
                object.__setattr__(self, name, _integer(name, value, least, most))
        for name in (
            "check",
            "min_eps",
            "trace",
            "transfer",
            "save",
            "force",
            "other_data",
            "apart",
            "sandbox",
        ):
            if not isinstance(value := getattr(self, name), bool | np.bool_):
                raise SettingsError(f"{name}: expected true or false, got {value!r:.80}")
            object.__setattr__(self, name, bool(value))
        if self.chunk is not None:
            object.__setattr__(self, "chunk", _integer("chunk", self.chunk, 0, self.chunks - 1))
        if not _is_number(self.wait) or not 0 <= self.wait <= _LONGEST:
            raise SettingsError(f"wait: expected a number of seconds, got {self.wait!r:.80}")
        if self.threads is not None:
            object.__setattr__(self, "threads", _integer("threads", self.threads, 1, 4096))
        for name in ("time_limit", "cpu_limit", "memory_limit", "output_limit"):
            if (limit := getattr(self, name)) is None and name != "output_limit":
                continue
            if not _is_number(limit) or not 0 < limit <= _LONGEST:
                what = _UNITS.get(name, "seconds")
                raise SettingsError(
                    f"{name}: expected {what} above 0 and at most {_LONGEST:g}, or none for "
                    f"no limit; got {limit!r:.80}"
                )
            object.__setattr__(self, name, float(limit))
        if self.options and not isinstance(self.attack, str | Path):
            raise SettingsError("options: expected none with an attack that is no name or file")
        if (self.model or self.resize is not None) and not self.is_of_model:
            raise SettingsError(
                "model, resize: expected them with a model of your own, as model.py:build, got "
                f"them with {shown(self.defense)}"
            )
        self._take_paths("data_dir", "runs", "out")
        for name in ("defense", "attack", "data", "transfer_from", "code"):
            if isinstance(value := getattr(self, name), Path):
                object.__setattr__(self, name, str(value))
        if self.code is not None:
            self._expect("a file with a class, as mydefense.py", str, "code")
        if self.data is not None:
            object.__setattr__(self, "data", datasets.accepted(self.data))
        if self.images is not None:
            object.__setattr__(self, "images", _chosen(self.images))

    @property
    def runs_apart(self) -> bool:
        """Whether the attack is a file's, to run in a process of its own."""
        return self.apart and isinstance(self.attack, str) and self.attack.endswith(".py")

    @property
    def is_of_model(self) -> bool:
        """Whether the defense is what names a model of one's own."""
        if not isinstance(self.defense, str | Path):
            return False
        word = str(self.defense)
        return is_reference(word) and not defenses.is_in_file(word)

    def unusual(self) -> list[str]:
        """List what is asked for otherwise than by default, as steps=10 or n=20."""
        options = self.options or _own_options(self.attack)
        said = [f"{name}={_word(options[name])}" for name in sorted(options)]
        if self.images is None:
            said += self._not_as_by_default("n")
        elif any(isinstance(image, bool) for image in self.images):
            said.append(f"images={','.join(map(str, np.flatnonzero(self.images)))}")
        else:
            said.append(f"images={','.join(map(str, sorted(self.images)))}")
        said += ["min-eps"] if self.min_eps else []
        said += self._not_as_by_default("draws")
        return said + ([f"seed={self.seed}"] if self.seed else [])

    def _not_as_by_default(self, *names: str) -> list[str]:
        own, usual = vars(self), vars(type(self))
        return [f"{name}={own[name]}" for name in names if own[name] != usual[name]]

    @classmethod
    def of(cls, defense: Any, **options: Any) -> Self:
        """Make a request, or change one.

        Args:
            defense: the field of that name; or a request, whose other fields are kept.
            options: fields by name.

        Raises:
            SettingsError: there is no such field, or its value is out of range.
        """
        valid = [part.name for part in fields(cls)]
        for name in options:
            if name not in valid:
                raise SettingsError(unknown_name("option of an evaluation", name, valid))
        if isinstance(defense, cls):
            return replace(defense, **options)
        return cls(defense, **options)

    def from_anywhere(self) -> Self:
        """Give the request with absolute paths, for a process that runs in another folder.

        Those among the attack's options, which are part of the verdict's name, stay as they are.
        """
        paths = {name: getattr(self, name) for name in ("data_dir", "runs", "out", "transfer_from")}
        if isinstance(self.defense, str) and is_directory(self.defense):
            paths["defense"] = self.defense
        if isinstance(self.attack, str) and self.attack.endswith(".py"):
            paths["attack"] = self.attack
        if isinstance(self.data, str) and self.data not in datasets.NAMES:
            paths["data"] = self.data
        absolute: dict[str, Any] = {
            name: Path(path).expanduser().absolute()
            for name, path in paths.items()
            if isinstance(path, str | Path)
        }
        if self.is_of_model:  # which need be no path
            absolute["defense"] = str(Reference.of(self.defense).absolute())
        elif isinstance(self.defense, str) and "defense" not in paths:
            absolute["defense"] = defenses.anywhere(self.defense)
        if self.code is not None:
            absolute["code"] = defenses.anywhere(self.code)
        return replace(self, **absolute)

    @classmethod
    @override
    def from_json(cls, values: Any) -> Self:
        return cls.of(**values)


@dataclass(frozen=True, kw_only=True)
class EvaluationPlanRequest(Request):
    """Many evaluations: each of the attacks on each of the defenses, with each radius and seed."""

    defenses: Sequence[str]
    """Names, or run directories; "all" alone stands for all that are trained on the data set."""
    attacks: Sequence[str]
    """Names, or files."""
    eps: Sequence[str] = ()
    """Radii; without any, the common one's."""
    seeds: Sequence[int] = ()
    """Of the runs, which lie in runs/seed-N; without any, they lie in runs itself."""
    common: EvaluationRequest
    """All the rest. Its defense, attack and eps are not looked at where there are others."""


@dataclass(frozen=True, kw_only=True)
class PlannedVerdict(Request):
    """One verdict of a plan: what the schedule has to know of it."""

    request: EvaluationRequest
    """What to evaluate, with absolute paths; its `out` is the verdict's folder."""
    run: Path
    """The run directory of the defense."""
    folder: Path
    """The verdict's folder."""
    title: str
    """What people know it by."""
    batches: int = 1
    """Into how many chunks it can be cut."""
    chunks: int = 0
    """Into how many an earlier call cut it; 0 where none did."""
    done: Sequence[int] = ()
    """Which of these are finished, counted from 0."""
    work: float = 0.0
    """How long it takes, beside others of the plan."""
    status: str = "new"
    """new or finished."""
    error: str = ""
    """Why it cannot be evaluated."""


@dataclass(frozen=True)
class EvaluationPlan(Request):
    """What a plan of evaluations found."""

    devices: Sequence[str]
    """The backend's, the default one first."""
    verdicts: Sequence[PlannedVerdict]
    """All of them, finished ones too."""


def is_directory(word: str) -> bool:
    """Say whether what names a defense is the path of its run directory, there or not.

    Args:
        word: as it was given.
    """
    path = Path(word)
    return path.is_dir() or (len(path.parts) > 1 and InFile.of(word) is None)


def _integer(name: str, value: Any, least: int, most: int | None) -> int:
    """Take an integer of Python's or numpy's; SettingsError for what is none or out of range."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < least or (most is not None and value > most):
        span = f"{least} or more" if most is None else f"{least} to {most}"
        raise SettingsError(f"{name}: expected an integer of {span}, got {value!r:.80}")
    return int(value)


def _word(value: Any) -> str:
    """A value as it stands in a name: texts without quotes."""
    return value if isinstance(value, str) else shown(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _chosen(images: Any) -> tuple[int, ...]:
    """Take indices of test images, or a mask of them, as a tuple of integers or of booleans."""
    try:
        given = images if isinstance(images, list | tuple) else np.asarray(images).tolist()
    except (TypeError, ValueError, RuntimeError):  # as of tensors that are not on the CPU
        given = None
    values: list[Any] = list(given) if isinstance(given, list | tuple) else [None]
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if {type(value) for value in values} not in ({int}, {bool}, set()):
        raise SettingsError(
            "images: expected a list of integers, the indices of test images, or a mask of "
            f"booleans, one for each test image; got {images!r:.80}"
        )
    return tuple(values)


def _own_options(attack: Any) -> Mapping[str, Any]:
    """What an attack that is no name says of itself: fields and arguments not as by default."""
    if isinstance(attack, Submission):
        return attack.options
    if isinstance(attack, partial):
        return {**_own_options(attack.func), **attack.keywords}
    if not is_dataclass(attack) or isinstance(attack, type):
        return {}
    values = {part.name: (getattr(attack, part.name), part) for part in fields(attack) if part.init}
    return {
        name: value
        for name, (value, part) in values.items()
        if shown(value)
        != shown(part.default if part.default_factory is MISSING else part.default_factory())
    }
