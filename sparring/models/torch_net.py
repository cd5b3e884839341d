"""Modules of PyTorch as models."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, ClassVar, Self

import numpy as np
import torch
from typing_extensions import override

from sparring.backend import keras, ops
from sparring.errors import ModelError
from sparring.models.net import Net, integer
from sparring.randomness import seeded


class TorchNet(Net):
    """A module, in evaluation mode on the device that Keras computes on.

    The module is used itself: it is put into evaluation mode and moved, which `notes` say. It is
    asked with the values of `variables`, which share its memory, so that they can be replaced for a
    while; nothing is recorded for gradients by them.

    Args:
        module: takes images [B, C, H, W] of the dtype of its first parameter.
        name: of the model, for messages.

    Raises:
        ModelError: its weights lie on several devices, or on none.
    """

    kind: ClassVar[str] = "PyTorch module"

    def __init__(self, module: Any, name: str) -> None:
        """Take the module."""
        super().__init__()
        self._module, self._name = module, name
        self._to_device()
        if self.to_evaluation():
            self.notes.append(f"{name} was in training mode; it is in evaluation mode now")
        floats = (tensor for _, tensor in self._tensors() if tensor.is_floating_point())
        self._dtype = next((tensor.dtype for tensor in floats), torch.float32)
        trained = dict(module.named_parameters())
        self._names = [name for name, _ in self._tensors()]
        self.variables = [
            keras.Variable(
                # A Parameter is used as it is, on whatever device and of whatever dtype.
                torch.nn.Parameter(tensor.detach(), requires_grad=False),
                dtype=str(tensor.dtype).removeprefix("torch."),
                trainable=name in trained,
                autocast=False,
                name=name.replace("/", "_"),
            )
            for name, tensor in self._tensors()
        ]

    def _tensors(self) -> Iterator[tuple[str, Any]]:
        """Parameters and buffers by name, each once."""
        yield from self._module.named_parameters()
        yield from self._module.named_buffers()

    def _to_device(self) -> None:
        wanted = ops.convert_to_tensor(0).device
        there = {tensor.device for _, tensor in self._tensors()}
        if len(there) > 1 or any(device.type == "meta" for device in there):
            raise ModelError(
                f"{self._name}: expected weights on one device, found them on "
                f"{', '.join(sorted(map(str, there)))}"
            )
        if there and there != {wanted}:
            self._module.to(wanted)
            self.notes.append(f"{self._name} was on {there.pop()}; it is on {wanted} now")

    def to_evaluation(self) -> bool:
        """Put the module into evaluation mode; say whether a part of it was in another."""
        training = any(part.training for part in self._module.modules())
        if training:
            self._module.eval()
        return training

    @override
    def __call__(self, x: Any, seed: Any = None) -> Any:
        if self._module.training:
            self.to_evaluation()
        x = x.to(self._dtype)
        with nullcontext() if seed is None else seeded(integer(seed), x.device):
            if isinstance(self._module, torch.jit.ScriptModule):  # which takes no other values
                return self._module(x)
            values = [variable.value.detach() for variable in self.variables]
            named = dict(zip(self._names, values, strict=True))
            return torch.func.functional_call(self._module, named, (x,))

    @override
    def parts(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, variable in sorted(zip(self._names, self.variables, strict=True)):
            tensor = variable.value.detach().cpu().contiguous()
            # numpy has no bfloat16: bytes say it all.
            data = tensor.reshape(-1).view(torch.uint8).numpy()
            yield f"{name} {variable.dtype} {list(tensor.shape)}", data

    @override
    def structure(self) -> str:
        return repr(self._module)

    @override
    def second(self) -> Self:
        try:
            module = copy.deepcopy(self._module)
        except Exception:  # whatever a module's own parts raise
            return self
        return type(self)(module, self._name)
