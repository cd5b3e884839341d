"""The network, against a plain reference, and the parts it is made of."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops

from sparring import backend
from sparring.nets import PREDICTION_BATCH, AllConv, number_of_scales
from sparring.train_loop import assign

pytestmark = pytest.mark.backend


def conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A "same" convolution of NHWC images, in float64."""
    height, width = kernel.shape[:2]
    up, left = height // 2, width // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (up, up), (left, left), (0, 0)))
    rows, columns = x.shape[1:3]
    return bias + sum(
        padded[:, i : i + rows, j : j + columns] @ kernel[i, j]
        for i in range(height)
        for j in range(width)
    )


def reference(x: np.ndarray, weights: list[np.ndarray], scales: int) -> np.ndarray:
    """The logits of AllConv, by the course's description alone."""
    for index in range(2 * scales):
        x = conv(x, weights[2 * index], weights[2 * index + 1])
        x = np.where(x > 0, x, 0.2 * x)
        if index % 2:
            rows, columns = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : 2 * rows, : 2 * columns]
            x = x.reshape(len(x), rows, 2, columns, 2, -1).mean((2, 4))
    return conv(x, *weights[-2:]).mean((1, 2))


@pytest.mark.parametrize(
    ("shape", "head_size"), [((8, 8, 1), 1), ((32, 32, 3), 3), ((12, 20, 3), 1), ((9, 11, 1), 3)]
)
def test_logits_equal_the_reference(shape: tuple[int, int, int], head_size: int) -> None:
    net = AllConv(shape, 5, filters=3, head_size=head_size, seed=1)
    random = np.random.default_rng(0)
    for variable in net.variables:  # biases too, which start at zero
        variable.assign(0.3 * random.standard_normal(variable.shape).astype(np.float32))
    weights = [ops.convert_to_numpy(variable) for variable in net.variables]
    x = random.random((2, *shape), dtype=np.float32)
    answer = ops.convert_to_numpy(net(ops.convert_to_tensor(x)))
    expected = reference(x, weights, number_of_scales(*shape[:2]))
    # float32 sums of up to 9 * 24 products against float64: a few units in the seventh digit.
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_convolution_of_an_asymmetric_kernel() -> None:
    net = AllConv((8, 8, 1), 2, filters=1)
    kernel, bias = net.scales[0][0]
    kernel.assign(np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1))
    bias.assign(np.array([0.5], np.float32))
    x = np.zeros((1, 8, 8, 1), np.float32)
    x[0, 3, 4, 0] = 1
    answer = ops.convert_to_numpy(backend.conv2d(ops.convert_to_tensor(x), kernel, bias))
    # Cross-correlation: the kernel appears turned by half a turn around the one pixel.
    expected = np.arange(9)[::-1].reshape(3, 3) + 0.5
    np.testing.assert_array_equal(answer[0, 2:5, 3:6, 0], expected)


@pytest.mark.parametrize(
    ("side", "scales"), [(8, 1), (11, 1), (12, 2), (16, 2), (28, 3), (32, 3), (64, 4)]
)
def test_number_of_scales_is_rounded_log2_less_two(side: int, scales: int) -> None:
    assert number_of_scales(side, side) == number_of_scales(side, 99) == scales


def test_widths_and_kernels_of_the_full_network() -> None:
    net = AllConv((32, 32, 3), 10, filters=64)
    assert [tuple(kernel.shape) for kernel in net.kernels] == [
        (3, 3, 3, 64),
        (3, 3, 64, 128),
        (3, 3, 128, 128),
        (3, 3, 128, 256),
        (3, 3, 256, 256),
        (3, 3, 256, 512),
        (1, 1, 512, 10),
    ]
    assert len(net.variables) == len(net.trainable_variables) == 14


def test_initial_weights_follow_from_the_seed() -> None:
    nets = [AllConv((8, 8, 1), 3, filters=4, seed=seed) for seed in (7, 7, 8)]
    first, same, other = ([ops.convert_to_numpy(k) for k in net.kernels] for net in nets)
    for a, b, c in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    # Glorot: uniform within sqrt(6 / (fan in + fan out)); neighboring layers share no numbers.
    limit = np.sqrt(6 / (9 * 4 + 9 * 8))
    assert 0.9 * limit < np.abs(first[1]).max() <= limit
    assert not np.allclose(
        first[0].ravel()[:20] / np.abs(first[0]).max(),
        first[1].ravel()[:20] / np.abs(first[1]).max(),
        atol=0.1,
    )


def test_predict_does_not_depend_on_how_the_batch_is_cut() -> None:
    net = AllConv((8, 8, 1), 3, filters=4)
    images = np.random.default_rng(0).integers(
        0, 256, (PREDICTION_BATCH + 3, 8, 8, 1), dtype=np.uint8
    )
    whole = net.predict(images)
    parts = np.concatenate([net.predict(images[:1]), net.predict(images[1:])])
    # Kernels for other batch sizes may add up in another order.
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-6)


def test_assign_names_what_is_missing_or_misshapen() -> None:
    net = AllConv((8, 8, 1), 3, filters=4)
    names = [f"0/{variable.path.split('/', 1)[1]}" for variable in net.variables]
    arrays = {name: ops.convert_to_numpy(v) for name, v in zip(names, net.variables, strict=True)}
    assert assign("0", net.variables, arrays) == names
    from sparring.errors import RunError

    with pytest.raises(RunError, match=r"0/head_bias: expected float32 \[3\], found float32 \[4\]"):
        assign("0", net.variables, {**arrays, "0/head_bias": np.zeros(4, np.float32)})
    with pytest.raises(RunError, match=r"expected float32 \[3\], found float64"):
        assign("0", net.variables, {**arrays, "0/head_bias": np.zeros(3)})
    del arrays["0/conv_1_kernel"]
    with pytest.raises(RunError, match="missing 0/conv_1_kernel"):
        assign("0", net.variables, arrays)
