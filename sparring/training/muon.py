"""Muon: momentum SGD whose steps of kernels are made orthogonal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from sparring.backend import keras, ops

_ITERATIONS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315


@final
class Muon(keras.optimizers.Optimizer):
    """Muon on convolutions' kernels, SGD on everything else, both with Nesterov's momentum.

    With gradient g, m <- momentum m + g and w <- w - rate (g + momentum m). A kernel
    [H, W, in, out] is taken as a matrix out x (H W in), and what is subtracted from it is replaced
    by the nearest matrix with orthogonal rows or columns, times sqrt(max(1, rows / columns)):
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon. Keras's own Muon leaves kernels
    to Adam.

    Args:
        rate: gives the learning rate, a scalar tensor, of the step that is made.
        momentum: of kernels and all others alike.
    """

    def __init__(self, rate: Callable[[], Any], momentum: float) -> None:
        """Keep the rate and the momentum; `build` makes the variables."""
        super().__init__(rate)
        self._momentum = momentum
        self._memories: list[Any] = []

    def build(self, variables: list[Any]) -> None:
        """Make one momentum for each variable, zero at first.

        Args:
            variables: the trainable variables, in the order that gradients come in.
        """
        super().build(variables)
        self._memories = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Assign a variable and its momentum their values after a step.

        Args:
            gradient: of the loss by the variable, float32 of its shape.
            variable: the variable to change.
            learning_rate: a float32 scalar.
        """
        memory = self._memories[self._get_variable_index(variable)]
        memory.assign(self._momentum * memory + gradient)
        step = gradient + self._momentum * memory
        if len(variable.shape) == 4:
            step = _orthogonal_kernel(step)
        variable.assign_sub(learning_rate * step)


def _orthogonal_kernel(kernel: Any) -> Any:
    """Make a kernel [H, W, in, out] orthogonal as a matrix [out, H W in], scaled by its shape."""
    height, width, inputs, outputs = kernel.shape
    rows, columns = outputs, height * width * inputs
    matrix = orthogonal(ops.reshape(ops.transpose(kernel, (3, 0, 1, 2)), (rows, columns)))
    matrix = max(1.0, rows / columns) ** 0.5 * matrix
    return ops.transpose(ops.reshape(matrix, (rows, height, width, inputs)), (1, 2, 3, 0))


def orthogonal(matrix: Any) -> Any:
    """Bring the singular values of a matrix [N, M] near 1.

    Five Newton-Schulz iterations x <- (a + b x x' + c (x x')^2) x of the matrix divided by its
    Frobenius norm, with Jordan's coefficients: what was 0.003 and more comes to between 0.68 and
    1.21, smaller values are multiplied by up to 485. The polynomials are multiplied out on x x',
    whose sides are the shorter ones: for kernels that takes half of the time of iterating x itself,
    and differs by about 1e-4.
    """
    rows, columns = matrix.shape
    wide = matrix if rows <= columns else ops.transpose(matrix)
    wide = wide / (ops.sqrt(ops.sum(ops.square(wide))) + 1e-7)
    gram = ops.matmul(wide, ops.transpose(wide))
    unit = ops.eye(min(rows, columns))
    product = unit
    for iteration in range(_ITERATIONS):
        factor = _A * unit + _B * gram + _C * ops.matmul(gram, gram)
        product = ops.matmul(factor, product) if iteration else factor
        if iteration < _ITERATIONS - 1:
            gram = ops.matmul(ops.matmul(factor, gram), factor)
    result = ops.matmul(product, wide)
    return result if rows <= columns else ops.transpose(result)
