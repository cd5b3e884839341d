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
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from packaging.requirements import Requirement

from sparring import data as datasets
from sparring.backend import choice as backend_choice
from sparring.errors import DataError
from sparring.experiments import machine
from sparring.experiments.findings import (
    BATCH,
    FILTERS,
    SHAPE,
    BackendFinding,
    DatasetFinding,
    Findings,
    FolderFinding,
)
from sparring.version import __version__

TIMEOUT = 120.0
"""Seconds a probe may take; importing TensorFlow from a slow disk takes most of a minute."""

_MEASURED_SECONDS = 1.0
_STEPS_PER_EPOCH = 50  # as many as are computed between two looks at the losses on an accelerator
_WARM_UP_LOOKS = 2  # compiling, choosing algorithms
_SECONDS_TO_DIE = 5.0
_SECONDS_FOR_GPUS = 20.0


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
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before the probes' own
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
        load=load,
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
        extras=_missing_by_extra(),
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
    """Train on an installed backend for a second, in a process that may crash or hang.

    Args:
        name: The backend's.
        timeout: Seconds after which it is broken.
        has_gpu: Whether the machine has a GPU, which the backend should see.

    Returns:
        Whether it works, and how fast.
    """
    command = [sys.executable, "-c", _PROBE, json.dumps(sys.path)]
    variables = {**_SPARING, **os.environ, "KERAS_BACKEND": name}
    code, output, errors = _run(command, timeout, variables)
    try:
        measured = json.loads(output)
    except ValueError:
        wrong = _what_went_wrong(code, errors, timeout)
        return BackendFinding(name, "broken", _version_of_module(name), error=wrong)
    devices, version = tuple(measured["devices"]), measured["version"]
    hint = None
    if has_gpu and not any(device.startswith("gpu") for device in devices):
        visible, newer = os.environ.get("CUDA_VISIBLE_DEVICES"), "may need a newer driver"
        why = f"{name} {version} {newer}" if "+cu" in version else _GPU_BUILDS[name]
        hint = f"sees no GPU: {why if visible is None else f'CUDA_VISIBLE_DEVICES is {visible!r}'}"
    pace = measured["steps_per_second"]
    return BackendFinding(name, "works", version, devices, pace, BATCH * pace, hint=hint)


def _run(
    command: list[str], timeout: float, variables: Mapping[str, str] | None = None
) -> tuple[int | None, str, str]:
    """Exit code of a command, None when it was not done in time, and what it printed."""
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=variables
        )
        code = None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            # One held in the kernel by a driver is reached by no signal.
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_DIE)
        return code, _text(output), _text(errors)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


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
    """What a probing process does: print the result of `_measure` as JSON, and nothing else."""
    printed = os.dup(1)
    os.dup2(2, 1)  # what a framework prints must not get between
    os.write(printed, json.dumps(_measure()).encode())


def _measure() -> dict[str, Any]:
    """Train a small baseline on noise for a second on this process's backend."""
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
        "steps_per_second": median((b - a) / (now - then) for (then, a), (now, b) in looks),
    }


# GPUs, data sets, disk, packages


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


def _missing_by_extra() -> dict[str, tuple[str, ...]] | None:
    """What each extra of this package lacks, but for the backends'."""
    try:
        names = metadata.metadata("sparring").get_all("Provides-Extra") or []
        requirements = [Requirement(line) for line in metadata.requires("sparring") or []]
    except metadata.PackageNotFoundError:
        return None

    def lacks(extra: str, needed: Requirement) -> bool:
        if (marker := needed.marker) is None or not marker.evaluate({"extra": extra}):
            return False
        version = _version(needed.name)
        met = version is not None and needed.specifier.contains(version, prereleases=True)
        return not met and not marker.evaluate({"extra": ""})

    return {
        name: tuple(str(needed) for needed in requirements if lacks(name, needed))
        for name in names
        if name not in backend_choice.NAMES
    }


def _version(distribution: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return None


def _version_of_module(name: str) -> str | None:
    """The version of whichever distribution has that module: tensorflow comes under many names."""
    return next(map(_version, metadata.packages_distributions().get(name, [])), None)
