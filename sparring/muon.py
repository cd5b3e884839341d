"""Muon: momentum SGD whose steps of kernels are made orthogonal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import keras
from keras import ops


@final
class Muon(keras.optimizers.Muon):
    """Muon on convolutions' kernels, SGD on everything else, both with Nesterov's momentum.

    A kernel [H, W, in, out] is taken as a matrix out x (H W in). Its step m' = g + momentum * m,
    with m <- momentum * m + g, is replaced by the nearest orthogonal matrix, approximately, by five
    Newton-Schulz iterations, times sqrt(max(1, rows / columns)): Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon. Keras's Muon leaves kernels to Adam; its iteration is
    used as it is.

    Args:
        rate: gives the learning rate, a scalar tensor, of the step that is made.
        momentum: of kernels and biases alike.
    """

    def __init__(self, rate: Callable[[], Any], momentum: float) -> None:
        # Weight decay is a term of the loss.
        super().__init__(rate, weight_decay=None, momentum=momentum)

    def _should_use_adamw(self, variable: Any) -> bool:
        return False

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Assign a variable and its momentum their values after a step."""
        memory = self.momentums[self._get_variable_index(variable)]
        memory.assign(self.momentum * memory + gradient)
        step = gradient + self.momentum * memory
        if len(variable.shape) == 4:
            step = self._orthogonal(step)
        variable.assign_sub(learning_rate * step)

    def _orthogonal(self, kernel: Any) -> Any:
        height, width, inputs, outputs = kernel.shape
        rows, columns = outputs, height * width * inputs
        matrix = ops.reshape(ops.transpose(kernel, (3, 0, 1, 2)), (rows, columns))
        matrix = self.zeropower_via_newtonschulz5(matrix, self.ns_steps)
        matrix = max(1, rows / columns) ** 0.5 * matrix
        return ops.transpose(ops.reshape(matrix, (rows, height, width, inputs)), (1, 2, 3, 0))
