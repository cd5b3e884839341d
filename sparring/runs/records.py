"""Records: the JSON files in a run directory as typed values, each with its reader and writer.

Nothing but these classes knows the keys of the files. Values are checked strictly: an integer is no
text, and `true` is no integer. What a file has besides is left alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic_core import to_jsonable_python
from typing_extensions import override

from sparring.data import DatasetInfo
from sparring.errors import RunError
from sparring.runs.files import read_json, write_atomically, write_json

FORMAT = 2
"""Version of run.json that is written. 1, which lacks `networks`, is read too."""

VERDICT_FORMAT = 2
"""Version of verdict.json as it is written; format 1, called report.json, is read too."""

VERDICT_PAGE = "verdict.html"
"""The file that shows a verdict, beside it."""

_VERDICT_FILES = {"verdict.json": VERDICT_FORMAT, "report.json": 1}

Number = Annotated[float, Field(gt=-1e100, lt=1e100)]
"""A finite number of sensible size."""

NumberOrNaN = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: None if math.isnan(value) else value, when_used="json"),
]
"""A number, or NaN where there is none, which is null in JSON."""


def _sensible(value: float) -> float:
    """Refuse what is no distance: below 0, or too large."""
    if value < 0 or value >= 1e100:
        raise ValueError(f"expected a distance of 0 or more, found {value:g}")
    return value


class Record(BaseModel):
    """A JSON object of ours: immutable, and strict about the kinds of its values."""

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _absent_as_none(cls, values: Any) -> Any:
        # What is absent is then told like a value of another kind, with what was expected.
        if not isinstance(values, dict):
            return values
        required = (name for name, field in cls.model_fields.items() if field.is_required())
        return {**dict.fromkeys(required), **values}


_KINDS = {
    "string_type": "text",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
}


def problem(error: ValidationError) -> str:
    """Say the first thing that is wrong, as "expected seed to be an integer, found 'x'"."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    *_, name = ("the file", *(part for part in first["loc"] if isinstance(part, str)))
    place = f"[{first['loc'][-1]}]" if first["loc"] and first["loc"][-1] != name else ""
    if (kind := _KINDS.get(first["type"])) is not None:
        return f"expected {name}{place} to be {kind}, found {first['input']!r:.40}"
    expected = re.sub(r".* should | after validation.*", "", first["msg"])
    return f"expected {name}{place} to {expected}, found {first['input']!r:.40}"


class FileRecord(Record):
    """A record that is a file of its own."""

    @classmethod
    def read(cls, file: Path, clean: Callable[[Any], Any] = lambda values: values) -> Self:
        """Read a file.

        Args:
            file: the path.
            clean: is applied to the JSON values before they are checked; may raise ValueError.

        Raises:
            RunError: it cannot be read, is of another version, or lacks something.
        """
        try:
            return cls.from_json(clean(read_json(file)), file)
        except (ValueError, OSError) as error:
            raise RunError(f"{file}: damaged: {error}") from error

    @classmethod
    def from_json(cls, values: Any, file: Path) -> Self:
        """Check the values of a file.

        Raises:
            RunError: naming the file, when they are of another version or not as they should be.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RunError(f"{file}: damaged: {problem(error)}") from error


_LARGEST_COUNT = 10**9

Count = Annotated[int, Field(ge=0, le=_LARGEST_COUNT)]
"""A number of things, or one of them counted from 0."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A share, in [0, 1]."""


MOST_THREADS = 4096
"""Threads of a CPU that anything is computed with."""


class ThreatRecord(Record):
    """A threat model: its norm, Linf or L2, and its radius."""

    norm: str
    eps: Number


class RateRecord(Record):
    """A share of n images with its 95 % interval; NaN of no images."""

    value: NumberOrNaN
    n: int
    low: Number
    high: Number

    @model_validator(mode="after")
    def _of_images_there_is_a_value(self) -> RateRecord:
        if math.isnan(self.value) and self.n:
            raise ValueError(f"expected a rate with a value, found none of {self.n} images")
        return self


class RatesRecord(Record):
    """What an attack came to in all; `sparring.Verdict` says what each rate is of."""

    clean_accuracy: RateRecord
    clean_rejected: RateRecord
    success_rate: RateRecord
    robust_accuracy: RateRecord


class EvaluationWarning(Record):
    """A sign that a result should be distrusted: its name in docs/warnings.md, and the figures."""

    name: str
    text: str

    def __str__(self) -> str:
        """Give the text, and where it is explained."""
        return f"{self.text} [docs/warnings.md#{self.name}]"


MOST_IMAGES, LONGEST_REASON = 60_000, 200
"""Images that a verdict on disk may have, and letters of what is said of each: so that the file is
never larger than what is read."""


class ImageRecord(Record):
    """What came of one image; the fields are those of `sparring.Verdict.rows`."""

    index: Count
    label: Count
    clean: Share
    rejected: Share
    attacked: bool
    success: Share
    answer: Annotated[int, Field(ge=-1, le=10**9)]
    distance: Annotated[NumberOrNaN, AfterValidator(_sensible)]
    reason: str


IN_PROCESS = "in-process"
"""How an attack is kept from the judge that runs in the judge's own process: not at all."""

TO_BE_DRAWN = -1
"""In place of a seed that is drawn from the system once the adversarial images are in."""


class Evaluated(Record):
    """What was evaluated; evaluations that are equal here come to the same verdict.

    Attributes:
        defense: its name.
        run: its run directory, if it has one.
        weights_sha256: the hash of its weights.
        model: of a model of one's own, what its answers follow from besides; None of a run.
        code_sha256: the hash of the file with the defense's class, where that is not Sparring's.
        attack: the attack in words, with its options.
        attack_sha256: the hash of the file it is defined in, if there is one.
        threat: the threat model.
        dataset: `DatasetInfo` as JSON values; and "other_data": true where its test images are
            others than the run's, which was asked for.
        seed: what a stochastic defense's draws follow from; TO_BE_DRAWN while that is not known.
        draws: how often the defense was asked about each image.
        backend: the framework it ran on.
        sparring: the version it ran with.
        isolation: how the attack was kept from the judge: "in-process", which is not at all;
            "images", where there was none, only a file of images; else the means, as "process" or
            "process, Landlock" (docs/security.md).
    """

    defense: str
    run: str | None = None
    weights_sha256: str | None = None
    model: Annotated[dict[str, Any] | None, BeforeValidator(to_jsonable_python)] = None
    code_sha256: str | None = None
    attack: str
    attack_sha256: str | None = None
    threat: ThreatRecord
    dataset: Annotated[dict[str, Any], BeforeValidator(to_jsonable_python)]
    seed: int
    draws: int
    backend: str
    sparring: str
    isolation: str = IN_PROCESS

    @model_serializer(mode="wrap")
    def _as_before_there_were_models(self, serialize: Any) -> dict[str, Any]:
        # Names of folders follow from these values.
        values: dict[str, Any] = serialize(self)
        for name in ("model", "code_sha256"):
            if name in values and values[name] is None:
                del values[name]
        return values


class AgreementRecord(Record):
    """How far answers agree with a defense's own.

    Attributes:
        agree: how many do.
        of: of how many; 0 where nothing can be compared, as of gradients behind random draws.
        problem: in words, why there is no answer; empty where there is one.
    """

    agree: Count
    of: Count
    problem: str = ""


class PortRecord(Record):
    """How far a defense that was written anew agrees with it; see `sparring.evaluation.port`.

    Attributes:
        labels: its labels, at images and between them; None where it gives none.
        gradient: its gradients, with finite differences; None where it gives none.
    """

    labels: AgreementRecord | None = None
    gradient: AgreementRecord | None = None


MOST_PASSES = 1 << 53
"""More passes than an attack makes; every reader of JSON keeps as many."""


class VerdictRecord(Evaluated, FileRecord):
    """verdict.json: what an attack on a run came to.

    Attributes:
        format: version of the file.
        results: the rates; until it is finished, of the images judged so far.
        warnings: what to distrust.
        seconds: how long it took.
        forward: forward passes that the attack made, one for each image it asked the defense about;
            see `sparring.defenses.passes`. 0 where nobody counted.
        backward: backward passes, one for each image that a gradient came back to.
        images: one entry an image.
        finished: whether every image was judged and all was looked at that was asked for.
        checked: whether it was looked for signs that the result should be distrusted.
        label: the attack's short name and what is unusual about the evaluation, in words; empty
            where the file does not say.
        threads: how many of a CPU it was computed with; None where nobody can say.
        adversarial_sha256: the hash of adversarial.safetensors beside it.
        asked: seeds of the draws that the attack asked a stochastic defense for, the two smallest
            of several; -1 stands for any. Empty where nobody looked.
        drawn: whether the seed was drawn from the system once the adversarial images were in.
        eight_bit: the success after rounding to what a PNG holds; None where nobody looked.
        port: how far the attack's file has written the defense anew; None where it has not, or
            nobody looked.
    """

    format: int = VERDICT_FORMAT
    results: RatesRecord
    warnings: list[EvaluationWarning]
    seconds: Annotated[float, Field(ge=0, lt=1e100)]
    forward: Annotated[int, Field(ge=0, lt=MOST_PASSES)] = 0
    backward: Annotated[int, Field(ge=0, lt=MOST_PASSES)] = 0
    images: list[ImageRecord]
    finished: bool
    checked: bool = False
    label: str = ""
    threads: Annotated[int | None, Field(ge=1, le=MOST_THREADS)] = None
    adversarial_sha256: str | None = None
    asked: Annotated[list[int], Field(max_length=2)] = []
    drawn: bool = False
    eight_bit: RateRecord | None = None
    port: PortRecord | None = None

    @property
    def evaluated(self) -> Evaluated:
        """What was evaluated, without what came of it."""
        return Evaluated(**{name: getattr(self, name) for name in Evaluated.model_fields})

    @staticmethod
    def find(folder: Path) -> Path | None:
        """The file of the verdict in a folder, of this format or of the one before; or None."""
        return next((folder / name for name in _VERDICT_FILES if (folder / name).is_file()), None)

    @classmethod
    @override
    def from_json(cls, values: Any, file: Path) -> Self:
        version = values.get("format") if isinstance(values, dict) else None
        if type(version) is int and version != (expected := _VERDICT_FILES[file.name]):
            raise RunError(f"{file}: damaged: expected format {expected}, found {version}")
        return super().from_json(values, file)

    def same(self, about: Evaluated, index: Sequence[int]) -> bool:
        """Whether it is of an evaluation of something on some test images, by their indices."""
        before = self.evaluated
        if about.weights_sha256 is not None:  # which tells runs apart, wherever they lie by now
            before = before.model_copy(update={"run": about.run})
        if self.drawn:
            before = before.model_copy(update={"seed": TO_BE_DRAWN})
        return before == about and [image.index for image in self.images] == list(index)

    def write(self, folder: Path) -> None:
        """Write verdict.json into a folder; what format 1 left there goes."""
        first, *before = _VERDICT_FILES
        write_json(folder / first, {"format": VERDICT_FORMAT, **self.model_dump(mode="json")})
        for name in before:
            (folder / name).unlink(missing_ok=True)


MODEL_FILE = "model.json"
"""What says of a folder with verdicts that they are on a model of one's own."""


class ModelRecord(FileRecord):
    """model.json: a model of one's own, in whose folder verdicts on it lie.

    Attributes:
        format: version of the file.
        name: what it is called.
        model: its kind and what was declared of it.
        reference: what named it, as model.py:build; empty where it was given as an object.
        dataset: the fields of `sparring.data.DatasetInfo` of the data set that it is for.
        backend: the framework it ran on.
        weights_sha256: the hash of its weights; None where there was nothing to hash.
    """

    format: Literal[1] = 1
    name: Annotated[str, Field(max_length=200)]
    model: dict[str, Any]
    reference: str = ""
    dataset: Annotated[dict[str, Any], BeforeValidator(to_jsonable_python)]
    backend: Annotated[str, Field(max_length=200)]
    weights_sha256: str | None = None

    def write(self, folder: Path) -> None:
        """Write model.json into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MODEL_FILE, self.model_dump(mode="json"))

    def as_run(self) -> RunRecord:
        """Give what a report knows of a run, which its folder stands in for."""
        return RunRecord(
            defense=self.name,
            dataset=self.dataset,
            preset="none",
            settings=self.model,
            seed=0,
            backend=self.backend,
            status="finished",
            weights_sha256=self.weights_sha256,
            imported_from=self.reference or None,
        )


TRACE_FORMAT: Literal[1] = 1
"""Version of trace.json."""

MOST_TRACED, MOST_POINTS, MOST_WAYS = 10, 10_000, 10_000
"""Images that are traced, points that are kept of each, and parts of an attack, at most."""


class WayRecord(Record):
    """A part of an attack; the fields are those of `sparring.attacks.search.Way`."""

    attack: str
    name: str
    loss: str
    restart: Count
    aim: Count | None


class PointsRecord(Record):
    """The points of a trace in the order of time, a list for each column; see `Trace.points`."""

    image: Annotated[list[Count], Field(max_length=MOST_TRACED * MOST_POINTS)]
    way: list[Annotated[int, Field(ge=0, lt=MOST_WAYS)]]
    step: list[Count]
    target: list[Annotated[int, Field(ge=-1, le=_LARGEST_COUNT)]]
    loss: list[NumberOrNaN]
    margin: list[NumberOrNaN]
    distance: list[Annotated[NumberOrNaN, AfterValidator(_sensible)]]
    answer: list[Annotated[int, Field(ge=-1, le=_LARGEST_COUNT)]]
    rejected: list[Share]
    broken: list[Share]

    @model_validator(mode="after")
    def _columns_are_of_one_length(self) -> PointsRecord:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected columns of one length, found {lengths}")
        return self


class TraceRecord(FileRecord):
    """trace.json: what the first of the attacked images went through, step by step.

    Attributes:
        format: version of the file.
        evaluated: what was evaluated.
        images: indices of the test images that were traced.
        ways: the parts of the attack.
        points: what it came to, in the order of time.
        omitted: how many points were too many to be kept.
        problem: in words, why there is nothing more to see; empty where there is no problem.
    """

    format: Literal[1] = TRACE_FORMAT
    evaluated: Evaluated
    images: Annotated[list[Count], Field(max_length=MOST_TRACED)]
    ways: Annotated[list[WayRecord], Field(max_length=MOST_WAYS)]
    points: PointsRecord
    omitted: Count
    problem: str

    @model_validator(mode="after")
    def _points_are_of_its_images_and_ways(self) -> TraceRecord:
        if not {*self.points.image} <= {*self.images}:
            raise ValueError("expected points of the images that are listed alone")
        if max(self.points.way, default=-1) >= len(self.ways):
            raise ValueError(f"expected points of {len(self.ways)} ways, found others")
        return self

    def write(self, file: Path) -> None:
        """Write trace.json; its many numbers are not put on a line each."""
        values = json.dumps(self.model_dump(mode="json"), ensure_ascii=False)
        write_atomically(file, f"{values}\n".encode(errors="backslashreplace"))


TASK_FORMAT: Literal[1] = 1
"""Version of a task's task.json."""


class FreshRecord(Record):
    """What was drawn for a fresh instance of a task.

    Attributes:
        seed: what all of it follows from.
        training_seed: of the training.
        filters: width of the first convolution.
    """

    seed: Annotated[int, Field(ge=0)]
    training_seed: Annotated[int, Field(ge=0)]
    filters: Annotated[int, Field(ge=1, le=4096)]


class TaskRecord(FileRecord):
    """task.json in the judge's part of a task: what is judged, and by what.

    Attributes:
        format: version of the file.
        defense: its name.
        weights_sha256: the hash of its weights.
        threat: the threat model.
        dataset: the data set's name.
        index: of its test images, in the order of images.safetensors.
        draws: how often a stochastic defense is asked.
        minutes: wall time that the agent has.
        fresh: what was drawn, if the instance was trained for this task.
        sparring: the version that wrote it, which judges it.
    """

    format: Literal[1] = TASK_FORMAT
    defense: str
    weights_sha256: str
    threat: ThreatRecord
    dataset: str
    index: Annotated[list[Count], Field(min_length=1, max_length=MOST_IMAGES)]
    draws: Annotated[int, Field(ge=1, le=10**6)]
    minutes: Annotated[int, Field(ge=1)]
    fresh: FreshRecord | None = None
    sparring: str


def verdict_folder(attack: str, norm: str, eps: float, unusual: Sequence[str] = ()) -> str:
    """Name the folder of a verdict below a run's attacks/, as pgd-Linf-0.15-steps=10.

    Args:
        attack: the attack's short name.
        norm: of the threat model.
        eps: its radius.
        unusual: what is not as by default, as steps=10; a hash stands for what is long or odd.
    """
    rest = "-".join(unusual)
    if not re.fullmatch(r"[\w=.,+-]{0,60}", rest, re.ASCII):
        rest = hashlib.sha256(rest.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{attack}-{norm}-{eps:.4g}{rest and f'-{rest}'}"


def short_name(attack: str) -> str:
    """Give a name for an attack in words, as pgd for PGD(steps=40)."""
    word = re.match(r"\w+", attack)
    return word[0].lower() if word else "attack"


# A run

_LARGEST = 1e100

Word = Annotated[str, Field(max_length=200)]
"""A name."""


def figure(value: Any) -> float | None:
    """Give a finite number of sensible size as a float, None for anything else."""
    return float(value) if type(value) in (int, float) and abs(value) < _LARGEST else None


def _tolerant(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate a value that only people read; what is not as expected counts as unknown."""
    try:
        return validate(value)
    except ValidationError:
        return None


Figure = Annotated[float | None, PlainValidator(figure)]
"""A number for people; None where it is unknown or makes no sense."""


class _Open(Record, extra="allow"):
    """A record that is written again; keys that are not known are kept."""

    def as_json(self) -> dict[str, Any]:
        """Give the record as plain JSON values, without what is unknown."""
        return self.model_dump(exclude_none=True)


class Results(_Open):
    """What a finished training came to."""

    test_accuracy: Figure = None
    """Share of the test images, in [0, 1], answered correctly and not rejected."""
    rejected: Figure = None
    """Share of the test images, in [0, 1], that were rejected."""
    seconds: Figure = None
    """Time of training, without tests, of all networks together."""
    seeds_used: Annotated[list[int] | None, WrapValidator(_tolerant)] = None
    """The seed each network was trained with, which differs from the run's after a restart."""
    threads: Annotated[list[int | None] | None, WrapValidator(_tolerant)] = None
    """How many threads of a CPU each network was trained with at its end, where it is known."""
    finished: Annotated[str | None, WrapValidator(_tolerant)] = None
    """When, in ISO 8601."""
    warnings: Annotated[list[str] | None, WrapValidator(_tolerant)] = None
    """What to distrust, in sentences; None where nothing."""

    @property
    def tested(self) -> str:
        """The test accuracy in words."""
        known = self.test_accuracy is not None
        return f"test accuracy {self.test_accuracy:.2%}" if known else "not tested"


class Attempt(_Open):
    """A training of a network that diverged and was given up."""

    seed: int
    """The user's seed, plus the restarts before."""
    network: int | None = None
    """Counted from 0."""
    epoch: int | None = None
    """Counted from 1."""
    step: int | None = None
    """Within the epoch, counted from 1."""


class Session(_Open):
    """A process that worked on a run: on what, with what, and when it began."""

    device: Any = None
    """As `sparring.backend.devices` names it."""
    machine: Any = None
    """System, processor and number of cores."""
    versions: Any = None
    """Versions of the packages, by name."""
    command: Any = None
    """The command line."""
    started: Any = None
    """When, in ISO 8601."""
    network: Any = None
    """The one network that it trained, counted from 0; None for the whole defense."""


class WeightsFrom(_Open):
    """The trained defense whose weights another one serves."""

    defense: Word
    """Its name."""
    sha256: str = ""
    """The hash of its weights."""


class Code(_Open):
    """Where the class of a defense came from that is not Sparring's own; nothing runs by it.

    The fields are those of `sparring.defenses.facts.Origin`.
    """

    qualname: Word
    file: Annotated[str | None, Field(max_length=10_000)] = None
    sha256: Word | None = None
    module: Word | None = None
    distribution: Word | None = None
    version: Word | None = None


_OF_CODE = {"qualname", "sha256", "distribution", "version"}
"""What tells one code from another, wherever it lies."""

_IDENTITY = {"defense", "dataset", "preset", "weights_from", "settings", "seed", "backend"}
_OF_SESSION = ("device", "machine", "versions", "command", "started")
_CIRCUMSTANCES = {
    *(*_OF_SESSION, "sessions", "diverged", "weights_sha256"),
    *("weights_from", "imported_from", "imported", "code"),
}


class RunRecord(_Open, FileRecord):
    """What was trained, on what and how, and what it came to: run.json."""

    defense: Word
    """Name of the defense."""
    dataset: Annotated[dict[str, Any], BeforeValidator(to_jsonable_python)]
    """The fields of `sparring.data.DatasetInfo`, with a name at least; `info` has them typed."""
    source: dict[str, Any] | None = None
    """Its further fields, of where it lies, by which it is found and compared."""
    preset: Word = "course"
    """The recipe's variant: course or fast. Runs from before there were presets had the course's.
    """
    settings: dict[str, Any]
    """The settings of the whole defense."""
    networks: Annotated[list[dict[str, Any]] | None, WrapValidator(_tolerant)] = None
    """The settings each network was trained with, in order; None in runs of format 1."""
    weights_from: Annotated[WeightsFrom | None, WrapValidator(_tolerant)] = None
    """Whose weights it serves, where it trained none itself."""
    seed: Annotated[int, Field(ge=0)]
    """The user's; everything random follows from it."""
    backend: Word
    """torch, tensorflow or jax."""
    code: Code | None = None
    """Where its class came from; None of Sparring's own."""
    device: Any = None
    """Of the first session, as are the four that follow."""
    machine: Any = None
    versions: Any = None
    command: Any = None
    started: Any = None
    sessions: Annotated[list[Session] | None, WrapValidator(_tolerant)] = None
    """The processes that worked on it, in order; None in runs from before they were listed."""
    imported: Any = None
    """When it was converted from another program's files, in ISO 8601."""
    imported_from: Any = None
    """Those files."""
    unfinished: Any = None
    """Whether the other program's training had not ended."""
    status: Literal["training", "diverged", "finished"]
    """How far it is."""
    diverged: Annotated[list[Attempt] | None, WrapValidator(_tolerant)] = None
    """What was given up, of all networks; None where nothing was."""
    results: Annotated[Results | None, WrapValidator(_tolerant)] = None
    """What it came to; None before the end."""
    weights_sha256: Annotated[str | None, WrapValidator(_tolerant)] = None
    """Hash of all that weights.safetensors holds; None before the end."""
    format: int = Field(default=FORMAT)
    """Version of the file it was read from."""

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return self.status == "finished"

    @property
    def dataset_name(self) -> str:
        """Name of the data set."""
        return str(self.dataset["name"])

    @property
    def info(self) -> DatasetInfo:
        """The data set as a network knows it. Raises ValueError."""
        return DatasetInfo.from_json({**self.dataset, **(self.source or {})})

    def about(self) -> dict[str, Any]:
        """Give what the weights of this training say of it, in plain JSON values."""
        values: dict[str, Any] = to_jsonable_python(self.model_dump(include=_IDENTITY))
        if self.code is not None:
            values["code"] = self.code.model_dump(include=_OF_CODE, exclude_none=True)
        return values

    def differences(self, other: Mapping[str, Any], course: Mapping[str, Any]) -> list[str]:
        """Compare with what `about` gave of another training, or an older version of it.

        Args:
            other: of which what is missing is not compared.
            course: the settings of the course. What was trained before there was a setting, had the
                course's value of it.

        Returns:
            What differs, as "settings.epochs is 3 there, 4 here".
        """
        differences = []
        for name, here in self.about().items():
            there = other.get(name, here)
            if not isinstance(here, dict) or not isinstance(there, dict):
                here, there = {"": here}, {"": there}
            elif name == "settings":
                here, there = {**course, **here}, {**course, **there}
            elif name == "dataset" and "key" in here:  # it is left out where the name tells it
                there = {"key": None, **there}
            differences += [
                f"{name}.{part}".rstrip(".")
                + f" is {value!r:.80} there, {here.get(part)!r:.80} here"
                for part, value in there.items()
                if here.get(part) != value
            ]
        return differences

    def circumstances(self) -> dict[str, Any]:
        """List what is known of where, when and of what it was trained, in plain JSON values."""
        return self.model_dump(include=_CIRCUMSTANCES, exclude_none=True)

    def with_session(self, session: Session) -> Self:
        """Give a record with one more session, the first of which it shows as its own."""
        first = Session(**{name: getattr(self, name) for name in _OF_SESSION})
        before = self.sessions or ([first] if first.started else [])
        own = (before or [session])[0].model_dump(include={*_OF_SESSION})
        return self.with_changes(**own, sessions=[*before, session])

    def with_changes(self, **changes: Any) -> Self:
        """Give a record with some fields replaced; values are not checked."""
        return self.model_copy(update=changes)

    def as_json(self) -> dict[str, Any]:
        """Give run.json's values; what is unknown is left out."""
        return {"format": FORMAT, **self.model_dump(exclude_none=True, exclude={"format"})}

    @classmethod
    @override
    def from_json(cls, values: Any, file: Path) -> Self:
        version = values.get("format") if isinstance(values, dict) else None
        if type(version) is not int:
            raise RunError(f"{file}: damaged: expected an object with an integer 'format'")
        if not 1 <= version <= FORMAT:
            which = "a newer" if version > FORMAT else "another"
            raise RunError(
                f"{file}: expected format 1 to {FORMAT}, found {version}: written by {which} "
                "version of Sparring"
            )
        return super().from_json(values, file)

    @model_validator(mode="after")
    def _data_set_has_a_name(self) -> Self:
        if type(name := self.dataset.get("name")) is not str:
            raise ValueError(f"expected name to be text, found {name!r:.40}")
        return self


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch came to; a line of metrics.jsonl."""

    network: int
    """Counted from 0."""
    epoch: int
    """Counted from 1."""
    loss: float
    """Mean over the augmented training images with the raw weights as they changed, with weight
    decay's term."""
    accuracy: float
    """Share of the augmented training images, in [0, 1], that the raw weights got right."""
    test_accuracy: float | None
    """Share of the test images, in [0, 1], that the EMA weights get right; None where it was not
    asked for."""
    learning_rate: float
    """Of the last step."""
    images_per_second: float
    """Pace of training."""
    seconds: float
    """Time of training, without the test."""
    threads: int | None = None
    """How many threads of a CPU it was computed with at its end; None where nobody can say."""

    def as_json(self) -> dict[str, Any]:
        """Give the line as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> EpochMetrics:
        """Read a line; figures that make no sense become NaN, the test accuracy None.

        Raises:
            ValueError: when it does not say of which network and epoch it is.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"expected an object, got {values!r:.40}")
        place = {name: values.get(name) for name in ("network", "epoch")}
        for name, value in place.items():
            least = 1 if name == "epoch" else 0
            if type(value) is not int or not least <= value <= _LARGEST_COUNT:
                raise ValueError(f"{name}: expected a number, got {value!r:.40}")
        figures: dict[str, Any] = {}
        for name in cls.__dataclass_fields__:
            value = figure(values.get(name))
            figures[name] = value if value is not None and value >= 0 else math.nan
        threads = values.get("threads")
        unknown = {
            "test_accuracy": figure(values.get("test_accuracy")),
            "threads": threads if type(threads) is int and 1 <= threads <= MOST_THREADS else None,
        }
        return cls(**{**figures, **unknown, **place})
