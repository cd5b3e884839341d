"""train and load: what the command line and Python programs call."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sparring import backend, defenses
from sparring import data as datasets
from sparring.backend import keras
from sparring.data import Dataset, DatasetInfo
from sparring.defenses.defense import Defense
from sparring.errors import Diverged, RunError, SettingsError, unknown_name
from sparring.runs.checkpoint import Checkpoints, Run, not_finite, read_tensors
from sparring.training import memory
from sparring.training.callbacks import EpochMetrics, Progress, Silent
from sparring.training.loop import TrainLoop, assign
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings
from sparring.training.tensorboard import TensorBoard
from sparring.training.tensorboard import library as tensorboard_library
from sparring.version import __version__


def train(
    name: str,
    data: str | Dataset = "digits",
    *,
    preset: str = "course",
    data_dir: str | Path | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    out: str | Path = "runs",
    seed: int = 0,
    restarts: int = 0,
    device: str | None = None,
    eval_every: int = 1,
    force: bool = False,
    wait: float = 0,
    tensorboard: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Defense:
    """Train a defense, or go on with its unfinished training, and return it ready to answer.

    Args:
        name: of the defense, as in `sparring list`.
        data: a Dataset, or what `sparring.data.load` takes: a name or the path of an .npz file.
        preset: "course", its recipe, or "fast", by Muon in far fewer steps.
        data_dir: folder with the data set's files; None downloads them where needed.
        limit_train: use the first so many training images only.
        limit_test: use the first so many test images only.
        out: the run goes to out/<data set>/<name>.
        seed: 0 or more; everything random follows from it.
        restarts: after a divergence begin the network anew with the next seed, at most this often.
        device: "cpu", "gpu:0", ...; None takes the backend's default.
        eval_every: epochs between tests of the EMA weights; 0 tests at the end only.
        force: train anew where there is a run already. A finished one is kept in previous/ until
            the new one is finished too.
        tensorboard: log every epoch for TensorBoard too, into the run's folder tensorboard; an
            error there ends the logs, never the training.
        wait: seconds to wait for another process that trains the same.
        progress: is told how it goes; None tells nobody.
        settings: any of `Settings`, such as epochs=10; the rest is the defense's own.

    A finished run of the same settings is left alone and loaded; networks that `train_network`
    finished are taken over. Raises SettingsError and DataError for wrong arguments before anything
    is written, RunError when the directory holds a run of other settings or another process trains
    in it, Diverged when a loss is not finite.
    """
    if tensorboard:
        tensorboard_library()  # is missed before anything is downloaded
    training = _Training.of(
        *(name, data, preset, data_dir, limit_train, limit_test),
        *(out, seed, restarts, eval_every, settings),
    )
    progress = progress or Silent()
    run = training.run
    logs = TensorBoard(progress, run) if tensorboard else contextlib.nullcontext(progress)
    with _device_scope(device) as device_name, run.locked(wait), logs as progress:
        found = training.begin(device_name, force)
        if isinstance(progress, TensorBoard):
            progress.catch_up()
        if found["status"] == "finished":
            run.tidy()  # what a kill at its end left
            progress.message(f"{run.path} is finished already; --force trains it anew.")
        else:
            arrays = dict(training.borrowed or {})
            if training.borrowed is None:
                try:
                    for network in range(training.networks):
                        arrays |= training.network(network, wait, progress)
                except Diverged:
                    run.write({**found, "status": "diverged"})
                    raise
            training.finish(found, arrays)
        return load(run.path)


def train_network(
    name: str,
    network: int,
    data: str | Dataset = "digits",
    *,
    preset: str = "course",
    data_dir: str | Path | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    out: str | Path = "runs",
    seed: int = 0,
    restarts: int = 0,
    device: str | None = None,
    eval_every: int = 1,
    wait: float = 0,
    tensorboard: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> None:
    """Train one network of a defense, or go on with it, for `train` to take over.

    Takes and raises what `train` does; `network` counts from 0. Processes may train the networks of
    one run side by side. Of a finished run or network nothing is trained.
    """
    if tensorboard:
        tensorboard_library()
    training = _Training.of(
        *(name, data, preset, data_dir, limit_train, limit_test),
        *(out, seed, restarts, eval_every, settings),
    )
    if training.borrowed is not None or not 0 <= network < training.networks:
        raise SettingsError(
            f"{name} trains {training.networks} networks; there is no network {network + 1}"
            if training.borrowed is None
            else f"{name} serves the weights of {training.defense.borrows} and trains none"
        )
    with _device_scope(device) as device_name:
        # The run is held for a moment; a process that trains all of it holds it to the end.
        with training.run.locked(max(wait, _MOMENT)):
            found = training.begin(device_name, force=False)
        if found["status"] != "finished":
            progress = progress or Silent()
            logs = (
                TensorBoard(progress, training.run, network)
                if tensorboard
                else contextlib.nullcontext(progress)
            )
            try:
                with logs as told:
                    training.network(network, wait, told)
            except Diverged:
                with training.run.locked(max(wait, _MOMENT)):
                    training.run.write({**found, "status": "diverged"})
                raise


_MOMENT = 10.0


def plan(
    names: Sequence[str],
    data: Sequence[str],
    *,
    preset: str = "course",
    out: str | Path = "runs",
    seeds: Sequence[int] = (),
    seed: int = 0,
    force: bool = False,
    data_dir: str | Path | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    restarts: int = 0,
    eval_every: int = 1,
    device: str | None = None,
    tensorboard: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """What `jobs.run` has to know of the trainings of many defenses, as JSON values.

    Each of `names` is trained on each of `data`, into `out` with `seed` or, where `seeds` are
    given, into out/seed-N with each of them. The rest is what `train` takes. With `force`, runs
    that are there are put aside now. Gives `devices`, the backend's, and `runs`: path, title, how
    many networks and epochs, how much work a network is beside other runs', whether it is finished,
    what has to be trained before, what is wrong with it, and the arguments of `train`. Raises
    SettingsError and DataError.
    """
    if tensorboard:
        tensorboard_library()  # missed by all, told once
    where = Path(out).expanduser().absolute()
    names = list(defenses.NAMES) if list(names) == ["all"] else list(dict.fromkeys(names))
    names.sort(key=lambda name: defenses.get(name).borrows is not None)  # after their lenders
    runs = []
    with _device_scope(device) as device_name:
        for source in data:
            dataset = datasets.load(source, data_dir).limit(limit_train, limit_test)
            for number, name in product(seeds or [seed], names):
                folder = where / f"seed-{number}" if seeds else where
                request = {"name": name, "data": _absolute(source), "seed": number}
                entry: dict[str, Any] = {
                    "path": str(folder / dataset.name / name),
                    "title": f"{name} on {dataset.name}" + f", seed {number}" * bool(seeds),
                    "request": {**request, "out": str(folder)},
                    **{"networks": 1, "epochs": 0, "work": 0.0},
                    **{"status": "new", "needs": None, "error": ""},
                }
                runs.append(entry)
                if (lender := defenses.get(name).borrows) is not None and lender in names:
                    # What it takes is not there yet, so neither can it be checked.
                    entry["needs"] = str(folder / dataset.name / lender)
                    entry["request"]["force"] = force
                    entry["status"] = "new" if force else _status(Path(entry["path"]))
                    continue
                try:
                    training = _Training.of(
                        *(name, dataset, preset, None, None, None, folder, number),
                        *(restarts, eval_every, settings),
                    )
                    if training.run.exists():
                        with training.run.locked():
                            training.begin(device_name, force)
                except RunError as error:
                    entry["error"] = str(error)
                    continue
                recipes = training.recipes()
                own = recipes[0].settings
                steps = dataset.info.train_images * own.epochs
                entry["networks"], entry["epochs"] = len(recipes), own.epochs
                entry["work"] = steps * own.filters**2 * training.defense.step_cost
                entry["status"] = _status(training.run.path)
    return {"devices": backend.devices(), "runs": runs}


def _status(path: Path) -> str:
    """What run.json says of a run, "new" where there is none."""
    try:
        return str(Run(path).read().get("status"))
    except RunError:
        return "new"


def _absolute(source: str) -> str:
    """A data set's name, or the path of a file from anywhere."""
    return source if source in datasets.NAMES else str(Path(source).expanduser().absolute())


@dataclass
class _Training:
    """One run that is to be trained, every argument checked and nothing written yet."""

    defense: type[Defense]
    dataset: Dataset
    settings: Settings
    run: Run
    identity: dict[str, Any]
    borrowed: dict[str, np.ndarray] | None
    seed: int
    restarts: int
    eval_every: int

    @classmethod
    def of(
        cls,
        name: str,
        data: str | Dataset,
        preset: str,
        data_dir: str | Path | None,
        limit_train: int | None,
        limit_test: int | None,
        out: str | Path,
        seed: int,
        restarts: int,
        eval_every: int,
        settings: Mapping[str, Any],
    ) -> _Training:
        """What the arguments of `train` ask for."""
        defense = defenses.get(name)
        _expect_at_least("seed", seed, 0)
        _expect_at_least("restarts", restarts, 0)
        _expect_at_least("eval_every", eval_every, 0)
        dataset = data if isinstance(data, Dataset) else datasets.load(data, data_dir)
        dataset = dataset.limit(limit_train, limit_test)
        folder = Path(out).expanduser() / dataset.name
        identity: dict[str, Any] = {"defense": name, "dataset": dataset.info.as_json()}
        identity["preset"] = preset
        borrowed = None
        if defense.borrows is None:
            chosen = defense.settings_for(dataset, preset, settings).settings
        else:
            chosen, borrowed, sha256 = _borrow(defense, folder / defense.borrows, dataset, preset)
            if chosen.replace(**settings) != chosen:
                raise SettingsError(
                    f"{name} serves the weights of {defense.borrows} and takes its settings, "
                    f"{chosen}; got {settings}"
                )
            identity["weights_from"] = {"defense": defense.borrows, "sha256": sha256}
        identity |= {"settings": chosen.as_json(), "seed": seed, "backend": backend.name}
        run = Run(folder / name)
        return cls(defense, dataset, chosen, run, identity, borrowed, seed, restarts, eval_every)

    @cached_property
    def networks(self) -> int:
        """How many networks are trained."""
        return len(self.recipes())

    def recipes(self, attempt: int = 0) -> list[Recipe]:
        """The recipes of an attempt; each divergence costs one."""
        return self.defense.recipes(self.dataset.info, self.settings, self.seed + attempt)

    def begin(self, device_name: str, force: bool) -> dict[str, Any]:
        """Make the run, or find it; run.json as it stands. The run has to be held."""
        memory.keep_freed()
        if force or not self.run.exists():
            self.run.clear()
            self.run.write({**self.identity, **_circumstances(device_name), "status": "training"})
        found = self.run.read()
        # A run from before there were presets, or a setting, had what is the course's.
        course = {"preset": "course", "settings": self.defense.course_settings.as_json()}
        _expect_same(self.run, found, self.identity, course)
        if found["status"] == "diverged":  # it may fare better this time
            found["status"] = "training"
            self.run.write(found)
        return found

    def network(self, number: int, wait: float, progress: Progress) -> dict[str, np.ndarray]:
        """Train one network from where it stands, anew when it diverges; weights and arrays."""
        checkpoints = self.run.checkpoints(number)
        with checkpoints.locked(wait):
            while True:
                attempts = len(checkpoints.diverged())
                recipe = self.recipes(attempts)[number]
                if (arrays := checkpoints.finished(self._identity_of(recipe))) is not None:
                    return arrays
                try:
                    arrays = self._fit(recipe, checkpoints, progress)
                except Diverged as error:
                    if attempts >= self.restarts:
                        raise
                    progress.message(str(error))
                    checkpoints.give_up(
                        {
                            "seed": recipe.seed,
                            "network": number,
                            "epoch": error.epoch,
                            "step": error.step,
                        }
                    )
                    progress.message(f"Beginning anew with seed {recipe.seed + 1}.")
                else:
                    checkpoints.finish(arrays, self._identity_of(recipe))
                    return arrays

    def _identity_of(self, recipe: Recipe) -> dict[str, Any]:
        """What tells the training of one network from any other."""
        return {
            "defense": self.defense.name,
            "network": recipe.network,
            "seed": recipe.seed,
            "dataset": self.dataset.sha256,
            "settings": recipe.settings.as_json(),
            "backend": backend.name,
        }

    def _fit(
        self, recipe: Recipe, checkpoints: Checkpoints, progress: Progress
    ) -> dict[str, np.ndarray]:
        """Train by a recipe, from the last epoch saved to the end."""
        loop = TrainLoop(recipe, self.dataset, self.defense.name)
        identity = self._identity_of(recipe)
        if (saved := checkpoints.load(identity)) is not None:
            arrays, epoch, damaged = saved
            for text in damaged:
                progress.message(f"Passed over {text}")
            progress.message(
                f"Resuming {self.run.path} after epoch {epoch} of network {recipe.network + 1}."
            )
            loop.restore(arrays, epoch)
        checkpoints.trim_metrics(loop.epoch)

        def save(metrics: EpochMetrics) -> None:
            checkpoints.append_metrics(asdict(metrics))
            checkpoints.save(metrics.epoch, loop.state(), identity)

        loop.run(save, progress, self.networks, self.eval_every)
        finished = recipe.finish(loop.ema, self.dataset)
        named = {f"{recipe.network}/{name}": array for name, array in finished.items()}
        return loop.weights() | named

    def finish(self, found: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Test the defense as it will answer, and save it."""
        diverged = [self.run.checkpoints(number).diverged() for number in range(self.networks)]
        trained = _assemble(self.defense, self.dataset.info, self.settings, self.recipes(), arrays)
        results = {
            **trained.test(self.dataset),
            "seconds": round(sum(line["seconds"] for line in self.run.metrics()), 3),
            "seeds_used": [self.seed + len(attempts) for attempts in diverged],
            "finished": _now(),
        }
        values = {**found, "results": results}
        if any(diverged):
            values["diverged"] = [attempt for attempts in diverged for attempt in attempts]
        self.run.finish(values, arrays)


def _borrow(
    defense: type[Defense], path: Path, dataset: Dataset, preset: str
) -> tuple[Settings, dict[str, np.ndarray], str]:
    """Settings, arrays and hash of the trained defense whose weights another one serves."""
    try:
        lender = load(path)
    except RunError as error:
        raise RunError(
            f"{defense.name} serves the weights of {defense.borrows}, which has to be trained on "
            f"the same data first, by sparring train {defense.borrows}: {error}"
        ) from error
    if lender.info != dataset.info:
        raise RunError(
            f"{defense.name} serves the weights of {path}: expected it trained on the same data, "
            f"{dataset.info}, found {lender.info}"
        )
    if (found := Run(path).read().get("preset", "course")) != preset:
        raise SettingsError(
            f"{defense.name} serves the weights of {path}, which were trained with preset {found}; "
            f"got preset {preset}. Give preset {found}, or train {defense.borrows} elsewhere"
        )
    arrays, _, sha256 = read_tensors(Run(path).weights_file)
    return lender.settings, arrays, sha256


def load(run: str | Path) -> Defense:
    """The trained defense of a run directory, on the running backend, whichever trained it.

    Raises RunError when the run is missing, unfinished or damaged: names, shapes, types, values
    and hash of the weights are checked.
    """
    directory = Run(run)
    values = directory.read()
    if values.get("status") != "finished":
        where = f"{directory.path}: its training is not finished"
        if directory.previous_folder.is_dir():
            where += f"; the finished run before it is in {directory.previous_folder}"
        raise RunError(f"{where}. Run the same sparring train command again to go on with it.")
    try:
        defense = defenses.get(values["defense"])
        info = DatasetInfo.from_json(values["dataset"])
        settings = defense.course_settings.replace(**values["settings"])
        expected = values["weights_sha256"]
        results = dict(values["results"])
        recipes = defense.recipes(info, settings, values["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{directory.json_file}: damaged: {error!r}") from error
    arrays, _, found = read_tensors(directory.weights_file)
    if found != expected:
        raise RunError(
            f"{directory.weights_file}: expected the weights of this run with SHA-256 {expected}, "
            f"found others with {found}"
        )
    if bad := not_finite(arrays):
        raise RunError(f"{directory.weights_file}: NaN or infinity in {', '.join(bad)}")
    try:
        loaded = _assemble(defense, info, settings, recipes, arrays)
    except RunError as error:
        raise RunError(f"{directory.weights_file}: {error}") from error
    except KeyError as error:
        raise RunError(
            f"{directory.weights_file}: expected an array {error}, found none"
        ) from error
    loaded.results, loaded.path, loaded.weights_sha256 = results, directory.path, found
    return loaded


def _assemble(
    defense: type[Defense],
    info: DatasetInfo,
    settings: Settings,
    recipes: Sequence[Recipe],
    arrays: Mapping[str, np.ndarray],
) -> Defense:
    """A defense from the arrays of weights.safetensors."""
    nets, used = [], set()
    for recipe in recipes:
        net = recipe.net()
        used.update(assign(f"{recipe.network}", net.trainable_variables, arrays))
        recipe.on_progress(net, 1.0)
        nets.append(net)
    rest = {name: array for name, array in arrays.items() if name not in used}
    return defense(info, settings, nets, rest)


def _expect_at_least(name: str, value: int, least: int) -> None:
    if type(value) is not int or value < least:
        raise SettingsError(f"{name}: expected an integer of {least} or more, got {value!r}")


def _expect_same(
    run: Run, found: Mapping[str, Any], wanted: Mapping[str, Any], before: Mapping[str, Any]
) -> None:
    """RunError, naming every difference, unless the run there is the one wanted.

    What is not said there is as in `before`.
    """
    differences = list(_differences("", found, wanted, before))
    if differences:
        raise RunError(
            f"{run.path} holds a run with other settings: {'; '.join(differences)}. "
            "Give the same settings to go on with it, --force to train anew, or another --out."
        )


def _differences(
    prefix: str, found: Mapping[str, Any], wanted: Mapping[str, Any], before: Mapping[str, Any]
) -> list[str]:
    lines = []
    for key, want in wanted.items():
        there = found.get(key, before.get(key))
        want = list(want) if isinstance(want, tuple) else want
        if isinstance(want, Mapping) and isinstance(there, Mapping):
            lines += _differences(f"{prefix}{key}.", there, want, before.get(key, {}))
        elif there != want:
            lines.append(f"{prefix}{key} is {there!r} there, {want!r} here")
    return lines


@contextlib.contextmanager
def _device_scope(device: str | None) -> Any:
    valid = backend.devices()
    if device is None:
        yield valid[0]
        return
    chosen = f"{device}:0" if device == "gpu" else device
    if chosen not in valid:
        raise SettingsError(unknown_name(f"device of {backend.name}", device, valid))
    with keras.device(chosen):
        yield chosen


def _circumstances(device: str) -> dict[str, Any]:
    """Where and with what a run began, for whoever wants to repeat it."""
    modules = ("keras", "numpy", backend.name)
    return {
        "device": device,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "sparring": __version__,
            "python": platform.python_version(),
            **{module: sys.modules[module].__version__ for module in modules},
        },
        "command": shlex.join(sys.argv),
        "started": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
