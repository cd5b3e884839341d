"""The backend functions on PyTorch; what each one does stands in protocol.py.

Tensors stay NHWC views of memory that PyTorch calls channels-last: a permutation to NCHW is free
and the convolutions run in the layout they are fastest in. keras.ops.conv and average_pool (Keras
3.15) make contiguous copies in both directions, which cost half of a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import keras
import numpy as np
import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sparring.backend.isolation import Isolation, Setting

whole_batches = False
label_dtype = "int64"


def _property(module: Any, name: str, ours: Any) -> Setting:
    return Setting(lambda: getattr(module, name), lambda value: setattr(module, name, value), ours)


def _put_aside(stack: ExitStack) -> None:
    """Leave inference mode, autocast and a default device of the thread's; recording stays."""
    if torch.is_inference_mode_enabled():
        recording = torch.is_grad_enabled()
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(recording))
    for device in ("cpu", "cuda", "mps"):
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    if torch.get_default_device() != _CPU:
        stack.enter_context(_CPU)


def _precisions() -> list[Setting]:
    """What float32 may be rounded to in products and convolutions: PyTorch's defaults."""
    if not hasattr(torch.backends.cudnn, "conv"):  # before PyTorch 2.9
        read, write = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
        return [
            Setting(read, write, "highest"),
            _property(torch.backends.cudnn, "allow_tf32", True),
        ]
    return [
        _property(torch.backends.cudnn.conv, "fp32_precision", "tf32"),
        _property(torch.backends.cuda.matmul, "fp32_precision", "ieee"),
        _property(torch.backends.mkldnn.matmul, "fp32_precision", "ieee"),
        _property(torch.backends.mkldnn.conv, "fp32_precision", "ieee"),
    ]


_CPU = torch.device("cpu")
isolated = Isolation(
    [
        Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        Setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
        _property(torch.backends.mkldnn, "enabled", True),
        # On a GPU some convolutions add up in the order their threads finish; a resumed run has to
        # repeat every bit.
        _property(torch.backends.cudnn, "deterministic", True),
        _property(torch.backends.cudnn, "benchmark", False),
        _property(torch.backends.cudnn, "enabled", True),
        *_precisions(),
    ],
    _put_aside,
)


class Random:
    """Numbers of one generator on the device."""

    # keras.random makes a generator at every call and fetches its seed from the device for it.
    def __init__(self) -> None:
        """Make a generator on the device that tensors are made on."""
        self._generator = torch.Generator(device=keras.ops.convert_to_tensor(0).device)
        self.variables: list[Any] = [self._generator]

    def seed(self, seed: int) -> None:
        """Restart from a seed."""
        self._generator.manual_seed(seed)

    def uniform(self, shape: Sequence[int]) -> Any:
        """Draw from [0, 1)."""
        generator = self._generator
        return torch.rand(tuple(shape), generator=generator, device=generator.device)

    def normal(self, shape: Sequence[int]) -> Any:
        """Draw from the standard normal distribution."""
        generator = self._generator
        return torch.randn(tuple(shape), generator=generator, device=generator.device)


def compile(
    function: Callable[..., Any], variables: Sequence[Any], changes: bool = False
) -> Callable[..., Any]:
    """Run without recording gradients; PyTorch compiles nothing."""
    return torch.no_grad()(function)


def compile_many(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """Call the step for each row; on a GPU, replay one recorded graph."""
    plain = compile(function, variables)
    generators = [item for item in variables if isinstance(item, torch.Generator)]
    graph: _Graph | None = None

    def many(images: Any, labels: Any, indices: np.ndarray) -> tuple[Any, Any]:
        nonlocal graph
        step = plain
        if _on_cuda(images):
            if graph is None or not graph.fits(images, labels, indices.shape[1]):
                graph = _Graph(plain, generators, images, labels, indices.shape[1])
            step = graph
        batches = keras.ops.convert_to_tensor(indices)
        losses, hits = torch.empty((2, len(batches)), device=batches.device)
        for place, batch in enumerate(batches):
            losses[place], hits[place] = step(images, labels, batch)
        return losses, hits

    return many


class _Graph:
    """A step on one data set and size of batch, recorded as a CUDA graph: one call replays it.

    Its first calls run it as it is, for libraries prepare themselves then, which cannot be
    recorded. Recording by itself runs nothing.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        generators: Sequence[Any],
        images: Any,
        labels: Any,
        size: int,
    ) -> None:
        self._data, self._step, self._generators = (images, labels), step, generators
        self._batch = torch.empty(size, dtype=torch.int32, device=images.device)
        # The default stream cannot be recorded, and libraries prepare for the one they run on.
        self._stream = torch.cuda.Stream(images.device)
        self._calls_before = 3
        self._recorded: Any = None

    def fits(self, images: Any, labels: Any, size: int) -> bool:
        return images is self._data[0] and labels is self._data[1] and len(self._batch) == size

    def __call__(self, images: Any, labels: Any, batch: Any) -> Any:
        self._batch.copy_(batch)
        if self._calls_before:
            self._calls_before -= 1
            return self._run_aside()
        if self._recorded is None:
            self._recorded = self._record()
        graph, result = self._recorded
        graph.replay()
        return result

    def _run_aside(self) -> Any:
        default = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(default)
        with torch.cuda.stream(self._stream), _NumbersOnDevice():
            result = self._step(*self._data, self._batch)
        default.wait_stream(self._stream)
        return result

    def _record(self) -> tuple[Any, Any]:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=self._stream), _NumbersOnDevice():
            return graph, self._step(*self._data, self._batch)


class _NumbersOnDevice(TorchFunctionMode):
    """Makes tensors of Python's numbers where they are wanted.

    torch.as_tensor, which keras.ops give numbers to, makes them in the host's memory and copies
    them, which cannot be recorded.
    """

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        if function is torch.as_tensor and isinstance(arguments[0], bool | int | float):
            return torch.full((), *arguments, **options)
        return function(*arguments, **options)


def value_and_gradients(
    objective: Callable[[], tuple[Any, Any]], variables: Sequence[Any], others: Sequence[Any]
) -> tuple[Any, Any, list[Any]]:
    """Differentiate by torch.autograd; `others` need not be known."""
    with torch.inference_mode(False), torch.enable_grad():
        value, auxiliary = objective()
        gradients = torch.autograd.grad(
            value, [variable.value for variable in variables], materialize_grads=True
        )
    return value.detach(), auxiliary, list(gradients)


def moving_average(averages: Sequence[Any], values: Sequence[Any], decay: Any) -> None:
    """Update all averages in two calls."""
    # Not lerp: it would turn `decay` into a number and so wait for a GPU.
    tensors = [average.value for average in averages]
    torch._foreach_mul_(tensors, decay)
    torch._foreach_add_(tensors, torch._foreach_mul([value.value for value in values], 1 - decay))


def conv2d(x: Any, kernel: Any, bias: Any) -> Any:
    """Convolve on a view in PyTorch's own order of axes."""
    height, width = kernel.shape[:2]
    y = functional.conv2d(
        x.permute(0, 3, 1, 2),
        kernel.value.to(x.dtype).permute(3, 2, 0, 1),
        bias.value.to(x.dtype),
        padding=(height // 2, width // 2),
    )
    return y.permute(0, 2, 3, 1)


def lay_out(variables: Sequence[Any]) -> None:
    """Put kernels into PyTorch's order of axes."""
    # [out, height, width, in] in memory is what convolutions read and give gradients in.
    for variable in variables:
        if len(variable.shape) == 4:
            tensor = variable.value
            tensor.data = tensor.data.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)


def average_pool2d(x: Any) -> Any:
    """Average on a view in PyTorch's own order of axes."""
    return functional.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def input_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Differentiate by torch.autograd."""
    return input_gradient_and(lambda x: (function(x), ()), x)[0]


def input_gradient_and(function: Callable[[Any], tuple[Any, Any]], x: Any) -> tuple[Any, Any]:
    """Differentiate by torch.autograd."""
    with torch.inference_mode(False), torch.enable_grad():
        # Of what was made in inference mode nothing is recorded; its copy is like any other.
        x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        value, auxiliary = function(x)
        # A function that does not depend on x at all has gradient zero, as on the other backends.
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, x, materialize_grads=True)
        else:
            gradient = torch.zeros_like(x)
    return gradient, keras.tree.map_structure(torch.Tensor.detach, auxiliary)


def one_by_one(function: Callable[[Any, Any], Any], x: Any, rows: Any) -> Any:
    """Loop; what is kept for the gradient is x alone."""
    rows = keras.ops.convert_to_tensor(rows)
    recorded = torch.is_grad_enabled() and x.requires_grad and not is_functorch_wrapped_tensor(x)
    apply: Callable[..., Any] = _Recomputed.apply if recorded else lambda function, *a: function(*a)
    return torch.stack([apply(function, x, row) for row in rows])


class _Recomputed(torch.autograd.Function):
    """A function of x and a row, run again on the backward pass. They may be nested.

    torch.utils.checkpoint has a form that torch.autograd.grad does not go through, and one that
    keeps what is within when nested.
    """

    @staticmethod
    def forward(context: Any, function: Callable[[Any, Any], Any], x: Any, row: Any) -> Any:
        context.function = function
        context.save_for_backward(x, row)
        return function(x, row)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, slope: Any) -> Any:
        x, row = context.saved_tensors
        with isolated:  # whoever asks for the gradient may have left it
            gradient = input_gradient(lambda x: (context.function(x, row) * slope).sum(), x)
        return None, gradient, None


def index_batches(order: np.ndarray, size: int) -> Iterator[Any]:
    """Cut the order into views of one tensor."""
    # One copy to the device an epoch; the batches are views of it. Of nothing, torch.split would
    # make one batch.
    return iter(torch.split(keras.ops.convert_to_tensor(order), size) if len(order) else ())


@contextmanager
def undone(variables: Sequence[Any]) -> Iterator[None]:
    """Copy the values before the block, and the generators' states; copy them back after it."""
    generators = [item for item in variables if isinstance(item, torch.Generator)]
    tensors = [item.value for item in variables if not isinstance(item, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def threads() -> int | None:
    """Ask PyTorch."""
    return torch.get_num_threads()


def set_threads(count: int) -> None:
    """Tell PyTorch."""
    torch.set_num_threads(count)


def devices() -> list[str]:
    """Name GPUs, Apple's too, and the CPU."""
    gpus = [f"gpu:{index}" for index in range(torch.cuda.device_count())]
    apple = ["mps"] if torch.backends.mps.is_available() else []
    return [*gpus, *apple, "cpu"]


def _on_cuda(tensor: Any) -> bool:
    return tensor.device.type == "cuda"


def on_cpu(tensor: Any) -> bool:
    """Ask the tensor's device."""
    return str(tensor.device) == "cpu"


def readable(tensor: Any) -> bool:
    """Ask the tensor's device, and whether it is a plain one and no tracer's."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return (
        plain
        and on_cpu(tensor)
        and not (is_functorch_wrapped_tensor(tensor) or torch.jit.is_tracing())
    )


def look(tensor: Any, see: Callable[[np.ndarray], object]) -> None:
    """Copy a tensor that is no tracer's."""
    if not (is_functorch_wrapped_tensor(tensor) or torch.jit.is_tracing() or tensor.is_meta):
        see(tensor.detach().cpu().numpy())


def answers(
    function: Callable[[np.ndarray], np.ndarray], x: Any, size: int, refuse: Callable[[], NoReturn]
) -> Any:
    """Go through a function of autograd's whose way back raises."""
    return _Answers.apply(x, function, refuse)


class _Answers(torch.autograd.Function):
    """Answers of a function of numpy arrays."""

    @staticmethod
    def forward(
        context: Any, x: Any, function: Callable[[np.ndarray], np.ndarray], refuse: Any
    ) -> Any:
        context.refuse = refuse
        return torch.from_numpy(function(x.detach().cpu().numpy())).to(x.device)

    @staticmethod
    def backward(context: Any, slope: Any) -> Any:
        context.refuse()


def on_gradient(tensor: Any, call: Callable[[], object]) -> Any:
    """Hook it onto a tensor that is no tracer's."""
    plain = type(tensor) is torch.Tensor and not torch.jit.is_tracing()
    if plain and tensor.requires_grad and not is_functorch_wrapped_tensor(tensor):

        def called(gradient: Any) -> None:
            call()

        tensor.register_hook(called)
    return tensor
