"""The little that TensorFlow, PyTorch and JAX do differently, behind one set of names.

The backend is Keras's, fixed when keras is imported; sparring/backend_choice.py decides which.
Each of the three modules here offers the same functions:

- `compile(function, variables)`: the function made fast. It may assign `variables` (the full list
  of Keras variables it reads or writes) and runs without recording gradients.
- `compile_many(function, variables)`: many calls of function(images, labels, indices) -> (scalar,
  scalar) as one, which costs the host little: many(images, labels, indices), int32 numpy [S, B],
  calls it for each row in turn and gives the scalars as tensors [S], [S]. Two lengths S and one B
  are all it should be called with, since each may be compiled anew.
- `value_and_gradients(objective, variables)`: value, auxiliary value and gradients of
  `objective() -> (scalar, auxiliary)` by Keras variables, zero for one it does not depend on; for
  use inside a compiled function.
- `input_gradient(function, x)`: the gradient of a scalar function at a tensor x, a constant for
  whatever is differentiated around it.
- `input_gradient_and(function, x)`: the same of function(x) -> (scalar, auxiliary): the gradient,
  and the auxiliary tensors, which are constants too.
- `whole_batches`: whether a compiled function is compiled anew for every batch size, so that few
  sizes should be used.
- `moving_average(averages, values, decay)`: averages <- decay * averages + (1 - decay) * values.
- `Random()`: random numbers drawn on the device; `seed(n)` restarts it, `uniform(shape)` draws from
  [0, 1), `normal(shape)` from the standard normal distribution; `variables` belong among those of
  a compiled function that draws.
- `conv2d(x, kernel, bias)`, `average_pool2d(x)`: NHWC in and out, "same" padding; 2x2 pooling.
- `lay_out(variables)`: the memory of kernels, and of what is kept for each, put into the order that
  convolutions are fastest in; values and shapes stay.
- `index_batches(order, size)`: an epoch's order cut into index tensors on the device.
- `on_cpu(tensor)`: whether a tensor lies in the host's memory, so that looking at it is free.
- `devices()`: names of the devices this backend can use, the default first.
"""

from __future__ import annotations

from sparring.backend_choice import choose

name = choose()
if name == "torch":
    from sparring.backend.torch import *
elif name == "tensorflow":
    from sparring.backend.tensorflow import *  # type: ignore[assignment] # Random
else:
    from sparring.backend.jax import *  # type: ignore[assignment] # Random
