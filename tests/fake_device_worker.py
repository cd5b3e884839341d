"""A process of tests/test_cuda_graph.py: training steps on a device that holds no data.

python -m tests.fake_device_worker [numbers]

For a step of each defense, prints as JSON which operations read a number from the device or used a
tensor of the host's memory, and how many there were in all. A real GPU would wait for each of
these, and a step with one cannot be recorded as a CUDA graph. With `numbers`, tensors of Python's
numbers are made as keras.ops makes them.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparring.backend.torch import _NumbersOnDevice
from sparring.data import Dataset
from sparring.defenses import DEFENSES, get
from sparring.training.loop import TrainLoop
from tests.conftest import patterns

DEVICE = "pretended"  # has to be free of "gpu", which Keras replaces
BATCH = 8

FAST = {"optimizer": "muon", "schedule": "linear", "precision": "bfloat16"}


class Fake(FakeTensorMode):
    """Tensors without data, of a device this PyTorch need not be built for."""

    # Where no accelerator is initialized, copies from the host are visible as operations.
    avoid_device_init = True


class Watch(TorchDispatchMode):
    """Notes what would make a GPU wait for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.found = 0, list[str]()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        self.operations += 1
        result = function(*arguments, **(options or {}))
        tensors = [
            each
            for each in tree_leaves((arguments, options, result))
            if isinstance(each, torch.Tensor)
        ]
        name = str(function)
        if "_local_scalar_dense" in name or any(each.device.type == "cpu" for each in tensors):
            self.found.append(name)
        return result


class Draws:
    """backend.Random without a generator, which the device does not have."""

    variables: tuple[()] = ()

    def uniform(self, shape: Any) -> Any:
        return torch.rand(tuple(shape), device=DEVICE)

    def normal(self, shape: Any) -> Any:
        return torch.randn(tuple(shape), device=DEVICE)


def moved(tensor: Any) -> Any:
    """A tensor of the same shape, layout and type on the device."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)


def watched(name: str, changes: dict[str, Any], numbers: bool) -> Watch:
    """A training step of the defense's last network."""
    x, y = patterns(40, channels=3)
    dataset = Dataset("patterns", x, y, x, y, tuple("abcd"), mirror=True)
    settings = (
        get(name).settings_for(dataset).settings.replace(filters=4, batch_size=BATCH, **changes)
    )
    recipe = get(name).recipes(dataset.info, settings, 0)[-1]
    loop = TrainLoop(recipe, dataset)
    with Fake():
        for variable in [each for each in loop._variables() if isinstance(each, keras.Variable)]:
            value = torch.nn.Parameter(moved(variable.value), requires_grad=variable.trainable)
            variable._value = value
        for key, value in vars(recipe).items():
            if isinstance(value, torch.Tensor):
                setattr(recipe, key, moved(value))
        recipe.random = Draws()  # type: ignore[assignment]
        images, labels = (moved(torch.from_numpy(array)) for array in (x, y))
        indices = moved(torch.from_numpy(np.zeros(BATCH, np.int32)))
        watch, mode = Watch(), nullcontext() if numbers else _NumbersOnDevice()
        with keras.device(DEVICE), watch, mode:
            loss, hits = loop._step(images, labels, indices)
    assert loss.shape == hits.shape == ()
    assert loss.device.type == hits.device.type == DEVICE
    return watch


def main() -> None:
    backend_registration._setup_privateuseone_for_python_backend(DEVICE)
    numbers = sys.argv[1:] == ["numbers"]
    trained = ["baseline"] if numbers else [name for name in DEFENSES if not get(name).borrows]
    steps = [("baseline", {}), *((name, FAST) for name in trained)]
    for name, changes in steps:
        watch = watched(name, changes, numbers)
        print(json.dumps([name, watch.operations, sorted(set(watch.found))]))


if __name__ == "__main__":
    main()
