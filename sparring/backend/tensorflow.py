"""The backend functions on TensorFlow; what each does stands in protocol.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context
from tensorflow.python.framework import config
from tensorflow.python.framework import ops as framework

from sparring.backend.common import Random as Random
from sparring.backend.common import average_pool2d as average_pool2d
from sparring.backend.common import conv2d as conv2d
from sparring.backend.common import lay_out as lay_out
from sparring.backend.common import moving_average as moving_average
from sparring.backend.common import set_threads as set_threads
from sparring.backend.common import threads as threads
from sparring.backend.common import undone as undone
from sparring.backend.isolation import Isolation, Setting

whole_batches = True
label_dtype = "int32"


def _function_options() -> Any:
    """What graphs are optimized by: TensorFlow's defaults but for one."""
    options = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    # Remapping fails on a convolution followed by leaky ReLU, with an error on the terminal, and
    # gains nothing.
    rewrite = options.graph_options.rewrite_options
    rewrite.remapping = rewrite.OFF
    return context.FunctionCallOptions(config_proto=options)


_FUNCTION_OPTIONS = _function_options()


def _put_aside(stack: ExitStack) -> None:
    """Leave a thread's options for the optimization of graphs; let tapes record."""
    # Within tf.init_scope no tape records, and every gradient would be zero.
    if pywrap_tfe.TFE_Py_TapeSetIsStopped():
        pywrap_tfe.TFE_Py_TapeSetRestartOnThread()
        stack.callback(pywrap_tfe.TFE_Py_TapeSetStopOnThread)
    eager = context.context()
    before = eager.function_call_options
    if before is not _FUNCTION_OPTIONS:
        eager.function_call_options = _FUNCTION_OPTIONS
        stack.callback(setattr, eager, "function_call_options", before)


isolated = Isolation(
    [
        # Some kernels add up in the order their threads finish; a resumed run has to repeat every
        # bit. TensorFlow has no public name for switching this off again.
        Setting(
            config.is_op_determinism_enabled,
            lambda on: config.enable_op_determinism() if on else config.disable_op_determinism(),
            True,
        ),
        # numpy's rules make float64 of float32 and a number.
        Setting(
            lambda: framework.get_dtype_conversion_mode().name.lower(),
            framework.set_dtype_conversion_mode,
            "off",
        ),
        Setting(tf.config.functions_run_eagerly, tf.config.run_functions_eagerly, False),
        Setting(
            tf.config.experimental.tensor_float_32_execution_enabled,
            tf.config.experimental.enable_tensor_float_32_execution,
            True,
        ),
    ],
    _put_aside,
)


def compile(
    function: Callable[..., Any], variables: Sequence[Any], changes: bool = False
) -> Callable[..., Any]:
    """Trace a tf.function."""
    return tf.function(function, autograph=False)


def compile_many(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """Map over the rows in one tf.function that XLA compiles."""

    def many(images: Any, labels: Any, indices: Any) -> Any:
        return tf.map_fn(
            lambda batch: function(images, labels, batch),
            indices,
            parallel_iterations=1,
            fn_output_signature=(tf.float32, tf.float32),
        )

    # Without XLA every operation of every step is started by the host.
    return tf.function(many, autograph=False, jit_compile=True)


def value_and_gradients(
    objective: Callable[[], tuple[Any, Any]], variables: Sequence[Any], others: Sequence[Any]
) -> tuple[Any, Any, list[Any]]:
    """Differentiate by a tape; `others` need not be known."""
    with tf.GradientTape() as tape:
        value, auxiliary = objective()
    gradients = tape.gradient(
        value,
        [variable.value for variable in variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return value, auxiliary, gradients


def input_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Differentiate by a tape."""
    return input_gradient_and(lambda x: (function(x), ()), x)[0]


def input_gradient_and(function: Callable[[Any], tuple[Any, Any]], x: Any) -> tuple[Any, Any]:
    """Differentiate by a tape that watches x alone."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value, auxiliary = function(x)
    gradient = tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.stop_gradient(gradient), tf.nest.map_structure(tf.stop_gradient, auxiliary)


def one_by_one(function: Callable[[Any, Any], Any], x: Any, rows: Any) -> Any:
    """Loop over the rows, forward and backward."""
    rows = tf.convert_to_tensor(rows)
    form = tf.TensorSpec.from_tensor(function(x, rows[0]))

    # tf.recompute_grad does not know of variables that are read within a loop.
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def all_rows(x: Any) -> Any:
        values = tf.map_fn(
            lambda row: function(x, row), rows, parallel_iterations=1, fn_output_signature=form
        )

        def gradient(slopes: Any, variables: Sequence[Any] = ()) -> Any:
            def plus(total: Any, row_and_slope: Any) -> Any:
                row, slope = row_and_slope
                return total + input_gradient(lambda x: tf.reduce_sum(function(x, row) * slope), x)

            total = tf.foldl(plus, (rows, slopes), tf.zeros_like(x), parallel_iterations=1)
            return total, [None] * len(variables)

        return values, gradient

    return all_rows(x)


def index_batches(order: np.ndarray, size: int) -> Iterator[Any]:
    """Make one tensor a batch."""
    for start in range(0, len(order), size):
        yield tf.constant(order[start : start + size])


def devices() -> list[str]:
    """Name GPUs and the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    return [*(f"gpu:{index}" for index in range(len(gpus))), "cpu"]


def on_cpu(tensor: Any) -> bool:
    """Ask the tensor's device."""
    return "GPU" not in tensor.device


def readable(tensor: Any) -> bool:
    """Ask whether it is a graph's, then for its device."""
    return not tf.is_symbolic_tensor(tensor) and on_cpu(tensor)


def look(tensor: Any, see: Callable[[np.ndarray], object]) -> None:
    """Copy a tensor that is no graph's."""
    if not tf.is_symbolic_tensor(tensor):
        see(tensor.numpy())


def answers(
    function: Callable[[np.ndarray], np.ndarray], x: Any, size: int, refuse: Callable[[], NoReturn]
) -> Any:
    """Ask a value at once, a graph's when it runs."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def asked(x: Any) -> Any:
        def gradient(slope: Any) -> Any:
            refuse()

        if not tf.is_symbolic_tensor(x):
            return tf.constant(function(x.numpy())), gradient
        given = tf.numpy_function(function, [x], tf.float32)
        return tf.ensure_shape(given, (x.shape[0], size)), gradient

    return asked(x)


def on_gradient(tensor: Any, call: Callable[[], object]) -> Any:
    """Go through an identity whose gradient calls."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def same(tensor: Any) -> Any:
        def gradient(slope: Any) -> Any:
            call()
            return slope

        return tf.identity(tensor), gradient

    return same(tensor)
