"""train and load: what the command line and Python programs call."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

import sparring
from sparring import backend, defenses, memory
from sparring import data as datasets
from sparring.checkpoint import Run, not_finite, read_tensors
from sparring.data import Dataset, DatasetInfo
from sparring.defense import Defense
from sparring.errors import Diverged, RunError, SettingsError, unknown_name
from sparring.recipe import Recipe, Settings
from sparring.tensorboard import TensorBoard
from sparring.tensorboard import library as tensorboard_library
from sparring.train_loop import EpochMetrics, Progress, Silent, TrainLoop, assign


def train(
    name: str,
    data: str | Dataset = "digits",
    *,
    data_dir: str | Path | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    out: str | Path = "runs",
    seed: int = 0,
    restarts: int = 0,
    device: str | None = None,
    eval_every: int = 1,
    force: bool = False,
    tensorboard: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Defense:
    """Train a defense, or go on with its unfinished training, and return it ready to answer.

    Args:
        name: of the defense, as in `sparring list`.
        data: a Dataset, or what `sparring.data.load` takes: a name or the path of an .npz file.
        data_dir: folder with the data set's files; None downloads them where needed.
        limit_train: use the first so many training images only.
        limit_test: use the first so many test images only.
        out: the run goes to out/<data set>/<name>.
        seed: 0 or more; everything random follows from it.
        restarts: after a divergence begin anew with the next seed, at most this often.
        device: "cpu", "gpu:0", ...; None takes the backend's default.
        eval_every: epochs between tests of the EMA weights; 0 tests at the end only.
        force: train anew where there is a run already. A finished one is kept in previous/ until
            the new one is finished too.
        tensorboard: log every epoch for TensorBoard too, into the run's folder tensorboard; an
            error there ends the logs, never the training.
        progress: is told how it goes; None tells nobody.
        settings: any of `Settings`, such as epochs=10; the rest is the defense's own.

    A finished run of the same settings is left alone and loaded. Raises SettingsError and
    DataError for wrong arguments before anything is written, RunError when the directory holds a
    run of other settings or another process trains in it, Diverged when a loss is not finite.
    """
    if tensorboard:
        tensorboard_library()  # is missed before anything is downloaded
    defense = defenses.get(name)
    _expect_at_least("seed", seed, 0)
    _expect_at_least("restarts", restarts, 0)
    _expect_at_least("eval_every", eval_every, 0)
    dataset = data if isinstance(data, Dataset) else datasets.load(data, data_dir)
    dataset = dataset.limit(limit_train, limit_test)
    folder = Path(out).expanduser() / dataset.name
    borrowed = None
    if defense.borrows is None:
        chosen = defense.settings_for(dataset).replace(**settings)
    else:
        chosen, borrowed, sha256 = _borrow(defense, folder / defense.borrows, dataset)
        if chosen.replace(**settings) != chosen:
            raise SettingsError(
                f"{name} serves the weights of {defense.borrows} and takes its settings, {chosen}; "
                f"got {settings}"
            )
    run = Run(folder / name)
    progress = progress or Silent()
    logs = TensorBoard(progress, run) if tensorboard else contextlib.nullcontext(progress)
    memory.keep_freed()
    identity = {
        "defense": name,
        "dataset": dataset.info.as_json(),
        "settings": chosen.as_json(),
        "seed": seed,
        "backend": backend.name,
    }
    if borrowed is not None:
        identity["weights_from"] = {"defense": defense.borrows, "sha256": sha256}
    with _device_scope(device) as device_name, run.locked(), logs as progress:
        if force or not run.exists():
            run.clear()
            run.write({**identity, **_circumstances(device_name), "status": "training"})
        found = run.read()
        _expect_same(run, found, identity)
        if found["status"] == "finished":
            progress.message(f"{run.path} is finished already; --force trains it anew.")
            if isinstance(progress, TensorBoard):
                progress.catch_up()
        elif borrowed is not None:
            recipes = defense.recipes(dataset.info, chosen, seed)
            _finish(run, found, defense, dataset, recipes, borrowed)
        else:
            _train(run, defense, dataset, chosen, found, restarts, eval_every, progress)
        return load(run.path)


def _borrow(
    defense: type[Defense], path: Path, dataset: Dataset
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
    loaded.results, loaded.path = results, directory.path
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


def _train(
    run: Run,
    defense: type[Defense],
    dataset: Dataset,
    settings: Settings,
    found: dict[str, Any],
    restarts: int,
    eval_every: int,
    progress: Progress,
) -> None:
    """Train all networks, from where the run stands to the end, restarting on divergence."""
    diverged: list[dict[str, Any]] = list(found.get("diverged", []))
    while True:
        seed = found["seed"] + len(diverged)
        try:
            recipes = defense.recipes(dataset.info, settings, seed)
            arrays = _train_networks(run, defense, dataset, recipes, eval_every, progress)
        except Diverged as error:
            if len(diverged) >= restarts:
                raise
            progress.message(str(error))
            diverged.append(
                {"seed": seed, "network": error.network, "epoch": error.epoch, "step": error.step}
            )
            found = {**found, "diverged": diverged}
            run.clear()
            run.write(found)
            progress.message(f"Beginning anew with seed {found['seed'] + len(diverged)}.")
        else:
            break
    _finish(run, found, defense, dataset, recipes, arrays)


def _finish(
    run: Run,
    found: Mapping[str, Any],
    defense: type[Defense],
    dataset: Dataset,
    recipes: Sequence[Recipe],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Test the defense as it will answer, and save it."""
    settings = defense.course_settings.replace(**found["settings"])
    trained = _assemble(defense, dataset.info, settings, recipes, arrays)
    results = {
        **trained.test(dataset),
        "seconds": round(sum(line["seconds"] for line in run.metrics()), 3),
        "seed_used": recipes[0].seed,
        "finished": _now(),
    }
    run.finish({**found, "results": results}, arrays)


def _train_networks(
    run: Run,
    defense: type[Defense],
    dataset: Dataset,
    recipes: Sequence[Recipe],
    eval_every: int,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Train every network, from where the run stands; their weights and arrays."""
    state = run.load_state()
    arrays: dict[str, np.ndarray] = {}
    first, epoch = 0, 0
    if state is not None:
        saved, about, damaged = state
        first, epoch = about["network"], about["epoch"]
        for text in damaged:
            progress.message(f"Passed over {text}")
        progress.message(f"Resuming {run.path} after epoch {epoch} of network {first + 1}.")
        arrays = {
            name.removeprefix("done/"): array
            for name, array in saved.items()
            if name.startswith("done/")
        }
    run.trim_metrics(first, epoch)
    for recipe in recipes[first:]:
        loop = TrainLoop(recipe, dataset, defense.name)
        if state is not None and recipe.network == first:
            loop.restore(saved, epoch)
        loop.run(partial(_save, run, loop, arrays), progress, len(recipes), eval_every)
        finished = recipe.finish(loop.ema, dataset)
        arrays |= loop.weights()
        arrays |= {f"{recipe.network}/{name}": array for name, array in finished.items()}
    return arrays


def _save(run: Run, loop: TrainLoop, done: Mapping[str, np.ndarray], metrics: EpochMetrics) -> None:
    """Save an epoch: its metrics, and what going on from it needs, `done` networks included."""
    run.append_metrics(asdict(metrics))
    earlier = {f"done/{name}": array for name, array in done.items()}
    run.save_state(metrics.network, metrics.epoch, {**loop.state(), **earlier})


def _expect_at_least(name: str, value: int, least: int) -> None:
    if type(value) is not int or value < least:
        raise SettingsError(f"{name}: expected an integer of {least} or more, got {value!r}")


def _expect_same(run: Run, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """RunError, naming every difference, unless the run there is the one wanted."""
    differences = list(_differences("", found, wanted))
    if differences:
        raise RunError(
            f"{run.path} holds a run with other settings: {'; '.join(differences)}. "
            "Give the same settings to go on with it, --force to train anew, or another --out."
        )


def _differences(prefix: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, want in wanted.items():
        there, want = found.get(key), list(want) if isinstance(want, tuple) else want
        if isinstance(want, Mapping) and isinstance(there, Mapping):
            lines += _differences(f"{prefix}{key}.", there, want)
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
            "sparring": sparring.__version__,
            "python": platform.python_version(),
            **{module: sys.modules[module].__version__ for module in modules},
        },
        "command": shlex.join(sys.argv),
        "started": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
