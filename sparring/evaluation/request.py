"""EvaluationRequest: one evaluation as values, from the command line or Python to the judge.

It imports no framework; what the names in it stand for is looked up by `evaluate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from sparring.errors import SettingsError, unknown_name


def _option(text: str, metavar: str = "", *names: str) -> dict[str, Any]:
    """What the command line says of a field: its help, what stands for the value, its names."""
    return {"help": text, "metavar": metavar, "names": names}


@dataclass(frozen=True)
class EvaluationRequest:
    """Everything that one evaluation needs; each field that is an option holds its help.

    Made of names and paths it is JSON both ways. In place of them `defense` and `transfer_from` may
    be a Defense, `attack` any attack, and `data` a Dataset.

    Raises:
        SettingsError: a number is out of range, or options are given to an attack without a name.
    """

    defense: Any = field(metadata=_option("Name of a trained defense, or a run directory."))
    attack: Any = field(
        default="pgd",
        metadata=_option(
            "noise, fgsm, pgd, square, reference (the defense's reference attack), or a file.py "
            "with a function attack(defense, x, y, threat)."
        ),
    )
    options: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=_option(
            "Of the attack, as steps=100; repeatable.", "NAME=VALUE", "--option", "-o"
        ),
    )
    data: Any = field(
        default=None,
        metadata=_option(
            "Data set of the defense named. Default: digits, or a run directory's own.",
            "NAME|FILE.npz",
        ),
    )
    data_dir: Path | None = field(
        default=None, metadata=_option("Folder with the data set's files.")
    )
    norm: str = field(default="Linf", metadata=_option("Norm of the threat model.", "Linf|L2"))
    eps: str | float | None = field(
        default=None,
        metadata=_option("Its radius, as 0.03 or 8/255. Default: the data set's.", "X"),
    )
    n: int = field(default=100, metadata=_option("How many test images.", "N", "--n", "-n"))
    images: Sequence[int] | None = field(
        default=None,
        metadata=_option("Indices of test images, in place of the first N.", "I,J,..."),
    )
    draws: int = field(
        default=20, metadata=_option("How often a stochastic defense is asked.", "N")
    )
    batch_size: int = field(
        default=128, metadata=_option("Images given to the attack at a time.", "N")
    )
    seed: int = field(default=0, metadata=_option("Of a stochastic defense's draws.", "N"))
    check: bool = field(
        default=True, metadata=_option("Look for signs that the result should be distrusted.")
    )
    transfer: bool = True
    """Whether the checks try another defense's adversarial images too, where there is one."""
    transfer_from: Any = None
    """Whose: a run directory; None takes the baseline beside the defense's run."""
    time_limit: float | None = field(
        default=None, metadata=_option("For the attack, per batch.", "SECONDS")
    )
    runs: Path = field(default=Path("runs"), metadata=_option("Folder of runs."))
    save: bool = True
    """Whether the verdict is written, and an unfinished one of the same evaluation gone on with."""
    out: Path | None = field(
        default=None, metadata=_option("Folder of the verdict. Default: in the run.")
    )

    def __post_init__(self) -> None:
        """Check numbers, and take texts for paths."""
        for name in ("n", "draws", "batch_size"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise SettingsError(f"{name}: expected an integer of 1 or more, got {value!r}")
        if self.options and not isinstance(self.attack, str | Path):
            raise SettingsError("options: expected none with an attack that is no name or file")
        for name in ("data_dir", "runs", "out"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(value))
        for name in ("defense", "attack", "data", "transfer_from"):
            if isinstance(value := getattr(self, name), Path):
                object.__setattr__(self, name, str(value))
        if self.images is not None:
            object.__setattr__(self, "images", tuple(int(index) for index in self.images))

    @classmethod
    def of(cls, defense: Any, **options: Any) -> Self:
        """Make a request, or change one.

        Args:
            defense: the field of that name; or a request, whose other fields are kept.
            options: fields by name.

        Raises:
            SettingsError: there is no such field, or its value is out of range.
        """
        valid = [option.name for option in fields(cls)]
        for name in options:
            if name not in valid:
                raise SettingsError(unknown_name("option of an evaluation", name, valid))
        if isinstance(defense, cls):
            return replace(defense, **options)
        return cls(defense, **options)

    def as_json(self) -> dict[str, Any]:
        """Give the fields as plain JSON values; `from_json` reads them back.

        Raises:
            SettingsError: a field holds a thing in place of its name.
        """
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        values["options"] = dict(self.options)
        for name, value in values.items():
            try:
                values[name] = json.loads(
                    json.dumps(str(value) if isinstance(value, Path) else value)
                )
            except (TypeError, ValueError):
                text = f"{name}: expected a name or a path in a request as JSON, got {value!r:.80}"
                raise SettingsError(text) from None
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_json` gave.

        Raises:
            SettingsError: a field is unknown, or a value out of range.
        """
        return cls.of(**values)
