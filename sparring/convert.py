"""Models taken elsewhere, each conversion proven on 256 inputs before it is kept."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops
from safetensors.numpy import save

import sparring
from sparring import backend
from sparring.data import Dataset
from sparring.defense import Defense
from sparring.errors import ConversionError, SettingsError, unknown_name
from sparring.nets import AllConv, in_batches

INPUTS = 256
TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit of all."""


def convert(
    run: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    dataset: Dataset | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Convert every network of a run; what was compared and found, by network.

    Args:
        run: a finished run directory, trained on any backend.
        to: one of TARGETS.
        out: folder to write; None takes one named `to` in the run.
        dataset: images of it are half of the inputs both sides are compared on; without one all
            are random.
        force: replace what is there.

    A network is what a defense's images go through, its input transformation included; what a
    defense makes of several networks, or rejects, stays with `sparring.load`. Raises
    ConversionError when the converted network answers otherwise, when something is there already,
    or when a package is missing; nothing is left half-written.
    """
    if to not in TARGETS:
        raise SettingsError(unknown_name("target", to, list(TARGETS)))
    defense = sparring.load(run)
    assert defense.path is not None
    target = Path(out) if out is not None else defense.path / to
    if target.exists() and not force:
        raise ConversionError(f"{target} exists; --force replaces it")
    inputs = _inputs(defense, dataset)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        made = Path(temporary) / target.name
        made.mkdir()
        proof: dict[str, Any] = {"inputs": INPUTS, "tolerance": TOLERANCE, "networks": {}}
        for number, net in enumerate(defense.nets):
            answer = TARGETS[to](net, defense, made, number)
            proof["networks"][f"network-{number}"] = _compare(net, answer, inputs, number)
        (made / "conversion.json").write_text(json.dumps(proof, indent=2) + "\n", encoding="utf-8")
        (made / "README.md").write_text(_card(defense, to, proof), encoding="utf-8")
        if target.exists():
            target.rename(Path(temporary) / "replaced")
        made.rename(target)
    return proof


def plain_options(net: AllConv) -> dict[str, Any]:
    """A network as arguments of `sparring.torch_model.Network`."""
    channels = net.kernels[0].shape[2]
    options = {
        "channels": channels,
        "filters": net.kernels[0].shape[3],
        "scales": len(net.scales),
        "outputs": net.head[0].shape[3],
        "head_size": net.head[0].shape[0],
        **net.plain(),
    }
    if options.get("door") == "discretize":
        options["channels"] = channels // 20
    return options


def torch_state(net: AllConv) -> dict[str, np.ndarray]:
    """Weights as PyTorch has them; kernels [H, W, in, out] become [out, in, H, W]."""
    convs = [conv for scale in net.scales for conv in scale]
    named = {f"convs.{number}": conv for number, conv in enumerate(convs)} | {"head": net.head}
    state = {}
    for name, (kernel, bias) in named.items():
        weight = ops.convert_to_numpy(kernel).transpose(3, 2, 0, 1)
        state[f"{name}.weight"] = np.ascontiguousarray(weight)
        state[f"{name}.bias"] = np.array(ops.convert_to_numpy(bias))
    return state


def _to_torch(net: AllConv, defense: Defense, folder: Path, number: int) -> Any:
    """Weights in safetensors with the code to load them, and an exported program."""
    try:
        import torch

        from sparring import torch_model
    except ImportError as error:
        raise ConversionError("--to torch needs PyTorch: pip install torch") from error
    file = folder / f"network-{number}.safetensors"
    options = json.dumps(plain_options(net))
    file.write_bytes(save(torch_state(net), metadata={"network": options}))
    shutil.copy(torch_model.__file__, folder / "torch_model.py")
    network = torch_model.load(file)
    height, width, channels = defense.info.shape
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(
        network, (torch.zeros(2, channels, height, width),), dynamic_shapes=(batch,)
    )
    # Example inputs would be pickled; nobody needs them.
    program.example_inputs = None
    exported = folder / f"network-{number}.pt2"
    torch.export.save(program, exported)
    loaded = torch.export.load(exported).module()

    def answer(images: np.ndarray) -> np.ndarray:
        nchw = torch.from_numpy(images).permute(0, 3, 1, 2)
        with torch.no_grad():
            plain, program = (made(nchw).numpy() for made in (network, loaded))
        if not np.allclose(plain, program, rtol=1e-5, atol=1e-6):
            raise ConversionError(f"network {number}: the exported program answers otherwise")
        return np.asarray(plain)

    return answer


TARGETS: dict[str, Callable[[AllConv, Defense, Path, int], Any]] = {"torch": _to_torch}


def _inputs(defense: Defense, dataset: Dataset | None) -> np.ndarray:
    """Images both sides answer: random ones, and ones of the data set."""
    random = np.random.default_rng(0)
    images = random.random((INPUTS, *defense.info.shape), dtype=np.float32)
    if dataset is not None:
        known = dataset.x_test[: INPUTS // 2].astype(np.float32) / 255
        images[: len(known)] = known
    return images


def _compare(
    net: AllConv, answer: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, number: int
) -> dict[str, float]:
    """The largest difference between a network's logits and the converted one's."""
    expected = in_batches(backend.compile(net, net.variables), inputs)
    found = answer(inputs)
    largest = float(np.abs(expected).max())
    difference = float(np.abs(expected - found).max())
    if not difference <= TOLERANCE * largest:
        raise ConversionError(
            f"network {number}: expected logits within {TOLERANCE:g} of the largest, "
            f"{largest:.4g}; "
            f"the converted network differs by {difference:.4g}. Nothing was written."
        )
    return {"largest_logit": largest, "largest_difference": difference}


def _card(defense: Defense, to: str, proof: dict[str, Any]) -> str:
    """A README for what was written."""
    assert defense.path is not None
    run = json.loads((defense.path / "run.json").read_bytes())
    worst = max(each["largest_difference"] for each in proof["networks"].values())
    height, width, channels = defense.info.shape
    rest = {
        "majority": "The defense lets its networks vote.",
        "mergebinary": "Output 1 of network c says yes to class c; the defense merges them.",
        "randomneuron": "The defense drops neurons at random; this network drops none.",
        "transform": "The defense augments images at random before it asks the network.",
        "injection": "The defense also rejects inputs; this network does not.",
        "knn": "The outputs are embeddings; the defense looks for the nearest stored ones.",
    }.get(defense.name, "The network is all of the defense.")
    results = run["results"]
    names = ", ".join(defense.info.class_names)
    figures = ", ".join(
        f"{what.replace('_', ' ')} {results[what]:.2%}"
        for what in ("test_accuracy", "rejected")
        if what in results
    )
    return f"""# {defense.name} on {defense.info.name}

{len(defense.nets)} network(s) converted by Sparring {sparring.__version__} for {to}. {rest}

- Images: float32 in [0, 1], [B, {channels}, {height}, {width}].
- Classes: {names}.
- The defense: {figures or "not tested"}; seed {run.get("seed")}, trained on {run.get("backend")}.
- SHA-256 of the run's weights: {run["weights_sha256"]}
- Largest difference of a logit on {proof["inputs"]} inputs: {worst:.3g} (conversion.json).
- Settings: {json.dumps(run["settings"])}

```python
import torch_model

network = torch_model.load("network-0.safetensors")
```
"""
