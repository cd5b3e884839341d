"""What converted files tell of the machine that wrote them, and of damage done to them."""

from __future__ import annotations

import getpass
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import sparring
from sparring import backend
from sparring.conversion import targets
from sparring.defenses import get
from sparring.defenses.defense import Defense
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
