"""What a backend has to offer: one protocol, which torch.py, tensorflow.py and jax.py implement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from sparring.tensors import Images, Scalar

if TYPE_CHECKING:
    import numpy as np

    from sparring.backend.isolation import Isolation


Refuse = Callable[[], NoReturn]
"""Raises the error that says why there is no gradient."""


class RandomNumbers(Protocol):
    """Random numbers drawn on the device."""

    variables: list[Any]
    """What a draw changes; belongs among the variables of a compiled function that draws."""

    def seed(self, seed: int) -> None:
        """Restart the sequence from a seed, 0 or more."""

    def uniform(self, shape: Sequence[int]) -> Any:
        """Draw float32 from [0, 1)."""

    def normal(self, shape: Sequence[int]) -> Any:
        """Draw float32 from the standard normal distribution."""


class Backend(Protocol):
    """The functions whose mechanism the frameworks do not share, or that are faster in their own.

    Tensors are the framework's own, variables are Keras's.
    """

    @property
    def whole_batches(self) -> bool:
        """Whether compiled functions are compiled anew for every batch size: use few sizes."""

    @property
    def label_dtype(self) -> str:
        """The dtype in which the framework's own losses take labels, int64 or int32."""

    @property
    def Random(self) -> Callable[[], RandomNumbers]:  # noqa: N802 # a class
        """The class of random numbers; at first those of seed 0."""

    @property
    def isolated(self) -> Isolation:
        """Context and decorator within which the process's own settings reach no arithmetic."""

    def compile(
        self, function: Callable[..., Any], variables: Sequence[Any], changes: bool = False
    ) -> Callable[..., Any]:
        """Make a function fast.

        Args:
            function: of tensors. It may change nothing but `variables`.
            variables: every variable that it reads or changes.
            changes: whether it assigns them. Then nobody else may use them while it runs, and they
                are of no use after an exception.

        Returns:
            The function made fast, which records no gradients.
        """

    def compile_many(
        self, function: Callable[..., Any], variables: Sequence[Any]
    ) -> Callable[..., Any]:
        """Make many calls of a function one, which costs the host little.

        Args:
            function: of images, labels and indices, that gives two scalars.
            variables: as for `compile`; they are assigned.

        Returns:
            many(images, labels, indices), indices being an int32 numpy array [S, B]: calls it for
            each row in turn and gives the scalars as tensors [S], [S]. Two lengths S and one B are
            all that it should be called with, since each may be compiled anew.
        """

    def value_and_gradients(
        self,
        objective: Callable[[], tuple[Scalar, Any]],
        variables: Sequence[Any],
        others: Sequence[Any],
    ) -> tuple[Scalar, Any, list[Any]]:
        """Differentiate an objective by variables; for use inside a compiled function.

        Args:
            objective: gives a scalar and auxiliary tensors.
            variables: to differentiate by.
            others: what else the objective may read or change, `variables` among them or not. On
                JAX anything that is missing is a constant to it.

        Returns:
            The scalar, the auxiliary tensors, and one gradient a variable, zero where the objective
            does not depend on it.
        """

    def input_gradient(self, function: Callable[[Images], Scalar], x: Images) -> Images:
        """Differentiate a scalar function at x; a constant for what is differentiated around it."""

    def input_gradient_and(
        self, function: Callable[[Images], tuple[Scalar, Any]], x: Images
    ) -> tuple[Images, Any]:
        """Differentiate a function at x that gives auxiliary tensors besides its scalar.

        Returns:
            The gradient and the auxiliary tensors, all of them constants for what is differentiated
            around them.
        """

    def one_by_one(self, function: Callable[[Images, Any], Any], x: Images, rows: Any) -> Any:
        """Call a function of x once for each row, in the memory that one call takes.

        For the gradient by x nothing is kept but x: on the backward pass each call is made again.
        Others than x are constants for it, and it cannot be differentiated twice.

        Args:
            function: of x and a row; gives a tensor, of one shape and dtype for all rows.
            x: a tensor.
            rows: a tensor or numpy array [R, ...].

        Returns:
            What it gave, stacked, [R, ...].
        """

    def moving_average(self, averages: Sequence[Any], values: Sequence[Any], decay: Any) -> None:
        """Assign decay * average + (1 - decay) * value to each average, a variable."""

    def conv2d(self, x: Any, kernel: Any, bias: Any) -> Any:
        """Convolve x [B, H, W, C] with a kernel [h, w, C, D] and add a bias [D]: [B, H, W, D]."""

    def average_pool2d(self, x: Any) -> Any:
        """Average x [B, H, W, C] over windows of 2x2: [B, H // 2, W // 2, C]."""

    def lay_out(self, variables: Sequence[Any]) -> None:
        """Order kernels, and what is kept for each, in memory as convolutions are fastest in.

        Values and shapes stay.
        """

    def index_batches(self, order: np.ndarray, size: int) -> Iterator[Any]:
        """Cut an epoch's order, int32 [N], into index tensors of `size` on the device."""

    def undone(self, variables: Sequence[Any]) -> AbstractContextManager[None]:
        """Give variables, at the end of a block, the values that they had before it."""

    def threads(self) -> int | None:
        """Count the threads of a computation on the CPU; None where they cannot be changed."""

    def set_threads(self, count: int) -> None:
        """Compute with so many threads on the CPU; where they cannot be changed, do nothing."""

    def devices(self) -> list[str]:
        """Name the devices that this backend can use, the default first."""

    def on_cpu(self, tensor: Any) -> bool:
        """Tell whether a tensor lies in the host's memory, so that looking at it is free."""

    def readable(self, tensor: Any) -> bool:
        """Tell whether a tensor is on the CPU and has values: it is not being traced."""

    def look(self, tensor: Any, see: Callable[[np.ndarray], object]) -> None:
        """Hand a tensor's values to a function.

        On JAX that may be within what is differentiated or compiled. Of a tensor that has no values
        yet, as in PyTorch's transforms and TensorFlow's graphs, nothing is handed over.

        Args:
            tensor: of any device.
            see: is called with a numpy array.
        """

    def answers(
        self, function: Callable[[np.ndarray], np.ndarray], x: Any, size: int, refuse: Refuse
    ) -> Any:
        """Ask a function of numpy arrays about a tensor; it has no gradient.

        Args:
            function: of float32 [B, ...], that gives float32 [B, size].
            x: a tensor float32 [B, ...]; of a known B, where it is traced.
            size: how many numbers it gives for each row.
            refuse: raises, for who wants the gradient.

        Returns:
            A tensor float32 [B, size].
        """

    def on_gradient(self, tensor: Any, call: Callable[[], object]) -> Any:
        """Have a function called whenever a gradient comes back through a tensor.

        In what is compiled or traced that is while it is traced, and on JAX while the way back is
        laid, also where a gradient goes forward. PyTorch's transforms call nothing.

        Args:
            tensor: of floats.
            call: is called without arguments.

        Returns:
            The tensor, to go on with.
        """
