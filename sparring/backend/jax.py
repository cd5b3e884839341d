"""The backend functions on JAX; what each one does stands in protocol.py.

JAX functions are pure, Keras variables are not: inside a compiled function every variable it was
given lives in a keras.StatelessScope, goes in as an argument and comes out as a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NoReturn

import jax
import keras
import numpy as np

from sparring.backend.common import Random as Random
from sparring.backend.common import average_pool2d as average_pool2d
from sparring.backend.common import conv2d as conv2d
from sparring.backend.common import lay_out as lay_out
from sparring.backend.common import moving_average as moving_average
from sparring.backend.common import set_threads as set_threads
from sparring.backend.common import threads as threads
from sparring.backend.common import undone as undone
from sparring.backend.isolation import Isolation

whole_batches = True
label_dtype = "int32"


def _pure(function: Callable[..., Any], variables: Sequence[Any], values: Sequence[Any]) -> Any:
    """Run `function` with `values` in place of the variables'; return result and new values."""
    with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
        result = function()
    return result, [scope.get_current_value(variable) for variable in variables]


def _put_aside(stack: ExitStack) -> None:
    """Leave a thread's dtypes and modes."""
    for name, (mode, ours) in _MODES.items():
        if getattr(jax.config, name) not in (ours, None):  # what is not set is by default
            stack.enter_context(mode(ours))


_MODES: dict[str, tuple[Callable[[Any], AbstractContextManager[Any]], Any]] = {
    "jax_enable_x64": (jax.enable_x64, False),
    "jax_disable_jit": (jax.disable_jit, False),
    "jax_numpy_dtype_promotion": (jax.numpy_dtype_promotion, "standard"),
    "jax_numpy_rank_promotion": (jax.numpy_rank_promotion, "allow"),
    "jax_default_matmul_precision": (jax.default_matmul_precision, None),
    "jax_default_prng_impl": (jax.default_prng_impl, "threefry2x32"),
    "jax_threefry_partitionable": (jax.threefry_partitionable, True),
    "jax_debug_nans": (jax.debug_nans, False),
    "jax_debug_infs": (jax.debug_infs, False),
    "jax_legacy_prng_key": (jax.legacy_prng_key, "allow"),
    **{
        f"jax_transfer_guard_{way}": (getattr(jax, f"transfer_guard_{way}"), "allow")
        for way in ("host_to_device", "device_to_device", "device_to_host")
    },
}
"""The context managers of JAX's modes, by their names in its config, and JAX's defaults."""

isolated = Isolation([], _put_aside)


def compile(
    function: Callable[..., Any], variables: Sequence[Any], changes: bool = False
) -> Callable[..., Any]:
    """Jit the function, variables going in and, where it changes them, out."""
    traced = _traced(function, variables)
    if changes:
        return _jitted(traced, variables)

    def reading(values: list[Any], *arguments: Any) -> Any:
        result, after = traced(values, *arguments)
        if any(new is not old for new, old in zip(after, values, strict=True)):
            raise RuntimeError("a function that assigns variables is compiled with changes=True")
        return result

    compiled = jax.jit(reading)
    return lambda *arguments: compiled([variable.value for variable in variables], *arguments)


def compile_many(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """Scan over the rows in one jitted function."""
    once = _traced(function, variables)

    def many(values: list[Any], images: Any, labels: Any, indices: Any) -> Any:
        def step(values: list[Any], batch: Any) -> Any:
            return once(values, images, labels, batch)[::-1]

        # Its length is known when it is compiled: a loop of unknown length would ask the host
        # before every step whether to go on.
        return jax.lax.scan(step, values, indices)[::-1]

    return _jitted(many, variables)


def _traced(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """The function with the variables' values as first argument and second result."""

    def pure(values: list[Any], *arguments: Any) -> Any:
        return _pure(lambda: function(*arguments), variables, values)

    return pure


def _jitted(pure: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    # Donation lets weights be updated in place. A call that does not come to its end leaves none.
    compiled = jax.jit(pure, donate_argnums=0)

    def call(*arguments: Any) -> Any:
        result, values = compiled([variable.value for variable in variables], *arguments)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return result

    return call


def value_and_gradients(
    objective: Callable[[], tuple[Any, Any]], variables: Sequence[Any], others: Sequence[Any]
) -> tuple[Any, Any, list[Any]]:
    """Differentiate a pure function of all variables by jax.value_and_grad."""
    chosen = {id(variable) for variable in variables}
    others = [variable for variable in others if id(variable) not in chosen]
    everything = [*variables, *others]

    def pure(values: list[Any]) -> Any:
        values = [*values, *(variable.value for variable in others)]
        (value, auxiliary), values = _pure(objective, everything, values)
        return value, (auxiliary, values[len(variables) :])

    differentiate = jax.value_and_grad(pure, has_aux=True)
    result, gradients = differentiate([variable.value for variable in variables])
    value, (auxiliary, values) = result
    for variable, new in zip(others, values, strict=True):
        variable.assign(new)
    return value, auxiliary, gradients


def input_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Differentiate by jax.grad."""
    return input_gradient_and(lambda x: (function(x), ()), x)[0]


def input_gradient_and(function: Callable[[Any], tuple[Any, Any]], x: Any) -> tuple[Any, Any]:
    """Differentiate by jax.grad."""
    return jax.lax.stop_gradient(jax.grad(function, has_aux=True)(x))


def one_by_one(function: Callable[[Any, Any], Any], x: Any, rows: Any) -> Any:
    """Map; what is kept for the gradient is x alone."""
    recomputed = jax.checkpoint(function)
    return jax.lax.map(lambda row: recomputed(x, row), jax.numpy.asarray(rows))


def index_batches(order: np.ndarray, size: int) -> Iterator[Any]:
    """Make one tensor a batch."""
    for start in range(0, len(order), size):
        yield jax.numpy.asarray(order[start : start + size])


def devices() -> list[str]:
    """Name GPUs and the CPU."""
    gpus = [f"gpu:{index}" for index, d in enumerate(jax.devices()) if d.platform == "gpu"]
    return [*gpus, "cpu"]


def on_cpu(tensor: Any) -> bool:
    """Ask the tensor's devices."""
    return all(device.platform == "cpu" for device in tensor.devices())


def readable(tensor: Any) -> bool:
    """Ask whether it is a tracer, then for its devices."""
    return not isinstance(tensor, jax.core.Tracer) and on_cpu(tensor)


def look(tensor: Any, see: Callable[[np.ndarray], object]) -> None:
    """Copy an array; a tracer's values come by a callback, once they are computed."""
    if isinstance(tensor, jax.core.Tracer):
        jax.debug.callback(lambda values: see(np.asarray(values)), tensor)
    else:
        see(np.asarray(tensor))


def answers(
    function: Callable[[np.ndarray], np.ndarray], x: Any, size: int, refuse: Callable[[], NoReturn]
) -> Any:
    """Ask a value at once, a tracer's when it has one."""

    @jax.custom_jvp  # type: ignore[untyped-decorator]
    def asked(x: Any) -> Any:
        if not isinstance(x, jax.core.Tracer):
            return jax.numpy.asarray(function(np.asarray(x)))
        form = jax.ShapeDtypeStruct((x.shape[0], size), jax.numpy.float32)
        return jax.pure_callback(lambda values: function(np.asarray(values)), form, x)

    @asked.defjvp  # type: ignore[untyped-decorator]
    def derivative(tensors: Any, slopes: Any) -> Any:
        refuse()

    return asked(x)


def on_gradient(tensor: Any, call: Callable[[], object]) -> Any:
    """Go through an identity whose derivative calls."""

    @jax.custom_jvp  # type: ignore[untyped-decorator]
    def same(tensor: Any) -> Any:
        return tensor

    @same.defjvp  # type: ignore[untyped-decorator]
    def derivative(tensors: Any, slopes: Any) -> Any:
        call()
        return tensors[0], slopes[0]

    return same(tensor)
