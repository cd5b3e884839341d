"""TaskRequest: one task as values, from the command line or Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring import data as datasets
from sparring import defenses
from sparring.errors import SettingsError, unknown_name
from sparring.experiments.request import Request, option
from sparring.runs.records import MOST_IMAGES
from sparring.training.settings import PRESETS

FORMS = ("folder", "harbor")
"""What a task can be written as."""

_LONGEST = 7 * 24 * 60  # minutes


@dataclass(frozen=True, kw_only=True)
class TaskRequest(Request):
    """Everything that one task needs.

    Raises:
        SettingsError: for a value of another type or range.
    """

    defense: str
    """Name of a trained defense, or a run directory; with `fresh` the name alone."""
    out: Path
    """Folder to write, which is new or empty."""
    data: str | None = None
    """Data set of the defense named. None: digits, or a run directory's own."""
    form: str = option(
        "folder", "A plain folder, or a task of Harbor.", "|".join(FORMS), "--format"
    )
    data_dir: Path | None = option(None, "Folder with the data set's files.")
    resize: int | None = option(
        None, "Bring a folder's images to N x N pixels, for a fresh instance.", "N"
    )
    norm: str = option("Linf", "Norm of the threat model.", "Linf|L2")
    eps: str | float | None = option(
        None, "Its radius, as 0.03 or 8/255. Default: the data set's; drawn with --fresh.", "X"
    )
    n: int = option(100, "How many test images.", "N", "--n", "-n")
    minutes: int = option(60, "Wall time that the agent has.", "N")
    draws: int = option(20, "How often the judge asks a stochastic defense.", "N")
    fresh: int | None = option(
        None, "Train an instance that nobody has seen; all of it follows from SEED.", "SEED"
    )
    preset: str = option("fast", "How a fresh instance learns.", "|".join(PRESETS))
    runs: Path = option(Path("runs"), "Folder of runs.")
    solution: bool = True
    """Whether the reference attack is run, for the oracle."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a fresh instance by name; the rest is drawn or the defense's own."""

    def __post_init__(self) -> None:
        """Check the values, and take texts for paths."""
        self._expect("a name or a path", str | Path, "defense")
        object.__setattr__(self, "defense", str(self.defense))
        self._expect_counts(1, "n", "minutes", "draws")
        for name, most in (("n", MOST_IMAGES), ("minutes", _LONGEST), ("draws", 10**6)):
            if getattr(self, name) > most:
                raise SettingsError(f"{name}: expected at most {most:,}, got {getattr(self, name)}")
        self._expect("a path", str | Path, "out", "runs")
        self._take_paths("out", "runs", "data_dir")
        self._expect("a name", str, "form", "norm", "preset")
        self._expect("True or False", bool, "solution")
        self._expect("settings by name", Mapping, "settings")
        if self.form not in FORMS:
            raise SettingsError(unknown_name("format", self.form, FORMS))
        if self.preset not in PRESETS:
            raise SettingsError(unknown_name("preset", self.preset, PRESETS))
        if self.data is not None:
            self._expect("the name or the path of a data set", str | Path, "data")
            object.__setattr__(self, "data", str(self.data))
            datasets.file_of(str(self.data))
        datasets.checked_resize(self.resize)
        self._check_fresh()

    def _check_fresh(self) -> None:
        """Refuse what goes with a fresh instance alone, or not with one."""
        if self.fresh is not None:
            self._expect_counts(0, "fresh")
            defenses.describe(self.defense)
            return
        for name in ("settings", "resize"):
            if getattr(self, name):
                raise SettingsError(f"{name}: expected it with a fresh instance alone")
