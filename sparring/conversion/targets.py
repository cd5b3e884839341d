"""The forms a trained defense's networks can be converted to; convert.py proves each of them."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from sparring.backend import keras, ops
from sparring.conversion import selfstudy
from sparring.conversion.tracing import changed_hooks, save_program, write_hooks
from sparring.data.reading import sha256
from sparring.defenses.defense import Defense
from sparring.errors import ConversionError
from sparring.networks.allconv import AllConv

Answer = Callable[[np.ndarray], np.ndarray]
"""Logits [N, K] of images [N, H, W, C], given by what was written."""


@dataclass(frozen=True)
class Target:
    """A form networks can be converted to.

    Attributes:
        write: writes all networks of a defense into an empty folder and yields each one's Answer,
            read back from the files.
        layout: of the images it takes.
        use: in Markdown, Python that answers `images` with network 0, run in the folder.
    """

    write: Callable[[Defense, Path], Iterator[Answer]]
    layout: str
    use: str


def plain_options(net: AllConv) -> dict[str, Any]:
    """Give the arguments of `torch_model.Network` that fit a network, and its changed hooks."""
    return {
        "channels": net.kernels[0].shape[2],
        "filters": net.kernels[0].shape[3],
        "scales": len(net.scales),
        "outputs": net.head[0].shape[3],
        "head_size": net.head[0].shape[0],
        "hooks": changed_hooks(net),
    }


def torch_state(net: AllConv) -> dict[str, np.ndarray]:
    """Give weights as PyTorch has them, by name: kernels [H, W, in, out] as [out, in, H, W]."""
    names = [f"convs.{number}" for number in range(len(net.convs) - 1)]
    state = {}
    for name, (kernel, bias) in zip([*names, "head"], net.convs, strict=True):
        weight = ops.convert_to_numpy(kernel).transpose(3, 2, 0, 1)
        state[f"{name}.weight"] = np.ascontiguousarray(weight)
        state[f"{name}.bias"] = np.array(ops.convert_to_numpy(bias))
    return state


def _nchw(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _import(target: str, name: str, extra: str) -> Any:
    """Import a module that a target needs; ConversionError when it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConversionError(
            f"--to {target} needs {name}: pip install 'sparring[{extra}]' ({error})"
        ) from error


def write_plain(net: AllConv, file: Path) -> None:
    """Write a network as `torch_model.load` reads it; programs of its hooks lie there already."""
    from sparring.conversion.torch_model import fingerprint

    programs = {hook: file.with_suffix(f".{hook}.pt2") for hook in changed_hooks(net)}
    hooks = {hook: sha256(program.read_bytes()) for hook, program in programs.items()}
    options = plain_options(net) | {"hooks": hooks}
    whole = save(state := torch_state(net))
    size = int.from_bytes(whole[:8], "little")
    entries, numbers = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    # One key of metadata, because safetensors writes several in a changing order.
    about = json.dumps({**options, "sha256": fingerprint(options, entries, numbers)})
    file.write_bytes(save(state, metadata={"network": about}))


def plain_networks(defense: Defense, folder: Path) -> Iterator[tuple[Any, Path]]:
    """Write each network for plain PyTorch and yield it as that loads it, and the file."""
    from sparring.conversion import torch_model

    write_hooks(defense, folder)
    for number, net in enumerate(defense.nets):
        file = folder / f"network-{number}.safetensors"
        write_plain(net, file)
        yield torch_model.load(file), file


def _export_options(torch: Any, defense: Defense) -> dict[str, Any]:
    """Tell PyTorch's exporters the shape of the images, in batches of any size."""
    height, width, channels = defense.info.shape
    return {
        "args": (torch.zeros(2, channels, height, width, dtype=torch.float32),),
        "dynamic_shapes": ({0: torch.export.Dim("batch", min=1)},),
    }


def _write_torch(defense: Defense, folder: Path) -> Iterator[Answer]:
    """Write weights in safetensors with the code to load them, and exported programs."""
    torch = _import("torch", "torch", "torch")
    shutil.copy(Path(__file__).with_name("torch_model.py"), folder)
    for network, file in plain_networks(defense, folder):
        program = torch.export.export(network, **_export_options(torch, defense))
        save_program(program, file.with_suffix(".pt2"))
        loaded = torch.export.load(file.with_suffix(".pt2")).module()

        def answer(images: np.ndarray, network: Any = network, loaded: Any = loaded) -> np.ndarray:
            tensor = torch.from_numpy(_nchw(images))
            with torch.no_grad():
                plain, program = network(tensor).numpy(), loaded(tensor).numpy()
            if not np.allclose(plain, program, rtol=1e-5, atol=1e-6):
                raise ConversionError("the exported program and the plain module answer otherwise")
            return np.asarray(plain)

        yield answer


def _write_onnx(defense: Defense, folder: Path) -> Iterator[Answer]:
    """Write ONNX files, by way of plain PyTorch, whose exporter does it."""
    torch = _import("onnx", "torch", "torch")
    _import("onnx", "onnxscript", "onnx")  # PyTorch's exporter needs it
    onnxruntime = _import("onnx", "onnxruntime", "onnx")
    for network, file in plain_networks(defense, folder):
        path = file.with_suffix(".onnx")
        exporter = logging.getLogger("torch.onnx")
        level = exporter.level
        exporter.setLevel(logging.ERROR)  # it tells that torchvision is missing, which is not used
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of PyTorch, to itself
                program = torch.onnx.export(
                    network,
                    input_names=["images"],
                    output_names=["logits"],
                    dynamo=True,
                    verbose=False,
                    **_export_options(torch, defense),
                )
        finally:
            exporter.setLevel(level)
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # where in which file it stands, on this machine
        program.save(path)
        for part in (file, *folder.glob(f"{file.stem}.*.pt2")):
            part.unlink()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def answer(images: np.ndarray, session: Any = session) -> np.ndarray:
            return np.asarray(session.run(None, {"images": _nchw(images)})[0])

        yield answer


def keras_model(net: AllConv, shape: tuple[int, int, int]) -> Any:
    """Build a network as a functional model of Keras's own layers and operations.

    Args:
        net: a network; its hooks are called on symbolic tensors.
        shape: (height, width, channels) of the images.

    Returns:
        A keras.Model with the weights of `net`, copied.

    Raises:
        ConversionError: where a hook cannot be called so, naming it.
    """
    # Said here, since keras.json and policies of the process may say otherwise.
    kind = {"dtype": "float32"}
    layout = {"data_format": "channels_last", **kind}
    layers = keras.layers
    changed_hooks(net)

    def call(name: str, x: Any) -> Any:
        try:
            return getattr(net, name)(x)
        except Exception as error:  # whatever a hook raises
            raise ConversionError(
                f"{type(net).__name__}.{name} cannot be called on Keras's symbolic tensors: "
                f"expected functions of keras.ops alone; {type(error).__name__}: {error}"
            ) from error

    convs = []

    def convolved(kernel: Any, x: Any) -> Any:
        convs.append(layers.Conv2D(kernel.shape[3], kernel.shape[0], padding="same", **layout))
        return convs[-1](x)

    images = keras.Input(shape, name="images", **kind)
    x = call("transform", images)
    for scale in net.scales:
        for kernel, _ in scale:
            x = call("activation", convolved(kernel, x))
        x = layers.AveragePooling2D(2, **layout)(x)
    x = call("head_activation", convolved(net.head[0], x))
    model = keras.Model(images, call("output", layers.GlobalAveragePooling2D(**layout)(x)))
    for conv, (kernel, bias) in zip(convs, net.convs, strict=True):
        conv.kernel.assign(kernel)
        conv.bias.assign(bias)
    return model


def _write_keras(defense: Defense, folder: Path) -> Iterator[Answer]:
    """Write files of Keras's own format, which load in safe mode and without Sparring."""
    for number, net in enumerate(defense.nets):
        path = folder / f"network-{number}.keras"
        with warnings.catch_warnings():
            # Keras 3.15 turns PyTorch tensors into arrays in a way numpy 2 deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            keras_model(net, defense.info.shape).save(path)
        loaded = keras.models.load_model(path, safe_mode=True, compile=False)

        def answer(images: np.ndarray, loaded: Any = loaded) -> np.ndarray:
            return np.asarray(loaded.predict(images, verbose=0))

        yield answer


TARGETS = {
    "torch": Target(
        _write_torch,
        "[B, C, H, W]",
        """\
```python
import torch, torch_model

network = torch_model.load("network-0.safetensors")
logits = network(torch.from_numpy(images))
```

Or with PyTorch alone:

```python
import torch

program = torch.export.load("network-0.pt2").module()
logits = program(torch.from_numpy(images))
```
""",
    ),
    "keras": Target(
        _write_keras,
        "[B, H, W, C]",
        """\
```python
import keras

model = keras.models.load_model("network-0.keras")
logits = model.predict(images)
```
""",
    ),
    "onnx": Target(
        _write_onnx,
        "[B, C, H, W]",
        """\
```python
import onnxruntime

session = onnxruntime.InferenceSession("network-0.onnx")
[logits] = session.run(None, {"images": images})
```
""",
    ),
    "selfstudy": Target(
        selfstudy.write,
        "[B, H, W, C]",
        "Copy what is here into the folder `checkpoints` of the course's program.\n",
    ),
}
"""By the name that `--to` takes."""
