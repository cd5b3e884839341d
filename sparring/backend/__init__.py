"""The little that TensorFlow, PyTorch and JAX do differently, behind one set of names.

`Backend` in protocol.py says what each name does; torch.py, tensorflow.py and jax.py do it, with
common.py under the last two and isolation.py under all; choice.py decides which of them runs.
Importing this package imports none of them: a name is looked up when it is first used. Keras has to
be taken from here too, `from sparring.backend import keras, ops`, so that it is imported on the
chosen backend.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from sparring.backend import choice as choice
from sparring.backend.protocol import Backend

if TYPE_CHECKING:
    import keras as keras
    from keras import ops as ops

    _it = cast(Backend, None)
    name: str
    whole_batches = _it.whole_batches
    label_dtype = _it.label_dtype
    Random = _it.Random
    compile = _it.compile
    compile_many = _it.compile_many
    value_and_gradients = _it.value_and_gradients
    input_gradient = _it.input_gradient
    input_gradient_and = _it.input_gradient_and
    one_by_one = _it.one_by_one
    moving_average = _it.moving_average
    conv2d = _it.conv2d
    average_pool2d = _it.average_pool2d
    lay_out = _it.lay_out
    index_batches = _it.index_batches
    undone = _it.undone
    threads = _it.threads
    set_threads = _it.set_threads
    isolated = _it.isolated
    devices = _it.devices
    on_cpu = _it.on_cpu
    readable = _it.readable
    look = _it.look
    on_gradient = _it.on_gradient
    answers = _it.answers


@cache
def _running() -> Backend:
    running = choice.import_keras().backend.backend()
    return cast(Backend, import_module(f"sparring.backend.{running}"))


def __getattr__(attribute: str) -> Any:
    if attribute == "name":
        value: Any = choice.import_keras().backend.backend()
    elif attribute in ("keras", "ops"):
        keras = choice.import_keras()
        value = keras if attribute == "keras" else import_module("keras.ops")
    elif attribute in dir(Backend) and not attribute.startswith("_"):
        value = getattr(_running(), attribute)
    else:
        raise AttributeError(f"module 'sparring.backend' has no attribute {attribute!r}")
    globals()[attribute] = value  # looked up once
    return value
