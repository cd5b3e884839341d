"""Load a trained defense from its run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from sparring import backend, defenses
from sparring.data import DatasetInfo
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Origin
from sparring.defenses.sources import standing
from sparring.errors import DefenseError, RunError, SettingsError, printable, unknown_name
from sparring.networks.allconv import AllConv, number_of_scales
from sparring.runs.directory import Run
from sparring.runs.files import not_finite, read_tensors
from sparring.runs.records import Code, RunRecord
from sparring.training.loop import assign
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings

_WAY_OUT = "Bring back the run's own files, or train it anew with --force"


@backend.isolated
def load(run: str | Path, code: str | Path | type[Defense] | None = None) -> Defense:
    """Load a trained defense from its run directory, whichever backend trained it.

    Args:
        run: the directory, as runs/digits/baseline.
        code: of a defense that is neither Sparring's nor an installed package's, its class or what
            names that, as "mydefense.py". No code runs because a run directory names it.

    Returns:
        The defense, ready to answer.

    Raises:
        RunError: when the run is missing, unfinished or damaged: names, shapes, types, values and
            hash of the weights are checked, and that run.json says what they say of themselves.
        SettingsError: for what is no path.
        DefenseError: the class is not given, cannot be loaded, or is another defense's.
    """
    if not isinstance(run, str | Path):
        raise SettingsError(
            f"expected the path of a run directory, as 'runs/digits/baseline', got {run!r:.80}"
        )
    directory = Run(run)
    try:
        record = directory.read()
    except RunError as error:
        hint = f". {_WAY_OUT}" if directory.exists() else ""
        raise RunError(f"{error}{hint}") from error
    if not record.finished:
        where = f"{directory.path}: its training is not finished"
        if directory.previous_folder.is_dir():
            where += f"; the finished run before it is in {directory.previous_folder}"
        raise RunError(f"{where}. Run the same sparring train command again to go on with it.")
    defense = _class_of(directory, record, code)
    try:
        info = record.info
        settings = defense.course_settings.replace(**record.settings)
        defense.network_settings(info, settings)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{directory.json_file}: damaged: {error!s:.300}. {_WAY_OUT}") from error
    arrays, about, sha256 = read_tensors(directory.weights_file)
    if sha256 != record.weights_sha256:
        raise RunError(
            f"{directory.weights_file}: expected the weights of this run with SHA-256 "
            f"{record.weights_sha256!s:.80}, found others with {sha256}. {_WAY_OUT}"
        )
    if differences := record.differences(about, defense.course_settings.as_json()):
        raise RunError(
            f"{directory.json_file}: expected what {directory.weights_file.name} says of itself: "
            f"{'; '.join(differences)}. {_WAY_OUT}"
        )
    if bad := not_finite(arrays):
        raise RunError(f"{directory.weights_file}: NaN or infinity in {', '.join(bad)}")
    try:
        recipes = defense.recipes(info, settings, record.seed)
        loaded = assemble(defense, info, settings, recipes, arrays)
    except RunError as error:
        raise RunError(f"{directory.weights_file}: {error}") from error
    loaded.path, loaded.weights_sha256 = directory.path, sha256
    loaded.other_code = _other_code(defense, record)
    loaded.results = record.results.as_json() if record.results else {}
    return loaded


def _class_of(
    run: Run, record: RunRecord, code: str | Path | type[Defense] | None
) -> type[Defense]:
    """The class of a run's defense: one that is installed, or that the user gave or named."""
    name = record.defense
    if code is not None:
        defense = defenses.get(code)
        if defense.name != name:
            raise DefenseError(
                f"{run.path}: expected the class of {name}, got that of {defense.name}, "
                f"{defense.origin or 'of Sparring'}"
            )
        return defense
    if defenses.is_installed(name):
        return defenses.get(name)
    if record.code is None:
        raise RunError(
            f"{run.json_file}: damaged: {unknown_name('defense', name, defenses.names())} "
            f"{_WAY_OUT}"
        )
    origin = origin_of(record.code)
    raise DefenseError(
        f"{run.path}: the class of {name} is not Sparring's; it was {printable(str(origin))}, "
        f"{standing(origin)}. "
        "A run makes no code run: name the class yourself, by the file that it is in "
        "(--code FILE.py, code=)"
    )


def _other_code(defense: type[Defense], record: RunRecord) -> str:
    """Say that a class has changed since a run was trained; empty where it has not."""
    if defense.origin is None or record.code is None:
        return ""
    trained = origin_of(record.code)
    if defense.origin.same_code(trained):
        return ""
    was = printable(str(trained))
    return f"{defense.name} was trained as {was}, and answers as {defense.origin}"


def origin_of(code: Code) -> Origin:
    """Give where a class came from as `sparring.defenses` knows it."""
    return Origin(**code.model_dump(include={part.name for part in fields(Origin)}))


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

    Returns:
        The defense.

    Raises:
        RunError: when an array is missing, or of another shape or dtype.
    """
    nets, used = [], set()
    for recipe in recipes:
        _expect_size(recipe, arrays)
        net = recipe.net()
        used.update(assign(f"{recipe.network}", net.trainable_variables, arrays))
        recipe.on_progress(net, 1.0)
        nets.append(net)
    rest = {name: array for name, array in arrays.items() if name not in used}
    if defense.course_files is not None:
        _expect_arrays(defense.course_files, rest, info, nets[0])
    try:
        return defense(info, settings, nets, rest)
    except KeyError as error:
        raise RunError(f"expected an array {error}, found none") from error


def _expect_arrays(
    files: CourseFiles, arrays: Mapping[str, np.ndarray], info: DatasetInfo, net: AllConv
) -> None:
    """Refuse what goes with the weights when it is of another shape or type, or no labels."""
    sizes: dict[str, int] = {"classes": info.classes, "features": net.head[0].shape[2]}
    sizes |= zip(("height", "width", "channels"), info.shape, strict=True)
    for kept in files.arrays:
        if (array := arrays.get(kept.name)) is None:
            continue
        shape = kept.shape_for(array.shape, sizes)
        if array.shape != shape or array.dtype != kept.dtype or not array.size:
            raise RunError(
                f"array {kept.name}: expected {kept.dtype} {list(shape)}, "
                f"found {array.dtype} {list(array.shape)}"
            )
        if array.dtype.kind == "i" and not 0 <= array.min() <= array.max() < info.classes:
            raise RunError(
                f"array {kept.name}: expected labels from 0 to {info.classes - 1}, found "
                f"{array.min()} to {array.max()}"
            )


def _expect_size(recipe: Recipe, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse a network far larger than the arrays, before memory is taken for it."""
    filters, shape = recipe.settings.filters, list(recipe.info.shape)
    biases = [name for name in arrays if fnmatch(name, f"{recipe.network}/conv_*_bias")]
    wide = arrays[min(biases)].size if biases else 0
    # A defense may change the size of images, and with it the number of scales, by one.
    if filters != wide or 2 * number_of_scales(*shape[:2]) > len(biases) + 2:
        raise RunError(
            f"expected the weights of a network {filters} filters wide for images {shape} as "
            f"network {recipe.network + 1}, found {len(biases)} convolutions, {wide} wide"
        )
