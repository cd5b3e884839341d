"""Records: the JSON files in a run directory as typed values, each with its reader and writer.

Nothing but these classes knows the keys of the files. Values are checked strictly: an integer is no
text, and `true` is no integer. What a file has besides is left alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import to_jsonable_python

from sparring.errors import RunError
from sparring.runs.checkpoint import write_atomically

VERDICT_FORMAT = 2
"""Version of verdict.json as it is written; format 1, called report.json, is read too."""

_VERDICT_FILES = {"verdict.json": VERDICT_FORMAT, "report.json": 1}

Number = Annotated[float, Field(gt=-1e100, lt=1e100)]
"""A finite number of sensible size."""

NumberOrNaN = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: None if math.isnan(value) else value, when_used="json"),
]
"""A number, or NaN where there is none, which is null in JSON."""


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
    if (kind := _KINDS.get(first["type"])) is None:
        return first["msg"].removeprefix("Value error, ")
    *_, name = ("the file", *(part for part in first["loc"] if isinstance(part, str)))
    place = f"[{first['loc'][-1]}]" if first["loc"] and first["loc"][-1] != name else ""
    return f"expected {name}{place} to be {kind}, found {first['input']!r:.40}"


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
        return f"{self.text} [docs/warnings.md#{self.name}]"


class ImageRecord(Record):
    """What came of one image; the fields are those of `sparring.Verdict.rows`."""

    index: int
    label: int
    clean: Number
    rejected: Number
    attacked: bool
    success: Number
    answer: int
    distance: NumberOrNaN
    reason: str


class Evaluated(Record):
    """What was evaluated; evaluations that are equal here come to the same verdict.

    Attributes:
        defense: its name.
        run: its run directory, if it has one.
        weights_sha256: the hash of its weights.
        attack: the attack in words, with its options.
        attack_sha256: the hash of the file it is defined in, if there is one.
        threat: the threat model.
        dataset: `DatasetInfo` as JSON values.
        seed: what a stochastic defense's draws follow from.
        draws: how often the defense was asked about each image.
        backend: the framework it ran on.
        sparring: the version it ran with.
    """

    defense: str
    run: str | None = None
    weights_sha256: str | None = None
    attack: str
    attack_sha256: str | None = None
    threat: ThreatRecord
    dataset: Annotated[dict[str, Any], BeforeValidator(to_jsonable_python)]
    seed: int
    draws: int
    backend: str
    sparring: str


class VerdictRecord(Evaluated):
    """verdict.json: what an attack on a run came to.

    Attributes:
        format: version of the file.
        results: the rates; until it is finished, of the images judged so far.
        warnings: what to distrust.
        seconds: how long it took.
        images: one entry an image.
        finished: whether every image was judged and all was looked at that was asked for.
        adversarial_sha256: the hash of adversarial.safetensors beside it.
    """

    format: int = VERDICT_FORMAT
    results: RatesRecord
    warnings: list[EvaluationWarning]
    seconds: Number
    images: list[ImageRecord]
    finished: bool
    adversarial_sha256: str | None = None

    @property
    def evaluated(self) -> Evaluated:
        """What was evaluated, without what came of it."""
        return Evaluated(**{name: getattr(self, name) for name in Evaluated.model_fields})

    @staticmethod
    def find(folder: Path) -> Path | None:
        """The file of the verdict in a folder, of this format or of the one before; or None."""
        return next((folder / name for name in _VERDICT_FILES if (folder / name).is_file()), None)

    @classmethod
    def read(cls, file: Path, clean: Callable[[Any], Any] = lambda values: values) -> VerdictRecord:
        """Read a file that `find` gave.

        Args:
            file: the path.
            clean: is applied to the JSON values before they are checked; may raise ValueError.

        Raises:
            RunError: it cannot be read, is of another format, or lacks something.
        """
        try:
            values = clean(json.loads(file.read_bytes()))
            version = values.get("format") if isinstance(values, dict) else None
            expected = _VERDICT_FILES[file.name]
            if type(version) is int and version != expected:
                raise ValueError(f"expected format {expected}, found {version}")
            return cls.model_validate(values)
        except ValidationError as error:
            raise RunError(f"{file}: damaged: {problem(error)}") from error
        except (ValueError, RecursionError, OSError) as error:
            raise RunError(f"{file}: damaged: {error}") from error

    def write(self, folder: Path) -> None:
        """Write verdict.json into a folder; what format 1 left there goes."""
        values = {"format": VERDICT_FORMAT, **self.model_dump(mode="json")}
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        first, *before = _VERDICT_FILES
        # In a C locale, paths hold lone surrogates; escaped by Python they are JSON's escapes.
        write_atomically(folder / first, f"{text}\n".encode(errors="backslashreplace"))
        for name in before:
            (folder / name).unlink(missing_ok=True)


def verdict_folder(attack: str, norm: str, eps: float, some: bool = False) -> str:
    """Name the folder of a verdict below a run's attacks/, as pgd-Linf-0.15.

    Args:
        attack: the attack's short name.
        norm: of the threat model.
        eps: its radius.
        some: whether chosen images were attacked, in place of the first ones.
    """
    return f"{attack}-{norm}-{eps:.4g}{'-some' if some else ''}"


def short_name(attack: str) -> str:
    """Give a name for an attack in words, as pgd for PGD(steps=40)."""
    word = re.match(r"\w+", attack)
    return word[0].lower() if word else "attack"
