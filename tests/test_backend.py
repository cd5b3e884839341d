"""The backend functions, and the attack made of them, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from sparring import backend
from sparring.networks.allconv import AllConv
from sparring.threat import Linf, ascend

pytestmark = pytest.mark.backend


def tensor(values: Any, dtype: str = "float32") -> Any:
    return ops.convert_to_tensor(np.array(values, dtype))


def array(answer: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(answer))


def variable(values: Any) -> Any:
    return keras.Variable(np.array(values, np.float32))


def called(function: Callable[..., Any], variables: list[Any], *arguments: Any) -> Any:
    """What a compiled function gives, as numpy arrays."""
    return keras.tree.map_structure(
        array, backend.compile(function, variables, changes=True)(*arguments)
    )


# Random


def test_normal_draws_are_standard_normal_and_restart_with_their_seed() -> None:
    random, other = backend.Random(), backend.Random()
    random.seed(5)
    first, second = (array(random.normal((100, 100))) for _ in range(2))
    random.seed(5)
    np.testing.assert_array_equal(array(random.normal((100, 100))), first)
    other.seed(5)
    np.testing.assert_array_equal(array(other.normal((100, 100))), first)
    random.seed(6)
    third = array(random.normal((100, 100)))
    assert first.shape == (100, 100)
    # Of 10,000 draws the mean deviates by 0.01, the variance by 0.014; four times that are allowed.
    for draws in (first, second, third):
        assert abs(draws.mean()) < 0.04
        assert abs(draws.var() - 1) < 0.06
        # Within one of the mean lie 68.3 %, within two 95.4; of 10,000 give or take 0.5 points.
        assert abs((np.abs(draws) < 1).mean() - 0.683) < 0.02
        assert abs((np.abs(draws) < 2).mean() - 0.954) < 0.01
    for a, b in ((first, second), (first, third), (second, third)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.04


def test_uniform_draws_differ_by_seed_and_fill_their_range_evenly() -> None:
    random, other = backend.Random(), backend.Random()
    random.seed(5)
    other.seed(5)
    first = array(random.uniform((100, 100)))
    np.testing.assert_array_equal(array(other.uniform((100, 100))), first)
    random.seed(6)
    second = array(random.uniform((100, 100)))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.04
    # Ten bins of 1,000: chi-square of 9 is below 28 in 99.9 % of cases.
    counts = np.histogram(first, 10, (0, 1))[0]
    assert counts.sum() == 10_000
    assert ((counts - 1000) ** 2 / 1000).sum() < 28


# compile, compile_many


def test_a_compiled_function_assigns_its_variables() -> None:
    total = keras.Variable(np.float32(0), trainable=False)

    def add(x: Any) -> tuple[Any, Any]:
        total.assign(total + ops.sum(x))
        return total * 2, x + 1

    add_ = backend.compile(add, [total], changes=True)
    for expected in (3.0, 6.0):
        twice, more = add_(tensor([1, 2]))
        assert array(twice) == 2 * expected
        np.testing.assert_array_equal(array(more), [2, 3])
        assert array(total.value) == expected


def test_a_function_is_compiled_once_for_a_size_of_batch() -> None:
    calls: list[int] = []

    def double(x: Any) -> Any:
        calls.append(1)
        return 2 * x

    doubled = backend.compile(double, [])
    for value in (1.0, 5.0, 7.0):
        np.testing.assert_array_equal(array(doubled(tensor([value]))), [2 * value])
    # PyTorch compiles nothing: there the function itself runs every time.
    assert len(calls) == (3 if backend.name == "torch" else 1)


def test_a_compiled_function_records_no_gradients() -> None:
    weight = variable([2.0])
    answer = backend.compile(lambda x: weight * x, [weight])(tensor([3.0]))
    assert array(answer) == 6
    assert not getattr(answer, "requires_grad", False)


def test_many_calls_at_once_are_made_in_turn_and_told_one_by_one() -> None:
    total = keras.Variable(np.float32(1), trainable=False)

    def step(images: Any, labels: Any, indices: Any) -> tuple[Any, Any]:
        # Neither sum nor product alone: what comes first matters.
        pixels = ops.cast(ops.take(images, indices, axis=0), "float32")
        total.assign(2 * total + ops.sum(pixels))
        right = ops.cast(ops.take(labels, indices, axis=0), "float32")
        return total + 0, ops.sum(right) + 0

    images, labels = tensor([1, 2, 3, 4, 5, 6], "uint8"), tensor([10, 20, 30, 40, 50, 60], "int32")
    batches = np.array([[5, 0], [1, 3], [4, 2]], np.int32)
    losses, right = backend.compile_many(step, [total])(images, labels, batches)
    # 2 * 1 + 7, 2 * 9 + 6, 2 * 24 + 8.
    np.testing.assert_array_equal(array(losses), [9, 24, 56])
    np.testing.assert_array_equal(array(right), [70, 60, 80])
    assert array(total.value) == 56


# Gradients


def test_value_and_gradients_by_hand() -> None:
    a, b, unused = variable([1, 2]), variable([3, 5]), variable([7, 7, 7])
    count = keras.Variable(np.float32(0), trainable=False)

    def objective() -> tuple[Any, Any]:
        count.assign(count + 1)
        return ops.sum(a * a * b), 10 * ops.sum(a)

    value, auxiliary, gradients = called(
        lambda: backend.value_and_gradients(objective, [a, b, unused], [count]),
        [a, b, unused, count],
    )
    assert (value, auxiliary) == (23, 30)
    np.testing.assert_array_equal(gradients[0], [6, 20])  # 2 a b
    np.testing.assert_array_equal(gradients[1], [1, 4])  # a squared
    np.testing.assert_array_equal(gradients[2], [0, 0, 0])
    # What the objective changes is changed once, and what it only reads is left alone.
    assert array(count.value) == 1
    np.testing.assert_array_equal(array(a.value), [1, 2])


def test_value_and_gradients_hold_on_to_nothing_they_were_made_of() -> None:
    weight = variable([2.0])

    def objective() -> tuple[Any, Any]:
        return ops.sum(weight * weight), ops.zeros(())

    step = backend.compile(lambda: backend.value_and_gradients(objective, [weight], []), [weight])
    value, _, gradients = step()
    assert not any(getattr(each, "requires_grad", False) for each in (value, *gradients))


def test_input_gradients_by_hand() -> None:
    x = tensor([[1, 2], [3, 4]])
    gradient = backend.input_gradient(lambda x: ops.sum(x * x * x), x)
    np.testing.assert_allclose(array(gradient), [[3, 12], [27, 48]], rtol=1e-6)
    gradient, (first, second) = backend.input_gradient_and(
        lambda x: (ops.sum(x * x), (x + 1, ops.sum(x))), x
    )
    np.testing.assert_allclose(array(gradient), [[2, 4], [6, 8]], rtol=1e-6)
    np.testing.assert_array_equal(array(first), [[2, 3], [4, 5]])
    assert array(second) == 10
    # Inside a compiled function, which records no gradients of its own, too.
    inside = called(lambda x: backend.input_gradient(lambda x: ops.sum(x * x * x), x), [], x)
    np.testing.assert_allclose(inside, [[3, 12], [27, 48]], rtol=1e-6)
    # The tensor that was asked about stays as it was.
    np.testing.assert_array_equal(array(x), [[1, 2], [3, 4]])
    assert not getattr(x, "requires_grad", False)


def test_of_what_does_not_depend_on_the_image_the_gradient_is_zero() -> None:
    x = tensor([1, 2])
    weight = variable([3.0])
    for constant in (lambda x: ops.sum(tensor([5.0])), lambda x: ops.sum(weight * weight)):
        np.testing.assert_array_equal(array(backend.input_gradient(constant, x)), [0, 0])


def test_one_by_one_by_hand() -> None:
    x, rows = tensor([1, 2, 3]), np.array([[1, 2, 3], [4, 5, 6]], np.float32)

    def cubes(x: Any) -> tuple[Any, Any]:
        values = backend.one_by_one(lambda x, row: x**3 * row, x, rows)  # [2, 3]
        # What is called within may call one by one again.
        twice = backend.one_by_one(
            lambda x, row: ops.sum(backend.one_by_one(lambda x, own: own * x, x, row)), x, rows
        )
        return ops.sum(values * tensor(rows)) + ops.sum(twice), (values, twice)

    def differentiated(x: Any) -> Any:
        return backend.input_gradient_and(cubes, x)

    gradient, (values, twice) = called(differentiated, [], x)
    np.testing.assert_allclose(values, [[1, 16, 81], [4, 40, 162]])
    np.testing.assert_allclose(twice, [36, 90])  # sum of the row times the sum of x
    # 3 x^2 (1 + 16, 4 + 25, 9 + 36) and the sum over both rows, 21
    np.testing.assert_allclose(gradient, [51 + 21, 348 + 21, 1215 + 21])
    # Without a gradient, and where the function does not depend on x.
    plain = called(lambda x: backend.one_by_one(lambda x, row: x + row, x, rows), [], x)
    np.testing.assert_array_equal(plain, [[2, 4, 6], [5, 7, 9]])
    constant = called(
        lambda x: backend.input_gradient(
            lambda x: ops.sum(backend.one_by_one(lambda _, row: row, x, rows)), x
        ),
        [],
        x,
    )
    np.testing.assert_array_equal(constant, [0, 0, 0])


def test_an_input_gradient_is_a_constant_for_what_is_differentiated_around_it() -> None:
    weight = variable([2, 3])
    x = tensor([5, 7])

    def objective() -> tuple[Any, Any]:
        # By x: 2 w x = 20, 42; the auxiliary is w x = 10, 21.
        gradient, product = backend.input_gradient_and(
            lambda x: (ops.sum(weight * x * x), weight * x), x
        )
        alone = backend.input_gradient(lambda x: ops.sum(weight * x * x), x)
        return ops.sum(weight * (gradient + alone + product)), ()

    value, _, [by_weight] = called(
        lambda: backend.value_and_gradients(objective, [weight], []), [weight]
    )
    assert value == 2 * (20 + 20 + 10) + 3 * (42 + 42 + 21)
    # Were they differentiated too, each would be twice what it is.
    np.testing.assert_allclose(by_weight, [50, 105], rtol=1e-6)


# What a step is made of


def test_moving_average_by_hand() -> None:
    averages, values = [variable([1, 2]), variable([[8.0]])], [variable([5, 10]), variable([[4.0]])]
    called(
        lambda decay: backend.moving_average(averages, values, decay),
        [*averages, *values],
        tensor(0.75),
    )
    np.testing.assert_allclose(array(averages[0].value), [2, 4])
    np.testing.assert_allclose(array(averages[1].value), [[7]])
    np.testing.assert_array_equal(array(values[0].value), [5, 10])


@pytest.mark.parametrize("side", [(3, 3), (1, 1), (1, 3), (3, 1)])
def test_convolution_is_the_same_padded_with_zeros(side: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 5, 4, 3))
    kernel = random.normal(size=(*side, 3, 2))
    bias = random.normal(size=2)
    up, left = side[0] // 2, side[1] // 2
    padded = np.pad(x, ((0, 0), (up, up), (left, left), (0, 0)))
    expected = np.zeros((2, 5, 4, 2)) + bias
    for row in range(5):
        for column in range(4):
            window = padded[:, row : row + side[0], column : column + side[1]]
            expected[:, row, column] += np.tensordot(window, kernel, 3)
    answer = backend.conv2d(tensor(x), variable(kernel), variable(bias))
    np.testing.assert_allclose(array(answer), expected, atol=1e-5)  # sums of 27 products


def test_convolution_is_done_in_the_images_precision() -> None:
    x = ops.cast(tensor(np.ones((1, 2, 2, 1))), "bfloat16")
    # 1 + 1/512 and 1/1024 are rounded to 1 and added to it: of bfloat16's 8 bits none is left.
    kernel, bias = variable(np.full((1, 1, 1, 1), 1 + 1 / 512)), variable([1 / 1024])
    answer = backend.conv2d(x, kernel, bias)
    assert keras.backend.standardize_dtype(answer.dtype) == "bfloat16"
    assert (array(ops.cast(answer, "float32")) == 1).all()


def test_average_pooling_leaves_out_an_odd_last_row_and_column() -> None:
    x = np.arange(15, dtype=np.float32).reshape(1, 3, 5, 1)
    answer = array(backend.average_pool2d(tensor(x)))
    # 0 1 5 6 and 2 3 7 8.
    np.testing.assert_allclose(answer, np.array([3, 5]).reshape(1, 1, 2, 1))


def test_laying_out_keeps_values_and_puts_the_outputs_first() -> None:
    values = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    kernel, bias = variable(values), variable([1, 2, 3])
    backend.lay_out([kernel, bias])
    np.testing.assert_array_equal(array(kernel.value), values)
    np.testing.assert_array_equal(array(bias.value), [1, 2, 3])
    if backend.name == "torch":
        laid = [kernel, *AllConv((8, 8, 1), 3, filters=2).kernels]
        assert all(each.value.permute(3, 0, 1, 2).is_contiguous() for each in laid)


@pytest.mark.parametrize(("images", "size"), [(7, 3), (6, 3), (2, 3), (0, 3)])
def test_an_order_is_cut_into_batches_of_which_the_last_may_be_smaller(
    images: int, size: int
) -> None:
    order = np.random.default_rng(0).permutation(images).astype(np.int32)
    batches = [array(batch) for batch in backend.index_batches(order, size)]
    expected = [order[start : start + size] for start in range(0, images, size)]
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in expected]
    assert all(batch.dtype == np.int32 for batch in batches)


def test_what_a_backend_says_of_itself() -> None:
    # PyTorch compiles nothing; the others compile anew for every size of batch.
    assert backend.whole_batches is (backend.name != "torch")
    devices = backend.devices()
    assert devices[-1] == "cpu"
    assert len(set(devices)) == len(devices)
    assert backend.on_cpu(tensor([1, 2])) is (devices[0] == "cpu")


def test_accelerators_come_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if backend.name == "torch":
        import torch

        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert backend.devices() == ["gpu:0", "gpu:1", "mps", "cpu"]
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    elif backend.name == "tensorflow":
        import tensorflow as tf

        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    else:
        import jax

        gpu, cpu = SimpleNamespace(platform="gpu"), SimpleNamespace(platform="cpu")
        monkeypatch.setattr(jax, "devices", lambda: [gpu, gpu, cpu])
    assert backend.devices() == ["gpu:0", "gpu:1", "cpu"]


def test_a_step_repeats_every_bit() -> None:
    if backend.name == "torch":
        import torch

        with backend.isolated:
            assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.deterministic
    if backend.name == "tensorflow":
        import tensorflow as tf

        # With deterministic operations a random one needs a seed.
        with backend.isolated, pytest.raises(RuntimeError, match="seed"):
            tf.random.uniform([1])
        tf.random.uniform([1])


# The attack inside a training step


def wave(x: Any) -> Any:
    """A sum of waves 0.1 long: where the gradient points depends on where one is."""
    return ops.sum(ops.sin(62 * x))


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_ascend_by_hand_where_the_slope_changes(steps: int) -> None:
    random = np.random.default_rng(10)
    x = np.linspace(0, 1, 60).reshape(1, 4, 5, 3)
    start = np.clip(x + random.uniform(-0.1, 0.1, x.shape), 0, 1)
    expected = start
    slopes = []
    for _ in range(steps):
        slope = 62 * np.cos(62 * expected)
        slopes.append(np.abs(slope).min())
        moved = expected + 0.03 * np.sign(slope)
        expected = np.clip(np.clip(moved, x - 0.1, x + 0.1), 0, 1)
    assert min(slopes) > 1  # of 62; else rounding could turn a sign
    found = array(ascend(wave, tensor(x), tensor(start), Linf(0.1), steps, 0.03))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ascend_projects_after_every_step() -> None:
    # Up to 0.55 and down from there: 0.5 goes to 0.54 and, over the edge of the ball at 0.56, to
    # 0.56. Steps beyond the ball that only the last projection undid would end elsewhere.
    x = tensor(np.full((1, 1, 1, 1), 0.5))
    found = ascend(lambda t: -ops.sum(ops.square(t - 0.575)), x, x, Linf(0.06), 3, 0.04)
    # 0.54, 0.56 (not 0.58), 0.56 (not 0.54).
    np.testing.assert_allclose(array(found), [[[[0.56]]]], atol=1e-6)


def test_ascend_moves_nothing_without_a_slope_but_projects_its_start() -> None:
    x = np.array([0.5, 0.02, 0.98], np.float32).reshape(1, 1, 1, 3)
    start = x + np.array([0.3, -0.1, 0.1], np.float32).reshape(1, 1, 1, 3)
    found = ascend(lambda t: ops.sum(0 * t), tensor(x), tensor(start), Linf(0.2), 2, 0.05)
    np.testing.assert_allclose(array(found)[0, 0, 0], [0.7, 0, 1], atol=1e-6)
