"""What converted files tell of the machine that wrote them, and of damage done to them."""

from __future__ import annotations

import getpass
import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import sparring
from sparring import backend
from sparring.conversion import convert, staging, targets
from sparring.defenses import get
from sparring.defenses.defense import Defense
from sparring.errors import ConversionError, DataError, RunError
from sparring.networks.allconv import in_batches
from sparring.runs.directory import Run
from tests.conftest import patterns

on_torch = pytest.mark.skipif(backend.name != "torch", reason="is of PyTorch alone")

INFO = sparring.data.DatasetInfo("patterns", (8, 8, 3), tuple("abcd"), False, 1, 1, "")


def untrained(name: str) -> Defense:
    """A defense with weights as they are drawn at first."""
    kind = get(name)
    settings = kind.course_settings.replace(filters=3)
    return kind(INFO, settings, [recipe.net() for recipe in kind.recipes(INFO, settings, 0)])


FILES = ("network-0.safetensors", "network-0.transform.pt2")


@pytest.fixture(scope="module")
def blur(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blur written for PyTorch; its transform lies beside it as a program."""
    folder = tmp_path_factory.mktemp("blur")
    for _ in targets.TARGETS["torch"].write(untrained("blur"), folder):
        pass
    return folder


def contents(file: Path) -> Iterator[bytes]:
    """A file's bytes, and those of what is packed in it."""
    yield file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            yield from (packed.read(name) for name in packed.namelist())


@on_torch
@pytest.mark.parametrize("target", ["torch", "keras", "onnx"])
def test_files_name_no_folder_of_the_machine_that_wrote_them(target: str, tmp_path: Path) -> None:
    for module in {"onnx": ("onnxruntime", "onnxscript")}.get(target, ()):
        pytest.importorskip(module)
    for _ in targets.TARGETS[target].write(untrained("blur"), tmp_path):
        pass
    places = {str(Path(sparring.__file__).parents[1]), str(Path.home()), str(tmp_path), "/tmp/"}
    words = {*places, "site-packages", "torch_model.py", "blur.py", f"/{getpass.getuser()}/"}
    for file in tmp_path.iterdir():
        if file.suffix == ".py":
            continue
        for data in contents(file):
            assert [word for word in words if word.encode() in data] == [], file.name


@on_torch
def test_a_changed_bit_is_refused_wherever_it_is(blur: Path, tmp_path: Path) -> None:
    from sparring.conversion.torch_model import load

    shutil.copytree(blur, tmp_path, dirs_exist_ok=True)
    file = tmp_path / FILES[0]
    load(file)
    random = np.random.default_rng(0)
    for damaged in (tmp_path / name for name in FILES):
        whole = damaged.read_bytes()
        for place in (*range(8), *random.integers(8, len(whole), 80)):
            changed = bytearray(whole)
            changed[place] ^= 1 << int(random.integers(8))
            damaged.write_bytes(changed)
            with pytest.raises((ValueError, RuntimeError)):
                load(file)
        damaged.write_bytes(whole)
    assert not load(file).training


def rewritten(whole: bytes, options: dict[str, Any], entries: dict[str, Any]) -> bytes:
    """A file with other options and entries, and the hash that fits them."""
    from sparring.conversion.torch_model import fingerprint

    size = int.from_bytes(whole[:8], "little")
    header, numbers = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    known = json.loads(header.pop("__metadata__")["network"])
    del known["sha256"]
    options, entries = known | options, header | entries
    options["sha256"] = fingerprint(options, entries, numbers)
    header = entries | {"__metadata__": {"network": json.dumps(options)}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


LIES: dict[str, list[Any]] = {
    "scales": [2**31, 0, -1, 1.0, "1", None, [1]],
    "filters": [2**62, 2**600, -3, 1.5, "3", None, {}],
    "channels": [2**62],
    "outputs": [2**62, -1],
    "head_size": [2**40, []],
    "more": [1],
    "hooks": [{"../x": "0"}, {"train": "0"}, 3, None, [[]], ["load"]],
}


@on_torch
@pytest.mark.parametrize("option", LIES)
def test_options_that_lie_are_refused_before_memory_is_taken(
    blur: Path, tmp_path: Path, option: str
) -> None:
    from sparring.conversion.torch_model import load

    whole = (blur / FILES[0]).read_bytes()
    shutil.copytree(blur, tmp_path, dirs_exist_ok=True)
    file = tmp_path / FILES[0]
    file.write_bytes(rewritten(whole, {}, {}))
    load(file)
    for lie in LIES[option]:
        file.write_bytes(rewritten(whole, {option: lie}, {}))
        with pytest.raises((ValueError, RuntimeError)):
            load(file)


def entry(dtype: Any = "F32", offsets: Any = (0, 16), shape: Any = (4,)) -> dict[str, Any]:
    return {"dtype": dtype, "data_offsets": offsets, "shape": shape}


OFFSETS: list[Any] = [
    *([0], [0, 16, 32], ["0", "16"], [0.0, 16.0], None, [[], []], [-16, 0], [16, 0]),
    *([2**70, 2**70 + 16], [0, 15]),
]
SHAPES: list[Any] = [None, "4", [2.0, 2.0], [-4], [2**70], [[4]], [10**12]]
ENTRIES: list[Any] = [
    *(None, 3, [], {}, {"dtype": "F32"}, entry(dtype=[])),
    *(entry(offsets=offsets) for offsets in OFFSETS),
    *(entry(shape=shape) for shape in SHAPES),
]


@on_torch
def test_entries_that_lie_are_refused(blur: Path, tmp_path: Path) -> None:
    from sparring.conversion.torch_model import load

    file = tmp_path / FILES[0]
    whole = (blur / FILES[0]).read_bytes()
    for lie in ENTRIES:
        file.write_bytes(rewritten(whole, {"hooks": {}}, {"head.bias": lie}))
        with pytest.raises((ValueError, RuntimeError)):
            load(file)


@on_torch
def test_tensors_cannot_share_numbers(blur: Path, tmp_path: Path) -> None:
    from sparring.conversion.torch_model import load

    file = tmp_path / FILES[0]
    whole = (blur / FILES[0]).read_bytes()
    size = int.from_bytes(whole[:8], "little")
    half = (len(whole) - 8 - size) // 8 * 4
    lies = {f"lie {number}": entry(offsets=(0, half), shape=(half // 4,)) for number in range(400)}
    there = len(json.loads(whole[8 : 8 + size])) - 1
    fitting = (there + len(lies) - 2) / 4
    for scales, message in ((1000, "tensors for 1000 scales"), (fitting, "share their numbers")):
        file.write_bytes(rewritten(whole, {"hooks": {}, "scales": scales}, lies))
        with pytest.raises(ValueError, match=message):
            load(file)


@on_torch
@pytest.mark.parametrize("damage", [b"", b"PK", b"x" * 100])
def test_a_damaged_program_of_a_file_without_hashes(
    blur: Path, tmp_path: Path, damage: bytes
) -> None:
    from sparring.conversion.torch_model import load

    shutil.copytree(blur, tmp_path, dirs_exist_ok=True)
    file = tmp_path / FILES[0]
    file.write_bytes(rewritten(file.read_bytes(), {"hooks": ["transform"]}, {}))
    load(file)
    file.with_suffix(".transform.pt2").write_bytes(damage)
    with pytest.raises(ValueError, match=r"transform\.pt2: not written by sparring convert"):
        load(file)


@on_torch
def test_a_network_with_programs_is_copied_and_pickled(blur: Path) -> None:
    import copy
    import pickle

    import torch

    from sparring.conversion.torch_model import load

    network = load(blur / "network-0.safetensors")
    images = torch.rand(2, 3, 8, 8)
    expected = network(images)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        torch.testing.assert_close(again(images), expected, rtol=0, atol=0)


@pytest.mark.backend
@pytest.mark.parametrize("policy", ["float16", "mixed_bfloat16"])
def test_keras_s_own_settings_change_no_converted_model(tmp_path: Path, policy: str) -> None:
    defense = untrained("blur")
    net, images = defense.nets[0], patterns(3, channels=3)[0].astype(np.float32) / 255
    expected = ops.convert_to_numpy(net(ops.convert_to_tensor(images)))
    before = keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy()
    try:
        keras.config.set_image_data_format("channels_first")
        if policy.startswith("mixed"):
            keras.config.set_dtype_policy(policy)
        else:
            keras.config.set_floatx(policy)
        model = targets.keras_model(net, INFO.shape)
        formats = {layer.get_config().get("data_format") for layer in model.layers}
        assert formats == {"channels_last", None}
        assert {weight.dtype for weight in model.weights} == {"float32"}
        model.save(tmp_path / "network-0.keras")
        loaded = keras.models.load_model(tmp_path / "network-0.keras", compile=False)
        answer = ops.convert_to_numpy(loaded(ops.convert_to_tensor(images, "float32")))
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_image_data_format(before[1])
        keras.config.set_dtype_policy(before[2])
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, expected, atol=1e-5 * np.abs(expected).max())


# Replacing what is there


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline, trained for one epoch."""
    x, y = patterns(16, channels=3)
    dataset = sparring.Dataset("patterns", x, y, x, y, tuple("abcd"))
    path = sparring.train(
        "baseline", dataset, out=tmp_path_factory.mktemp("runs"), filters=2, epochs=1
    ).path
    assert path is not None
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is written at once, and answers rightly."""

    def write(defense: Defense, folder: Path) -> Iterator[targets.Answer]:
        (folder / "network-0.quick").write_text("new")
        yield lambda images: in_batches(defense.nets[0], images)

    monkeypatch.setitem(targets.TARGETS, "quick", targets.Target(write, "[B, H, W, C]", ""))


class Killed(BaseException):
    """In place of a signal that cannot be caught."""


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_killed_conversion_loses_nothing_and_leaves_nothing(
    run: Path,
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exchange: bool,
    renames: int,
) -> None:
    target = tmp_path / "quick"
    target.mkdir()
    (target / "network-0.quick").write_text("old")
    rename, left = Path.rename, renames

    def until_killed(path: Path, to: Path) -> Path:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", until_killed)
        patch.setattr(staging, "_clear", lambda stage: None)  # a killed process clears nothing
        patch.setattr(shutil, "rmtree", lambda *given, **options: None)
        if not exchange:
            patch.setattr(staging, "_exchanged", lambda one, other: False)
        with suppress(Killed):
            convert.convert(run, "quick", target, force=True)
    whole = [(path / "network-0.quick").read_text() for path in (target,) if path.exists()]
    if exchange:
        assert whole in (["old"], ["new"])
    monkeypatch.setattr(convert, "INPUTS", 2)
    convert.convert(run, "quick", tmp_path / "other")  # any conversion beside it puts it right
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "quick"]
    found = (target / "network-0.quick").read_text()
    assert found == ("new" if exchange or renames == 2 else "old")


def test_a_place_that_is_being_written_is_left_alone(
    run: Path, quick: None, tmp_path: Path
) -> None:
    target = tmp_path / "quick"
    with staging.staged(target, force=False) as folder:
        (folder / "half").touch()
        with pytest.raises(ConversionError, match="another process converts to this place"):
            convert.convert(run, "quick", target)
        convert.convert(run, "quick", tmp_path / "other")
        assert (folder / "half").exists()
    assert [path.name for path in target.iterdir()] == ["half"]
    with pytest.raises(ConversionError, match="exists; --force replaces it"):
        convert.convert(run, "quick", target)
    with pytest.raises(ConversionError, match="holds the run itself"):
        convert.convert(run, "quick", run.parent, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "quick"]


def test_other_images_than_the_run_s_are_refused(run: Path, quick: None, tmp_path: Path) -> None:
    x, y = patterns(16)
    gray = sparring.Dataset("gray", x, y, x, y, tuple("abcd"))
    with pytest.raises(DataError, match=r"expected images \[8, 8, 3\] as the run's, those of gray"):
        convert.convert(run, "quick", tmp_path / "quick", dataset=gray)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_trained_anew_meanwhile_is_named_rightly(
    run: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "baseline"
    shutil.copytree(run, mine)
    before = Run(mine).read()

    def trained_anew(weights: str | None) -> None:
        Run(mine).write(before.with_changes(weights_sha256=weights, results=None, seed=9))

    def loaded(*arguments: Any, load: Any = sparring.load) -> Defense:
        defense: Defense = load(*arguments)
        trained_anew("ab")
        return defense

    monkeypatch.setattr(convert, "load", loaded)
    proof = convert.convert(mine, "quick", tmp_path / "quick")
    card = (tmp_path / "quick" / "README.md").read_text()
    assert f"SHA-256 of the run's weights: {before.weights_sha256}" in card
    assert "seed 0, trained on" in card
    assert proof["files"] == {"network-0.quick": hashlib.sha256(b"new").hexdigest()}

    # Trained anew between the reading of run.json and of the weights.
    whole = sparring.load(run)
    Run(mine).write(before.with_changes(weights_sha256="cd"))
    monkeypatch.setattr(convert, "load", lambda path, code: whole)
    with pytest.raises(RunError, match="was trained anew meanwhile; convert it again"):
        convert.convert(mine, "quick", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["baseline", "quick"]
