"""The backend functions on PyTorch; what each one does stands in sparring/backend/__init__.py.

Tensors stay NHWC views of memory that PyTorch calls channels-last: a permutation to NCHW is free
and the convolutions run in the layout they are fastest in. keras.ops.conv and average_pool (Keras
3.15) make contiguous copies in both directions, which cost half of a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import torch
from torch.nn import functional

__all__ = [
    "Random",
    "average_pool2d",
    "compile",
    "conv2d",
    "devices",
    "fetch",
    "index_batches",
    "input_gradient",
    "input_gradient_and",
    "lay_out",
    "moving_average",
    "on_cpu",
    "value_and_gradients",
    "whole_batches",
]

whole_batches = False


class Random:
    # keras.random makes a generator at every call and fetches its seed from the device for it.
    def __init__(self) -> None:
        self._generator = torch.Generator(device=keras.ops.convert_to_tensor(0).device)
        self.variables: list[Any] = []

    def seed(self, seed: int) -> None:
        self._generator.manual_seed(seed)

    def uniform(self, shape: Sequence[int]) -> Any:
        generator = self._generator
        return torch.rand(tuple(shape), generator=generator, device=generator.device)

    def normal(self, shape: Sequence[int]) -> Any:
        generator = self._generator
        return torch.randn(tuple(shape), generator=generator, device=generator.device)


def compile(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    return torch.no_grad()(function)


def value_and_gradients(
    objective: Callable[[], tuple[Any, Any]], variables: Sequence[Any]
) -> tuple[Any, Any, list[Any]]:
    with torch.enable_grad():
        value, auxiliary = objective()
        gradients = torch.autograd.grad(
            value, [variable.value for variable in variables], materialize_grads=True
        )
    return value.detach(), auxiliary, list(gradients)


def moving_average(averages: Sequence[Any], values: Sequence[Any], decay: Any) -> None:
    # Not lerp: it would turn `decay` into a number and so wait for a GPU.
    tensors = [average.value for average in averages]
    torch._foreach_mul_(tensors, decay)
    torch._foreach_add_(tensors, torch._foreach_mul([value.value for value in values], 1 - decay))


def conv2d(x: Any, kernel: Any, bias: Any) -> Any:
    height, width = kernel.shape[:2]
    y = functional.conv2d(
        x.permute(0, 3, 1, 2),
        kernel.value.to(x.dtype).permute(3, 2, 0, 1),
        bias.value.to(x.dtype),
        padding=(height // 2, width // 2),
    )
    return y.permute(0, 2, 3, 1)


def lay_out(variables: Sequence[Any]) -> None:
    # [out, height, width, in] in memory is what convolutions read and give gradients in.
    for variable in variables:
        if len(variable.shape) == 4:
            tensor = variable.value
            tensor.data = tensor.data.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)


def average_pool2d(x: Any) -> Any:
    return functional.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def input_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    return input_gradient_and(lambda x: (function(x), ()), x)[0]


def input_gradient_and(function: Callable[[Any], tuple[Any, Any]], x: Any) -> tuple[Any, Any]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value, auxiliary = function(x)
        # A function that does not depend on x at all has gradient zero, as on the other backends.
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, x, materialize_grads=True)
        else:
            gradient = torch.zeros_like(x)
    return gradient, keras.tree.map_structure(torch.Tensor.detach, auxiliary)


def index_batches(order: np.ndarray, size: int) -> Iterator[Any]:
    # One copy to the device an epoch; the batches are views of it.
    return iter(torch.split(keras.ops.convert_to_tensor(order), size))


def fetch(scalars: Sequence[Any]) -> np.ndarray:
    return torch.stack(list(scalars)).cpu().numpy()


def devices() -> list[str]:
    gpus = [f"gpu:{index}" for index in range(torch.cuda.device_count())]
    apple = ["mps"] if torch.backends.mps.is_available() else []
    return [*gpus, *apple, "cpu"]


def on_cpu(tensor: Any) -> bool:
    return str(tensor.device) == "cpu"
