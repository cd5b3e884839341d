"""EvaluationRequest: one evaluation as values, from the command line or Python to the judge.

It imports no framework; what the names in it stand for is looked up by `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from typing_extensions import override

from sparring import data as datasets
from sparring.errors import SettingsError, unknown_name
from sparring.experiments.request import Request, option


@dataclass(frozen=True)
class EvaluationRequest(Request):
    """Everything that one evaluation needs; each field that is an option holds its help.

    Made of names and paths it is JSON both ways. In place of them `defense` and `transfer_from` may
    be a Defense, `attack` any attack, and `data` a Dataset.

    Raises:
        SettingsError: a number is out of range, or options are given to an attack without a name.
    """

    defense: Any = option(MISSING, "Name of a trained defense, or a run directory.")
    attack: Any = option(
        "pgd",
        "noise, fgsm, pgd, square, reference (the defense's reference attack), or a file.py with a "
        "function attack(defense, x, y, threat).",
    )
    options: Mapping[str, Any] = option(
        dict, "Of the attack, as steps=100; repeatable.", "NAME=VALUE", "--option", "-o"
    )
    data: Any = option(
        None,
        "Data set of the defense named. Default: digits, or a run directory's own.",
        "NAME|FILE.npz",
    )
    data_dir: Path | None = option(None, "Folder with the data set's files.")
    other_data: bool = option(
        False, "Judge on DATA's images though they are not those the defense was tested on."
    )
    norm: str = option("Linf", "Norm of the threat model.", "Linf|L2")
    eps: str | float | None = option(
        None, "Its radius, as 0.03 or 8/255. Default: the data set's.", "X"
    )
    n: int = option(100, "How many test images.", "N", "--n", "-n")
    images: Sequence[int] | None = option(
        None, "Indices of test images, in place of the first N.", "I,J,..."
    )
    draws: int = option(20, "How often a stochastic defense is asked.", "N")
    batch_size: int = option(128, "Images given to the attack at a time.", "N")
    seed: int = option(0, "Of a stochastic defense's draws.", "N")
    check: bool = option(True, "Look for signs that the result should be distrusted.")
    transfer: bool = True
    """Whether the checks try another defense's adversarial images too, where there is one."""
    transfer_from: Any = None
    """Whose: a run directory; None takes the baseline beside the defense's run."""
    time_limit: float | None = option(None, "For the attack, per batch.", "SECONDS")
    runs: Path = option(Path("runs"), "Folder of runs.")
    save: bool = True
    """Whether the verdict is written, and an unfinished one of the same evaluation gone on with."""
    out: Path | None = option(None, "Folder of the verdict. Default: in the run.")

    def __post_init__(self) -> None:
        """Check numbers, and take texts for paths."""
        self._expect_counts(1, "n", "draws", "batch_size")
        if self.options and not isinstance(self.attack, str | Path):
            raise SettingsError("options: expected none with an attack that is no name or file")
        self._take_paths("data_dir", "runs", "out")
        for name in ("defense", "attack", "data", "transfer_from"):
            if isinstance(value := getattr(self, name), Path):
                object.__setattr__(self, name, str(value))
        if self.data is not None:
            object.__setattr__(self, "data", datasets.accepted(self.data))
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
        valid = [part.name for part in fields(cls)]
        for name in options:
            if name not in valid:
                raise SettingsError(unknown_name("option of an evaluation", name, valid))
        if isinstance(defense, cls):
            return replace(defense, **options)
        return cls(defense, **options)

    @classmethod
    @override
    def from_json(cls, values: Any) -> Self:
        return cls.of(**values)
