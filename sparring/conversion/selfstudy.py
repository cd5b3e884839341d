"""Checkpoints of the course this project succeeds: read into ordinary run directories, written.

The course saved each network as a TensorFlow 2 object checkpoint: keys
`model/layers/N/{kernel,bias}/.ATTRIBUTES/VARIABLE_VALUE`, N counting convolutions and poolings
alike. Unfinished trainings hold `ema_model/...` too, whose weights are the ones to take.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparring import backend, defenses
from sparring.backend import choice, ops
from sparring.conversion.tracing import changed_hooks
from sparring.data import DatasetInfo
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles
from sparring.errors import ConversionError, SettingsError, unknown_name
from sparring.networks.allconv import AllConv, in_batches
from sparring.runs.directory import Run
from sparring.runs.records import Results, RunRecord
from sparring.training.loop import arrays_of
from sparring.training.recipe import Recipe
from sparring.version import __version__

FINAL = "final_checkpoint-1"
"""What the course named a finished network's checkpoint."""

_KEY = re.compile(
    r"(model|ema_model)/layers/([0-9]{1,6})/(kernel|bias)/\.ATTRIBUTES/VARIABLE_VALUE"
)
_OTHER_KEYS = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/", "opt/", "optimizer/", "step/")
_CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass
class Imported:
    """One network that was read: kernels and biases of its convolutions, the head last."""

    convs: list[tuple[np.ndarray, np.ndarray]]
    source: str
    unfinished: bool


def course_folders() -> dict[str, tuple[str, ...]]:
    """Give the folders of each defense's networks in the course's folder of checkpoints."""
    return {
        name: defense.course_files.folders
        for name, defense in defenses.DEFENSES.items()
        if defense.course_files
    }


def convert(path: str | Path, out: str | Path, *, name: str | None = None) -> list[str]:
    """Read one checkpoint, or all of a checkpoints folder, into runs.

    Everything is read and checked before anything is written. Width, channels, outputs and size of
    the head are read from the shapes.

    Args:
        path: a folder with a checkpoint, its prefix (`.../final_checkpoint-1`), or a folder with
            the course's folders of defenses.
        out: folder of runs; each goes to out/<data set>/<defense>.
        name: the defense that a single checkpoint is of; None goes by its folder's name.

    Returns:
        Lines that say what became a run, and what was passed over.

    Raises:
        ConversionError: for missing, unexpected, misshapen or non-finite tensors and files, for
            runs that exist already, and without TensorFlow.
        SettingsError: for an unknown defense.
    """
    path, out = Path(path), Path(out)
    if name is not None:
        if name not in defenses.NAMES:
            raise SettingsError(unknown_name("defense", name, defenses.NAMES))
        sources = {name: [path]}
    else:
        sources = _sources(path)
    ready = [_prepare(defense, places, out) for defense, places in sources.items()]
    lines = []
    for run, record, arrays in ready:
        with run.locked():
            run.finish(record, arrays)
        note = ", unfinished: its EMA weights" if record.unfinished else ""
        read = ", ".join(record.imported_from or ())
        lines.append(f"{record.defense}: {run.path} from {read}{note}")
    if name is None and [path] not in sources.values():
        lines += [f"Passed over {folder}, which no defense has" for folder in _unknown(path)]
    return lines


def _sources(path: Path) -> dict[str, list[Path]]:
    """Give the places of the networks of each defense that a path holds."""
    if not path.is_dir() and not path.with_name(path.name + ".index").exists():
        raise ConversionError(f"{path}: no such checkpoint or folder")
    sources = {
        name: [path / folder for folder in folders]
        for name, folders in course_folders().items()
        if any((path / folder).is_dir() for folder in folders)
    }
    if sources:
        for name, places in sources.items():
            if missing := [str(place) for place in places if not place.is_dir()]:
                raise ConversionError(f"{name} needs {len(places)} networks; missing {missing}")
        return sources
    folder = path if path.is_dir() else path.parent
    for name, folders in course_folders().items():
        if folders == (folder.name,):
            return {name: [path]}
    known = ", ".join(folder for folders in course_folders().values() for folder in folders)
    raise ConversionError(
        f"{path}: cannot tell which defense this is; name it with --as. Known folders: {known}"
    )


def _unknown(path: Path) -> list[Path]:
    """List folders with checkpoints that stand beside the known ones."""
    known = {place.partition("/")[0] for places in course_folders().values() for place in places}
    return [
        folder
        for folder in sorted(path.iterdir())
        if folder.is_dir() and folder.name not in known and any(folder.rglob("*.index"))
    ]


def write(defense: Defense, folder: Path) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Write a defense as the course kept it.

    Args:
        defense: a trained defense.
        folder: gets what the course had in its folder of checkpoints: a final checkpoint a network,
            in the course's place for this defense or one of its name, and the arrays beside it.

    Yields:
        What answers images [N, H, W, C] with each network, as read back.

    Raises:
        ConversionError: where the course's program could not load it, or would answer otherwise.
    """
    tf = _tensorflow()
    _expect_as_the_course_s(defense)
    files = _files(type(defense))
    places = [folder / place for place in files.folders]
    for place, net in zip(places, defense.nets, strict=True):
        place.mkdir(parents=True)
        model = tf.Module()
        model.layers = []
        for pair in net.scales:
            model.layers += [*(_layer(tf, *conv) for conv in pair), _layer(tf)]
        model.layers.append(_layer(tf, *net.head))
        # The course's way of writing too: it appends the -1.
        tf.train.Checkpoint(model=model).save(str(place / FINAL.removesuffix("-1")))
    for kept in files.arrays:
        array = defense.arrays[kept.name]
        array = array[:, None] if kept.column else array
        np.save(places[0] / kept.file, array, allow_pickle=False)
    arrays = _beside(files, places[0], defense.info, defense.nets[0].head[0].shape[2])
    if any(not np.allclose(arrays[key], defense.arrays[key], rtol=1e-6) for key in arrays):
        raise ConversionError(f"{defense.name}: its arrays were read back otherwise")
    recipes = defense.recipes(defense.info, defense.settings, 0)
    for recipe, place in zip(recipes, places, strict=True):
        net = _net(recipe, _read(place), defense.name)
        yield partial(in_batches, backend.compile(net, net.variables))


def _layer(tf: Any, *conv: Any) -> Any:
    """Make a layer as checkpoints see it: a kernel and a bias, or for a pooling nothing."""
    layer = tf.Module()
    for part, variable in zip(("kernel", "bias"), conv, strict=False):
        setattr(layer, part, tf.Variable(ops.convert_to_numpy(variable)))
    return layer


def _expect_as_the_course_s(defense: Defense) -> None:
    """Raise ConversionError unless the course's program can load a defense and answers alike."""
    side, height, width = defense.settings.head_size, *defense.info.shape[:2]
    if side != 3:
        raise ConversionError(
            f"the course's networks have a 3x3 head, {defense.name} here one of {side}x{side}; "
            "train it with head_size: 3 in a --config file"
        )
    if height != width or height & (height - 1):
        raise ConversionError(
            f"the course's images are square with a power of two as side, these {height}x{width}"
        )
    for name, does in _files(type(defense)).served:
        served, course = getattr(defense.settings, name), getattr(defense.course_settings, name)
        if served != course:
            raise ConversionError(
                f"the course's program {does} {name} {course}, this run at {served}; "
                f"train it with {name}: {course} in a --config file"
            )
    if defense.course_files is None and (changed := changed_hooks(defense.nets[0])):
        raise ConversionError(
            f"the course's program does not know {defense.name}, whose network changes "
            f"{', '.join(changed)}: it would answer otherwise"
        )


def _files(defense: type[Defense]) -> CourseFiles:
    """Say how the course kept a defense, or would have kept one that it had not."""
    return defense.course_files or CourseFiles(folders=(defense.name,))


def _tensorflow() -> Any:
    try:
        with choice.quiet_tensorflow():
            import tensorflow
    except ImportError as error:
        raise ConversionError(
            "the course's checkpoints need TensorFlow: pip install 'sparring[tensorflow]'"
        ) from error
    return tensorflow


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Name what is read in an error, which for damaged files is of any kind."""
    try:
        yield
    except Exception as error:
        raise ConversionError(f"{what}: {error!r:.500}") from error


def _read(place: Path) -> Imported:
    """Read a checkpoint's network. A place is its folder or its prefix."""
    tf = _tensorflow()
    prefix = _prefix(place) if place.is_dir() else place
    with _telling(f"{prefix}: not a readable checkpoint"):
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        types = reader.get_variable_to_dtype_map()
    named: dict[str, dict[int, dict[str, str]]] = {}
    for key in sorted(shapes):
        if (match := _KEY.fullmatch(key)) is not None:
            model, layer, part = match.groups()
            named.setdefault(model, {}).setdefault(int(layer), {})[part] = key
        elif not key.startswith(_OTHER_KEYS):
            raise ConversionError(f"{prefix}: unexpected tensor {key}")
    if not named:
        raise ConversionError(
            f"{prefix}: expected tensors model/layers/N/kernel and bias; found {sorted(shapes)}"
        )
    layers = sorted(named.get("ema_model", named.get("model", {})).items())
    for layer, keys in layers:
        if missing := [part for part in ("kernel", "bias") if part not in keys]:
            raise ConversionError(f"{prefix}: layer {layer} has no {missing[0]}")
    # Before memory is taken for what the index promises.
    _check(str(prefix), [(n, shapes[keys["kernel"]], shapes[keys["bias"]]) for n, keys in layers])
    promised = 4 * sum(math.prod(shapes[key]) for _, keys in layers for key in keys.values())
    shards = (x for x in prefix.parent.iterdir() if x.name.startswith(f"{prefix.name}.data-"))
    there = sum(shard.stat().st_size for shard in shards)
    if promised > there:
        raise ConversionError(
            f"{prefix}: cannot be read: expected {promised} bytes of weights, found {there}"
        )
    convs = []
    for layer, keys in layers:
        arrays = {}
        for part, key in keys.items():
            with _telling(f"{prefix}: layer {layer} cannot be read"):
                array = reader.get_tensor(key) if types[key] == tf.float32 else None
            if array is None or not np.isfinite(array).all():
                found = types[key].name if array is None else "NaN or infinity"
                raise ConversionError(
                    f"{prefix}: layer {layer}: expected a finite float32 {part}, found {found}"
                )
            arrays[part] = array
        convs.append((arrays["kernel"], arrays["bias"]))
    return Imported(convs, str(prefix), unfinished="ema_model" in named)


def _prefix(folder: Path) -> Path:
    """Find the checkpoint in a folder: the final one, or the last of an unfinished training."""
    final = folder / FINAL
    if final.with_name(final.name + ".index").exists():
        return final
    numbered = []
    for index in folder.glob("checkpoint-*.index"):
        number = index.stem.rpartition("-")[2]
        if number.isascii() and number.isdigit():
            numbered.append((int(number), index.with_suffix("")))
    if not numbered:
        raise ConversionError(
            f"{folder}: expected {FINAL}.index or checkpoint-N.index, found "
            f"{sorted(file.name for file in folder.iterdir())}"
        )
    return max(numbered)[1]


def _check(prefix: str, convs: list[tuple[int, list[int], list[int]]]) -> None:
    """Raise ConversionError unless these are the course's: layer, shapes of kernel and bias."""
    layers = [layer for layer, _, _ in convs]
    scales = (len(convs) - 1) // 2
    # Two convolutions and a pooling a scale, then the head.
    expected = [layer for layer in range(3 * scales + 1) if layer % 3 != 2]
    if not scales or layers != expected:
        raise ConversionError(
            f"{prefix}: expected convolutions in layers {expected}, found {layers}"
        )
    first, head = ([*convs[place][1], 0, 0, 0, 0][:4] for place in (0, -1))
    widths = [first[3] * 2 ** (scale + i) for scale in range(scales) for i in range(2)]
    inputs, outputs = [first[2], *widths], [*widths, head[3]]
    for (layer, kernel, bias), before, after in zip(convs, inputs, outputs, strict=True):
        side = 1 if layer == layers[-1] and head[0] == 1 else 3
        wanted = [side, side, before, after]
        if kernel != wanted or bias != [after] or 0 in wanted:
            raise ConversionError(
                f"{prefix}: layer {layer}: expected kernel {wanted} and bias [{after}], "
                f"found {kernel} and {bias}"
            )


def _prepare(
    name: str, places: list[Path], out: Path
) -> tuple[Run, RunRecord, dict[str, np.ndarray]]:
    """Read a defense's networks and make the run that they become, in memory."""
    networks = [_read(place) for place in places]
    defense, first, place = defenses.get(name), networks[0], places[0]
    kernels = [kernel for kernel, _ in first.convs]
    filters, features = kernels[0].shape[3], kernels[-1].shape[2]
    files = _files(defense)
    channels, rest = divmod(kernels[0].shape[2], files.channels)
    if rest or not channels:
        raise ConversionError(
            f"{first.source}: expected a multiple of {files.channels} channels for {name}, found "
            f"{kernels[0].shape[2]}"
        )
    resolution = 2 ** ((len(kernels) - 1) // 2 + 2)
    classes = files.classes or int(kernels[-1].shape[3])
    cifar = (resolution, channels, classes) == (32, 3, 10)
    info = DatasetInfo(
        "cifar10" if cifar else "selfstudy",
        (resolution, resolution, channels),
        tuple(_CIFAR) if cifar else tuple(map(str, range(classes))),
        mirror=True,
        train_images=50_000 if cifar else 0,
        test_images=10_000 if cifar else 0,
        sha256="",
        key="cifar10" if cifar else None,
    )
    settings = defense.course_settings.replace(head_size=kernels[-1].shape[0], flip=True)
    # What an ensemble makes of `filters`, undone.
    try:
        for width in range(filters, 8 * filters):
            settings = settings.replace(filters=width)
            if defense.network_settings(info, settings)[0].filters == filters:
                break
        recipes = defense.recipes(info, settings, 0)
    except SettingsError as error:
        raise ConversionError(f"{first.source}: {error}") from error
    if len(recipes) != len(networks):
        raise ConversionError(f"{name} has {len(recipes)} networks, found {len(networks)}")
    arrays = _beside(files, place if place.is_dir() else place.parent, info, features)
    for recipe, network in zip(recipes, networks, strict=True):
        net = _net(recipe, network, name)
        arrays |= arrays_of(f"{recipe.network}", net.trainable_variables)
    run = Run(out / info.name / name)
    if run.exists():
        raise ConversionError(f"{run.path} holds a run already; choose another folder with -o")
    record = RunRecord(
        defense=name,
        dataset=info.as_json(),
        settings=settings.as_json(),
        networks=[recipe.settings.as_json() for recipe in recipes],
        seed=0,
        backend="tensorflow",
        status="training",
        imported_from=[network.source for network in networks],
        unfinished=any(network.unfinished for network in networks),
        versions={"sparring": __version__},
        results=Results(),
        imported=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return run, record, arrays


def _net(recipe: Recipe, network: Imported, name: str) -> AllConv:
    """Make a recipe's network with the weights that were read, as it answers when trained."""
    net = recipe.net()
    expected = [list(kernel.shape) for kernel in net.kernels]
    found = [list(kernel.shape) for kernel, _ in network.convs]
    if found != expected:
        raise ConversionError(
            f"{network.source}: expected kernels {expected} for {name}, found {found}"
        )
    for conv, arrays in zip(net.convs, network.convs, strict=True):
        for variable, array in zip(conv, arrays, strict=True):
            variable.assign(array)
    recipe.on_progress(net, 1.0)
    return net


def _beside(
    files: CourseFiles, folder: Path, info: DatasetInfo, features: int
) -> dict[str, np.ndarray]:
    """Read the arrays that the course kept beside the networks, checked against their shapes."""
    sizes: dict[str, int] = {"classes": info.classes, "features": features}
    sizes |= zip(("height", "width", "channels"), info.shape, strict=True)
    arrays = {}
    for kept in files.arrays:
        path = folder / kept.file
        array = _mapped(path)
        array = array.reshape(-1) if kept.column and array.shape[1:] in ((), (1,)) else array
        shape = kept.shape_for(array.shape, sizes)
        labels = np.dtype(kept.dtype).kind == "i"
        expected = f"labels from 0 to {info.classes - 1}" if labels else "finite numbers"
        found = f"{array.dtype} {list(array.shape)}"
        valid = array.shape == shape and array.dtype.kind in ("iu" if labels else "iuf")
        if valid and labels:
            valid, found = array.min() >= 0 and array.max() < info.classes, "others"
        if valid:
            with np.errstate(over="ignore"):
                array = array.astype(kept.dtype)
            valid, found = np.isfinite(array).all(), "NaN, infinity, or numbers beyond float32"
        if not valid:
            raise ConversionError(
                f"{path}: expected {expected} of shape {list(shape)}, found {found}"
            )
        if kept.unit:
            lengths = np.linalg.norm(array, axis=-1, keepdims=True)
            array = array / np.maximum(lengths, 1e-12)
        arrays[kept.name] = array
    return arrays


def _mapped(path: Path) -> Any:
    """Map a .npy file into memory, which takes none for what its header promises."""
    if not path.is_file():
        raise ConversionError(f"{path}: cannot be read: no such file")
    with _telling(f"{path}: cannot be read: expected a .npy file of numbers"):
        array = np.lib.format.open_memmap(path, mode="r")  # which refuses pickles
        # Where there is more than the header promises, numbers are not in their places.
        if not array.size or array.offset + array.nbytes != path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} bytes, of which {array.nbytes} are numbers")
    return array
