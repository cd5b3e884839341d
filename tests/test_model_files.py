"""Models that files hold: what names them, what is refused, their verdicts, hashes and reports."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import re
import shutil
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sparring
from sparring import backend
from sparring.attacks import adapters
from sparring.backend import keras, ops
from sparring.cli import app
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import ModelError, SettingsError
from sparring.models.reference import Reference, is_reference
from sparring.reports.gather import gather

torch: Any = pytest.importorskip("torch")
nn = torch.nn

on_torch = pytest.mark.skipif(backend.name != "torch", reason="asks a module of PyTorch")

MODEL = """
import pathlib

import torch

import helper_of_model


def build():
    model = helper_of_model.Network(FACTOR)
    file = pathlib.Path(__file__).with_name("weights.pth")
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def detecting():
    return helper_of_model.Detecting(build())


def answers(images):
    logits = build()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    return logits.softmax(1).detach().numpy()


made = build
number = 3


def failing():
    raise ValueError("no weights")
"""

HELPER = """
import torch


class Network(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.linear, self.factor = torch.nn.Linear(64, 4), factor

    def forward(self, x):
        return self.factor * self.linear(x.flatten(1))


class Detecting(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x), x.amax((1, 2, 3))
"""


@pytest.fixture
def folder(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with model.py, what that needs, and mine.npz, which it knows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL.replace("FACTOR", "1"))
    (tmp_path / "helper_of_model.py").write_text(HELPER)
    torch.manual_seed(0)
    linear = nn.Linear(64, 4)
    torch.save(
        {f"linear.{name}": value for name, value in linear.state_dict().items()}, "weights.pth"
    )
    x = dataset.x_test.astype(np.float32).reshape(-1, 64) / 255
    y = linear(torch.from_numpy(x)).argmax(1).numpy().astype(np.int32)
    arrays = {"x_train": dataset.x_train, "y_train": dataset.y_train}
    arrays |= {"x_test": dataset.x_test, "y_test": y}
    arrays["class_names"] = np.array(list("abcd"))
    np.savez("mine.npz", **arrays)  # type: ignore[arg-type]
    path, modules = sys.path[:], {*sys.modules}
    yield tmp_path
    sys.path[:] = path
    for name in {*sys.modules} - modules:
        if name.startswith(("sparring_model_", "helper_of_model")):
            del sys.modules[name]


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, f"{words}\n{result.output}"
    return result.output


def verdicts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.rglob("verdict.json"))]


# On the command line


@on_torch
def test_the_page_on_models(
    digits_baseline: Defense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "your-own-models.md").read_text("utf-8")
    file, snippet = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    nets = types.ModuleType("nets")

    def network() -> Any:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    vars(nets)["MyNetwork"] = network
    monkeypatch.setitem(sys.modules, "nets", nets)
    (tmp_path / "model.py").write_text(file)
    torch.save(network().state_dict(), "weights.pth")
    names: dict[str, Any] = {"module": Reference.of("model.py:build")}
    exec(compile(snippet, "your-own-models.md", "exec"), names)
    assert names["defense"].name == "model-build"

    assert digits_baseline.path is not None
    (tmp_path / "runs").mkdir()
    shutil.copytree(digits_baseline.path, tmp_path / "runs" / "digits" / "baseline")
    for command in re.findall(r"^    sparring ((?:convert|attack) runs/.*)$", page, re.MULTILINE):
        printed = run(*command.split())
    assert "network-0.pt2 on digits, PGD(" in printed
    assert "robust accuracy" in printed


@on_torch
def test_from_a_file_to_a_report(folder: Path) -> None:
    words = ["attack", "model.py:build", "pgd", "--data", "mine.npz", "-n", "16"]
    assert "no usual eps" in run(*words, code=1)  # of data that nobody knows
    words += ["--eps", "0.1", "-o", "steps=10", "--quiet"]
    printed = run(*words)
    assert "model-build on mine, PGD(" in printed
    assert "clean accuracy   100.0 %" in printed
    place = folder / "runs" / "mine" / "model-build"
    [verdict] = verdicts(place)
    assert verdict["results"]["success_rate"]["value"] > 0.5
    assert verdict["model"]["kind"] == "PyTorch module"
    assert verdict["model"]["layout"] == "NCHW"
    assert len(verdict["weights_sha256"]) == 64
    assert "its layout" in next(place.rglob("verdict.html")).read_text()
    record = json.loads((place / "model.json").read_text())
    assert (record["name"], record["reference"]) == ("model-build", "model.py:build")

    # Once more, and after the code changed, which weights do not tell.
    assert "attack success" in run(*words)
    assert len(verdicts(place)) == 1
    (folder / "model.py").write_text(MODEL.replace("FACTOR", "2"))
    run(*words)
    assert len(verdicts(place)) == 2

    # The same weights changed by a hair are others, and what was said of the old ones is stale.
    state = torch.load("weights.pth", weights_only=True)
    state["linear.bias"][0] += 1e-6
    torch.save(state, "weights.pth")
    run(*words)
    assert len({each["weights_sha256"] for each in verdicts(place)}) == 2
    assert "model-build" in run("report", "runs")
    [section] = gather(folder / "runs").sections
    [group] = section.groups
    assert group.defense == "model-build"
    assert sum(verdict.stale for verdict in group.runs[0].verdicts) == 2
    assert "a model of one" in (folder / "runs" / "report.html").read_text()


@on_torch
def test_what_is_declared_on_the_command_line(folder: Path) -> None:
    words = ("--data", "mine.npz", "-n", "16", "--eps", "0.1", "--quiet", "-o", "steps=5")
    assert "got 2 values" in run("attack", "model.py:detecting", "pgd", *words, code=1)
    common = (*words, "-m", "detects=true", "-m", "name=watchful")
    run("attack", "model.py:detecting", "pgd", *common, "-m", "threshold=2")
    run("attack", "model.py:detecting", "pgd", *common, "-m", "threshold=-1", code=0)
    rates = [
        (each["model"]["threshold"], each["results"]["clean_rejected"]["value"])
        for each in verdicts(folder / "runs" / "mine" / "watchful")
    ]
    assert sorted(rates) == [(-1.0, 1.0), (2.0, 0.0)]
    printed = run("attack", "model.py:build", "pgd", *words, "-m", "layot=NHWC", code=1)
    assert "unknown option of a model 'layot'. Did you mean 'layout'" in printed
    printed = run("attack", "blur", "pgd", "-m", "layout=NHWC", code=1)
    assert "expected them with a model of your own" in printed


@on_torch
def test_functions_of_a_file_are_models(folder: Path) -> None:
    words = ("--data", "mine.npz", "-n", "16", "--eps", "0.1", "--quiet")
    run("attack", "model.py:answers", "square", *words, "-o", "queries=50")
    [verdict] = verdicts(folder)
    assert verdict["model"]["outputs"] == "probabilities"
    assert verdict["weights_sha256"] is None
    assert verdict["results"]["success_rate"]["value"] > 0.2
    printed = run("attack", "model.py:answers", "pgd", *words, code=1)
    assert "model-answers: the attack needs gradients of the model" in printed
    assert "square" in printed
    run("attack", "model.py:made", "noise", *words)  # what makes one by another name


@on_torch
def test_images_are_judged(folder: Path) -> None:
    images = np.load("mine.npz")["x_test"].astype(np.float32) / 255
    images[:4] = 1 - images[:4]
    np.savez("images.npz", adversarial=images)
    words = ("--data", "mine.npz", "-n", "16", "--eps", "1", "--quiet")
    printed = run("judge", "model.py:build", "images.npz", *words)
    assert "isolation        images" in printed
    [verdict] = verdicts(folder / "runs" / "mine" / "model-build")
    assert [each["success"] for each in verdict["images"]][4:] == [0.0] * 12
    assert sum(each["success"] for each in verdict["images"]) >= 1


@on_torch
def test_an_attack_of_a_file_runs_apart(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "def attack(defense, x, y, threat):\n"
        "    import sparring\n"
        "    assert defense.name == 'model-build'\n"
        "    return sparring.PGD(steps=5)(defense, x, y, threat)\n"
    )
    words = ("--data", "mine.npz", "-n", "16", "--eps", "0.1", "--quiet")
    printed = run("attack", "model.py:build", "mine.py", *words)
    assert "isolation        process" in printed
    [verdict] = verdicts(folder)
    assert verdict["results"]["success_rate"]["value"] > 0.3


REFUSED = {
    "net.pt": "pickled Python.*torch.load..net.pt., weights_only=True.*model.py:build",
    "net.pth": "pickled Python",
    "net.pkl": "pickled Python",
    "pytorch_model.bin": "pickled Python",
    "net.pth.tar": "pickled Python",
    "net.safetensors": "weights without the network.*safetensors.torch.load_file",
    "model.py": "expected the name of a function that gives the model too, as model.py:build",
    "model.py:": "expected the name of a function or a model after the file",
    "model.py:bild": "expected a function or a model 'bild', found build, detecting, answers",
    "model.py:number": "expected a torch.nn.Module, a Keras model.*got int",
    "model.py:failing": r"failing: ValueError: no weights \(.*model.py, line \d+\)",
    "other.py:build": "other.py: no such file",
    "net.onnx": "net.onnx: no such file",
    "robustbench:Standard": "the package robustbench cannot be imported",
}


@on_torch
@pytest.mark.parametrize("word", REFUSED)
def test_what_is_refused_says_the_way_out(folder: Path, word: str) -> None:
    class Marks:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder / "ran"),)

    if Path(word).suffix in (".pt", ".pth", ".pkl", ".bin", ".tar"):
        (folder / word).write_bytes(pickle.dumps(Marks()))
    words = ("attack", word, "pgd", "--data", "mine.npz", "--eps", "0.1", "-n", "4")
    printed = run(*words, code=1)
    assert printed.startswith(("sparring: ", "Usage")), printed
    assert "Traceback" not in printed
    assert re.search(REFUSED[word], " ".join(printed.split())), printed
    assert not (folder / "ran").exists()
    assert not (folder / "runs").exists()


def test_what_names_a_model() -> None:
    for word in ("model.py:build", "a/b.py:c", "x.onnx", "X.PT2", "m.keras", "robustbench:X:L2"):
        assert is_reference(word)
        assert Reference.of(word).name
    for word in ("blur", "pgd", "runs/digits/blur", "attack.py", "images.npz", "mine.parquet"):
        assert not is_reference(word)
    assert Reference.of("a/b.py:c").name == "b-c"
    assert Reference.of("a/net.onnx").name == "net.onnx"
    assert str(Reference.of("robustbench:X:L2").absolute()) == "robustbench:X:L2"
    assert Reference.of("b.py:c").absolute().path == Path.cwd() / "b.py"


# Files that hold a whole model


class Convolutions(nn.Module):  # type: ignore[name-defined]
    """Images [B, 1, 8, 8] -> logits [B, 4]."""

    def __init__(self, wide: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, wide, 3), nn.Linear(wide * 36, 4)

    def forward(self, x: Any) -> Any:
        return self.last(self.first(x).relu().flatten(1))


def saved(path: Path, batch: int | None = None) -> Any:
    """Save a program for batches of a size, or of any."""
    torch.manual_seed(0)
    module = Convolutions().eval()
    sizes: Any = ({0: torch.export.Dim("batch", min=1)},) if batch is None else None
    program = torch.export.export(module, (torch.zeros(batch or 2, 1, 8, 8),), dynamic_shapes=sizes)
    torch.export.save(program, path)
    return module


@on_torch
@pytest.mark.parametrize("batch", [None, 3])
def test_a_program_answers_as_the_module_that_it_is_of(
    dataset: Dataset, tmp_path: Path, batch: int | None
) -> None:
    module = saved(tmp_path / "net.pt2", batch)
    program, plain = (sparring.Defense.of(each, dataset) for each in (tmp_path / "net.pt2", module))
    assert program.name == "net.pt2"
    x = ops.convert_to_tensor(dataset.x_test.astype(np.float32) / 255)
    torch.testing.assert_close(program.logits(x), plain.logits(x))
    slope = sparring.gradient(lambda images: program.logits(images)[:, 0], x)
    expected = sparring.gradient(lambda images: plain.logits(images)[:, 0], x)
    torch.testing.assert_close(slope, expected)
    assert slope.abs().max() > 0


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Change the members of an archive; None drops one."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, contents in members.items():
            if (new := change(name, contents)) is not None:
                archive.writestr(name, new)


def _pickled(folder: Path) -> bytes:
    class Marks:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder / "ran"),)

    buffer = io.BytesIO()
    torch.save((Marks(), {}), buffer)
    return buffer.getvalue()


@on_torch
@pytest.mark.parametrize("way", ["example inputs", "operation", "size", "object"])
def test_a_program_cannot_run_what_is_no_program(
    dataset: Dataset, tmp_path: Path, way: str
) -> None:
    path = tmp_path / "net.pt2"
    saved(path)
    command = f"mkdir {tmp_path / 'ran'}"

    def change(name: str, contents: bytes) -> bytes:
        if way == "example inputs" and name.endswith("sample_inputs/model.pt"):
            return _pickled(tmp_path)
        if name.endswith("models/model.json"):
            text = contents.decode()
            if way == "operation":
                text = text.replace("torch.ops.aten.relu.default", "torch.os.system")
            if way == "size":
                text = text.replace(
                    "Symbol('s", f"__import__('os').system('{command}') or Symbol('s"
                )
            return text.encode()
        return contents

    rewritten(path, change)
    if way == "object":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("net/data/constants/custom_obj_0", _pickled(tmp_path))
    message = "PyTorch cannot load it" if way == "example inputs" else "expected a program"
    with pytest.raises(ModelError, match=rf"net\.pt2: {message}"):
        sparring.Defense.of(path, dataset)
    assert not (tmp_path / "ran").exists()


@pytest.mark.backend
@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_files_of_keras(dataset: Dataset, tmp_path: Path, ending: str) -> None:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.save(tmp_path / f"net.{ending}")
    loaded = sparring.Defense.of(tmp_path / f"net.{ending}", dataset)
    given = sparring.Defense.of(model, dataset, name="net")
    np.testing.assert_allclose(
        loaded.classify(dataset.x_test), given.classify(dataset.x_test), atol=1e-6
    )
    assert loaded.weights_sha256 == given.weights_sha256
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Lambda(lambda x: x)])
    model.save(tmp_path / f"lambda.{ending}")
    with pytest.raises(ModelError, match=r"in safe mode.*A Lambda layer is Python code"):
        sparring.Defense.of(tmp_path / f"lambda.{ending}", dataset)


@pytest.mark.skipif(backend.name == "torch", reason="PyTorch is at work")
@pytest.mark.backend
def test_a_module_of_pytorch_needs_pytorch(dataset: Dataset) -> None:
    with pytest.raises(
        ModelError, match=r"needs the backend torch, running is .*KERAS_BACKEND=torch"
    ):
        sparring.Defense.of(nn.Linear(64, 4), dataset)


@on_torch
def test_onnx_files(dataset: Dataset, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, weights = onnx.helper, np.ones((64, 4), np.float32)
    weights[:, 1] = 2

    def write(name: str, batch: Any, outside: bool) -> Path:
        nodes = [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ]
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("images", kind, [batch, 1, 8, 8])],
            [helper.make_tensor_value_info("logits", kind, [batch, 4])],
            [onnx.numpy_helper.from_array(weights, "weights")],
        )
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        more: dict[str, Any] = {"location": f"{name}.data", "size_threshold": 0} if outside else {}
        onnx.save(model, tmp_path / name, save_as_external_data=outside, **more)
        return tmp_path / name

    paths = [write("any.onnx", "batch", False), write("five.onnx", 5, False)]
    paths.append(write("outside.onnx", "batch", True))
    x = dataset.x_test.astype(np.float32) / 255
    for path in paths:
        defense = sparring.Defense.of(path, dataset)
        logits = ops.convert_to_numpy(defense.logits(ops.convert_to_tensor(x)))
        np.testing.assert_allclose(logits, x.reshape(-1, 64) @ weights, rtol=1e-4)
    assert (tmp_path / "outside.onnx.data").is_file()
    before = sparring.Defense.of(paths[2], dataset).weights_sha256
    weights[0, 0], model = 5, paths[2].read_bytes()
    (tmp_path / "outside.onnx.data").unlink()  # it would be added to
    write("outside.onnx", "batch", True)
    assert paths[2].read_bytes() == model
    assert sparring.Defense.of(paths[2], dataset).weights_sha256 != before
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad\.onnx: onnxruntime cannot load it"):
        sparring.Defense.of(tmp_path / "bad.onnx", dataset)


@on_torch
def test_a_name_of_robustbench(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def load_model(**arguments: Any) -> Any:
        asked.append(arguments)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    utils = types.ModuleType("robustbench.utils")
    utils.load_model = load_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robustbench", types.ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    digits = sparring.load_data("digits")
    defense = sparring.Defense.of("robustbench:Standard:L2", digits)
    assert defense.name == "Standard-L2"
    assert asked == [{"model_name": "Standard", "dataset": "cifar10", "threat_model": "L2"}]
    with pytest.raises(ModelError, match="expected a data set of 10, 100, 1000 classes"):
        sparring.Defense.of("robustbench:Standard", dataset)


# As any defense


@on_torch
def test_hashes_follow_from_weights_alone(dataset: Dataset) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4))
    defense = sparring.Defense.of(module, dataset)
    before = defense.weights_sha256
    assert sparring.Defense.of(copy.deepcopy(module), dataset).weights_sha256 == before
    with torch.no_grad():
        module[1].running_mean[3] += 1e-3
    after = defense.weights_sha256
    assert after not in (None, before)
    assert sparring.Defense.of(module.double(), dataset).weights_sha256 not in (before, after)


@on_torch
def test_an_attack_that_changes_its_copy_does_not_change_the_judge(dataset: Dataset) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    def cheating(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        for variable in defense.variables:
            variable.assign(variable.value * 0)
        return x

    defense = sparring.Defense.of(module, dataset)
    y = defense.classify(dataset.x_test).argmax(1).astype(np.int32)
    known = Dataset("known", dataset.x_test, y, dataset.x_test, y, dataset.class_names)
    defense = sparring.Defense.of(module, known)
    before = defense.weights_sha256
    verdict = sparring.evaluate(defense, cheating, sparring.Linf(0.1), known, n=16, check=False)
    assert [warning.name for warning in verdict.warnings] == ["changed-defense"]
    assert verdict.success_rate.value == 0
    assert defense.weights_sha256 == before


@on_torch
def test_libraries_attack_a_model(dataset: Dataset) -> None:
    pytest.importorskip("foolbox")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4)).eval()
    y = sparring.Defense.of(module, dataset).classify(dataset.x_test).argmax(1).astype(np.int32)
    known = Dataset("known", dataset.x_test, y, dataset.x_test, y, dataset.class_names)
    defense = sparring.Defense.of(module, known)
    attack = adapters.Foolbox("LinfPGD", steps=10)
    verdict = sparring.evaluate(defense, attack, sparring.Linf(0.1), known, n=16, check=False)
    assert verdict.success_rate.value > 0.5
    with pytest.raises(SettingsError, match="pickle that itself"):
        pickle.dumps(sparring.as_torch_module(defense))


def test_a_verdict_on_a_function_that_nothing_tells_apart_is_not_taken_for_another_s(
    dataset: Dataset, tmp_path: Path
) -> None:
    def always(label: int) -> Any:
        row = np.eye(4, dtype=np.float32)[label]
        return sparring.Defense.of(lambda images: np.tile(row, (len(images), 1)), dataset)

    threat, out = sparring.Linf(0.1), tmp_path / "verdict"
    sparring.evaluate(always(0), "noise", threat, dataset, n=16, check=False, out=out)
    with pytest.raises(sparring.RunError, match="holds the finished verdict"):
        sparring.evaluate(always(1), "noise", threat, dataset, n=16, check=False, out=out)
