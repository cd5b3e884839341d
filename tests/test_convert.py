"""Conversions: equal answers, for every defense; refusals that leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file, save_file

import sparring
from sparring import backend
from sparring.conversion import convert, targets
from sparring.data import Dataset
from sparring.defenses import DEFENSES, get
from sparring.errors import ConversionError, RunError, SettingsError
from sparring.networks.allconv import AllConv
from tests.conftest import patterns

pytestmark = pytest.mark.backend

# Compiling each takes seconds elsewhere; these are all the kinds of networks there are.
FEW = ["baseline", "blur", "jump", "discretize", "knn"]
NAMES = list(DEFENSES) if backend.name == "torch" else FEW
# ONNX files are written from the plain PyTorch networks, whichever backend runs.
TARGETS = ["torch", "keras", "onnx"] if backend.name == "torch" else ["torch", "keras"]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A defense's run on small three-channel images, by name."""
    x, y = patterns(40, channels=3)
    dataset = Dataset("patterns", x, y, x[:16], y[:16], tuple("abcd"))
    out = tmp_path_factory.mktemp("runs")

    def trained(name: str) -> Path:
        if (lender := get(name).borrows) is not None:
            trained(lender)
        options: dict[str, Any] = {"filters": 5, "epochs": 2, "batch_size": 16}
        if get(name).borrows:
            options = {}
        path = sparring.train(name, dataset, out=out, eval_every=0, **options).path
        assert path is not None
        return path

    return trained


# Each loads what was written where nothing else can be imported, and answers saved images.
ALONE = {
    "torch": """
import torch
import torch_model

images = torch.from_numpy(images.transpose(0, 3, 1, 2)).requires_grad_()
for place, file in files("safetensors"):
    program = torch.export.load(file.with_suffix(".pt2")).module()
    for kind, model in (("plain", torch_model.load(file)), ("program", program)):
        logits = model(images)
        gradient, = torch.autograd.grad(
            logits[:, 1].sum(), images, allow_unused=True, materialize_grads=True)
        answers[place + "/" + kind] = logits.detach().numpy()
        answers[place + "/" + kind + "/gradient"] = gradient.numpy().transpose(0, 2, 3, 1)
""",
    "keras": """
import keras
import tensorflow as tf

for place, file in files("keras"):
    model = keras.models.load_model(file, safe_mode=True)
    with tf.GradientTape() as tape:
        x = tf.convert_to_tensor(images)
        tape.watch(x)
        logits = model(x)
        answer = tf.reduce_sum(logits[:, 1])
    answers[place + "/keras"] = logits.numpy()
    gradient = tape.gradient(answer, x, unconnected_gradients="zero")
    answers[place + "/keras/gradient"] = gradient.numpy()
""",
    "onnx": """
import onnxruntime

for place, file in files("onnx"):
    session = onnxruntime.InferenceSession(file)
    given = {"images": images.transpose(0, 3, 1, 2).copy()}
    [answers[place + "/onnx"]] = session.run(None, given)
""",
}
PROLOGUE = """
import sys

for name in {forbidden!r}:
    sys.modules[name] = None  # importing it fails
sys.path.insert(0, ".")
from pathlib import Path

import numpy as np

images, answers = np.load("images.npy"), {{}}


def files(suffix):
    for file in sorted(Path().glob("*/network-*." + suffix)):
        yield file.parent.name + "/" + file.stem, file
"""
NEEDED = {
    "torch": ["torch"],
    "keras": ["keras", "tensorflow"],
    "onnx": ["onnxruntime", "onnxscript", "torch"],
}
ALLOWED = {"torch": ["torch"], "keras": ["keras", "tensorflow"], "onnx": ["onnxruntime"]}
ALL = ["torch", "keras", "tensorflow", "jax", "safetensors", "onnx", "onnxruntime", "sparring"]


@pytest.fixture(scope="module")
def alone(
    train: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, np.ndarray, dict[str, np.ndarray]]]:
    """By target: every defense converted; images; and what the target's library answers alone."""

    @cache
    def converted(target: str) -> tuple[Path, np.ndarray, dict[str, np.ndarray]]:
        for module in NEEDED[target]:
            pytest.importorskip(module)
        folder = tmp_path_factory.mktemp(target)
        for name in NAMES:
            proof = convert.convert(train(name), target, folder / name)
            assert json.loads((folder / name / "conversion.json").read_text()) == proof
        images = np.random.default_rng(1).random((3, 8, 8, 3), dtype=np.float32)
        np.save(folder / "images.npy", images)
        if target == "torch":
            shutil.copy(folder / "baseline" / "torch_model.py", folder)
        forbidden = [module for module in ALL if module not in ALLOWED[target]]
        if target == "keras":
            forbidden.remove("jax")  # Keras itself looks whether it is there
            forbidden.remove("torch")
        program = PROLOGUE.format(forbidden=forbidden) + ALONE[target]
        program += "\nnp.savez('answers.npz', **answers)\n"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "KERAS_BACKEND": "tensorflow"}
        subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
        return folder, images, dict(np.load(folder / "answers.npz"))

    return converted


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", TARGETS)
def test_the_target_alone_answers_alike(
    train: Callable[[str], Path],
    alone: Callable[[str], tuple[Path, np.ndarray, dict[str, np.ndarray]]],
    target: str,
    name: str,
) -> None:
    folder, images, answers = alone(target)
    defense = sparring.load(train(name))
    assert f"# {name} on patterns" in (folder / name / "README.md").read_text()
    for number, net in enumerate(defense.nets):
        expected = ops.convert_to_numpy(net(ops.convert_to_tensor(images)))
        gradient = _gradient(net, images)
        scale = np.abs(expected).max()
        found = {
            place: array
            for place, array in answers.items()
            if place.startswith(f"{name}/network-{number}/")
        }
        assert found
        for place, array in found.items():
            if place.endswith("gradient"):
                np.testing.assert_allclose(array, gradient, atol=1e-4 * max(1.0, scale))
            else:
                np.testing.assert_allclose(array, expected, atol=1e-4 * scale)


def _gradient(net: AllConv, images: np.ndarray) -> np.ndarray:
    found = sparring.gradient(lambda x: net(x)[:, 1], ops.convert_to_tensor(images))
    return np.array(ops.convert_to_numpy(found))


def test_a_run_of_one_backend_converts_on_another(
    train: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    other = "tensorflow" if backend.name == "torch" else "torch"
    pytest.importorskip(other)
    run = train("discretize")
    convert.convert(run, "torch", tmp_path / "here")
    command: list[str | Path] = [sys.executable, "-m", "sparring", "convert", run, "--to", "torch"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KERAS_BACKEND": other}
    subprocess.run([*command, "--out", tmp_path / "there"], env=environment, check=True)
    for name in ("network-0.safetensors", "torch_model.py"):
        here, there = (tmp_path / where / name for where in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()


def test_nothing_pickled_is_written(train: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    convert.convert(train("blur"), "torch", tmp_path / "torch")
    for program in (tmp_path / "torch").glob("*.pt2"):
        for entry in zipfile.ZipFile(program).infolist():
            # Example inputs would be pickled; where they would be lies an empty file.
            pickled = entry.filename.endswith((".pt", ".pkl")) and entry.file_size
            assert not pickled, entry.filename
    assert {file.name for file in (tmp_path / "torch").iterdir()} == {
        "README.md", "conversion.json", "network-0.pt2", "network-0.safetensors",
        "network-0.transform.pt2", "torch_model.py",
    }  # fmt: skip


def test_kernels_are_transposed_by_hand() -> None:
    net = AllConv((8, 8, 3), 4, 2)
    kernel = np.arange(3 * 3 * 3 * 2, dtype=np.float32).reshape(3, 3, 3, 2)
    net.scales[0][0][0].assign(kernel)
    state = targets.torch_state(net)
    assert state["convs.0.weight"].shape == (2, 3, 3, 3)
    for height, width, channel, out in ((0, 2, 1, 0), (2, 1, 0, 1), (1, 0, 2, 1)):
        found = state["convs.0.weight"][out, channel, height, width]
        assert found == kernel[height, width, channel, out]


def test_without_its_package_a_target_is_refused(
    train: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target, module in (
        ("onnx", "onnxruntime"),
        ("torch", "torch"),
        ("selfstudy", "tensorflow"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            if module == backend.name:
                continue  # it cannot be missing where it runs
            with pytest.raises(ConversionError, match=r"pip install 'sparring\["):
                convert.convert(train("baseline"), target, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_other_answers_are_refused_and_nothing_is_left(
    train: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")

    def mirrored(net: AllConv, state: Any = targets.torch_state) -> dict[str, np.ndarray]:
        right = state(net)
        turned = np.ascontiguousarray(right["convs.0.weight"][:, :, :, ::-1])
        return {**right, "convs.0.weight": turned}

    monkeypatch.setattr(targets, "torch_state", mirrored)
    with pytest.raises(ConversionError, match=r"network 0: expected logits within 0\.0001 of"):
        convert.convert(train("baseline"), "torch", tmp_path / "torch")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept_without_force(train: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    target = tmp_path / "torch"
    target.mkdir()
    (target / "mine.txt").write_text("dear to me")
    with pytest.raises(ConversionError, match="torch exists; --force replaces it"):
        convert.convert(train("baseline"), "torch", target)
    assert (target / "mine.txt").exists()
    convert.convert(train("baseline"), "torch", target, force=True)
    assert not (target / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["torch"]


def test_wrong_use(train: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown target 'pytorch'"):
        convert.convert(train("baseline"), "pytorch", tmp_path / "x")
    with pytest.raises(RunError, match="no such run directory"):
        convert.convert(tmp_path / "none", "torch")


def test_damaged_files_are_refused(train: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from sparring.conversion import torch_model

    convert.convert(train("baseline"), "torch", tmp_path / "torch")
    file = tmp_path / "torch" / "network-0.safetensors"
    whole, arrays = file.read_bytes(), load_file(file)
    for data, message in (
        (b"", "not written by sparring convert"),
        (b"\x80\x04pickle.", "not written by sparring convert"),
        (whole[:-4], "damaged"),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            torch_model.load(file)
    save_file(arrays, file)
    with pytest.raises(ValueError, match="not written by sparring convert"):
        torch_model.load(file)
