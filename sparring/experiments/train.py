"""Train one defense, or one of its networks: from a request to the weights on disk."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sparring import backend, defenses
from sparring import data as datasets
from sparring.backend import keras
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import Diverged, RunError, SettingsError, unknown_name
from sparring.experiments.load import assemble, load
from sparring.experiments.request import TrainingRequest
from sparring.runs.directory import Checkpoints, Run
from sparring.runs.files import read_tensors
from sparring.runs.records import (
    Attempt,
    Code,
    EpochMetrics,
    Results,
    RunRecord,
    Session,
    WeightsFrom,
)
from sparring.training import memory, notebook
from sparring.training.callbacks import Callback
from sparring.training.loop import ABOVE_CHANCE, TrainLoop, guessing
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings
from sparring.training.tensorboard import TensorBoard
from sparring.training.tensorboard import library as tensorboard_library
from sparring.training.threads import Threads
from sparring.version import __version__

_MOMENT = 10.0  # seconds that a process may hold a run to look at it


@backend.isolated
def train(
    name: str | type[Defense] | TrainingRequest,
    data: str | Dataset = "digits",
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Callback | None = None,
    **options: Any,
) -> Defense:
    """Train a defense, or go on with its unfinished training, and return it ready to answer.

    A finished run of the same settings is left alone and loaded; networks that `train_network`
    finished are taken over.

    Args:
        name: of the defense, as in `sparring list`; a file with its class, as "mydefense.py"; the
            class itself; or a request, which has all but `progress`.
        data: a Dataset, or what `sparring.data.load` takes: a name or a path.
        settings: any of the defense's settings by name; the rest is its own.
        progress: told how it goes; None shows it in a notebook, and tells nobody elsewhere.
        **options: fields of `TrainingRequest`, as seed=1; other names are settings too, as
            epochs=10.

    Returns:
        The trained defense.

    Raises:
        SettingsError: for wrong arguments, before anything is written; as DataError.
        DataError: for data that are missing or damaged.
        DefenseError: when the class cannot be found or loaded.
        RunError: when the directory holds a run of other settings or of another class, or another
            process trains in it.
        Diverged: when a loss or a weight is not finite.
    """
    request = TrainingRequest.of(name, data, settings, options)
    _expect_callback(progress)
    if request.network is not None:
        raise SettingsError(
            f"train trains all networks of {request.name}, and train_network one; got network "
            f"{request.network + 1}"
        )
    training = Training(request, tell=progress.message if progress else datasets.silent)
    run = training.run
    with device_scope(request.device) as device, run.locked(request.wait):
        record = training.begin(device, request.force)
        with training.logs(progress) as callback:
            for note in training.dataset.notes:
                callback.message(note)
            if record.finished:
                run.tidy()  # what a kill at its end left
                callback.message(f"{run.shown} is finished already; --force trains it anew.")
                return load(run.path, training.defense)
            arrays = dict(training.borrowed or {})
            try:
                for network in range(training.networks):
                    arrays |= training.network(network, callback)
            except Diverged:
                run.write(record.with_changes(status="diverged"))
                raise
            return training.finish(record, arrays, callback)


@backend.isolated
def train_network(
    name: str | type[Defense] | TrainingRequest,
    network: int = 0,
    data: str | Dataset = "digits",
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Callback | None = None,
    **options: Any,
) -> None:
    """Train one network of a defense, or go on with it, for `train` to take over.

    Processes may train the networks of one run side by side. Of a finished run or network nothing
    is trained.

    Args:
        name: of the defense, as `train` takes it; or a request, which has all but `progress`.
        network: which one, counted from 0.
        data: as in `train`, as are all that follow.
        settings: as in `train`.
        progress: as in `train`.
        **options: as in `train`.

    Raises:
        SettingsError: also for a network that is none, and for force, which would remove what other
            processes train; all other errors are those of `train`.
    """
    request = TrainingRequest.of(name, data, settings, options)
    if not isinstance(name, TrainingRequest):
        request = replace(request, network=network)
    _expect_callback(progress)
    if request.force:
        raise SettingsError(
            f"force: trains all networks of a run anew; for network {(request.network or 0) + 1} "
            f"of {request.name} alone, train without --network, or give another --out"
        )
    training = Training(request)
    number = request.network or 0
    if training.borrowed is not None:
        raise SettingsError(
            f"{request.name} serves the weights of {training.defense.borrows} and trains none"
        )
    if not 0 <= number < training.networks:
        networks = f"{training.networks} network{'s' if training.networks > 1 else ''}"
        raise SettingsError(f"{request.name} trains {networks}; there is no network {number + 1}")
    wait, run = max(request.wait, _MOMENT), training.run
    with device_scope(request.device) as device:
        # The run is held for a moment; a process that trains all of it holds it to the end.
        with run.locked(wait):
            record = training.begin(device)
        if record.finished:
            return
        try:
            with training.logs(progress) as callback:
                training.network(number, callback)
        except Diverged:
            with run.locked(wait):
                run.write(run.read().with_changes(status="diverged"))
            raise


class Training:
    """One run that is to be trained: every argument is checked, and nothing written yet.

    Args:
        request: what to train.
        dataset: the request's data where they are loaded already, within its limits.
        tell: told what is being done where loading takes long.

    Attributes:
        defense: the class.
        settings: of the whole defense.
        origins: where the value of each setting came from, by its name.
        run: the run directory.
        record: run.json as it will be begun, without where and when.
        borrowed: the arrays of another defense that it serves; None where it trains its own.
    """

    def __init__(
        self,
        request: TrainingRequest,
        dataset: Dataset | None = None,
        tell: datasets.Tell = datasets.silent,
    ) -> None:
        """Load the data, and what is borrowed, and check all arguments."""
        if request.tensorboard:
            tensorboard_library()  # is missed before anything is downloaded
        self.request, self.defense = request, defenses.get(request.defense)
        self.dataset = dataset or load_data(request, tell)
        folder = request.out / self.dataset.name
        self.run = Run(folder / self.defense.name)
        self.borrowed: dict[str, np.ndarray] | None = None
        weights_from = None
        if self.defense.borrows is None:
            given = self.defense.settings_for(self.dataset, request.preset, request.settings)
            self.settings, self.origins = given.settings, given.origins
        else:
            self.settings, weights_from = self._borrow(folder / self.defense.borrows)
            origin = f"the weights of {self.defense.borrows}"
            self.origins = dict.fromkeys(self.settings.names(), origin)
        self.record = RunRecord(
            defense=self.defense.name,
            dataset=self.dataset.info.as_json(),
            source=self.dataset.info.source(),
            preset=request.preset,
            settings=self.settings.as_json(),
            networks=[recipe.settings.as_json() for recipe in self.recipes()],
            weights_from=weights_from,
            seed=request.seed,
            backend=backend.name,
            code=_code_of(self.defense),
            status="training",
        )

    @cached_property
    def networks(self) -> int:
        """How many networks are trained; none where the weights are borrowed."""
        return 0 if self.borrowed is not None else len(self.recipes())

    def recipes(self, attempt: int = 0) -> Sequence[Recipe]:
        """Give the recipes of an attempt, counted from 0; each divergence costs one."""
        return self.defense.recipes(self.dataset.info, self.settings, self.request.seed + attempt)

    def logs(self, progress: Callback | None) -> AbstractContextManager[Callback]:
        """Give what is told how it goes: `progress`, and TensorBoard where it is asked for."""
        callback = progress or notebook.callback()
        if not self.request.tensorboard:
            return nullcontext(callback)
        return TensorBoard(callback, self.run, self.request.network)

    def begin(self, device: str | None, force: bool = False) -> RunRecord:
        """Make the run, which has to be held, or find it; with `force`, put aside what is there.

        Args:
            device: what this process trains on, for the record; None when it only looks.
            force: whether to begin anew.

        Returns:
            run.json as it stands.

        Raises:
            RunError: when the run there is another.
        """
        memory.keep_freed()
        if force or not self.run.exists():
            self.run.clear()
            record = self.record
        else:
            record = self.run.read()
            course = self.defense.course_settings.as_json()
            if differences := self.record.differences(record.about(), course):
                raise RunError(
                    f"{self.run.path} holds a run with other settings: {'; '.join(differences)}. "
                    "Give the same settings to go on with it, --force to train anew, or another "
                    "--out."
                )
            if record.finished:
                return record
        # One that diverged may fare better this time.
        record = record.with_changes(status="training", networks=self.record.networks)
        if device is not None:
            record = record.with_session(_session(device, self.request.network))
        self.run.write(record)
        return record

    def network(self, number: int, callback: Callback) -> dict[str, np.ndarray]:
        """Train one network, counted from 0, from where it stands, and anew when it diverges.

        Returns:
            Its EMA weights, and the arrays that go with them, by name.

        Raises:
            Diverged: when it diverged more often than may be restarted.
        """
        checkpoints = self.run.checkpoints(number)
        with checkpoints.locked(self.request.wait):
            while True:
                attempts = len(checkpoints.diverged())
                recipe = self.recipes(attempts)[number]
                identity = {
                    "defense": self.defense.name,
                    "network": number,
                    "seed": recipe.seed,
                    "dataset": self.dataset.sha256,
                    "settings": recipe.settings.as_json(),
                    "backend": backend.name,
                }
                if "code" in (about := self.record.about()):
                    identity["code"] = about["code"]
                if (arrays := checkpoints.finished(identity)) is not None:
                    return arrays
                try:
                    arrays = self._fit(recipe, checkpoints, identity, callback)
                except Diverged as error:
                    if attempts >= self.request.restarts:
                        raise
                    callback.message(str(error))
                    given_up = Attempt(
                        seed=recipe.seed, network=number, epoch=error.epoch, step=error.step
                    )
                    checkpoints.give_up(given_up)
                    callback.message(f"Beginning anew with seed {recipe.seed + 1}.")
                else:
                    checkpoints.finish(arrays, identity)
                    return arrays

    def _fit(
        self,
        recipe: Recipe,
        checkpoints: Checkpoints,
        identity: Mapping[str, Any],
        callback: Callback,
    ) -> dict[str, np.ndarray]:
        """Train by a recipe, from the last epoch saved to the end."""
        loop = TrainLoop(recipe, self.dataset, self.defense.name, self.request.threads)
        if (saved := checkpoints.load(identity, loop.restore)) is not None:
            _, epoch, damaged = saved
            for text in damaged:
                callback.message(f"Passed over {text}")
            callback.message(
                f"Resuming {self.run.shown} after epoch {epoch} of network {recipe.network + 1}."
            )
        if text := checkpoints.trim_metrics(loop.epoch):
            callback.message(f"Passed over {text}")

        def save(metrics: EpochMetrics) -> None:
            checkpoints.append_metrics(metrics)
            checkpoints.save(metrics.epoch, loop.state(), identity)

        loop.run(save, callback, self.networks, self.request.eval_every)
        finished = {f"{recipe.network}/{name}": a for name, a in loop.finish().items()}
        return loop.weights() | finished

    def finish(
        self, record: RunRecord, arrays: Mapping[str, np.ndarray], callback: Callback
    ) -> Defense:
        """Test the defense as it will answer, and save it with the arrays of all networks."""
        attempts = [self.run.checkpoints(number).diverged() for number in range(self.networks)]
        given_up = list(chain.from_iterable(attempts))
        info = self.dataset.info
        try:
            trained = assemble(self.defense, info, self.settings, self.recipes(), arrays)
        except RunError as error:  # of networks that another process trained
            raise RunError(
                f"{self.run.state_folder}: damaged: {error}. --force trains anew"
            ) from error
        lines = self.run.metrics()
        known = [line.threads for line in lines if line.threads is not None]
        threads = [self.request.threads] if self.request.threads else known[-1:]
        with Threads(threads).in_use():
            tested = trained.test(self.dataset)
        last = {line.network: line for line in lines}
        warnings = [
            guessing(recipe, trained.nets[recipe.network], last[recipe.network])
            for recipe in self.recipes()
            if recipe.network in last
        ]
        if tested["test_accuracy"] < ABOVE_CHANCE / self.dataset.classes and not any(warnings):
            warnings = [
                f"The defense is hardly better than guessing: it answers "
                f"{tested['test_accuracy']:.2%} of the test images correctly and does not reject "
                f"them."
            ]
            callback.message(warnings[0])
        results = Results(
            **tested,
            seconds=round(sum(line.seconds for line in lines), 3),
            threads=[last[n].threads if n in last else None for n in range(self.networks)] or None,
            seeds_used=[self.request.seed + len(own) for own in attempts] or [self.request.seed],
            finished=_now(),
            warnings=[text for text in warnings if text] or None,
        )
        record = record.with_changes(results=results, diverged=given_up or None)
        trained.weights_sha256 = self.run.finish(record, arrays)
        trained.path, trained.results = self.run.path, results.as_json()
        return trained

    def _borrow(self, path: Path) -> tuple[Settings, WeightsFrom]:
        """Take the arrays of the trained defense whose weights this one serves."""
        name, lender_name = self.defense.name, str(self.defense.borrows)
        preset = self.request.preset
        try:
            lender = load(path)
        except RunError as error:
            raise RunError(
                f"{name} serves the weights of {lender_name}, which has to be trained on the same "
                f"data first, by sparring train {lender_name}: {error}"
            ) from error
        if lender.info != self.dataset.info:
            raise RunError(
                f"{name} serves the weights of {path}: expected it trained on the same data, "
                f"{self.dataset.info}, found {lender.info}"
            )
        if (lent := Run(path).read().preset) != preset:
            raise SettingsError(
                f"{name} serves the weights of {path}, which were trained with preset {lent}; got "
                f"preset {preset}. Give preset {lent}, or train {lender_name} elsewhere"
            )
        if lender.settings.replace(**self.request.settings) != lender.settings:
            raise SettingsError(
                f"{name} serves the weights of {lender_name} and takes its settings, "
                f"{lender.settings}; got {dict(self.request.settings)}"
            )
        self.borrowed, _, sha256 = read_tensors(Run(path).weights_file)
        return lender.settings, WeightsFrom(defense=lender_name, sha256=sha256)


def _expect_callback(progress: Callback | None) -> None:
    """Raise SettingsError for what is told of progress but cannot be."""
    lacks = [name for name in ("begin", "step", "epoch", "message") if not hasattr(progress, name)]
    if progress is not None and lacks:
        raise SettingsError(
            f"progress: expected a sparring.training.callbacks.Callback, got {progress!r:.80} "
            f"without {', '.join(lacks)}"
        )


def load_data(request: TrainingRequest, tell: datasets.Tell = datasets.silent) -> Dataset:
    """Load the images that a request asks for, told what is being done where it takes long."""
    dataset = datasets.load(request.data, request.data_dir, request.resize, tell)
    return dataset.limit(request.limit_train, request.limit_test)


@contextmanager
def device_scope(device: str | None) -> Iterator[str]:
    """Compute on a device within it, by default the backend's first; gives its full name.

    Raises:
        SettingsError: for one that is not there.
    """
    valid = backend.devices()
    if device is None:
        yield valid[0]
        return
    chosen = f"{device}:0" if device == "gpu" else device
    if chosen not in valid:
        raise SettingsError(unknown_name(f"device of {backend.name}", device, valid))
    with keras.device(chosen):
        yield chosen


def _code_of(defense: type[Defense]) -> Code | None:
    """Where a class came from that is not Sparring's own, for the record."""
    return None if defense.origin is None else Code(**asdict(defense.origin))


def _session(device: str, network: int | None) -> Session:
    """What trains here, and with what, for who wants to repeat it."""
    versions = {"sparring": __version__, "python": platform.python_version()}
    modules = ("keras", "numpy", backend.name)
    return Session(
        device=device,
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        versions=versions | {module: sys.modules[module].__version__ for module in modules},
        command=shlex.join(sys.argv),
        started=_now(),
        network=network,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
