"""What `doctor` found, as values and as lines of text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, Literal

from sparring.backend import choice as backend_choice
from sparring.errors import unknown_name

SHAPE, FILTERS, BATCH = (32, 32, 3), 16, 64
"""What a probe trains: images of this shape, the baseline of so many filters, so many a step."""

_WIDTH = 100  # columns, each finding in two lines at most


@dataclass(frozen=True)
class BackendFinding:
    """One backend: whether it can be used, and what it takes to be better."""

    name: str
    state: Literal["works", "broken", "missing", "installed"]
    """"installed" says that it was not probed."""
    version: str | None = None
    devices: tuple[str, ...] = ()
    """The default first."""
    steps_per_second: float | None = None
    images_per_second: float | None = None
    error: str | None = None
    """The line that says most of what a broken one printed."""
    hint: str | None = None
    """A command, or what to look at."""

    def lines(self) -> Iterator[str]:
        """Give it as text, a hint on a line of its own."""
        begin = f"{self.name:<12}{self.version or '-':<13}"
        if self.state == "works":
            speed = f"{self.steps_per_second:.3g} steps/s, {self.images_per_second:,.0f} images/s"
            yield f"{begin}works on {', '.join(self.devices)}: {speed}"
            yield from [f"  {self.hint}"] if self.hint else []
        else:
            missing, broken = f"not installed: {self.hint}", f"broken: {self.error}"
            states = {"missing": missing, "broken": broken, "installed": "installed, not probed"}
            yield begin + states[self.state]


@dataclass(frozen=True)
class DatasetFinding:
    """One data set."""

    name: str
    state: Literal["verified", "present", "missing", "damaged"]
    """"present" says that its files are there, "verified" that they were read and are whole."""
    where: str | None = None
    """Its folder; None for embedded ones."""
    error: str | None = None
    """What is wrong with damaged ones, or which file is missing."""

    def __str__(self) -> str:
        """Give it as a line."""
        found = "embedded" if self.where is None else f"{self.state} in {self.where}"
        damaged = "damaged: " if self.state == "damaged" else ""
        return f"{self.name:<15}{f'{damaged}{self.error}' if self.error else found}"


@dataclass(frozen=True)
class FolderFinding:
    """A folder, which need not exist yet."""

    path: str
    free_bytes: int | None
    """Space on its disk; None when unknown."""
    writable: bool

    def __str__(self) -> str:
        """Give it as a line."""
        trouble = "" if self.writable else ", cannot be written"
        return f"{self.path}: {_gibibytes(self.free_bytes)} free{trouble}"


@dataclass(frozen=True)
class Findings:
    """What `examine` found; `str` of it fits a screen."""

    sparring: str
    python: str
    executable: str
    system: str
    cores: float
    """Those this process may use by its affinity and control groups, as is the memory."""
    cores_there: int
    load: float | None
    """Processes that ran or waited, over the last minute; near `cores`, speeds come out low."""
    memory_bytes: int | None
    memory_free_bytes: int | None
    gpus: tuple[str, ...]
    gpu_error: str | None
    keras: str | None
    default_backend: str | None
    backends: tuple[BackendFinding, ...]
    datasets: tuple[DatasetFinding, ...]
    runs: FolderFinding
    downloads: FolderFinding
    extras: dict[str, tuple[str, ...]] | None
    """Which requirements each extra lacks; None when the package is not installed as one."""
    isolation: str = ""
    """By what means attacks of files are kept from their judge; empty where nobody looked."""

    @property
    def usable(self) -> bool:
        """Whether a backend works or, where none was probed, is installed."""
        return any(backend.state in ("works", "installed") for backend in self.backends)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {**asdict(self), "usable": self.usable}

    def __str__(self) -> str:
        """Give everything in lines that fit a screen."""
        load = "" if self.load is None else f", load {self.load:.1f}"
        memory = f"{_gibibytes(self.memory_bytes)}, {_gibibytes(self.memory_free_bytes)} of it free"
        cores = f"{self.cores:.3g} of {self.cores_there} cores usable{load}"
        gpus = "; ".join(f"{count} x {gpu}" for gpu, count in Counter(self.gpus).items())
        backends = [line for backend in self.backends for line in backend.lines()]
        rows = [
            (
                "Sparring",
                f"{self.sparring}, Python {self.python} ({self.executable}), {self.system}",
            ),
            ("Machine", f"{cores}, memory {memory}"),
            *([("GPUs", gpus or self.gpu_error)] if gpus or self.gpu_error else []),
            *zip_longest(["Backends"], [*backends, *self._notes()], fillvalue=""),
            *zip_longest(["Data"], self.datasets, fillvalue=""),
            ("Runs", self.runs),
            ("Downloads", self.downloads),
            ("Extras", self._extras()),
            *([("Isolation", self.isolation)] if self.isolation else []),
        ]
        wrapper = textwrap.TextWrapper(
            _WIDTH,
            subsequent_indent=10 * " ",
            max_lines=2,
            placeholder=" ...",
            break_on_hyphens=False,
        )
        return "\n".join(wrapper.fill(f"{label:<10}{text}") for label, text in rows)

    def _notes(self) -> Iterator[str]:
        default = self.default_backend
        if default is not None and default not in backend_choice.NAMES:
            yield f"KERAS_BACKEND: {unknown_name('backend', default, backend_choice.NAMES)}"
        elif default is not None:
            yield f"Keras {self.keras}. Default {default}, unless --backend or KERAS_BACKEND says."
        if self.load is not None and self.load > self.cores / 2:
            load = f"Load {self.load:.1f} on {self.cores:.3g} cores"
            yield f"{load}: speeds come out low, and OMP_NUM_THREADS=1 may be faster."
        if any(backend.steps_per_second for backend in self.backends):
            images = f"{BATCH} images {'x'.join(map(str, SHAPE))}, {FILTERS} filters"
            yield f"A step trains {images}, on the device named first."

    def _extras(self) -> str:
        if self.extras is None:
            return "unknown: Sparring is not installed as a package"
        present = [name for name, missing in self.extras.items() if not missing]
        absent = [name for name in self.extras if name not in present]
        install = f"missing: pip install 'sparring[{','.join(absent)}]'"
        parts = ((present, "present"), (absent, install))
        return "; ".join(f"{', '.join(names)} {what}" for names, what in parts if names) or "none"


def _gibibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / (1 << 30):.1f} GiB"
