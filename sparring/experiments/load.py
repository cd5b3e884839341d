"""Load a trained defense from its run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sparring import backend, defenses
from sparring.data import DatasetInfo
from sparring.defenses.defense import Defense
from sparring.errors import RunError
from sparring.runs.directory import Run
from sparring.runs.files import not_finite, read_tensors
from sparring.training.loop import assign
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings


@backend.isolated
def load(run: str | Path) -> Defense:
    """Load a trained defense from its run directory, whichever backend trained it.

    Raises:
        RunError: when the run is missing, unfinished or damaged: names, shapes, types, values and
            hash of the weights are checked.
    """
    directory = Run(run)
    record = directory.read()
    if not record.finished:
        where = f"{directory.path}: its training is not finished"
        if directory.previous_folder.is_dir():
            where += f"; the finished run before it is in {directory.previous_folder}"
        raise RunError(f"{where}. Run the same sparring train command again to go on with it.")
    try:
        defense = defenses.get(record.defense)
        info = record.info
        settings = defense.course_settings.replace(**record.settings)
        recipes = defense.recipes(info, settings, record.seed)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{directory.json_file}: damaged: {error!r}") from error
    arrays, _, sha256 = read_tensors(directory.weights_file)
    if sha256 != record.weights_sha256:
        raise RunError(
            f"{directory.weights_file}: expected the weights of this run with SHA-256 "
            f"{record.weights_sha256}, found others with {sha256}"
        )
    if bad := not_finite(arrays):
        raise RunError(f"{directory.weights_file}: NaN or infinity in {', '.join(bad)}")
    try:
        loaded = assemble(defense, info, settings, recipes, arrays)
    except RunError as error:
        raise RunError(f"{directory.weights_file}: {error}") from error
    except KeyError as error:
        raise RunError(
            f"{directory.weights_file}: expected an array {error}, found none"
        ) from error
    loaded.path, loaded.weights_sha256 = directory.path, sha256
    loaded.results = record.results.as_json() if record.results else {}
    return loaded


def assemble(
    defense: type[Defense],
    info: DatasetInfo,
    settings: Settings,
    recipes: Sequence[Recipe],
    arrays: Mapping[str, np.ndarray],
) -> Defense:
    """Build a defense from the arrays of weights.safetensors.

    Args:
        defense: the class.
        info: of the data set.
        settings: of the whole defense.
        recipes: of its networks, in order.
        arrays: weights by network/variable, and what goes with them.

    Raises:
        RunError: when a weight is missing, or of another shape or dtype.
        KeyError: when an array that goes with them is missing.
    """
    nets, used = [], set()
    for recipe in recipes:
        net = recipe.net()
        used.update(assign(f"{recipe.network}", net.trainable_variables, arrays))
        recipe.on_progress(net, 1.0)
        nets.append(net)
    rest = {name: array for name, array in arrays.items() if name not in used}
    return defense(info, settings, nets, rest)
