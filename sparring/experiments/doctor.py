"""What this machine can do: cores, memory, GPUs, backends and their speed, data sets, disk space.

Keras runs on one backend a process, and a broken backend may crash or hang when it is imported, so
each is tried in a process of its own; nothing here imports keras.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from packaging.requirements import Requirement

from sparring import data as datasets
from sparring.backend import choice as backend_choice
from sparring.errors import DataError, unknown_name
from sparring.experiments import machine
from sparring.version import __version__

SHAPE, FILTERS, BATCH = (32, 32, 3), 16, 64
"""What a probe trains: images of this shape, the baseline of so many filters, so many a step."""

TIMEOUT = 120.0
"""Seconds a probe may take; importing TensorFlow from a slow disk takes most of a minute."""

WIDTH = 100
"""Columns the findings are wrapped at, each to two lines."""

_MEASURED_SECONDS = 1.0
_STEPS_PER_EPOCH = 50  # as many as are computed between two looks at the losses on an accelerator
_WARM_UP_LOOKS = 2  # compiling, choosing algorithms
_SECONDS_TO_DIE = 5.0
_SECONDS_FOR_GPUS = 20.0
_GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class BackendFinding:
    """One backend: `state`, and what it takes to be better.

    "installed" says that it was not probed. `devices` have the default first; `error` is the line
    that says most of what a broken one printed; `hint` is a command, or what to look at. Speeds
    are of `SHAPE` images, None where nothing was measured.
    """

    name: str
    state: Literal["works", "broken", "missing", "installed"]
    version: str | None = None
    devices: tuple[str, ...] = ()
    steps_per_second: float | None = None
    images_per_second: float | None = None
    error: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class DatasetFinding:
    """One data set: `where` is its folder, None for embedded ones.

    "present" says that its files are there, "verified" that they were read and are whole; `error`
    is what is wrong with damaged ones, or which file is missing.
    """

    name: str
    state: Literal["verified", "present", "missing", "damaged"]
    where: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class FolderFinding:
    """A folder, which need not exist yet: the space on its disk in bytes, None when unknown."""

    path: str
    free_bytes: int | None
    writable: bool


@dataclass(frozen=True)
class Findings:
    """What `examine` found; `str` of it fits a screen.

    `cores` counts what this process may use of `cores_there`: affinity and control groups are
    taken into account, as they are in `memory_bytes` and `memory_free_bytes` (None: unknown). With
    a `load` (processes that ran or waited, over the last minute) near `cores`, speeds come out low.
    `extras` tells which requirements each extra of the package lacks; None when the package is
    not installed as one.
    """

    sparring: str
    python: str
    executable: str
    system: str
    cores: float
    cores_there: int
    load: float | None
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
        gpus = "; ".join(f"{count} x {gpu}" for gpu, count in Counter(self.gpus).items())
        backends = [*chain.from_iterable(map(_backend_lines, self.backends)), *self._notes()]
        memory, free = _gibibytes(self.memory_bytes), _gibibytes(self.memory_free_bytes)
        cores = f"{self.cores:.3g} of {self.cores_there} cores usable{load}"
        program = f"{self.sparring}, Python {self.python} ({self.executable}), {self.system}"
        rows = [
            ("Sparring", program),
            ("Machine", f"{cores}, memory {memory}, {free} of it free"),
            *([("GPUs", gpus or self.gpu_error)] if gpus or self.gpu_error else []),
            *zip_longest(["Backends"], backends, fillvalue=""),
            *zip_longest(["Data"], map(_dataset_line, self.datasets), fillvalue=""),
            ("Runs", _folder_line(self.runs)),
            ("Downloads", _folder_line(self.downloads)),
            ("Extras", self._extras_line()),
        ]
        wrapper = textwrap.TextWrapper(
            WIDTH,
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
        if any(backend.steps_per_second for backend in self.backends):
            height, width, channels = SHAPE
            yield (
                f"A step trains {BATCH} images {height}x{width}x{channels}, {FILTERS} filters, "
                "on the device named first."
            )

    def _extras_line(self) -> str:
        if self.extras is None:
            return "unknown: Sparring is not installed as a package"
        present = [name for name, missing in self.extras.items() if not missing]
        absent = [name for name in self.extras if name not in present]
        install = f"missing: pip install 'sparring[{','.join(absent)}]'"
        parts = ((present, "present"), (absent, install))
        return "; ".join(f"{', '.join(names)} {what}" for names, what in parts if names) or "none"


def examine(
    data_dir: str | Path | None = None,
    out: str | Path = "runs",
    *,
    probe: bool = True,
    timeout: float = TIMEOUT,
    tell: Callable[[str], None] = lambda text: None,
) -> Findings:
    """Look at this machine, which takes seconds a backend.

    Args:
        data_dir: folder to look for data sets in; None looks where downloads are kept.
        out: folder of runs.
        probe: train on every backend for a second and read data sets; False only looks whether
            they are there.
        timeout: seconds after which a backend that does not answer is broken.
        tell: told what is being done.

    Raises:
        DataError: when data_dir is no folder.
    """
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise DataError(f"{data_dir}: no such folder")
    cores, cores_there = machine.cores()
    memory_bytes, memory_free_bytes = machine.memory()
    gpus, gpu_error = _gpus()
    backends = []
    for name in backend_choice.NAMES:
        if name not in backend_choice.installed():
            hint = f"pip install 'sparring[{name}]'"
            backends.append(BackendFinding(name, "missing", hint=hint))
        elif not probe:
            backends.append(BackendFinding(name, "installed", _version_of_module(name)))
        else:
            tell(f"Probing {name}: importing it, then training for a second ...")
            backends.append(probe_backend(name, timeout, has_gpu=bool(gpus)))
    data_sets = []
    for name in datasets.NAMES:
        if probe:
            tell(f"Reading {name} ...")
        data_sets.append(_dataset(name, data_dir, read=probe))
    return Findings(
        sparring=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=cores,
        cores_there=cores_there,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory_bytes=memory_bytes,
        memory_free_bytes=memory_free_bytes,
        gpus=gpus,
        gpu_error=gpu_error,
        keras=_version("keras"),
        default_backend=os.environ.get("KERAS_BACKEND", backend_choice.default()),
        backends=tuple(backends),
        datasets=tuple(data_sets),
        runs=_folder(Path(out).expanduser()),
        downloads=_folder(datasets.cache_folder()),
        extras=_extras(),
    )


# Backends

# The search path goes along, so that what is found here is what is imported there.
_PROBE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from sparring.experiments import doctor; doctor.answer()"
)

# Where a framework shares the GPU with a training that is running.
_SPARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}

_GPU_BUILDS = {
    "torch": "pip install --force-reinstall torch",
    "tensorflow": "pip uninstall -y tensorflow-cpu; pip install 'tensorflow[and-cuda]'",
    "jax": "pip install 'jax[cuda12]'",
}


def probe_backend(name: str, timeout: float = TIMEOUT, *, has_gpu: bool = False) -> BackendFinding:
    """Train on an installed backend for a second, in a process that may crash or hang."""
    code, output, errors = _run(
        [sys.executable, "-c", _PROBE, json.dumps(sys.path)],
        timeout,
        {**_SPARING, **os.environ, "KERAS_BACKEND": name},
    )
    try:
        measured = json.loads(output)
    except ValueError:
        wrong = _what_went_wrong(code, errors, timeout)
        return BackendFinding(name, "broken", _version_of_module(name), error=wrong)
    devices, version = tuple(measured["devices"]), measured["version"]
    hint = None
    if has_gpu and not any(device.startswith("gpu") for device in devices):
        if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
            why = f"CUDA_VISIBLE_DEVICES is {visible!r}"
        else:
            newer = f"{name} {version} may need a newer driver"
            why = newer if "+cu" in version else _GPU_BUILDS[name]
        hint = f"sees no GPU: {why}"
    pace = measured["steps_per_second"]
    return BackendFinding(name, "works", version, devices, pace, BATCH * pace, hint=hint)


def _run(
    command: list[str], timeout: float, variables: dict[str, str] | None = None
) -> tuple[int | None, str, str]:
    """Exit code of a command, None when it was not done in time, and what it printed."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
    )
    code: int | None = None
    try:
        output, errors = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            output, errors = process.communicate(timeout=_SECONDS_TO_DIE)
        except subprocess.TimeoutExpired as late:
            # Held in the kernel by a driver, where no signal reaches it.
            output, errors = late.stdout or b"", late.stderr or b""
    finally:
        if process.poll() is None:
            process.kill()
    return code, output.decode(errors="replace"), errors.decode(errors="replace")


def _what_went_wrong(code: int | None, errors: str, timeout: float) -> str:
    """One line about a process that gave no answer."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()] or ["it printed nothing"]
    if code is None:
        return f"no answer within {timeout:g} s; last: {lines[-1]}"
    if code < 0:
        return f"crashed: {signal.strsignal(-code)}; last: {lines[-1]}"
    # Some messages end in advice; the error itself stands in the last line that names one.
    named = [line for line in errors.splitlines() if re.match(r"[A-Za-z_][\w.]*(: |$)", line)]
    return (named or lines)[-1]


def answer() -> None:
    """What a probing process does: print the result of `measure` as JSON, and nothing else."""
    printed = os.dup(1)
    os.dup2(2, 1)  # what a framework prints must not get between
    os.write(printed, json.dumps(measure()).encode())


def measure() -> dict[str, Any]:
    """Train a small baseline on noise for a second on this process's backend.

    The result has the framework's version, its devices with the default first, and
    steps_per_second.
    """
    from sparring import backend
    from sparring.training import memory
    from sparring.training.callbacks import EpochMetrics, Silent
    from sparring.training.loop import TrainLoop
    from sparring.training.recipe import Recipe
    from sparring.training.settings import Settings

    class Enough(Exception):
        pass

    class Clock(Silent):
        def __init__(self) -> None:
            self.epochs, self.looks = 0, [(time.monotonic(), 0)]

        def step(self, step: int, loss: float) -> None:
            self.looks.append((time.monotonic(), self.epochs * _STEPS_PER_EPOCH + step))
            warm = self.looks[_WARM_UP_LOOKS:]
            if len(warm) > 1 and warm[-1][0] - warm[0][0] >= _MEASURED_SECONDS:
                raise Enough

        def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
            self.epochs = metrics.epoch

    random = np.random.default_rng(0)
    images = BATCH * _STEPS_PER_EPOCH
    x = random.integers(0, 256, (images, *SHAPE), dtype=np.uint8)
    y = random.integers(0, 10, images).astype(np.int32)
    dataset = datasets.Dataset("noise", x, y, x[:BATCH], y[:BATCH], tuple("0123456789"))
    settings = Settings(filters=FILTERS, batch_size=BATCH, epochs=100_000, flip=True)
    memory.keep_freed()
    clock = Clock()
    loop = TrainLoop(Recipe(dataset.info, settings, 0), dataset)
    with suppress(Enough):
        loop.run(lambda metrics: None, clock, eval_every=0)
    looks = pairwise(clock.looks[_WARM_UP_LOOKS:])
    return {
        "version": sys.modules[backend.name].__version__,
        "devices": backend.devices(),
        # The median passes over moments when other programs had the cores.
        "steps_per_second": median(
            (later - earlier) / (now - before) for (before, earlier), (now, later) in looks
        ),
    }


# GPUs


def _gpus() -> tuple[tuple[str, ...], str | None]:
    """NVIDIA's GPUs as nvidia-smi lists them, one text each, and what went wrong with that."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return (), None
    query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    try:
        code, output, errors = _run([command, *query], _SECONDS_FOR_GPUS)
    except OSError as error:
        return (), f"nvidia-smi: {error}"
    if code != 0:
        return (), f"nvidia-smi: {_what_went_wrong(code, errors or output, _SECONDS_FOR_GPUS)}"
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines() if line]
    return tuple(f"{', '.join(row[:-1])}, driver {row[-1]}" for row in rows), None


# Data sets, disk, packages


def _dataset(name: str, data_dir: str | Path | None, *, read: bool) -> DatasetFinding:
    """Whether a data set is where `datasets.load` looks, and whole."""
    try:
        files = datasets.files(name, data_dir)
    except (DataError, OSError) as error:
        if data_dir is not None:
            return DatasetFinding(name, "missing", str(data_dir), str(error))
        cache = datasets.cache_folder()
        why = f"not in {cache}: training downloads it, or --data-dir names it"
        return DatasetFinding(name, "missing", str(cache), why)
    where = str(files[0].parent) if files else None
    if not read:
        return DatasetFinding(name, "present", where)
    try:
        datasets.load(name, where)
    except (DataError, OSError) as error:
        return DatasetFinding(name, "damaged", where, str(error))
    return DatasetFinding(name, "verified", where)


def _folder(path: Path) -> FolderFinding:
    """The disk a folder lies on, or will once it is made."""
    existing = datasets.nearest_existing(path)
    try:
        free = shutil.disk_usage(existing).free
    except OSError:
        return FolderFinding(str(path), None, False)
    return FolderFinding(str(path), free, existing.is_dir() and os.access(existing, os.W_OK))


def _extras() -> dict[str, tuple[str, ...]] | None:
    """What each extra of this package lacks, but for the backends'."""
    try:
        names = metadata.metadata("sparring").get_all("Provides-Extra") or []
        requirements = [Requirement(line) for line in metadata.requires("sparring") or []]
    except metadata.PackageNotFoundError:
        return None
    return {
        name: tuple(
            str(requirement)
            for requirement in requirements
            if requirement.marker is not None
            and requirement.marker.evaluate({"extra": name})
            and not requirement.marker.evaluate({"extra": ""})
            and not _satisfied(requirement)
        )
        for name in names
        if name not in backend_choice.NAMES
    }


def _satisfied(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(distribution: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return None


def _version_of_module(name: str) -> str | None:
    """The version of whichever distribution has that module: tensorflow comes under many names."""
    return next(map(_version, metadata.packages_distributions().get(name, [])), None)


# Lines


def _backend_lines(backend: BackendFinding) -> Iterator[str]:
    begin = f"{backend.name:<12}{backend.version or '-':<13}"
    if backend.state == "missing":
        yield f"{begin}not installed: {backend.hint}"
    elif backend.state == "installed":
        yield f"{begin}installed, not probed"
    elif backend.state == "broken":
        yield f"{begin}broken: {backend.error}"
    else:
        speed = f"{backend.steps_per_second:.3g} steps/s, {backend.images_per_second:,.0f} images/s"
        yield f"{begin}works on {', '.join(backend.devices)}: {speed}"
        if backend.hint:
            yield f"  {backend.hint}"


def _dataset_line(dataset: DatasetFinding) -> str:
    text = f"{dataset.name:<15}"
    if dataset.error:
        return f"{text}{'damaged: ' if dataset.state == 'damaged' else ''}{dataset.error}"
    if dataset.where is None:
        return f"{text}embedded"
    return f"{text}{dataset.state} in {dataset.where}"


def _folder_line(folder: FolderFinding) -> str:
    trouble = "" if folder.writable else ", cannot be written"
    return f"{folder.path}: {_gibibytes(folder.free_bytes)} free{trouble}"


def _gibibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / _GIBIBYTE:.1f} GiB"
